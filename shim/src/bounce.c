/* SPDX-License-Identifier: Apache-2.0 */
/* bounce.c: mapping and pinning the memory through which spans move. */
#include "bounce.h"

#include <string.h>
#include <sys/mman.h>

#include "client.h"

/* One piece is copied to or from the device while the next is read or written. */
#define OWN_PIECES 2u

static struct gb_bounce agent;
static struct gb_bounce own;

static void pin(struct gb_bounce *bounce) {
  /* Pinned it moves at the link's speed; unpinned it still moves. */
  bounce->pinned = gb_real.cuMemHostRegister_v2(bounce->map, bounce->bytes,
                                                CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS;
}

struct gb_bounce *gb_bounce_agent(void) {
  if (agent.map != NULL && agent.generation == gb_client_generation()) return &agent;
  if (agent.map != NULL) {
    if (agent.pinned) gb_real.cuMemHostUnregister(agent.map);
    munmap(agent.map, agent.bytes);
    agent.map = NULL;
  }
  void *map = NULL;
  if (!gb_client_map_staging(&map, &agent.bytes, &agent.generation)) return NULL;
  agent.map = map;
  agent.pieces = (uint32_t)(agent.bytes / GB_PIECE_BYTES);
  pin(&agent);
  return agent.pieces > 0 ? &agent : NULL;
}

struct gb_bounce *gb_bounce_own(void) {
  if (own.map != NULL) return &own;
  uint64_t bytes = OWN_PIECES * GB_PIECE_BYTES;
  void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return NULL;
  madvise(map, bytes, MADV_HUGEPAGE); /* direct I/O pins every page anew for each read */
  madvise(map, bytes, MADV_DONTFORK); /* a copied page would part from the one the disk fills */
  own = (struct gb_bounce){.map = map, .bytes = bytes, .pieces = OWN_PIECES};
  pin(&own);
  return &own;
}

void gb_bounce_abandon(struct gb_bounce *bounce) {
  memset(bounce, 0, sizeof *bounce);
}
