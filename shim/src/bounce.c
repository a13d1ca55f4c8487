/* SPDX-License-Identifier: Apache-2.0 */
/* bounce.c: the memory through which spans move. */
#include "bounce.h"

#include <stdlib.h>
#include <string.h>

static struct gb_bounce own;

struct gb_bounce *gb_bounce_get(void) {
  if (own.memory == NULL) own.memory = calloc(1, sizeof *own.memory);
  if (own.memory == NULL) return NULL;
  /* Registered it moves at the link's speed; unregistered it still moves. */
  (void)gb_pinned_ready(own.memory, GB_BOUNCE_PIECES * GB_PIECE_BYTES);
  if (own.memory->host == NULL) return NULL;
  own.map = own.memory->host;
  own.pieces = GB_BOUNCE_PIECES;
  return &own;
}

void gb_bounce_abandon(struct gb_bounce *bounce) {
  memset(bounce, 0, sizeof *bounce);
}
