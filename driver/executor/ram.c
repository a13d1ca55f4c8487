/* SPDX-License-Identifier: Apache-2.0 */
/* ram.c: see ram.h. */
#define _GNU_SOURCE
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define MAP_HUGE_2_MIB (21 << 26)
#define NODE_FOLDER "/sys/devices/system/node"

void gbx_ram_init(struct gbx_ram *ram) {
  ram->mlocked_bytes = 0;
  atomic_init(&ram->hurry, false);
  pthread_mutex_init(&ram->lock, NULL);
}

/* ---- nodes ---- */

/* MemFree of one node. Units: KiB. -1: there is no such node, or it has no memory. */
static long long free_kib(const char *root, int node) {
  char path[256], text[1024];
  snprintf(path, sizeof(path), "%s/node%d/meminfo", root, node);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  ssize_t count = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (count <= 0)
    return -1;
  text[count] = '\0';
  const char *line = strstr(text, "MemFree:");
  return line ? strtoll(line + strlen("MemFree:"), NULL, 10) : -1;
}

int gbx_ram_choose_node(const char *root) {
  long long most = 0;
  int best = -1, known = 0;
  for (int node = 0; node < GBX_NODES_MAX; node++) {
    long long kib = free_kib(root, node);
    known += kib >= 0;
    if (kib > most) {
      most = kib;
      best = node;
    }
  }
  return known > 1 ? best : -1;
}

/* Asks for pages of a node; if it runs out, others come from elsewhere. */
static void prefer_node(void *address, uint64_t length, int node) {
  int chosen = node >= 0 ? node : gbx_ram_choose_node(NODE_FOLDER);
  if (chosen < 0 || chosen >= GBX_NODES_MAX)
    return;
  uint64_t mask = 1ull << chosen;
  syscall(SYS_mbind, address, length, MPOL_PREFERRED, &mask, (unsigned long)GBX_NODES_MAX + 1, 0);
}

/* ---- mapping ---- */

/* Locks as much as the limit permits, from the start. */
static uint64_t lock_pages(struct gbx_ram *ram, void *address, uint64_t length) {
  uint64_t locked = 0;
  pthread_mutex_lock(&ram->lock);
  if (mlock(address, length) == 0) {
    locked = length;
  } else {
    struct rlimit limit;
    uint64_t room = 0;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur > ram->mlocked_bytes)
      room = limit.rlim_cur - ram->mlocked_bytes;
    uint64_t part = (room < length ? room : length) & ~4095ull;
    if (part > 0 && mlock(address, part) == 0)
      locked = part;
  }
  ram->mlocked_bytes += locked;
  pthread_mutex_unlock(&ram->lock);
  return locked;
}

/* Makes every page present now, so that a later write cannot meet an empty machine. returns: 0 or errno. */
static int populate(void *address, uint64_t length) {
  if (madvise(address, length, MADV_POPULATE_WRITE) == 0)
    return 0;
  if (errno != EINVAL)
    return errno == EFAULT || errno == EHWPOISON ? ENOMEM : errno;
  for (uint64_t offset = 0; offset < length; offset += 4096)
    ((volatile uint8_t *)address)[offset] = 0;
  return 0;
}

/* Memory at `wanted`, or anywhere at a multiple of GBX_HUGE_BYTES. MAP_FAILED, with errno. */
static uint8_t *map_pages(void *wanted, uint64_t length, int flags) {
  int always = MAP_PRIVATE | MAP_ANONYMOUS | flags;
  if (wanted || (flags & MAP_HUGETLB))
    return mmap(wanted, length, PROT_READ | PROT_WRITE, always | (wanted ? MAP_FIXED : 0), -1, 0);
  uint8_t *roomy = mmap(NULL, length + GBX_HUGE_BYTES, PROT_READ | PROT_WRITE, always, -1, 0);
  if (roomy == MAP_FAILED)
    return roomy;
  uint64_t before = -(uint64_t)roomy % GBX_HUGE_BYTES;
  if (before > 0)
    munmap(roomy, before);
  munmap(roomy + before + length, GBX_HUGE_BYTES - before);
  return roomy + before;
}

/* Gives up what was mapped over a reservation, or elsewhere. */
static void unmap_pages(void *address, uint64_t length, bool reserved) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (reserved)
    mmap(address, length, PROT_NONE, flags, -1, 0); /* back to what the reservation was */
  else
    munmap(address, length);
}

/* Maps and fills pages of one kind. returns: 0 or errno; then nothing is mapped. */
static int map_filled(void *wanted, uint64_t length, int node, int flags, struct gbx_ram_piece *piece) {
  uint8_t *address = map_pages(wanted, length, flags);
  if (address == MAP_FAILED)
    return errno;
  *piece = (struct gbx_ram_piece){.address = address, .length = length};
  prefer_node(address, length, node);
  if ((flags & MAP_HUGETLB) == 0)
    madvise(address, length, MADV_HUGEPAGE);
  madvise(address, length, MADV_DONTDUMP);
  madvise(address, length, MADV_DONTFORK);
  int error = populate(address, length);
  if (error != 0)
    unmap_pages(address, length, wanted != NULL);
  return error;
}

int gbx_ram_map(struct gbx_ram *ram, void *wanted, uint64_t length, int node, struct gbx_ram_piece *piece) {
  if (map_filled(wanted, length, node, MAP_HUGETLB | MAP_HUGE_2_MIB, piece) == 0) {
    piece->locked_bytes = length; /* the pool's pages are never swapped */
    return 0;
  }
  int error = map_filled(wanted, length, node, 0, piece);
  if (error == 0)
    piece->locked_bytes = piece->mlocked_bytes = lock_pages(ram, piece->address, length);
  return error;
}

void gbx_ram_unmap(struct gbx_ram *ram, const struct gbx_ram_piece *piece, bool reserved) {
  for (uint64_t done = 0; done < piece->length && !atomic_load(&ram->hurry); done += GBX_HUGE_BYTES)
    memset((uint8_t *)piece->address + done, 0, GBX_HUGE_BYTES);
  unmap_pages(piece->address, piece->length, reserved);
  pthread_mutex_lock(&ram->lock);
  ram->mlocked_bytes -= piece->mlocked_bytes;
  pthread_mutex_unlock(&ram->lock);
}
