/* SPDX-License-Identifier: Apache-2.0 */
/* ram_test.c: lent RAM as the kernel sees it: pages, locks, nodes, and what is left of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../check.h"
#include "ram.h"

#define MIB (1ull << 20)
#define AT ((uint8_t *)0x510000000000ull)
#define RESERVED (64 * MIB)

/* A number of /proc/self/smaps for the mapping that begins at `address`. Units: KiB. -1: there is no such mapping. */
static long long smaps_kib(const void *address, const char *field) {
  char line[512], start[32];
  long long value = -1;
  bool inside = false;
  FILE *file = fopen("/proc/self/smaps", "re");
  snprintf(start, sizeof(start), "%llx-", (unsigned long long)(uintptr_t)address);
  while (file && fgets(line, sizeof(line), file)) {
    if (strncmp(line, start, strlen(start)) == 0)
      inside = true;
    else if (inside && strncmp(line, field, strlen(field)) == 0) {
      value = strtoll(line + strlen(field), NULL, 10);
      break;
    }
  }
  if (file)
    fclose(file);
  return value;
}

static long long file_number(const char *path, const char *field) {
  char line[256];
  long long value = -1;
  FILE *file = fopen(path, "re");
  while (file && value < 0 && fgets(line, sizeof(line), file)) {
    if (strncmp(line, field, strlen(field)) == 0)
      value = strtoll(line + strlen(field), NULL, 10);
  }
  if (file)
    fclose(file);
  return value;
}

static bool kernel_gives_huge_pages(void) {
  char text[64] = "";
  FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
  bool gives = file && fgets(text, sizeof(text), file) && strstr(text, "[never]") == NULL;
  if (file)
    fclose(file);
  return gives;
}

static bool is_zero(const uint8_t *bytes, size_t length) {
  return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static bool reserve(void) {
  return mmap(AT, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == AT;
}

static void ram_is_there_huge_and_zero(void) {
  struct gbx_ram ram;
  struct gbx_ram_piece piece;
  const uint64_t length = 8 * MIB;
  gbx_ram_init(&ram);
  REQUIRE(reserve());
  long long pool = file_number("/proc/meminfo", "HugePages_Free:");
  REQUIRE(gbx_ram_map(&ram, AT + 4 * MIB, length, -1, &piece) == 0);
  CHECK(piece.address == AT + 4 * MIB && piece.length == length);
  CHECK(is_zero(piece.address, length));
  if (pool >= (long long)(length / GBX_HUGE_BYTES)) {
    CHECK_EQUAL(smaps_kib(piece.address, "KernelPageSize:"), 2048);
    CHECK_EQUAL(file_number("/proc/meminfo", "HugePages_Free:"), pool - (long long)(length / GBX_HUGE_BYTES));
    CHECK_EQUAL(piece.locked_bytes, length);
    CHECK_EQUAL(piece.mlocked_bytes, 0);
  } else {
    CHECK_EQUAL(smaps_kib(piece.address, "Rss:") * 1024, length); /* before anybody has written */
    CHECK_EQUAL(piece.locked_bytes, piece.mlocked_bytes);
    CHECK_EQUAL(smaps_kib(piece.address, "Locked:") * 1024, piece.locked_bytes);
    CHECK_EQUAL(ram.mlocked_bytes, piece.mlocked_bytes);
    if (kernel_gives_huge_pages())
      CHECK(smaps_kib(piece.address, "AnonHugePages:") > 0);
  }
  memset(piece.address, 0xaa, length);
  gbx_ram_unmap(&ram, &piece, true);
  CHECK_EQUAL(ram.mlocked_bytes, 0);
  CHECK_EQUAL(smaps_kib(AT, "Rss:"), 0); /* one reservation again */
  if (pool >= 0)
    CHECK_EQUAL(file_number("/proc/meminfo", "HugePages_Free:"), pool);
  REQUIRE(gbx_ram_map(&ram, AT + 4 * MIB, length, -1, &piece) == 0);
  CHECK(is_zero(piece.address, length));
  gbx_ram_unmap(&ram, &piece, true);
  munmap(AT, RESERVED);
}

static void it_can_lie_anywhere(void) {
  struct gbx_ram ram;
  struct gbx_ram_piece pieces[4];
  gbx_ram_init(&ram);
  for (unsigned index = 0; index < 4; index++) {
    REQUIRE(gbx_ram_map(&ram, NULL, 2 * MIB * (index + 1), 0, &pieces[index]) == 0);
    CHECK_EQUAL((uintptr_t)pieces[index].address % GBX_HUGE_BYTES, 0);
    memset(pieces[index].address, (int)index + 1, pieces[index].length);
  }
  for (unsigned index = 0; index < 4; index++) {
    const uint8_t *bytes = pieces[index].address;
    CHECK(bytes[0] == index + 1 && bytes[pieces[index].length - 1] == index + 1);
    gbx_ram_unmap(&ram, &pieces[index], false);
    unsigned char present;
    CHECK(mincore(pieces[index].address, 4096, &present) != 0 && errno == ENOMEM); /* nothing is mapped */
  }
  CHECK_EQUAL(ram.mlocked_bytes, 0);
}

static void what_cannot_be_leaves_nothing(void) {
  struct gbx_ram ram;
  struct gbx_ram_piece piece;
  gbx_ram_init(&ram);
  REQUIRE(reserve());
  CHECK(gbx_ram_map(&ram, NULL, 1ull << 46, -1, &piece) != 0); /* more than any machine has */
  CHECK_EQUAL(ram.mlocked_bytes, 0);
  CHECK_EQUAL(smaps_kib(AT, "Rss:"), 0);
  munmap(AT, RESERVED);
}

/* ---- nodes ---- */

static void write_node(const char *root, int node, long long free_kib) {
  char path[160];
  snprintf(path, sizeof(path), "%s/node%d", root, node);
  mkdir(path, 0700);
  strcat(path, "/meminfo");
  FILE *file = fopen(path, "we");
  if (file) {
    fprintf(file, "Node %d MemTotal:       99999999 kB\nNode %d MemFree:        %lld kB\n", node, node, free_kib);
    fclose(file);
  }
}

static void the_node_with_most_to_give_is_chosen(void) {
  char root[] = "/tmp/gb-nodes-test-XXXXXX", command[64];
  REQUIRE(mkdtemp(root) != NULL);
  CHECK_EQUAL(gbx_ram_choose_node(root), -1);
  write_node(root, 0, 5000);
  CHECK_EQUAL(gbx_ram_choose_node(root), -1); /* nothing to choose */
  write_node(root, 1, 7000);
  CHECK_EQUAL(gbx_ram_choose_node(root), 1);
  write_node(root, 0, 9000);
  CHECK_EQUAL(gbx_ram_choose_node(root), 0);
  write_node(root, 5, 20000); /* numbers may have gaps */
  write_node(root, 6, 0);     /* without memory */
  CHECK_EQUAL(gbx_ram_choose_node(root), 5);
  CHECK_EQUAL(gbx_ram_choose_node("/nonexistent"), -1);
  snprintf(command, sizeof(command), "rm -r %s", root);
  CHECK_EQUAL(system(command), 0);
}

int main(void) {
  RUN(ram_is_there_huge_and_zero);
  RUN(it_can_lie_anywhere);
  RUN(what_cannot_be_leaves_nothing);
  RUN(the_node_with_most_to_give_is_chosen);
  return check_done();
}
