/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c: a ring of touches, linked by unit in both directions, and a cursor: the remembered
 * touch that is expected next. Every touch has a position, counted from the first one on.
 *
 *   positions:  ... [oldest ............ cursor ........ count - 1]   count = the next touch
 *                                        '---- the lag ----------'
 *
 * The expected touch moves the cursor on. Another one is looked up at the earlier touches of the
 * same unit: the one whose predecessors fit best wins, or one a little after the place where the
 * prediction last held (a touch left out or put in). In a loop the lag is the loop's length. What
 * follows the newest touch is what follows the cursor, so one lag of touches is all there is to
 * predict.
 */
#include "order.h"

#include <stdlib.h>
#include <string.h>

/* No touch has position 0: memory from calloc is an order without touches. */
#define NONE 0u
/* A prediction that held so often in a row is worth coming back to after a miss. */
#define TRUST 4u
/* Touches that a trusted place is remembered for, and how far after it a touch is looked for. */
#define TRUST_AGE 16u
#define SKIP 32u
/* Predecessors compared, and earlier touches of a unit looked at, after a miss. */
#define FIT 32u
#define CANDIDATES 64u
/* Touches that the hit percentage is of. */
#define WINDOW 1000u

struct touch {
  uint32_t unit;   /* GB_ORDER_NEVER: forgotten */
  uint32_t before; /* positions back to the unit's touch before; 0: none */
  uint32_t after;  /* positions on to the unit's next touch; 0: none */
};

struct unit {
  uint64_t last;     /* position of its newest touch, or NONE */
  uint64_t ahead;    /* its first touch at the cursor or after, when jump is the cursor's */
  uint64_t jump;     /* value of order->jumps that ahead is of; 0: of none */
  uint64_t named_in; /* value of order->names when gb_order_next named it */
};

struct gb_order {
  uint64_t count;      /* position of the next touch */
  uint64_t cursor;     /* NONE: nothing is predicted */
  uint64_t base;       /* where a trusted prediction last held, or NONE */
  uint32_t base_worth; /* hits in a row before it broke, at most FIT */
  uint32_t base_age;   /* misses since */
  uint32_t streak;     /* hits in a row */
  uint32_t newest;     /* the unit touched last, or GB_ORDER_NEVER */
  uint64_t jumps;      /* raised whenever the cursor moves other than forward */
  uint64_t names;      /* calls of gb_order_next */

  /* The loop: anchor was touched at anchored_at and is due length touches later. */
  uint32_t anchor;
  uint32_t strain;       /* predicted touches that are farther apart than length */
  uint64_t anchored_at;
  uint64_t length;       /* 0: no anchor */
  uint64_t of, held;     /* touches since, and how many of them were predicted */
  uint64_t cycle;        /* length of the round before; 0: no loop is recognised */
  uint64_t rounds;

  uint32_t hits; /* bits set in window */
  uint32_t hit[WINDOW];

  struct touch ring[GB_ORDER_LENGTH];
  struct unit units[GB_ORDER_UNITS_MAX];
};

struct gb_order *gb_order_create(void) {
  struct gb_order *order = calloc(1, sizeof *order);
  if (order == NULL) return NULL;
  order->count = 1;
  order->newest = GB_ORDER_NEVER;
  return order;
}

void gb_order_destroy(struct gb_order *order) { free(order); }

static inline struct touch *touch_at(const struct gb_order *order, uint64_t position) {
  return (struct touch *)&order->ring[position % GB_ORDER_LENGTH];
}

static inline uint64_t oldest(const struct gb_order *order) {
  return order->count > GB_ORDER_LENGTH ? order->count - GB_ORDER_LENGTH : 1;
}

/* The unit's touch before the one at position, while remembered; NONE: none. */
static inline uint64_t earlier(const struct gb_order *order, uint64_t position) {
  const uint32_t back = touch_at(order, position)->before;
  return back == 0 || position - back < oldest(order) ? NONE : position - back;
}

/* ---- finding the place again ---- */

/* How many of the newest touches are those before position, at most FIT. */
static uint32_t fit(const struct gb_order *order, uint64_t position) {
  const uint64_t first = oldest(order);
  uint32_t same = 0;
  while (same < FIT && position - same > first &&
         touch_at(order, position - same - 1)->unit ==
             touch_at(order, order->count - same - 1)->unit)
    same++;
  return same;
}

/* What going on at position is worth: its fit, or its nearness after the trusted place. */
static int64_t worth(const struct gb_order *order, uint64_t position) {
  const int64_t fits = fit(order, position);
  if (order->base == NONE || position < order->base || position - order->base >= SKIP) return fits;
  const int64_t near =
      (int64_t)order->base_worth / 2 - (int64_t)(position - order->base) - order->base_age;
  return near > fits ? near : fits;
}

/* Sets the cursor after a touch that was not the predicted one. pre: the touch is not in the ring
 * yet. */
static void place(struct gb_order *order, uint32_t unit) {
  if (order->cursor != NONE && order->streak >= TRUST) {
    order->base = order->cursor;
    order->base_worth = order->streak < FIT ? order->streak : FIT;
    order->base_age = 0;
  } else if (order->base != NONE && ++order->base_age > TRUST_AGE) {
    order->base = NONE;
  }
  order->streak = 0;
  order->jumps++;
  order->cursor = order->base; /* A unit seen for the first time was put in. */
  int64_t best = -1;
  uint64_t position = order->units[unit].last;
  for (uint32_t i = 0; i < CANDIDATES && position != NONE; i++) {
    const int64_t value = worth(order, position);
    if (value > best) {
      best = value;
      order->cursor = position + 1;
    }
    position = earlier(order, position);
  }
}

/* ---- the loop ---- */

static void anchor_here(struct gb_order *order, uint64_t length) {
  order->anchor = order->newest;
  order->anchored_at = order->count - 1;
  order->length = length;
  order->of = order->held = 0;
}

/* After a touch: is there a loop, and did a round of it begin? A round goes from one touch of the
 * anchor to the next that comes when it is due, give or take an eighth. Units that the prediction
 * names and that come less often than the anchor show that the loop is longer: a few do not (what
 * only a prefill touches), but more than one touch in 64 for long make one of them the anchor. */
static void follow(struct gb_order *order, bool hit) {
  const uint64_t back = touch_at(order, order->count - 1)->before;
  const bool firm = hit && order->streak >= TRUST && back != 0;
  const uint64_t since = order->count - 1 - order->anchored_at, slack = order->length / 8;
  order->of++;
  order->held += hit;
  if (order->strain > 0) order->strain--;
  if (firm && back > order->length + slack) order->strain += 64;
  if (order->length == 0 || since > order->length + slack || order->strain > 8 * 64) {
    order->cycle = 0;
    order->strain = 0;
    anchor_here(order, firm ? back : 0);
  } else if (order->newest == order->anchor && since + slack >= order->length) {
    const bool good = order->held * 4 >= order->of * 3;
    if (good && order->cycle != 0) order->rounds++;
    order->cycle = good ? since : 0;
    anchor_here(order, since);
  }
}

/* ---- touches ---- */

static void append(struct gb_order *order, uint32_t unit) {
  const uint64_t position = order->count;
  struct unit *it = &order->units[unit];
  struct touch *touch = touch_at(order, position);
  if (position > GB_ORDER_LENGTH && touch->unit != GB_ORDER_NEVER &&
      order->units[touch->unit].last == position - GB_ORDER_LENGTH)
    order->units[touch->unit].last = NONE;
  *touch = (struct touch){.unit = unit};
  if (it->last != NONE) {
    touch->before = (uint32_t)(position - it->last);
    touch_at(order, it->last)->after = touch->before;
  }
  it->last = position;
  order->count = position + 1;
}

/* Brings a place to a touch that is remembered and not forgotten; NONE when there is none. */
static uint64_t settle(const struct gb_order *order, uint64_t position) {
  if (position == NONE || position < oldest(order)) return NONE;
  while (position < order->count && touch_at(order, position)->unit == GB_ORDER_NEVER) position++;
  return position < order->count ? position : NONE;
}

static void note_hit(struct gb_order *order, bool hit) {
  const uint64_t slot = (order->count - 1) % WINDOW;
  order->hits = order->hits + hit - order->hit[slot];
  order->hit[slot] = hit;
}

void gb_order_touch(struct gb_order *order, uint32_t unit) {
  if (unit >= GB_ORDER_UNITS_MAX || unit == order->newest) return;
  const bool hit = order->cursor != NONE && touch_at(order, order->cursor)->unit == unit;
  if (hit) {
    order->cursor++;
    order->streak++;
    if (order->streak >= TRUST) order->base = NONE;
  } else {
    place(order, unit);
  }
  append(order, unit);
  order->newest = unit;
  order->cursor = settle(order, order->cursor);
  order->base = settle(order, order->base);
  note_hit(order, hit);
  follow(order, hit);
}

void gb_order_forget(struct gb_order *order, uint32_t unit) {
  if (unit >= GB_ORDER_UNITS_MAX || order->units[unit].last == NONE) return;
  struct unit *it = &order->units[unit];
  for (uint64_t position = it->last; position != NONE;) {
    const uint64_t before = earlier(order, position);
    *touch_at(order, position) = (struct touch){.unit = GB_ORDER_NEVER};
    position = before;
  }
  it->last = NONE;
  it->jump = 0;
  if (order->newest == unit) order->newest = GB_ORDER_NEVER;
  order->cursor = settle(order, order->cursor);
  order->base = settle(order, order->base);
}

/* ---- predictions ---- */

uint32_t gb_order_next(struct gb_order *order, uint32_t *units, uint32_t max) {
  if (order->cursor == NONE) return 0;
  uint32_t named = 0;
  order->names++;
  for (uint64_t position = order->cursor; position < order->count && named < max; position++) {
    const uint32_t unit = touch_at(order, position)->unit;
    if (unit == GB_ORDER_NEVER) continue;
    if (order->units[unit].named_in == order->names) continue;
    order->units[unit].named_in = order->names;
    units[named++] = unit;
  }
  return named;
}

/* The unit's first touch at the cursor or after. From a cursor that went forward only, each link is
 * followed once; after a jump the unit's touches are walked from the newest back. */
static uint64_t ahead_of(const struct gb_order *order, struct unit *it) {
  uint64_t position = it->ahead;
  if (it->jump == order->jumps && position >= oldest(order)) {
    while (position < order->cursor) {
      const uint32_t on = touch_at(order, position)->after;
      if (on == 0) return NONE;
      position += on;
    }
  } else {
    position = it->last;
    if (position < order->cursor) return NONE;
    for (uint64_t before = earlier(order, position); before != NONE && before >= order->cursor;
         before = earlier(order, position))
      position = before;
  }
  it->ahead = position;
  it->jump = order->jumps;
  return position;
}

uint32_t gb_order_distance(struct gb_order *order, uint32_t unit) {
  if (unit >= GB_ORDER_UNITS_MAX || order->cursor == NONE || order->units[unit].last == NONE)
    return GB_ORDER_NEVER;
  const uint64_t position = ahead_of(order, &order->units[unit]);
  return position == NONE ? GB_ORDER_NEVER : (uint32_t)(position - order->cursor);
}

uint32_t gb_order_hit_percent(const struct gb_order *order) {
  const uint64_t touches = order->count - 1, of = touches < WINDOW ? touches : WINDOW;
  return of == 0 ? 0 : (uint32_t)(order->hits * 100ull / of);
}

uint32_t gb_order_cycle(const struct gb_order *order) {
  return (uint32_t)order->cycle;
}

uint64_t gb_order_rounds(const struct gb_order *order) { return order->rounds; }
