/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_fuzz.c: what a program sends an executor to run. The first byte of an input chooses:
 *   even: the rest is a batch. Nothing beyond it is read, and all that is handed out lies inside;
 *   odd:  the rest is an image, whose parts arrive in pieces. What reaches the loader leads nowhere else.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "images.h"
#include "lane.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void require(bool condition) {
  if (!condition)
    abort();
}

static void read_all(const void *bytes, uint64_t length) {
  for (uint64_t at = 0; at < length; at++)
    sink ^= ((const uint8_t *)bytes)[at];
}

/* ---- batches ---- */

static uint64_t item_bytes(enum gb_run_type type) {
  switch (type) {
  case GB_RUN_IMAGE:
    return GB_RUN_DIGEST_BYTES;
  case GB_RUN_FUNCTION:
    return sizeof(struct gb_run_attribute);
  case GB_RUN_LAUNCH:
    return sizeof(struct gb_run_launch_attribute);
  case GB_RUN_COLLECT:
    return sizeof(struct gb_run_range);
  default:
    return 0;
  }
}

static void use(const struct gbx_command *command) {
  require(command->is.fixed != NULL);
  read_all(command->has.items, command->item_count * item_bytes(command->type));
  read_all(command->name, command->name_bytes);
  read_all(command->data, command->data_bytes);
  if (command->type == GB_RUN_FILL) {
    uint64_t bytes = gbx_fill_bytes(command->is.fill, 1ull << 40);
    require(bytes == UINT64_MAX || bytes <= 1ull << 40);
  }
}

static void take_batch(const uint8_t *body, size_t size) {
  const struct gbx_range range = {.offset = 2ull << 20, .length = 4ull << 20};
  struct gbx_batch_head head;
  if (!gbx_batch_read(body, size, &head) || head.status != GB_RUN_OK)
    return;
  require(head.sequence > 0);
  struct gb_run_batch batch;
  memcpy(&batch, body, sizeof(batch));
  struct gbx_command command;
  uint64_t at = 0, count = 0;
  enum gb_run_type last = 0;
  while (gbx_batch_next(body, size, &at, &command)) {
    require(at <= size && at % 8 == 0);
    use(&command);
    last = command.type;
    count++;
  }
  require(count == batch.command_count && (count == 0 || at == size));
  bool asks = last == GB_RUN_IMAGE || last == GB_RUN_COLLECT || last == GB_RUN_READ || last == GB_RUN_SYNC;
  require(head.answers == asks);
  gbx_batch_touches(body, size, 1ull << 40, &range);
}

/* ---- images ---- */

static uint64_t image_bytes;

/* What a loader that believes the sizes it finds would read. */
static void read_from(const uint8_t *image, uint64_t offset, uint64_t length) {
  require(offset <= image_bytes && length <= image_bytes - offset);
  read_all(image + offset, length);
}

static CUresult load(CUmodule *module, const void *image) {
  const uint8_t *bytes = image;
  Elf64_Ehdr header;
  memcpy(&header, bytes, sizeof(header));
  *module = NULL;
  if (memcmp(bytes, ELFMAG, SELFMAG) != 0) {
    sink ^= (uint8_t)strlen((const char *)bytes);
    return CUDA_ERROR_INVALID_IMAGE;
  }
  read_from(bytes, header.e_phoff, (uint64_t)header.e_phnum * header.e_phentsize);
  Elf64_Shdr first = {.sh_size = 0};
  if (header.e_shnum == 0 && header.e_shoff != 0) { /* more than 16 bits can say */
    read_from(bytes, header.e_shoff, sizeof(first));
    memcpy(&first, bytes + header.e_shoff, sizeof(first));
  }
  uint64_t sections = header.e_shnum != 0 ? header.e_shnum : first.sh_size;
  for (uint64_t index = 0; index < sections; index++) {
    Elf64_Shdr section;
    uint64_t at = header.e_shoff + index * header.e_shentsize;
    read_from(bytes, at, sizeof(section));
    memcpy(&section, bytes + at, sizeof(section));
    if (section.sh_type != SHT_NOBITS)
      read_from(bytes, section.sh_offset, section.sh_size);
  }
  return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

static void take_image(const uint8_t *data, size_t size) {
  static uint8_t block[GB_RUN_IMAGE_BLOCK_BYTES];
  struct gbx_driver driver = {.cuModuleLoadData = load};
  static struct gbx_block_cache cache;
  static struct gbx_images images;
  struct gb_run_image image = {.bytes = size, .block_count = 1};
  uint8_t digest[GB_RUN_DIGEST_BYTES], bitmap[1] = {0};
  if (size == 0 || size > sizeof(block))
    return;
  if (!cache.copy)
    gbx_cache_init(&cache, (void *)abort, NULL); /* it is never opened */
  gbx_images_open(&images, &driver, &cache);
  image_bytes = size;
  memset(block, 0, sizeof(block));
  memcpy(block, data, size);
  require(gb_lane_digest(data, size, image.digest) == GB_LANE_OK);
  require(gb_lane_digest(block, sizeof(block), digest) == GB_LANE_OK);
  require(gbx_images_offer(&images, &image, digest, bitmap).status == GB_RUN_OK && bitmap[0] == 1);
  struct gb_run_image_part part;
  memcpy(part.digest, image.digest, sizeof(part.digest));
  for (uint64_t at = 0; at < size; at += part.length) {
    part.offset = at;
    part.length = size - at < 1 + at * 3 ? size - at : 1 + at * 3;
    require(gbx_images_part(&images, &part, data + at).status == GB_RUN_OK);
  }
  bitmap[0] = 0;
  require(gbx_images_offer(&images, &image, digest, bitmap).status == GB_RUN_UNSUPPORTED);
  gbx_images_close(&images);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  uint8_t *copy = malloc(size > 1 ? size - 1 : 1); /* so that the sanitizer sees every byte too many */
  require(copy != NULL);
  memcpy(copy, data + 1, size - 1);
  if (data[0] % 2 == 0)
    take_batch(copy, size - 1);
  else
    take_image(copy, size - 1);
  free(copy);
  return 0;
}
