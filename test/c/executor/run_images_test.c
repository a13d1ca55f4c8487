/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_images_test.c: code that is sent to a real gb-executor: images in parts, from the block cache, wrong ones, ones
 * that nothing can run. Arguments: path of gb-executor; `sim` or `sim-sanitized`.
 */
#include <elf.h>

#include "run_peer.h"

#define IMAGE_BYTES (2 * MIB + 300 * KIB)

static bool has_function(struct program *program, const struct image *image, const char *name) {
  static uint32_t number = 100;
  next_batch(program);
  add_function(image->digest, ++number, name);
  add_sync();
  return send_next(program) == GB_RUN_OK;
}

static void images_come_in_parts(void) {
  struct program program;
  REQUIRE(begin_program(&program));
  struct image image = make_image(RUN_IMAGE_TEXT, IMAGE_BYTES, 1);
  CHECK(!has_function(&program, &image, "gb_update")); /* nobody has sent it */
  CHECK_EQUAL(reply.result.status, GB_RUN_NOT_FOUND);
  CHECK_EQUAL(ask_for(&program, &image), 3);
  send_parts(&program, &image, 2 * MIB, image.bytes); /* in whatever order */
  CHECK_EQUAL(ask_for(&program, &image), 2);
  CHECK_EQUAL(reply.data[sizeof(struct gb_run_bitmap)], 3);
  CHECK(!has_function(&program, &image, "gb_update"));
  send_parts(&program, &image, 0, MIB + 200 * KIB);
  CHECK_EQUAL(ask_for(&program, &image), 1);
  send_parts(&program, &image, MIB, 2 * MIB); /* what is there is passed over */
  CHECK_EQUAL(ask_for(&program, &image), 0);
  CHECK(has_function(&program, &image, "gb_update"));
  CHECK(!has_function(&program, &image, "gb_nobody"));
  CHECK_EQUAL(reply.result.status, GB_RUN_NOT_FOUND);
  CHECK(reply.result.function > 100);
  CHECK_EQUAL(sync_with(&program), GB_RUN_OK); /* that was its own */
  next_batch(&program);
  add_function(image.digest, UPDATE_KERNEL, "gb_update");
  add_update(SPAN_AT, 2, 4);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(word_at(&program, SPAN_AT + 8), 5);
  next_batch(&program);
  add_function(image.digest, UPDATE_KERNEL, "gb_update"); /* a number is never used twice */
  add_sync();
  CHECK_EQUAL(send_next(&program), GB_RUN_INVALID);
  free(image.content);
  CHECK_EQUAL(end_program(&program), 0);
}

/* The failure is of one batch: the image, and the program, go on. */
static void its_own(struct program *program, uint32_t status) {
  send_next(program);
  CHECK_EQUAL(reply.result.status, status);
  CHECK_EQUAL(sync_with(program), GB_RUN_OK);
}

static void what_was_damaged_can_be_sent_again(void) {
  struct program program;
  REQUIRE(begin_program(&program));
  struct image image = make_image(RUN_IMAGE_TEXT, 500 * KIB, 2);
  CHECK_EQUAL(ask_for(&program, &image), 1);
  next_batch(&program);
  image.content[1000] ^= 1;
  add_part(&image, 0, image.bytes);
  image.content[1000] ^= 1;
  add_sync();
  its_own(&program, GB_RUN_INVALID);
  next_batch(&program);
  add_part(&image, 4096, 4096); /* not the next of its block */
  add_sync();
  its_own(&program, GB_RUN_INVALID);
  next_batch(&program);
  add_part(&image, MIB, 16); /* beyond */
  add_sync();
  its_own(&program, GB_RUN_INVALID);
  send_parts(&program, &image, 0, image.bytes);
  CHECK_EQUAL(ask_for(&program, &image), 0);
  CHECK(has_function(&program, &image, "gb_fill"));
  image.bytes--; /* another size for the same digest */
  next_batch(&program);
  add_image(&image);
  its_own(&program, GB_RUN_INVALID);

  /* Blocks that are what was said, of a whole that is not. */
  struct image other = make_image(RUN_IMAGE_TEXT, 100 * KIB, 3);
  other.digest[0] ^= 1;
  CHECK_EQUAL(ask_for(&program, &other), 1);
  next_batch(&program);
  add_part(&other, 0, other.bytes);
  add_sync();
  its_own(&program, GB_RUN_INVALID);
  CHECK_EQUAL(ask_for(&program, &other), 1);
  free(image.content);
  free(other.content);
  CHECK_EQUAL(end_program(&program), 0);
}

/* An ELF whose first section says how many there are: more than lie in it. */
static void make_endless(uint8_t *content) {
  Elf64_Ehdr head;
  Elf64_Shdr first = {.sh_size = 1ull << 40};
  memcpy(&head, content, sizeof(head));
  head.e_phoff = head.e_phnum = head.e_shnum = 0;
  head.e_shoff = sizeof(head);
  head.e_shentsize = sizeof(first);
  memcpy(content, &head, sizeof(head));
  memcpy(content + sizeof(head), &first, sizeof(first));
}

/* What the driver refuses is told, and ends nothing; what would lead it astray does not reach it. */
static void what_cannot_run_is_told(void) {
  struct program program;
  REQUIRE(begin_program(&program));
  const struct { const char *bytes; uint64_t length; } heads[] = {
      {"no code at all", 14},
      {"\x50\xed\x55\xba\x01\x00\x10\x00\xff\xff\xff\xff\x00\x00\x00\x00", 16},        /* a fatbin beyond its end */
      {"\xb1\x43\x62\x46\x01\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00", 16},        /* a pointer to one */
      {"\x7f" "ELF\x02\x01\x01", 7},                                                   /* shorter than its head */
      {"\x7f" "ELF\x02\x01\x01", 7},                                                   /* sections without an end */
  };
  for (unsigned index = 0; index < sizeof(heads) / sizeof(*heads); index++) {
    struct image image = make_image("", 2000 + index, index);
    memcpy(image.content, heads[index].bytes, heads[index].length);
    if (index == 3)
      memset(image.content + 32, 0xff, 16); /* its tables are nowhere */
    if (index == 4)
      make_endless(image.content);
    gb_lane_digest(image.content, image.bytes, image.digest);
    gb_lane_digest(image.content, GB_RUN_IMAGE_BLOCK_BYTES, image.digests);
    CHECK_EQUAL(ask_for(&program, &image), 1);
    send_parts(&program, &image, 0, image.bytes);
    next_batch(&program);
    add_image(&image);
    its_own(&program, GB_RUN_UNSUPPORTED);
    CHECK(!has_function(&program, &image, "gb_fill"));
    CHECK_EQUAL(reply.result.status, GB_RUN_UNSUPPORTED);
    CHECK_EQUAL(reply.result.cuda_error, 200);
    CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
    free(image.content);
  }
  CHECK(send_kernels(&program));
  CHECK_EQUAL(end_program(&program), 0);
}

static void limits_of_images_hold(void) {
  struct program program;
  REQUIRE(begin_program(&program));
  struct gb_run_image huge = {.bytes = GB_RUN_IMAGE_BYTES_MAX + 1ull};
  next_batch(&program);
  add(GB_RUN_IMAGE, &huge, sizeof(huge), "", 0);
  send_next(&program);
  CHECK_EQUAL(sync_with(&program), GB_RUN_LIMIT);
  CHECK_EQUAL(end_program(&program), 0);

  /* So many that they have no room together; nothing of them has to be there for that. */
  REQUIRE(begin_program(&program));
  static uint8_t digests[1024 * GB_RUN_DIGEST_BYTES];
  for (uint32_t count = 0; count <= GB_RUN_IMAGES_BYTES_MAX_MIB / 1024; count++) {
    struct gb_run_image large = {.digest = {(uint8_t)count, 1}, .bytes = 1u << 30, .block_count = 1024};
    next_batch(&program);
    add(GB_RUN_IMAGE, &large, sizeof(large), digests, sizeof(digests));
    CHECK_EQUAL(send_next(&program), count < 4 ? GB_RUN_OK : GB_RUN_LIMIT);
  }
  CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
  CHECK_EQUAL(end_program(&program), 0);
}

static bool use_cache(struct program *program, const char *folder) {
  struct gbx_cache cache = {.key = {9, 9, 9}, .budget_bytes = 64 * MIB};
  snprintf(cache.path, sizeof(cache.path), "%s", folder);
  return open_executor(&program->executor) &&
         ask_status(&program->executor, GBX_MSG_CACHE, &cache, sizeof(cache)).status == GBX_OK &&
         change(&program->executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, SPAN_AT, SPAN_BYTES) == GBX_OK &&
         open_program_lane(program);
}

static unsigned files_in(const char *folder) {
  char command[128], text[32] = {0};
  snprintf(command, sizeof(command), "ls %s | wc -l", folder);
  FILE *list = popen(command, "r");
  if (!list || !fgets(text, sizeof(text), list))
    text[0] = '\0';
  if (list)
    pclose(list);
  return (unsigned)atoi(text);
}

static void another_executor_finds_them_in_the_cache(void) {
  char folder[] = "/tmp/gb-images-test-XXXXXX", command[64];
  REQUIRE(mkdtemp(folder) != NULL);
  struct image image = make_image(RUN_IMAGE_TEXT, IMAGE_BYTES, 4);
  struct program program = {0};
  REQUIRE(use_cache(&program, folder));
  CHECK_EQUAL(ask_for(&program, &image), 3);
  send_parts(&program, &image, 0, image.bytes);
  CHECK_EQUAL(ask_for(&program, &image), 0);
  for (uint64_t until = now_ms() + 10000; files_in(folder) < 3 && now_ms() < until;)
    usleep(20000);
  CHECK_EQUAL(end_program(&program), 0);
  memset(&program, 0, sizeof(program));
  REQUIRE(use_cache(&program, folder));
  CHECK_EQUAL(ask_for(&program, &image), 0);
  CHECK(has_function(&program, &image, "gb_held"));
  CHECK_EQUAL(end_program(&program), 0);
  free(image.content);
  snprintf(command, sizeof(command), "rm -r %s", folder);
  CHECK_EQUAL(system(command), 0);
}

int main(int argc, char **argv) {
  if (!lane_peer_begin(argc, argv) || !with_gpu) {
    fprintf(stderr, "usage: run_images_test EXECUTOR sim|sim-sanitized\n");
    return 2;
  }
  RUN(images_come_in_parts);
  RUN(what_was_damaged_can_be_sent_again);
  RUN(what_cannot_run_is_told);
  RUN(limits_of_images_hold);
  RUN(another_executor_finds_them_in_the_cache);
  gb_lane_door_close(lane_door);
  return check_done();
}
