/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ram.h: lent RAM: present from the start, in huge pages where there are any, on one NUMA node, locked as far as the
 * limits permit.
 * locks: its own, for the account of locked bytes. One piece is touched by one thread at a time.
 */
#ifndef GBX_RAM_H
#define GBX_RAM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GBX_HUGE_BYTES (2ull << 20)
#define GBX_NODES_MAX 64

struct gbx_ram {
  pthread_mutex_t lock; /* protects mlocked_bytes, and mlock itself */
  uint64_t mlocked_bytes; /* of RLIMIT_MEMLOCK */
  _Atomic bool hurry; /* the process is ending: scrubbing is left to the kernel, which does it for all memory */
};

struct gbx_ram_piece {
  void *address;
  uint64_t length;
  uint64_t locked_bytes;  /* that can never be swapped */
  uint64_t mlocked_bytes; /* of them, counted against the limit; huge pages of the pool are not */
};

void gbx_ram_init(struct gbx_ram *ram);

/* Maps zeroed memory over what is reserved at `wanted`, or anywhere (NULL). Pages come from the pool of huge pages if
 * it has that many, else the kernel is asked for huge ones; from `node` as far as it has them, -1: from the node that
 * has most to give. pre: `length` and `wanted` are multiples of GBX_HUGE_BYTES. returns: 0 or errno. */
int gbx_ram_map(struct gbx_ram *ram, void *wanted, uint64_t length, int node, struct gbx_ram_piece *piece);

/* Scrubs and unmaps; `reserved`: its addresses stay reserved. */
void gbx_ram_unmap(struct gbx_ram *ram, const struct gbx_ram_piece *piece, bool reserved);

/* The NUMA node with most free memory by the files under `root` ("/sys/devices/system/node"); -1: there is only one, or
 * nothing is known. */
int gbx_ram_choose_node(const char *root);

#endif
