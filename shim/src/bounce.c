/* SPDX-License-Identifier: Apache-2.0 */
/* bounce.c: mapping and pinning the memory through which spans move. */
#include "bounce.h"

#include <string.h>
#include <sys/mman.h>

static struct gb_bounce own;

static void pin(struct gb_bounce *bounce) {
  /* Pinned it moves at the link's speed; unpinned it still moves. */
  bounce->pinned = gb_real.cuMemHostRegister_v2(bounce->map, bounce->bytes,
                                                CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS;
}

struct gb_bounce *gb_bounce_get(void) {
  if (own.map != NULL) return &own;
  uint64_t bytes = GB_BOUNCE_PIECES * GB_PIECE_BYTES;
  void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return NULL;
  madvise(map, bytes, MADV_HUGEPAGE); /* direct I/O pins every page anew for each read */
  madvise(map, bytes, MADV_DONTFORK); /* a copied page would part from the one the disk fills */
  own = (struct gb_bounce){.map = map, .bytes = bytes, .pieces = GB_BOUNCE_PIECES};
  pin(&own);
  return &own;
}

void gb_bounce_abandon(struct gb_bounce *bounce) {
  memset(bounce, 0, sizeof *bounce);
}
