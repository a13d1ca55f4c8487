/* SPDX-License-Identifier: Apache-2.0 */
/* away.c: how much is needed beyond the local tiers, and who keeps which span. */
#include "away.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "config.h"
#include "nvme.h"
#include "store.h"

/* What feeders are taken for before they have given anything: the gRPC path's most. */
#define FEEDER_RATE_ASSUMED 1000000000ull
/* Fewer bytes say nothing about a rate. */
#define FEEDER_BYTES_MIN (64ull << 20)

static _Atomic uint64_t nvme_held;
static uint64_t fetched_bytes;
static uint64_t fetched_ns;

/* ---- life ---- */

bool gb_away_start(void) {
  const struct gb_config *config = gb_config();
  if (config->nvme_dir[0] == '\0') return false;
  return gb_store_open(config->nvme_dir, config->nvme_budget, config->nvme_writes_per_day) == 0;
}

void gb_away_stop(void) {
  /* Exit handlers of the program may still ask for what lies there: the file and its key then end
   * with the process. */
  if (gb_store_used() == 0) gb_store_close();
}

/* ---- how much ---- */

static bool movable(const struct gb_span *span) {
  return span->slab == NULL && !span->app && !span->going;
}

struct need {
  uint64_t bytes;
  uint64_t largest;
};

/*
 * How much must be secured so that every swap can proceed. Let total be the live bytes, largest the
 * largest range, and overflow = total - local. To bring back one range of B bytes, victims are
 * stored until B fits; just before the last victim v the free room was less than B, so at most
 * total - local + B + v bytes are away at that moment (B still among them). B and v are at most
 * `largest` each, and never more than everything can be away.
 */
static struct need needed(uint64_t local_bytes) {
  uint64_t total = 0;
  struct need need = {0, 0};
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (!movable(span)) continue;
    total += span->bytes;
    if (span->bytes > need.largest) need.largest = span->bytes;
  }
  if (total <= local_bytes) return need;
  need.bytes = total - local_bytes + 2 * need.largest;
  if (need.bytes > total) need.bytes = total;
  return need;
}

static bool nvme_first(void) {
  uint64_t feeders = FEEDER_RATE_ASSUMED;
  if (fetched_bytes >= FEEDER_BYTES_MIN)
    feeders = (uint64_t)((double)fetched_bytes * 1e9 / (double)fetched_ns);
  return gb_store_ready() && gb_store_read_rate() > feeders;
}

void gb_away_note_fetch(uint64_t bytes, uint64_t nanoseconds) {
  fetched_bytes += bytes;
  fetched_ns += nanoseconds;
}

/* What feeders must hold beside the file. A span lies whole in one of the two, so with both in use
 * up to one span's room is left over that fits into neither. */
static uint64_t beside_nvme(struct need need) {
  uint64_t capacity = gb_store_capacity();
  return need.bytes <= capacity ? 0 : need.bytes + need.largest - capacity;
}

bool gb_away_grant(uint64_t local_bytes) {
  struct need need = needed(local_bytes);
  bool first = nvme_first();
  bool granted = (!first && gb_remote_reserve(need.bytes)) || gb_remote_reserve(beside_nvme(need));
  if (granted) nvme_held = need.bytes > gb_remote_held() ? need.bytes - gb_remote_held() : 0;
  return granted;
}

void gb_away_shrink(uint64_t local_bytes) {
  struct need need = needed(local_bytes);
  gb_remote_shrink(nvme_first() ? beside_nvme(need) : need.bytes);
  nvme_held = need.bytes > gb_remote_held() ? need.bytes - gb_remote_held() : 0;
}

uint64_t gb_away_held(void) {
  return gb_remote_held() + nvme_held;
}

uint64_t gb_away_capacity(void) {
  uint64_t feeders = 0;
  gb_client_limit(GB_TIER_T2R, &feeders);
  return feeders + gb_store_capacity();
}

/* ---- who ---- */

/* Where no agent has agreed there is nobody to wait for. */
static bool have_feeders(void) {
  return gb_remote_held() > 0 || (gb_client_features() & GB_FEATURE_GATED) != 0;
}

enum gb_status gb_away_place(struct gb_span *span) {
  if (span->pieces == NULL) span->pieces = calloc(gb_piece_count(span), sizeof *span->pieces);
  if (span->pieces == NULL) return GB_STATUS_CAPACITY;
  if (gb_on_nvme(span)) return GB_STATUS_OK;
  bool first = nvme_first() && !span->placed;
  if (first && gb_nvme_place(span)) return GB_STATUS_OK;
  enum gb_status status = have_feeders() ? gb_remote_place(span) : GB_STATUS_CAPACITY;
  if (status == GB_STATUS_OK || first || span->placed) return status;
  return gb_nvme_place(span) ? GB_STATUS_OK : status;
}

enum gb_status gb_away_replace(struct gb_span *span) {
  if (!have_feeders()) return GB_STATUS_CAPACITY;
  gb_nvme_drop(span);
  return gb_remote_place(span);
}

void gb_away_end(struct gb_span *span) {
  if (gb_on_nvme(span)) gb_nvme_drop(span);
  gb_remote_end(span);
}
