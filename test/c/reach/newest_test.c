/* SPDX-License-Identifier: Apache-2.0 */
/* newest_test.c: the parts of a span (shim/src/newest.h) against one number for each block. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../check.h"
#include "newest.h"

#define BLOCK 4096u
#define BLOCKS 96u
#define ROUNDS 20000u

pthread_rwlock_t gb_index_lock = PTHREAD_RWLOCK_INITIALIZER;

static uint32_t model[BLOCKS];
static struct gb_span span;

static void agrees(void) {
  uint32_t parts = 0;
  for (uint32_t i = 0; i < BLOCKS; i++) {
    uint64_t end = 0;
    uint32_t until = i;
    while (until < BLOCKS && model[until] == model[i]) until++;
    CHECK_EQUAL(gb_newest_at(&span, (uint64_t)i * BLOCK, &end), model[i]);
    CHECK_EQUAL(end, (uint64_t)until * BLOCK);
    parts += i == 0 || model[i] != model[i - 1];
  }
  CHECK(parts > 1 ? span.newest == GB_NEWEST_PARTS : span.newest == model[0]);
  CHECK_EQUAL(gb_elsewhere_count, span.newest != 0);
}

static uint32_t lane_of(uint32_t from, uint32_t to) {
  for (uint32_t i = from + 1; i < to; i++)
    if (model[i] != model[from]) return GB_NEWEST_PARTS;
  return model[from];
}

static void as_a_number_for_each_block(void) {
  srand(4);
  span.bytes = BLOCKS * BLOCK;
  REQUIRE(gb_newest_begin(&span));
  for (uint32_t round = 0; round < ROUNDS && check_errors == 0; round++) {
    const uint32_t from = (uint32_t)rand() % BLOCKS, to = from + 1 + (uint32_t)rand() % (BLOCKS - from);
    const uint32_t lane = (uint32_t)rand() % 3;
    if (rand() % 50 == 0) {
      gb_newest_set_all(&span, lane);
      for (uint32_t i = 0; i < BLOCKS; i++) model[i] = lane;
    } else {
      gb_newest_set(&span, (uint64_t)from * BLOCK, (uint64_t)to * BLOCK, lane);
      for (uint32_t i = from; i < to; i++) model[i] = lane;
    }
    agrees();
    const uint32_t begin = (uint32_t)rand() % BLOCKS, end = begin + 1 + (uint32_t)rand() % (BLOCKS - begin);
    CHECK_EQUAL(gb_newest_of(&span, (uint64_t)begin * BLOCK, (uint64_t)end * BLOCK), lane_of(begin, end));
  }
  free(span.parts);
}

/* Every piece that was added is held; a few pieces are held as they are. */
static void pieces_that_were_missed(void) {
  for (uint32_t round = 0; round < 200; round++) {
    struct gb_wants wants = {0};
    bool added[BLOCKS] = {false}, held[BLOCKS] = {false};
    const uint32_t count = (uint32_t)rand() % 40;
    for (uint32_t k = 0; k < count; k++) {
      const uint32_t from = (uint32_t)rand() % (BLOCKS - 1), to = from + 1 + (uint32_t)rand() % 2;
      gb_wants_add(&wants, from, to);
      for (uint32_t i = from; i < to; i++) added[i] = true;
      CHECK(wants.count <= GB_WANTS_MAX);
    }
    for (uint32_t k = 0; k < wants.count; k++)
      for (uint64_t i = wants.pieces[k].from; i < wants.pieces[k].to; i++) held[i] = true;
    for (uint32_t i = 0; i < BLOCKS; i++) CHECK(held[i] || !added[i]);
    for (uint32_t i = 0; i < BLOCKS && count <= GB_WANTS_MAX; i++) CHECK_EQUAL(held[i], added[i]);
  }
}

int main(void) {
  RUN(as_a_number_for_each_block);
  RUN(pieces_that_were_missed);
  return check_done();
}
