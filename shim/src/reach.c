/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach.c: ranges of register values, by block, until they stand still. A value is [lo, hi], unsigned, and perhaps
 * computed from one pointer argument (base). Comparisons narrow what a branch, or a guarded instruction, sees. A loop
 * widens what grows to the next number that the launch names (arguments, constants), so that it ends.
 */
#include "reach.h"

#include <stdlib.h>
#include <string.h>

#define THRESHOLDS_MAX 1024u
/* A block's values are joined so often before they are widened; and all blocks together. */
#define JOINS_MAX 3u
#define VISITS_MAX 20000u
/* A range of addresses that is longer says nothing. */
#define ADDRESSES_MAX (1ull << 40)

struct value {
  uint64_t lo, hi;
  uint64_t base; /* the argument that it points with, or 0 */
};

/* What a predicate register holds. */
struct test {
  bool known, is_signed;
  enum gb_ptx_compare compare;
  uint8_t bits;
  struct gb_ptx_operand left, right;
};

struct state {
  bool reached;
  uint32_t joins;
  struct test tests[8]; /* of predicates, by their register % 8 */
  uint32_t tested[8];   /* whose; + 1 */
  struct value values[];
};

struct analysis {
  const struct gb_reach_launch *launch;
  struct state **states; /* by block: before it */
  size_t state_bytes;
  uint64_t thresholds[THRESHOLDS_MAX]; /* sorted */
  uint32_t threshold_count;
};

/* ---- the list ---- */

bool gb_reach_add(const struct gb_reach_launch *launch, struct gb_reach_list *list, enum gb_reach_kind kind,
                  uint64_t from, uint64_t to) {
  uint64_t end = launch->arena_base + launch->arena_bytes;
  if (to <= launch->arena_base || from >= end || from >= to) return true;
  for (uint32_t i = 0; i < list->count; i++) {
    struct gb_reach *known = &list->reached[i];
    bool whole = kind == GB_REACH_READ_WHOLE || kind == GB_REACH_WRITE_WHOLE;
    if (known->kind != kind || (whole ? known->from != from : from > known->to || to < known->from)) continue;
    if (from < known->from) known->from = from;
    if (to > known->to) known->to = to;
    return true;
  }
  if (list->count == GB_REACH_MAX) return false;
  list->reached[list->count++] = (struct gb_reach){kind, from, to};
  return true;
}

bool gb_reach_param(const struct gb_reach_launch *launch, const struct gb_ptx_code *code, uint64_t *value) {
  *value = 0;
  if (code->offset < 0 || (uint64_t)code->offset + code->bytes > launch->param_bytes || code->bytes > 8) return false;
  memcpy(value, launch->params + code->offset, code->bytes);
  return true;
}

/* ---- values ---- */

static uint64_t mask_of(uint8_t bits) {
  return bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
}

static struct value anything(uint8_t bits) {
  return (struct value){0, mask_of(bits), 0};
}

static struct value of_special(const struct gb_reach_launch *launch, uint32_t index) {
  uint32_t dimension = index / 4, block = launch->block[dimension], grid = launch->grid[dimension];
  switch ((enum gb_ptx_special)(index % 4)) {
    case GB_PTX_TID: return (struct value){0, block - 1ull, 0};
    case GB_PTX_CTAID: return (struct value){0, grid - 1ull, 0};
    case GB_PTX_NTID: return (struct value){block, block, 0};
    default: return (struct value){grid, grid, 0};
  }
}

/* As many bits of it as the instruction reads. */
static struct value read_operand(const struct analysis *a, const struct state *state,
                                 const struct gb_ptx_operand *operand, uint8_t bits) {
  uint64_t mask = mask_of(bits);
  switch (operand->kind) {
    case GB_PTX_NUMBER: return (struct value){operand->number & mask, operand->number & mask, 0};
    case GB_PTX_SPECIAL: return of_special(a->launch, operand->index);
    case GB_PTX_REGISTER:
      if (state->values[operand->index].hi <= mask) return state->values[operand->index];
      return anything(bits);
    default: return anything(bits);
  }
}

static bool is_positive(struct value value, uint8_t bits) {
  return value.hi <= mask_of(bits) >> 1;
}

/* One of two pointers, or of a pointer and a number. Two pointers make none. */
static uint64_t base_of_sum(struct value a, struct value b) {
  return a.base == 0 ? b.base : b.base == 0 ? a.base : 0;
}

static struct value sum_of(struct value a, struct value b, uint8_t bits) {
  struct value sum = anything(bits);
  if (a.hi <= mask_of(bits) - b.hi) sum = (struct value){a.lo + b.lo, a.hi + b.hi, 0};
  sum.base = base_of_sum(a, b);
  return sum;
}

static struct value difference_of(struct value a, struct value b, uint8_t bits) {
  struct value difference = anything(bits);
  if (a.lo >= b.hi) difference = (struct value){a.lo - b.hi, a.hi - b.lo, 0};
  difference.base = b.base == 0 ? a.base : 0;
  return difference;
}

static struct value product_of(struct value a, struct value b, uint8_t bits) {
  unsigned __int128 most = (unsigned __int128)a.hi * b.hi;
  return most <= mask_of(bits) ? (struct value){a.lo * b.lo, (uint64_t)most, 0} : anything(bits);
}

static struct value shifted_left(struct value a, struct value by, uint8_t bits) {
  if (by.lo != by.hi || by.lo >= bits || a.hi > mask_of(bits) >> by.lo) return anything(bits);
  return (struct value){a.lo << by.lo, a.hi << by.lo, 0};
}

static struct value least(struct value a, struct value b) {
  return (struct value){a.lo < b.lo ? a.lo : b.lo, a.hi < b.hi ? a.hi : b.hi, 0};
}

static struct value most(struct value a, struct value b) {
  return (struct value){a.lo > b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi, 0};
}

/* A negative constant is what is taken away. */
static bool is_negative(const struct gb_ptx_operand *operand, uint8_t bits) {
  return operand->kind == GB_PTX_NUMBER && (operand->number & mask_of(bits)) > mask_of(bits) >> 1;
}

static struct value sum_or_difference(const struct gb_ptx_operand *operand, struct value a, struct value b,
                                      uint8_t bits) {
  if (!is_negative(operand, bits)) return sum_of(a, b, bits);
  uint64_t less = (0 - operand->number) & mask_of(bits);
  return difference_of(a, (struct value){less, less, 0}, bits);
}

static struct value result_of(const struct analysis *a, const struct state *state, const struct gb_ptx_code *code) {
  uint8_t bits = code->bits, to = code->wide ? 64 : bits;
  struct value x = read_operand(a, state, &code->from[0], code->op == GB_PTX_CVT ? 64 : bits);
  struct value y = read_operand(a, state, &code->from[1], code->op == GB_PTX_SHL || code->op == GB_PTX_SHR ? 32 : bits);
  bool plain = !code->is_signed || (is_positive(x, bits) && is_positive(y, bits));
  switch (code->op) {
    case GB_PTX_MOV: return x;
    case GB_PTX_CVT:
      x = x.hi <= mask_of(code->from_bits) >> code->is_signed ? x : anything(64);
      return x.hi <= mask_of(bits) ? x : anything(bits);
    case GB_PTX_ADD: return sum_or_difference(&code->from[1], x, y, bits);
    case GB_PTX_SUB: return difference_of(x, y, bits);
    case GB_PTX_MUL: return plain || to == bits ? product_of(x, y, to) : anything(to);
    case GB_PTX_MAD:
      x = plain || to == bits ? product_of(x, y, to) : anything(to);
      return sum_of(x, read_operand(a, state, &code->from[2], to), to);
    case GB_PTX_SHL: return shifted_left(x, y, bits);
    case GB_PTX_SHR:
      if ((code->is_signed && !is_positive(x, bits)) || y.lo != y.hi || y.lo >= bits) return anything(bits);
      return (struct value){x.lo >> y.lo, x.hi >> y.lo, 0};
    case GB_PTX_AND: return (struct value){0, x.hi < y.hi ? x.hi : y.hi, 0};
    case GB_PTX_DIV: return plain && y.lo > 0 ? (struct value){x.lo / y.hi, x.hi / y.lo, 0} : anything(bits);
    case GB_PTX_REM:
      if (!plain || y.lo == 0) return anything(bits);
      return (struct value){0, x.hi < y.hi - 1 ? x.hi : y.hi - 1, 0};
    case GB_PTX_MIN: return plain ? least(x, y) : anything(bits);
    case GB_PTX_MAX: return plain ? most(x, y) : anything(bits);
    default: return anything(64);
  }
}

/* ---- predicates ---- */

static bool uses(const struct gb_ptx_operand *operand, uint32_t index) {
  return operand->kind == GB_PTX_REGISTER && operand->index == index;
}

static void set(struct state *state, uint32_t index, struct value value) {
  state->values[index] = value;
  for (uint32_t i = 0; i < 8; i++) {
    struct test *test = &state->tests[i];
    if (state->tested[i] == index + 1 || uses(&test->left, index) || uses(&test->right, index)) test->known = false;
  }
}

static void set_test(struct state *state, const struct gb_ptx_code *code) {
  uint32_t index = code->results[0];
  set(state, index, anything(1));
  state->tested[index % 8] = index + 1;
  state->tests[index % 8] =
      (struct test){true, code->is_signed, code->compare, code->bits, code->from[0], code->from[1]};
}

/* What is left of x when x < y, x <= y, or the other way round. returns: false: nothing. */
static bool narrow(struct value *x, struct value y, enum gb_ptx_compare compare) {
  struct value v = *x;
  switch (compare) {
    case GB_PTX_EQ: v.lo = v.lo > y.lo ? v.lo : y.lo, v.hi = v.hi < y.hi ? v.hi : y.hi; break;
    case GB_PTX_NE: return v.lo != v.hi || y.lo != y.hi || v.lo != y.lo;
    case GB_PTX_LT:
      if (y.hi == 0) return false;
      if (v.hi > y.hi - 1) v.hi = y.hi - 1;
      break;
    case GB_PTX_LE: v.hi = v.hi < y.hi ? v.hi : y.hi; break;
    case GB_PTX_GT:
      if (y.lo == UINT64_MAX) return false;
      if (v.lo < y.lo + 1) v.lo = y.lo + 1;
      break;
    case GB_PTX_GE: v.lo = v.lo > y.lo ? v.lo : y.lo; break;
  }
  if (v.lo > v.hi) return false;
  *x = v;
  return true;
}

static enum gb_ptx_compare opposite(enum gb_ptx_compare compare) {
  static const enum gb_ptx_compare of[] = {GB_PTX_NE, GB_PTX_EQ, GB_PTX_GE, GB_PTX_GT, GB_PTX_LE, GB_PTX_LT};
  return of[compare];
}

static enum gb_ptx_compare swapped(enum gb_ptx_compare compare) {
  static const enum gb_ptx_compare of[] = {GB_PTX_EQ, GB_PTX_NE, GB_PTX_GT, GB_PTX_GE, GB_PTX_LT, GB_PTX_LE};
  return of[compare];
}

/* Where the predicate has this value. returns: false: it never has. */
static bool assume(const struct analysis *a, struct state *state, uint32_t predicate, bool value) {
  const struct test test = state->tests[predicate % 8];
  if (state->tested[predicate % 8] != predicate + 1 || !test.known) return true;
  struct value left = read_operand(a, state, &test.left, test.bits);
  struct value right = read_operand(a, state, &test.right, test.bits);
  if (test.is_signed && (!is_positive(left, test.bits) || !is_positive(right, test.bits))) return true;
  enum gb_ptx_compare compare = value ? test.compare : opposite(test.compare);
  struct value before = left;
  if (!narrow(&left, right, compare) || !narrow(&right, before, swapped(compare))) return false;
  if (test.left.kind == GB_PTX_REGISTER && state->values[test.left.index].hi <= mask_of(test.bits))
    state->values[test.left.index] = left;
  if (test.right.kind == GB_PTX_REGISTER && state->values[test.right.index].hi <= mask_of(test.bits))
    state->values[test.right.index] = right;
  return true;
}

/* ---- joining ---- */

static uint64_t next_threshold(const struct analysis *a, uint64_t value) {
  for (uint32_t i = 0; i < a->threshold_count; i++) {
    if (a->thresholds[i] >= value) return a->thresholds[i];
  }
  return UINT64_MAX;
}

static bool same_test(const struct state *a, const struct state *b, uint32_t i) {
  return a->tested[i] == b->tested[i] && a->tests[i].known && b->tests[i].known &&
         memcmp(&a->tests[i], &b->tests[i], sizeof a->tests[i]) == 0;
}

/* returns: whether `to` has grown. */
static bool join(const struct analysis *a, struct state *to, const struct state *from, bool widen) {
  bool grown = false;
  for (uint32_t i = 0; i < a->launch->kernel->register_count; i++) {
    struct value *x = &to->values[i];
    const struct value *y = &from->values[i];
    if (y->lo < x->lo) grown = true, x->lo = widen ? 0 : y->lo;
    if (y->hi > x->hi) grown = true, x->hi = widen ? next_threshold(a, y->hi) : y->hi;
    if (x->base != y->base && x->base != 0) grown = true, x->base = 0;
  }
  for (uint32_t i = 0; i < 8; i++) {
    if (!to->tests[i].known || same_test(to, from, i)) continue;
    to->tests[i].known = false;
    grown = true;
  }
  return grown;
}

static bool flow(const struct analysis *a, uint32_t block, const struct state *from) {
  if (block == GB_PTX_NONE) return false;
  struct state *to = a->states[block];
  if (to->reached) return join(a, to, from, ++to->joins > JOINS_MAX);
  memcpy(to, from, a->state_bytes);
  to->joins = 0;
  return to->reached = true;
}

/* ---- running a block ---- */

static void execute(const struct analysis *a, struct state *state, const struct gb_ptx_code *code) {
  uint64_t param = 0;
  if (code->op == GB_PTX_SETP) {
    set_test(state, code);
  } else if (code->op == GB_PTX_PARAM) {
    bool known = gb_reach_param(a->launch, code, &param) && !(code->is_signed && code->bits < 64 &&
                                                              param > mask_of(code->bits) >> 1);
    bool points = known && code->bytes == 8 && param - a->launch->arena_base < a->launch->arena_bytes;
    set(state, code->results[0], known ? (struct value){param, param, points ? param : 0} : anything(64));
  } else if (code->op >= GB_PTX_MOV && code->op < GB_PTX_SETP) {
    set(state, code->results[0], result_of(a, state, code));
  } else {
    for (uint32_t i = 0; i < code->result_count; i++) set(state, code->results[i], anything(64));
  }
}

static bool note_one(const struct analysis *a, struct gb_reach_list *list, const struct gb_ptx_code *code,
                     struct value address, bool write) {
  int64_t offset = code->offset;
  uint64_t shift = offset < 0 ? (uint64_t)-offset : (uint64_t)offset;
  bool whole = address.hi - address.lo > ADDRESSES_MAX || (offset < 0 && address.lo < shift) ||
               address.hi > UINT64_MAX - ADDRESSES_MAX;
  if (!whole) {
    uint64_t from = offset < 0 ? address.lo - shift : address.lo + shift;
    uint64_t to = (offset < 0 ? address.hi - shift : address.hi + shift) + code->bytes;
    return gb_reach_add(a->launch, list, write ? GB_REACH_WRITE : GB_REACH_READ, from, to);
  }
  return address.base != 0 && gb_reach_add(a->launch, list, write ? GB_REACH_WRITE_WHOLE : GB_REACH_READ_WHOLE,
                                           address.base, address.base + 1);
}

/* What the instruction touches, as far as it is a load or store. */
static bool note(const struct analysis *a, struct gb_reach_list *list, const struct gb_ptx_code *code,
                 const struct state *state) {
  bool reads = code->op == GB_PTX_LOAD || code->op == GB_PTX_ATOMIC;
  bool writes = code->op == GB_PTX_STORE || code->op == GB_PTX_ATOMIC;
  if (list == NULL || (!reads && !writes)) return true;
  struct value address = read_operand(a, state, &code->from[0], 64);
  return (!reads || note_one(a, list, code, address, false)) && (!writes || note_one(a, list, code, address, true));
}

/* The instruction, perhaps guarded. returns: false when it touches what cannot be said. */
static bool step(const struct analysis *a, struct state *state, struct state *other, const struct gb_ptx_code *code,
                 struct gb_reach_list *list) {
  if (code->guard == GB_PTX_NONE) {
    bool noted = note(a, list, code, state);
    execute(a, state, code);
    return noted;
  }
  memcpy(other, state, a->state_bytes);
  bool skipped = assume(a, other, code->guard, code->guard_negated);
  if (!assume(a, state, code->guard, !code->guard_negated)) {
    memcpy(state, other, a->state_bytes);
    return true;
  }
  bool noted = note(a, list, code, state);
  execute(a, state, code);
  if (skipped) (void)join(a, state, other, false);
  return noted;
}

/* From the block's first instruction to what follows it. list: NULL, or what is touched is added to it. */
static bool run_block(const struct analysis *a, uint32_t index, struct state *state, struct state *other,
                      struct gb_reach_list *list, bool *grown) {
  const struct gb_ptx_block *block = &a->launch->kernel->blocks[index];
  const struct gb_ptx_code *last = &a->launch->kernel->code[block->end - 1];
  bool branches = last->op == GB_PTX_BRANCH || last->op == GB_PTX_EXIT;
  memcpy(state, a->states[index], a->state_bytes);
  for (uint32_t i = block->first; i < block->end - branches; i++) {
    if (!step(a, state, other, &a->launch->kernel->code[i], list)) return false;
  }
  if (list != NULL) return true;
  if (!branches || last->guard == GB_PTX_NONE) {
    grown[0] = flow(a, block->next[0], state);
    return true;
  }
  memcpy(other, state, a->state_bytes);
  if (assume(a, other, last->guard, !last->guard_negated)) grown[0] = flow(a, block->next[0], other);
  if (assume(a, state, last->guard, last->guard_negated)) grown[1] = flow(a, block->next[1], state);
  return true;
}

/* ---- all of it ---- */

static int by_value(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void add_threshold(struct analysis *a, uint64_t value) {
  if (a->threshold_count + 2 > THRESHOLDS_MAX) return;
  a->thresholds[a->threshold_count++] = value;
  if (value > 0) a->thresholds[a->threshold_count++] = value - 1;
}

static void find_thresholds(struct analysis *a) {
  const struct gb_reach_launch *launch = a->launch;
  for (uint32_t at = 0; at + 4 <= launch->param_bytes; at += 4) {
    uint64_t word = 0;
    memcpy(&word, launch->params + at, 4);
    add_threshold(a, word);
    if (at + 8 > launch->param_bytes) continue;
    memcpy(&word, launch->params + at, 8);
    add_threshold(a, word);
  }
  for (uint32_t i = 0; i < launch->kernel->count; i++) {
    for (uint32_t k = 0; k < 3; k++) {
      const struct gb_ptx_operand *operand = &launch->kernel->code[i].from[k];
      if (operand->kind == GB_PTX_NUMBER) add_threshold(a, operand->number);
    }
  }
  add_threshold(a, UINT32_MAX);
  qsort(a->thresholds, a->threshold_count, sizeof *a->thresholds, by_value);
}

static bool stand_still(const struct analysis *a, struct state *state, struct state *other) {
  const struct gb_ptx *kernel = a->launch->kernel;
  bool waiting[GB_PTX_BLOCKS_MAX] = {true};
  uint32_t visits = 0;
  a->states[0]->reached = true;
  for (uint32_t i = 0; i < kernel->register_count; i++) a->states[0]->values[i] = anything(64);
  for (uint32_t b = 0; b < kernel->block_count;) {
    if (!waiting[b]) {
      b++;
      continue;
    }
    bool grown[2] = {false, false};
    waiting[b] = false;
    if (++visits > VISITS_MAX) return false;
    run_block(a, b, state, other, NULL, grown);
    for (uint32_t k = 0; k < 2; k++) {
      if (grown[k]) waiting[kernel->blocks[b].next[k]] = true;
      if (grown[k] && kernel->blocks[b].next[k] < b) b = kernel->blocks[b].next[k];
    }
    b = 0;
  }
  return true;
}

static bool prove(struct analysis *a, struct state *state, struct state *other, struct gb_reach_list *list) {
  const struct gb_ptx *kernel = a->launch->kernel;
  find_thresholds(a);
  if (!stand_still(a, state, other)) return false;
  for (uint32_t b = 0; b < kernel->block_count; b++) {
    if (a->states[b]->reached && !run_block(a, b, state, other, list, NULL)) return false;
  }
  gb_reach_cover(a->launch, list);
  return true;
}

bool gb_reach_prove(const struct gb_reach_launch *launch, struct gb_reach_list *list) {
  struct analysis a = {.launch = launch};
  uint32_t count = launch->kernel->block_count + 2;
  a.state_bytes = sizeof(struct state) + launch->kernel->register_count * sizeof(struct value);
  uint8_t *memory = calloc(count, a.state_bytes);
  a.states = calloc(count, sizeof *a.states);
  bool proved = memory != NULL && a.states != NULL;
  for (uint32_t i = 0; proved && i < count; i++) a.states[i] = (struct state *)(memory + i * a.state_bytes);
  list->count = 0;
  for (int i = 0; i < 3; i++) proved = proved && launch->grid[i] > 0 && launch->block[i] > 0;
  proved = proved && prove(&a, a.states[count - 1], a.states[count - 2], list);
  free(a.states);
  free(memory);
  return proved;
}
