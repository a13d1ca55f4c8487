/* SPDX-License-Identifier: Apache-2.0 */
/* stage_plan.c: from calls to chunks, and from the learned order to what comes and what goes. */
#include <stdlib.h>
#include <string.h>

#include "area.h"
#include "chunk.h"
#include "config.h"
#include "lock.h"
#include "order.h"
#include "stage.h"
#include "tier.h"

#define NEXT_MAX 4096u
#define CANDIDATES_MAX 65536u

/* ---- units of the order ---- */

static struct gb_order *order;
static struct {
  struct gb_span *span;
  uint32_t chunk;
} units[GB_ORDER_UNITS_MAX];
static uint32_t unit_count;
static uint32_t free_units[GB_ORDER_UNITS_MAX];
static uint32_t free_unit_count;

struct gb_order *gb_stage_order(void) {
  if (order == NULL) order = gb_order_create();
  return order;
}

bool gb_stage_unit(uint32_t unit, struct gb_span **span, uint32_t *chunk) {
  if (unit >= unit_count || units[unit].span == NULL) return false;
  *span = units[unit].span;
  *chunk = units[unit].chunk;
  return true;
}

uint32_t gb_stage_unit_of(struct gb_span *span, uint32_t chunk) {
  struct gb_chunk *c = &span->chunks[chunk];
  if (c->unit != 0) return c->unit - 1;
  uint32_t unit;
  if (free_unit_count > 0)
    unit = free_units[--free_unit_count];
  else if (unit_count < GB_ORDER_UNITS_MAX)
    unit = unit_count++;
  else
    return GB_ORDER_NEVER;
  units[unit].span = span;
  units[unit].chunk = chunk;
  c->unit = unit + 1;
  return unit;
}

/* ---- heat ---- */

#define REGULAR_MAX 8
#define REGULAR_MIN (-8)

#define GAP_MAX (1u << 20) /* a chunk that was left for long must not outweigh all others */

static uint32_t tick;
/* The last gap of every chunk that has one: their sum and number. */
static uint64_t gap_sum;
static uint32_t gap_count;

/* A gap that is no round of the cycle. */
static bool is_short(uint32_t gap) {
  uint64_t near = gap_count == 0 ? 0 : gap_sum / gap_count / GB_STAGE_HOT_PART;
  return gap != 0 && gap < near;
}

/* Used again and again, or without any rule: not so what is used twice in a row once a round. */
static bool is_often(const struct gb_chunk *chunk) {
  bool often = chunk->gaps[0] != 0;
  for (int i = 0; i < 4 && often; i++) often = chunk->gaps[i] == 0 || is_short(chunk->gaps[i]);
  return often;
}

static bool is_hot(const struct gb_chunk *chunk) {
  return (is_often(chunk) || chunk->regular < 0) &&
         tick - chunk->touched < GB_STAGE_HEAT_TOUCHES;
}

bool gb_stage_belongs(const struct gb_chunk *chunk) {
  return chunk->tier == GB_TIER_T2 && chunk->away >= GB_STAGE_AWAY_TOUCHES &&
         chunk->hint != GB_HINT_COLD && is_often(chunk);
}

/* A chunk that is used several times in a cycle has as many gaps, in turn. */
static bool gap_repeats(const struct gb_chunk *chunk, uint32_t gap) {
  uint32_t slack = gap / 32 > 16 ? gap / 32 : 16;
  for (int i = 0; i < 4; i++) {
    uint32_t known = chunk->gaps[i];
    if (known == 0 || (gap + slack >= known && gap <= known + slack)) return true;
  }
  return false;
}

static void note_gap(struct gb_chunk *chunk, uint32_t gap) {
  if (gap > GAP_MAX) gap = GAP_MAX;
  gap_sum += (uint64_t)gap - chunk->gaps[0];
  if (chunk->gaps[0] == 0) gap_count++;
  int regular = chunk->regular + (gap_repeats(chunk, gap) ? 1 : -2);
  if (regular > REGULAR_MAX) regular = REGULAR_MAX;
  if (regular < REGULAR_MIN) regular = REGULAR_MIN;
  chunk->regular = (int8_t)regular;
  memmove(chunk->gaps + 1, chunk->gaps, 3 * sizeof chunk->gaps[0]);
  chunk->gaps[0] = gap;
}

static void forget_gap(struct gb_chunk *chunk) {
  if (chunk->gaps[0] == 0) return;
  gap_sum -= chunk->gaps[0];
  gap_count--;
  chunk->gaps[0] = 0;
}

void gb_stage_touch(struct gb_span *span, uint32_t chunk) {
  struct gb_chunk *c = &span->chunks[chunk];
  tick++;
  gb_stage_set_fresh(c, false);
  if (c->touched != 0) note_gap(c, tick - c->touched);
  c->touched = tick;
  if (c->tier == GB_TIER_T2 && c->away < UINT16_MAX) c->away++;
  if (c->regular < 0 || is_short(c->gaps[0])) return;
  uint32_t unit = gb_stage_unit_of(span, chunk);
  if (unit != GB_ORDER_NEVER) gb_order_touch(gb_stage_order(), unit);
}

/* ---- what came and waits for its use ---- */

static uint64_t unused_bytes;

uint64_t gb_stage_unused(void) {
  return unused_bytes;
}

void gb_stage_set_fresh(struct gb_chunk *chunk, bool fresh) {
  if (chunk->fresh == fresh) return;
  chunk->fresh = fresh;
  unused_bytes += fresh ? chunk->bytes : -chunk->bytes;
}

void gb_stage_forget(struct gb_span *span, struct gb_chunk *chunk) {
  if (chunk->unit != 0) {
    uint32_t unit = chunk->unit - 1;
    if (order != NULL) gb_order_forget(order, unit);
    units[unit].span = NULL;
    free_units[free_unit_count++] = unit;
    chunk->unit = 0;
  }
  gb_stage_set_fresh(chunk, false);
  forget_gap(chunk);
  gb_home_drop(span, chunk);
}

/* ---- what a named place covers ---- */

/* The next offset that calls have named, after this one and before the end; enters this one. */
static uint64_t next_mark(struct gb_marks *marks, uint64_t offset, uint64_t end, bool learn) {
  uint32_t low = 0;
  uint32_t high = marks->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (marks->offsets[middle] < offset)
      low = middle + 1;
    else
      high = middle;
  }
  bool known = low < marks->count && marks->offsets[low] == offset;
  if (!known && learn && marks->count < GB_COVER_MARKS_MAX) {
    if ((marks->count & (marks->count - 1)) == 0) {
      uint32_t capacity = marks->count < 16 ? 16 : 2 * marks->count;
      uint64_t *grown = realloc(marks->offsets, capacity * sizeof *grown);
      if (grown == NULL) return end;
      marks->offsets = grown;
    }
    memmove(marks->offsets + low + 1, marks->offsets + low,
            (marks->count - low) * sizeof *marks->offsets);
    marks->offsets[low] = offset;
    marks->count++;
    known = true;
  }
  uint32_t next = known ? low + 1 : low;
  return next < marks->count ? marks->offsets[next] : end;
}

/* Where a named place ends that begins at an offset of so many bytes. marks: NULL: at the end. */
static uint64_t end_of(struct gb_marks *marks, uint64_t offset, uint64_t size, uint64_t bytes,
                       bool learn) {
  if (bytes != 0) return bytes < size - offset ? offset + bytes : size;
  uint64_t end = marks != NULL ? next_mark(marks, offset, size, learn) : size;
  return end - offset > GB_COVER_BYTES_MAX ? offset + GB_COVER_BYTES_MAX : end;
}

static void cover_chunks(struct gb_span *span, uint64_t address, uint64_t end,
                         void (*each)(struct gb_span *, uint32_t, void *), void *context) {
  uint64_t last_byte = end < span->base + span->bytes ? end - 1 : span->base + span->bytes - 1;
  uint32_t last = gb_chunk_at(span, last_byte - span->base);
  for (uint32_t i = gb_chunk_at(span, address - span->base); i <= last; i++)
    each(span, i, context);
}

void gb_stage_cover(struct gb_span *span, uint64_t address, uint64_t bytes, bool learn,
                    void (*each)(struct gb_span *, uint32_t, void *), void *context) {
  uint64_t offset = address - span->base;
  struct gb_area *area = span->area;
  if (span->chunk_count == 0 || span->slab != NULL || offset >= span->bytes) return;
  if (area == NULL) {
    struct gb_marks *marks = span->bytes > GB_COVER_BYTES_MAX ? &span->marks : NULL;
    uint64_t end = end_of(marks, offset, span->bytes, bytes, learn);
    cover_chunks(span, address, span->base + end, each, context);
    return;
  }
  CUdevice device = span->device;
  struct gb_marks *marks = area->bytes > GB_CHUNK_BYTES_MAX ? &area->marks : NULL;
  uint64_t end = area->base + end_of(marks, address - area->base, area->bytes, bytes, learn);
  while (address < end && span != NULL && span->area == area && span->device == device) {
    cover_chunks(span, address, end, each, context);
    address = span->base + span->bytes;
    span = address < end ? gb_span_at(address) : NULL;
  }
}

/* ---- missing ---- */

struct missing {
  struct gb_remap *list;
  uint32_t count;
  uint64_t bytes;
};

static void add_missing(struct gb_span *span, uint32_t chunk, void *context) {
  struct missing *missing = context;
  const struct gb_chunk *c = &span->chunks[chunk];
  if (c->tier != GB_TIER_T2 || span->still || missing->count == GB_STAGE_CHUNKS_MAX) return;
  for (uint32_t i = 0; i < missing->count; i++) {
    if (missing->list[i].span == span && missing->list[i].chunk == chunk) return;
  }
  missing->list[missing->count++] =
      (struct gb_remap){.span = span, .chunk = chunk, .arrives = true, .bytes = c->bytes};
  missing->bytes += c->bytes;
}

uint64_t gb_stage_missing(const struct gb_touch *touch, struct gb_remap *list, uint32_t *count) {
  struct missing missing = {list, 0, 0};
  for (uint32_t i = 0; i < touch->named_count; i++) {
    struct gb_span *span = gb_span_at(touch->named[i].address);
    if (span != NULL && gb_residency(span) == GB_RESIDENT)
      gb_stage_cover(span, touch->named[i].address, touch->named[i].bytes, false, add_missing,
                     &missing);
  }
  *count = missing.count;
  return missing.bytes;
}

/* ---- the plan ---- */

/* The most that one call has missed: with fewer frames it would be read in place for ever. */
static uint64_t largest_miss;

uint64_t gb_stage_frames_wanted(CUdevice device) {
  uint64_t bytes = gb_config()->frames;
  uint64_t capacity = gb_t1_capacity(device);
  if (bytes == UINT64_MAX) {
    bytes = capacity / 8;
    if (bytes < GB_STAGE_FRAMES_MIN) bytes = GB_STAGE_FRAMES_MIN;
    if (bytes > GB_STAGE_FRAMES_MAX) bytes = GB_STAGE_FRAMES_MAX;
    if (bytes < largest_miss && largest_miss <= capacity / 3) bytes = largest_miss;
  }
  return bytes & ~(GB_GRANULE - 1);
}

static bool listed(const struct gb_switch *plan, const struct gb_span *span, uint32_t chunk) {
  for (uint32_t i = 0; i < plan->count; i++) {
    if (plan->remaps[i].span == span && plan->remaps[i].chunk == chunk) return true;
  }
  return false;
}

static bool may_come(const struct gb_span *span, const struct gb_chunk *chunk, CUdevice device) {
  return span->device == device && chunk->tier == GB_TIER_T2 && chunk->hint != GB_HINT_COLD &&
         !span->still && gb_residency(span) == GB_RESIDENT;
}

/* What is predicted next, after what the call itself misses, as far as the frames go. */
static uint64_t add_next(CUdevice device, struct gb_switch *plan, uint64_t bytes, uint64_t room,
                         uint32_t *horizon) {
  static uint32_t next[NEXT_MAX]; /* under gb_stage_lock */
  uint32_t count = gb_order_next(order, next, NEXT_MAX);
  for (uint32_t i = 0; i < count && plan->count < GB_STAGE_CHUNKS_MAX; i++) {
    struct gb_span *span = NULL;
    uint32_t chunk = 0;
    if (!gb_stage_unit(next[i], &span, &chunk)) continue;
    const struct gb_chunk *c = &span->chunks[chunk];
    if (!may_come(span, c, device) || listed(plan, span, chunk)) continue;
    if (bytes + c->bytes > room) break;
    plan->remaps[plan->count++] =
        (struct gb_remap){.span = span, .chunk = chunk, .arrives = true, .bytes = c->bytes};
    bytes += c->bytes;
    *horizon = gb_order_distance(order, next[i]);
  }
  return bytes;
}

/* ---- who stays ---- */

/* VRAM that the cycle's chunks may keep: all but frames and what is not theirs. */
static uint64_t keepable(CUdevice device, uint64_t cycle_in_t1) {
  uint64_t others = 0;
  for (int account = 0; account < GB_ACCOUNT_COUNT; account++)
    others += gb_t1_account(device, (enum gb_account)account);
  others -= gb_frames_free(device);
  others = others > cycle_in_t1 ? others - cycle_in_t1 : 0;
  uint64_t taken = others + gb_stage_frames_wanted(device);
  uint64_t capacity = gb_t1_capacity(device);
  return capacity > taken ? capacity - taken : 0;
}

static bool is_near(uint64_t a, uint64_t b) {
  uint64_t difference = a > b ? a - b : b - a;
  return difference <= b / 16;
}

void gb_stage_divide(CUdevice device) {
  static uint32_t cycle[NEXT_MAX]; /* under gb_stage_lock */
  uint32_t count = gb_order_next(order, cycle, NEXT_MAX);
  uint64_t all = 0;
  uint64_t in_t1 = 0;
  for (uint32_t i = 0; i < count; i++) {
    struct gb_span *span = NULL;
    uint32_t chunk = 0;
    if (!gb_stage_unit(cycle[i], &span, &chunk) || span->device != device) continue;
    all += span->chunks[chunk].bytes;
    if (span->chunks[chunk].tier == GB_TIER_T1) in_t1 += span->chunks[chunk].bytes;
  }
  uint64_t keep = keepable(device, in_t1);
  if (all == 0 || keep > all) keep = all;
  /* The division stands as long as little has changed: another one would make chunks that stayed
   * rotate, and move for nothing. */
  static uint64_t all_before;
  static uint64_t keep_before;
  if (is_near(all, all_before) && is_near(keep, keep_before)) return;
  all_before = all;
  keep_before = keep;
  double share = all == 0 ? 1.0 : (double)keep / (double)all;
  double due = 0;
  for (uint32_t i = 0; i < count; i++) {
    struct gb_span *span = NULL;
    uint32_t chunk = 0;
    if (!gb_stage_unit(cycle[i], &span, &chunk) || span->device != device) continue;
    struct gb_chunk *c = &span->chunks[chunk];
    due += share * (double)c->bytes;
    c->rotates = due < (double)c->bytes;
    if (!c->rotates) due -= (double)c->bytes;
  }
}

struct candidate {
  struct gb_span *span;
  uint32_t chunk;
  uint32_t distance;
  uint32_t age; /* touches of others since its last */
  bool rotates;
};

static int farthest_first(const void *a, const void *b) {
  const struct candidate *x = a;
  const struct candidate *y = b;
  if (x->rotates != y->rotates) return x->rotates ? -1 : 1;
  if (x->distance != y->distance) return x->distance > y->distance ? -1 : 1;
  return (x->age < y->age) - (x->age > y->age);
}

struct naming {
  const struct gb_span *span;
  uint32_t chunk;
  bool named;
};

static void is_named(struct gb_span *span, uint32_t chunk, void *context) {
  struct naming *naming = context;
  naming->named |= span == naming->span && chunk == naming->chunk;
}

static bool names(const struct gb_touch *touch, const struct gb_span *span, uint32_t chunk) {
  struct naming naming = {span, chunk, false};
  for (uint32_t i = 0; i < touch->named_count && !naming.named; i++) {
    struct gb_span *at = gb_span_at(touch->named[i].address);
    if (at == span || (at != NULL && at->area != NULL && at->area == span->area))
      gb_stage_cover(at, touch->named[i].address, touch->named[i].bytes, false, is_named, &naming);
  }
  return naming.named;
}

static uint32_t candidates(CUdevice device, uint32_t horizon, struct candidate *list) {
  uint32_t count = 0;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (span->device != device || span->slab != NULL || span->going || span->still) continue;
    for (uint32_t i = 0; i < span->chunk_count && count < CANDIDATES_MAX; i++) {
      const struct gb_chunk *c = &span->chunks[i];
      bool stays = c->pinned || is_hot(c) || c->hint == GB_HINT_HOT || c->hint == GB_HINT_PINNED;
      if (c->tier != GB_TIER_T1 || stays) continue;
      uint32_t distance = GB_ORDER_NEVER;
      if (c->unit != 0 && c->hint != GB_HINT_COLD)
        distance = gb_order_distance(order, c->unit - 1);
      if (distance <= horizon) continue;
      bool goes = c->rotates || distance == GB_ORDER_NEVER;
      list[count++] = (struct candidate){span, i, distance, tick - c->touched, goes};
    }
  }
  qsort(list, count, sizeof *list, farthest_first);
  return count;
}

/* Belady among what rotates: what is used last goes first, what stays only if need be; never what the
 * call names, never what is used before the last that comes. */
static void add_victims(const struct gb_touch *touch, CUdevice device, struct gb_switch *plan,
                        uint64_t wanted, uint32_t horizon) {
  static struct candidate list[CANDIDATES_MAX]; /* under gb_stage_lock */
  uint32_t count = candidates(device, horizon, list);
  uint64_t bytes = 0;
  uint32_t first = plan->count;
  for (uint32_t i = 0; i < count && bytes < wanted; i++) {
    if (plan->count - first == GB_STAGE_CHUNKS_MAX) break;
    struct gb_span *span = list[i].span;
    const struct gb_chunk *c = &span->chunks[list[i].chunk];
    if (names(touch, span, list[i].chunk)) continue;
    plan->remaps[plan->count++] =
        (struct gb_remap){.span = span, .chunk = list[i].chunk, .bytes = c->bytes};
    bytes += c->bytes;
  }
}

/* Leaves what belongs in VRAM. returns: its bytes. */
static uint64_t keep_belonging(struct gb_switch *plan) {
  uint64_t bytes = 0;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < plan->count; i++) {
    const struct gb_remap *remap = &plan->remaps[i];
    if (!gb_stage_belongs(&remap->span->chunks[remap->chunk])) continue;
    bytes += remap->bytes;
    plan->remaps[kept++] = *remap;
  }
  plan->count = kept;
  return bytes;
}

bool gb_stage_plan(const struct gb_touch *touch, CUdevice device, bool all,
                   struct gb_switch *plan) {
  static uint64_t divided; /* round of the order */
  *plan = (struct gb_switch){.device = device};
  if (gb_order_rounds(order) != divided) {
    divided = gb_order_rounds(order);
    gb_stage_divide(device);
  }
  uint64_t capacity = gb_t1_capacity(device);
  uint64_t counted = 0;
  for (int account = 0; account < GB_ACCOUNT_COUNT; account++)
    counted += gb_t1_account(device, (enum gb_account)account);
  uint64_t excess = counted > capacity ? counted - capacity : 0;
  if (excess > 0) { /* the share has shrunk: free frames are the first to go */
    uint64_t dropped = gb_frames_drop(device, excess);
    excess -= dropped < excess ? dropped : excess;
  }
  uint64_t room = gb_frames_free(device) + gb_t1_room(device);
  if (excess > 0) room = 0;
  uint32_t horizon = 0;
  uint64_t bytes = gb_stage_missing(touch, plan->remaps, &plan->count);
  if (!all) bytes = keep_belonging(plan);
  if (bytes > largest_miss) largest_miss = bytes;
  /* Afterwards as much should be free as before it all began. */
  uint64_t wanted = all ? gb_stage_frames_wanted(device) : 0;
  if (bytes > room) {
    /* Frames first: this switch only takes. */
    if (!all) wanted = bytes;
    plan->count = 0;
    bytes = 0;
  } else if (all) {
    bytes = add_next(device, plan, bytes, room < wanted ? room : wanted, &horizon);
  }
  uint64_t left = room - bytes;
  uint64_t goal = excess + (left < wanted ? wanted - left : 0);
  if (goal > 0) add_victims(touch, device, plan, goal, horizon);
  return plan->count > 0;
}

bool gb_stage_plan_room(CUdevice device, uint64_t bytes, struct gb_switch *plan) {
  static const struct gb_touch nothing;
  *plan = (struct gb_switch){.device = device};
  add_victims(&nothing, device, plan, bytes, 0);
  return plan->count > 0;
}
