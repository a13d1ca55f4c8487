/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach_cover.c: what every thread of a launch stores to for certain. One walk for a run of threads that go the same
 * way, from the kernel's begin: values are k + t * thread + c * block exactly, or not known; a comparison that is known
 * parts the run in two. Where the way is not known, or leads around a loop a second time, the walk goes on where all
 * ways meet again (gb_ptx_block.after), and what may be written to registers between is not known any more: so a loop
 * counts with what its first round stores. A kernel that never gets there never ends, and nothing comes after it.
 */
#include <stdlib.h>
#include <string.h>

#include "reach.h"

#define STEPS_MAX 100000u

struct linear {
  bool known;
  int64_t k, t, c;
};

struct predicate {
  bool known;
  enum gb_ptx_compare compare;
  struct linear difference; /* of what is compared, with 0 */
};

struct registers {
  struct linear values[GB_PTX_REGISTERS_MAX];
  struct predicate predicates[GB_PTX_REGISTERS_MAX];
  bool passed[GB_PTX_BLOCKS_MAX]; /* their branch */
};

struct walk {
  const struct gb_reach_launch *launch;
  struct gb_reach_list *list;
  uint32_t steps;
};

/* Threads in order of their number: block after block. */
struct run {
  uint64_t first, end;
};

/* ---- values ---- */

/* Known as long as it is a number that signed and unsigned arithmetic of so many bits take for the same. */
static struct linear checked(const struct walk *walk, __int128 k, __int128 t, __int128 c, uint8_t bits) {
  const struct gb_reach_launch *launch = walk->launch;
  __int128 most = bits >= 64 ? INT64_MAX : ((__int128)1 << (bits - 1)) - 1;
  __int128 threads = t * (launch->block[0] - 1), blocks = c * (launch->grid[0] - 1);
  __int128 lo = k + (threads < 0 ? threads : 0) + (blocks < 0 ? blocks : 0);
  __int128 hi = k + (threads > 0 ? threads : 0) + (blocks > 0 ? blocks : 0);
  bool small = t <= INT32_MAX && t >= INT32_MIN && c <= INT64_MAX >> 1 && c >= -(INT64_MAX >> 1);
  if (lo < 0 || hi > most || !small) return (struct linear){.known = false};
  return (struct linear){true, (int64_t)k, (int64_t)t, (int64_t)c};
}

static struct linear of_special(const struct walk *walk, uint32_t index) {
  uint32_t dimension = index / 4, block = walk->launch->block[dimension], grid = walk->launch->grid[dimension];
  switch ((enum gb_ptx_special)(index % 4)) {
    case GB_PTX_TID: return (struct linear){dimension == 0 || block == 1, 0, dimension == 0, 0};
    case GB_PTX_CTAID: return (struct linear){dimension == 0 || grid == 1, 0, 0, dimension == 0};
    case GB_PTX_NTID: return (struct linear){true, block, 0, 0};
    default: return (struct linear){true, grid, 0, 0};
  }
}

static struct linear read_operand(const struct walk *walk, const struct registers *r,
                                  const struct gb_ptx_operand *operand, uint8_t bits) {
  struct linear value = {.known = false};
  if (operand->kind == GB_PTX_NUMBER) return checked(walk, (int64_t)operand->number, 0, 0, bits);
  if (operand->kind == GB_PTX_SPECIAL) return of_special(walk, operand->index);
  if (operand->kind == GB_PTX_REGISTER) value = r->values[operand->index];
  return value.known ? checked(walk, value.k, value.t, value.c, bits) : value;
}

static bool is_constant(struct linear value) {
  return value.known && value.t == 0 && value.c == 0;
}

static struct linear sum_of(const struct walk *walk, struct linear a, struct linear b, int sign, uint8_t bits) {
  if (!a.known || !b.known) return (struct linear){.known = false};
  return checked(walk, (__int128)a.k + (__int128)sign * b.k, (__int128)a.t + (__int128)sign * b.t,
                 (__int128)a.c + (__int128)sign * b.c, bits);
}

static struct linear product_of(const struct walk *walk, struct linear a, struct linear b, uint8_t bits) {
  if (!is_constant(b)) {
    struct linear other = a;
    a = b;
    b = other;
  }
  if (!a.known || !is_constant(b)) return (struct linear){.known = false};
  return checked(walk, (__int128)a.k * b.k, (__int128)a.t * b.k, (__int128)a.c * b.k, bits);
}

static struct linear result_of(const struct walk *walk, const struct registers *r, const struct gb_ptx_code *code) {
  uint8_t bits = code->bits, to = code->wide ? 64 : bits;
  bool shifts = code->op == GB_PTX_SHL;
  struct linear x = read_operand(walk, r, &code->from[0], code->op == GB_PTX_CVT ? code->from_bits : bits);
  struct linear y = read_operand(walk, r, &code->from[1], shifts ? 32 : bits);
  uint64_t param = 0;
  switch (code->op) {
    case GB_PTX_MOV: return x;
    case GB_PTX_CVT: return x.known ? checked(walk, x.k, x.t, x.c, bits) : x;
    case GB_PTX_ADD:
      if (code->from[1].kind == GB_PTX_NUMBER && x.known)
        return checked(walk, (__int128)x.k + (int64_t)code->from[1].number, x.t, x.c, bits);
      return sum_of(walk, x, y, 1, bits);
    case GB_PTX_SUB: return sum_of(walk, x, y, -1, bits);
    case GB_PTX_MUL: return product_of(walk, x, y, to);
    case GB_PTX_MAD:
      return sum_of(walk, product_of(walk, x, y, to), read_operand(walk, r, &code->from[2], to), 1, to);
    case GB_PTX_SHL:
      if (!is_constant(y) || y.k >= bits) return (struct linear){.known = false};
      return product_of(walk, x, (struct linear){true, (int64_t)(1ull << y.k), 0, 0}, bits);
    case GB_PTX_PARAM:
      if (!gb_reach_param(walk->launch, code, &param)) return (struct linear){.known = false};
      return checked(walk, (int64_t)param, 0, 0, code->bits < 64 ? code->bits : 64);
    default: return (struct linear){.known = false};
  }
}

/* ---- comparisons ---- */

static struct predicate predicate_of(const struct walk *walk, const struct registers *r,
                                     const struct gb_ptx_code *code) {
  struct linear a = read_operand(walk, r, &code->from[0], code->bits);
  struct linear b = read_operand(walk, r, &code->from[1], code->bits);
  struct linear d = {a.known && b.known, a.k - b.k, a.t - b.t, a.c - b.c};
  d.known = d.known && d.c == d.t * walk->launch->block[0]; /* it counts threads, over all blocks */
  return (struct predicate){d.known, code->compare, d};
}

static bool holds(const struct predicate *p, uint64_t thread) {
  __int128 value = p->difference.k + (__int128)p->difference.t * (__int128)thread;
  switch (p->compare) {
    case GB_PTX_EQ: return value == 0;
    case GB_PTX_NE: return value != 0;
    case GB_PTX_LT: return value < 0;
    case GB_PTX_LE: return value <= 0;
    case GB_PTX_GT: return value > 0;
    default: return value >= 0;
  }
}

/* The part of the run in which it holds, and the other one. returns: false when it cannot be parted like that. */
static bool part(const struct predicate *p, struct run all, struct run *yes, struct run *no) {
  bool changes = p->difference.t != 0;
  if (!p->known || (changes && (p->compare == GB_PTX_EQ || p->compare == GB_PTX_NE))) return false;
  bool first = holds(p, all.first);
  uint64_t from = all.first, to = all.end;
  while (from < to) { /* up to `from` as the first one, from `to` on not */
    uint64_t middle = from + (to - from) / 2;
    if (holds(p, middle) == first) from = middle + 1;
    else to = middle;
  }
  struct run before = {all.first, from}, behind = {from, all.end};
  *yes = first ? before : behind;
  *no = first ? behind : before;
  return true;
}

static bool is_empty(struct run run) {
  return run.first >= run.end;
}

/* As part, for an instruction's guard: yes are those that execute it. */
static bool part_guard(const struct registers *r, const struct gb_ptx_code *code, struct run all, struct run *yes,
                       struct run *no) {
  *yes = all;
  *no = (struct run){0, 0};
  if (code->guard == GB_PTX_NONE) return true;
  if (code->guard_negated) return part(&r->predicates[code->guard], all, no, yes);
  return part(&r->predicates[code->guard], all, yes, no);
}

/* ---- instructions ---- */

static void forget(struct registers *r, const struct gb_ptx_code *code) {
  for (uint32_t i = 0; i < code->result_count; i++) {
    r->values[code->results[i]].known = false;
    r->predicates[code->results[i]].known = false;
  }
}

static void note_store(const struct walk *walk, const struct registers *r, const struct gb_ptx_code *code,
                       struct run run) {
  struct linear address = read_operand(walk, r, &code->from[0], 64);
  if (!address.known || address.t < 0 || address.t > code->bytes || is_empty(run)) return;
  if (address.c != address.t * walk->launch->block[0]) return;
  __int128 from = (__int128)address.k + code->offset + (__int128)address.t * (__int128)run.first;
  __int128 to = (__int128)address.k + code->offset + (__int128)address.t * (__int128)(run.end - 1) + code->bytes;
  if (from < 0 || to > INT64_MAX) return;
  (void)gb_reach_add(walk->launch, walk->list, GB_REACH_COVER, (uint64_t)from, (uint64_t)to);
}

static void execute(const struct walk *walk, struct registers *r, const struct gb_ptx_code *code, struct run run) {
  struct run yes, no;
  bool parted = part_guard(r, code, run, &yes, &no);
  if (code->op == GB_PTX_STORE) {
    if (parted) note_store(walk, r, code, yes);
    return;
  }
  if (parted && is_empty(yes)) return;
  struct linear value = result_of(walk, r, code);
  struct predicate predicate = {.known = false};
  if (code->op == GB_PTX_SETP) predicate = predicate_of(walk, r, code);
  forget(r, code);
  if (!parted || !is_empty(no) || code->result_count != 1) return;
  r->values[code->results[0]] = value;
  r->predicates[code->results[0]] = predicate;
}

/* ---- ways ---- */

/* Registers that may be written between a branch and where its ways meet. */
static void forget_between(const struct gb_ptx *kernel, struct registers *r, uint32_t from, uint32_t after) {
  bool found[GB_PTX_BLOCKS_MAX] = {false};
  uint32_t list[GB_PTX_BLOCKS_MAX];
  uint32_t count = 0;
  for (uint32_t at = from, done = 0;; at = list[done++]) {
    const struct gb_ptx_block *block = &kernel->blocks[at];
    for (uint32_t k = 0; k < 2; k++) {
      uint32_t next = block->next[k];
      if (next == GB_PTX_NONE || next == after || found[next]) continue;
      found[next] = true;
      list[count++] = next;
    }
    for (uint32_t i = block->first; found[at] && i < block->end; i++) forget(r, &kernel->code[i]);
    if (done == count) return;
  }
}

static void walk_from(struct walk *walk, uint32_t block, struct registers *r, struct run run);

/* A branch whose ways are known: one of them in a walk of its own. returns: the block to go on with. */
static uint32_t go_apart(struct walk *walk, uint32_t index, struct registers *r, struct run yes, struct run no,
                         struct run *rest) {
  const struct gb_ptx_block *block = &walk->launch->kernel->blocks[index];
  r->passed[index] = true;
  *rest = is_empty(no) ? yes : no;
  if (is_empty(no)) return block->next[0];
  struct registers *copy = is_empty(yes) || block->next[0] == GB_PTX_NONE ? NULL : malloc(sizeof *copy);
  if (copy != NULL) {
    memcpy(copy, r, sizeof *copy);
    walk_from(walk, block->next[0], copy, yes);
    free(copy);
  }
  return block->next[1];
}

static void walk_from(struct walk *walk, uint32_t block, struct registers *r, struct run run) {
  const struct gb_ptx *kernel = walk->launch->kernel;
  while (block != GB_PTX_NONE && walk->steps < STEPS_MAX) {
    const struct gb_ptx_block *at = &kernel->blocks[block];
    const struct gb_ptx_code *last = &kernel->code[at->end - 1];
    bool branches = last->op == GB_PTX_BRANCH || last->op == GB_PTX_EXIT;
    struct run yes, no;
    for (uint32_t i = at->first; i < at->end - branches; i++) execute(walk, r, &kernel->code[i], run);
    walk->steps += at->end - at->first;
    if (!branches || last->guard == GB_PTX_NONE) {
      block = at->next[0];
    } else if (!r->passed[block] && part_guard(r, last, run, &yes, &no)) {
      block = go_apart(walk, block, r, yes, no, &run);
    } else {
      forget_between(kernel, r, block, at->after);
      block = at->after;
    }
  }
}

void gb_reach_cover(const struct gb_reach_launch *launch, struct gb_reach_list *list) {
  struct walk walk = {launch, list, 0};
  uint64_t threads = (uint64_t)launch->grid[0] * launch->block[0];
  struct registers *r = threads <= INT32_MAX ? calloc(1, sizeof *r) : NULL;
  if (r != NULL) walk_from(&walk, 0, r, (struct run){0, threads});
  free(r);
}
