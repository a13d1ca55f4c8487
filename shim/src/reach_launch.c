/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach_launch.c: what is proved of launches, kept by kernel, grid and argument bytes: a program makes the same ones
 * again and again, and a proof takes longer than a launch.
 */
#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "lock.h"
#include "reach.h"
#include "run_part.h"
#include "slab.h"

#define PARAMS_MAX 256u /* bytes; a launch with more is not proved */
#define KEPT_MAX 1024u

/* ---- kernels ---- */

/* By the function's number: what was read of it, or &unknown. */
static struct gb_ptx *_Atomic kernels[GB_RUN_FUNCTIONS_MAX + 1];
static struct gb_ptx unknown;

static bool is_text(const struct gb_image *image) {
  for (uint64_t i = 0; i < image->bytes && i < 4; i++) {
    if (!isprint(image->content[i]) && !isspace(image->content[i])) return false;
  }
  return image->bytes > 4 && image->content[image->bytes - 1] == '\0';
}

static struct gb_ptx *read_kernel(const struct gb_code *code) {
  uint32_t offsets[GB_PTX_PARAMS_MAX];
  if (code->param_count > GB_PTX_PARAMS_MAX || code->param_bytes > PARAMS_MAX || !is_text(code->image)) return &unknown;
  for (uint32_t i = 0; i < code->param_count; i++) offsets[i] = code->params[i].offset;
  struct gb_ptx *kernel = gb_ptx_read((const char *)code->image->content, code->name, offsets, code->param_count);
  return kernel != NULL ? kernel : &unknown;
}

static const struct gb_ptx *kernel_of(const struct gb_code *code) {
  struct gb_ptx *kernel = atomic_load_explicit(&kernels[code->number], memory_order_acquire);
  if (kernel != NULL) return kernel;
  struct gb_ptx *made = read_kernel(code);
  if (atomic_compare_exchange_strong(&kernels[code->number], &kernel, made)) return made;
  if (made != &unknown) gb_ptx_free(made);
  return kernel;
}

/* ---- launches ---- */

struct key {
  uint32_t function, param_bytes;
  uint32_t grid[3], block[3];
  uint8_t params[PARAMS_MAX]; /* zeroes behind them */
};

static struct kept {
  struct key key; /* function 0: none */
  bool proved;
  struct gb_reach_list list;
} kept[KEPT_MAX];
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t place_of(const struct key *key) {
  uint64_t hash = 0;
  const uint8_t *bytes = (const uint8_t *)key;
  for (size_t at = 0; at < offsetof(struct key, params) + key->param_bytes; at += 8) {
    uint64_t word;
    memcpy(&word, bytes + at, sizeof word);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return (uint32_t)(hash % KEPT_MAX);
}

static bool prove(const struct gb_ptx *kernel, const struct key *key, struct gb_reach_list *list) {
  struct gb_reach_launch launch = {.kernel = kernel,
                                   .params = key->params,
                                   .param_bytes = key->param_bytes,
                                   .arena_base = gb_arena_base_address,
                                   .arena_bytes = gb_arena_size_bytes};
  memcpy(launch.grid, key->grid, sizeof launch.grid);
  memcpy(launch.block, key->block, sizeof launch.block);
  return gb_reach_prove(&launch, list);
}

static bool look_up(const struct gb_ptx *kernel, const struct key *key, struct gb_reach_list *list) {
  struct kept *place = &kept[place_of(key)];
  pthread_mutex_lock(&kept_lock);
  bool known = memcmp(&place->key, key, sizeof *key) == 0;
  bool proved = known && place->proved;
  if (proved) *list = place->list;
  pthread_mutex_unlock(&kept_lock);
  if (known) return proved;
  proved = prove(kernel, key, list);
  pthread_mutex_lock(&kept_lock);
  place->key = *key;
  place->proved = proved;
  place->list = *list;
  pthread_mutex_unlock(&kept_lock);
  return proved;
}

/* ---- what a call touches ---- */

static void add(struct gb_touch *touch, uint64_t from, uint64_t to, bool overwritten) {
  if (from >= to) return;
  if (touch->reach_count == GB_TOUCH_REACH_MAX) touch->exact = false;
  else touch->reach[touch->reach_count++] = (struct gb_touch_reach){from, to, overwritten};
}

/* The allocation that the address points into. */
static bool find_whole(uint64_t address, uint64_t *from, uint64_t *to) {
  bool found = true;
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_span *span = gb_span_at(address);
  const struct gb_small *small = span != NULL && span->slab != NULL ? gb_slab_find(span, address, from) : NULL;
  if (small != NULL) {
    *to = *from + small->bytes;
  } else if (span != NULL && span->slab == NULL) {
    *from = span->base;
    *to = span->base + span->bytes;
  } else {
    found = false;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return found;
}

/* [from, to) without the entries of the touch from `first` on that are (or are not) overwritten. */
static void add_without(struct gb_touch *touch, uint64_t from, uint64_t to, bool overwritten, uint32_t first,
                        uint32_t end) {
  for (uint32_t i = first; i < end; i++) {
    const struct gb_touch_reach *other = &touch->reach[i];
    if (other->overwritten == overwritten || from >= other->to || to <= other->from) continue;
    if (other->from > from) add_without(touch, from, other->from, overwritten, i + 1, end);
    if (other->to >= to) return;
    from = other->to;
  }
  add(touch, from, to, overwritten);
}

/* First what is read; then what is covered and not read; then what is written and not covered. */
static void add_list(struct gb_touch *touch, struct gb_reach_list *list) {
  static const enum gb_reach_kind order[] = {GB_REACH_READ, GB_REACH_COVER, GB_REACH_WRITE};
  for (uint32_t i = 0; i < list->count && touch->exact; i++) {
    struct gb_reach *reach = &list->reached[i];
    if (reach->kind != GB_REACH_READ_WHOLE && reach->kind != GB_REACH_WRITE_WHOLE) continue;
    touch->exact = find_whole(reach->from, &reach->from, &reach->to);
    reach->kind = reach->kind == GB_REACH_READ_WHOLE ? GB_REACH_READ : GB_REACH_WRITE;
  }
  for (uint32_t turn = 0; turn < 3; turn++) {
    uint32_t end = touch->reach_count;
    for (uint32_t i = 0; i < list->count && touch->exact; i++) {
      const struct gb_reach *reach = &list->reached[i];
      if (reach->kind == order[turn]) add_without(touch, reach->from, reach->to, turn == 1, 0, turn == 0 ? 0 : end);
    }
  }
}

void gb_touch_reach(struct gb_touch *touch, const struct gb_run_request *launch) {
  struct gb_reach_list list;
  struct key key;
  const struct gb_code *code = touch->accounted ? gb_code_of(launch->function) : NULL;
  const struct gb_ptx *kernel = code != NULL ? kernel_of(code) : &unknown;
  touch->exact = false;
  touch->reach_count = 0;
  if (kernel == &unknown || !gb_run_params(launch, code, key.params)) return;
  memset(&key.params[code->param_bytes], 0, sizeof key.params - code->param_bytes);
  key.function = code->number;
  key.param_bytes = code->param_bytes;
  memcpy(key.grid, launch->grid, sizeof key.grid);
  memcpy(key.block, launch->block, sizeof key.block);
  if (!look_up(kernel, &key, &list)) return;
  touch->exact = true;
  add_list(touch, &list);
}

void gb_touch_exactly(struct gb_touch *touch, uint64_t address, uint64_t bytes) {
  add(touch, address, address + bytes, false);
}

void gb_reach_forked(void) {
  pthread_mutex_init(&kept_lock, NULL);
}
