/* SPDX-License-Identifier: Apache-2.0 */
/* report.c: sums what threads counted, tells the phase, writes the statistics file. */
#include "report.h"

#include <stdatomic.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "config.h"
#include "core.h"
#include "lanes.h"
#include "lock.h"
#include "stage.h"
#include "tier.h"

_Thread_local struct gb_counters gb_counters;

struct node {
  struct gb_counters *counters;
  struct node *next;
};

static pthread_mutex_t counter_lock = PTHREAD_MUTEX_INITIALIZER;
static struct node *threads;
static uint64_t ended_launches; /* of threads that are gone */
static uint64_t ended_copies;
static pthread_key_t thread_key;
static bool thread_key_made;
static _Atomic uint64_t counters[GB_COUNTERS];
static struct gb_report last;
static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- counters of threads ---- */

static _Thread_local struct node own_node;

static void thread_ended(void *unused) {
  (void)unused;
  pthread_mutex_lock(&counter_lock);
  for (struct node **at = &threads; *at != NULL; at = &(*at)->next) {
    if (*at != &own_node) continue;
    *at = own_node.next;
    break;
  }
  ended_launches += gb_counters.launches;
  ended_copies += gb_counters.copies;
  gb_counters = (struct gb_counters){0};
  pthread_mutex_unlock(&counter_lock);
}

void gb_report_start(void) {
  thread_key_made = pthread_key_create(&thread_key, thread_ended) == 0;
}

void gb_counters_register(void) {
  if (!thread_key_made) return;
  own_node.counters = &gb_counters;
  pthread_mutex_lock(&counter_lock);
  own_node.next = threads;
  threads = &own_node;
  gb_counters.registered = true;
  pthread_mutex_unlock(&counter_lock);
  pthread_setspecific(thread_key, &own_node);
}

static void sum_threads(uint64_t *launches, uint64_t *copies) {
  pthread_mutex_lock(&counter_lock);
  *launches = ended_launches;
  *copies = ended_copies;
  for (struct node *node = threads; node != NULL; node = node->next) {
    *launches += __atomic_load_n(&node->counters->launches, __ATOMIC_RELAXED);
    *copies += __atomic_load_n(&node->counters->copies, __ATOMIC_RELAXED);
  }
  pthread_mutex_unlock(&counter_lock);
}

bool gb_counters_nobody_inside(void) {
  bool nobody = true;
  pthread_mutex_lock(&counter_lock);
  for (struct node *node = threads; node != NULL && nobody; node = node->next)
    nobody = __atomic_load_n(&node->counters->inside, __ATOMIC_ACQUIRE) == 0;
  pthread_mutex_unlock(&counter_lock);
  return nobody;
}

void gb_report_add(enum gb_counter counter, uint64_t amount) {
  atomic_fetch_add_explicit(&counters[counter], amount, memory_order_relaxed);
}

static uint64_t counter(enum gb_counter which) {
  return atomic_load_explicit(&counters[which], memory_order_relaxed);
}

/* ---- phase ----
 *
 * INIT until the first allocation; IDLE after 2 s without a launch, copy or allocation; MODEL_LOAD
 * while the live bytes change and copies outnumber launches; STEADY when launches went on for 5 s
 * without any allocation; else INFERENCE.
 */
#define IDLE_TICKS 4
#define STEADY_TICKS 10

static struct {
  _Atomic uint32_t phase;
  uint64_t launches, copies, bytes, allocations;
  uint32_t quiet, unchanged;
} phase;

void gb_report_tick(void) {
  static uint64_t next_ns;
  uint64_t now = gb_now_ns();
  if (now < next_ns) return;
  next_ns = now + GB_REPORT_INTERVAL_MS * GB_MS - GB_MS;
  uint64_t launches = 0;
  uint64_t copies = 0;
  sum_threads(&launches, &copies);
  uint64_t bytes = counter(GB_COUNT_ALLOCATED_BYTES);
  uint64_t allocations = counter(GB_COUNT_ALLOCATIONS);
  bool grew = bytes != phase.bytes || allocations != phase.allocations;
  bool worked = launches != phase.launches || copies != phase.copies;
  phase.quiet = grew || worked ? 0 : phase.quiet + 1;
  phase.unchanged = grew ? 0 : phase.unchanged + 1;
  uint32_t next = GB_PHASE_INFERENCE;
  if (allocations == 0 && phase.phase == GB_PHASE_INIT)
    next = GB_PHASE_INIT;
  else if (phase.quiet >= IDLE_TICKS)
    next = GB_PHASE_IDLE;
  else if (phase.quiet > 0)
    next = phase.phase;
  else if (copies - phase.copies > launches - phase.launches || launches == phase.launches)
    next = GB_PHASE_MODEL_LOAD;
  else if (phase.unchanged >= STEADY_TICKS)
    next = GB_PHASE_STEADY;
  phase.phase = next;
  phase.launches = launches;
  phase.copies = copies;
  phase.bytes = bytes;
  phase.allocations = allocations;
}

/* ---- reports ---- */

bool gb_report_take(struct gb_report *report) {
  memset(report, 0, sizeof *report);
  for (int tier = 0; tier < GB_TIER_COUNT; tier++) {
    report->used_bytes[tier] = gb_tier_used((enum gb_tier)tier);
    report->peak_bytes[tier] = gb_tier_peak((enum gb_tier)tier);
  }
  report->allocation_count = counter(GB_COUNT_ALLOCATIONS);
  report->allocated_bytes = counter(GB_COUNT_ALLOCATED_BYTES);
  sum_threads(&report->launch_count, &report->copy_count);
  report->fetch_bytes = counter(GB_COUNT_FETCH_BYTES);
  report->evict_bytes = counter(GB_COUNT_EVICT_BYTES);
  report->clean_drop_bytes = counter(GB_COUNT_CLEAN_DROP_BYTES);
  report->nvme_read_bytes = counter(GB_COUNT_NVME_READ_BYTES);
  report->nvme_write_bytes = counter(GB_COUNT_NVME_WRITE_BYTES);
  report->unaccounted_launch_count = counter(GB_COUNT_UNACCOUNTED);
  report->refused_launch_count = counter(GB_COUNT_REFUSED);
  report->stall_micros = counter(GB_COUNT_STALL_NS) / 1000;
  report->stage_in_bytes = counter(GB_COUNT_STAGE_IN_BYTES);
  report->stage_out_bytes = counter(GB_COUNT_STAGE_OUT_BYTES);
  report->stage_clean_bytes = counter(GB_COUNT_STAGE_CLEAN_BYTES);
  report->remap_count = counter(GB_COUNT_REMAPS);
  report->switch_count = counter(GB_COUNT_SWITCHES);
  report->switch_abandoned_count = counter(GB_COUNT_SWITCHES_ABANDONED);
  report->switch_micros = counter(GB_COUNT_SWITCH_NS) / 1000;
  report->graph_split_count = counter(GB_COUNT_GRAPH_SPLITS);
  report->dispatched_count = counter(GB_COUNT_DISPATCHED);
  for (int why = 0; why < GB_UNDISPATCHED_COUNT; why++)
    report->undispatched_count[why] = counter((enum gb_counter)(GB_COUNT_UNDISPATCHED + why));
  report->frame_bytes = gb_stage_frame_bytes();
  report->staging = gb_stage_state();
  report->order_percent = gb_stage_order_percent();
  report->phase = phase.phase;
  report->sticky_error = (uint32_t)gb_sticky_error();
  pthread_mutex_lock(&last_lock);
  bool changed = memcmp(&last, report, sizeof last) != 0;
  last = *report;
  pthread_mutex_unlock(&last_lock);
  return changed;
}

/* what: "Used" or "Peak"; the names are those of `greenboost status --json`. */
static void print_tiers(FILE *file, const char *what, const uint64_t values[GB_TIER_COUNT]) {
  static const char *const names[GB_TIER_COUNT] = {"vram", "ram", "feederVram", "feederRam",
                                                    "nvme"};
  for (int tier = 0; tier < GB_TIER_COUNT; tier++) {
    fprintf(file, "  \"%s%sBytes\": %llu,\n", names[tier], what, (unsigned long long)values[tier]);
  }
}

static void print_budget(FILE *file, const char *name, uint64_t bytes) {
  if (bytes == UINT64_MAX)
    fprintf(file, "  \"%s\": null,\n", name);
  else
    fprintf(file, "  \"%s\": %llu,\n", name, (unsigned long long)bytes);
}

void gb_report_write(void) {
  static const char *const phases[] = {"init", "model_load", "inference", "steady", "idle"};
  static const char *const staging[] = {"off", "learning", "on", "in_place", "unsupported"};
  const struct gb_config *config = gb_config();
  struct gb_report r;
  if (config->stats_file[0] == '\0') return;
  int fd = open(config->stats_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
  if (file == NULL) {
    gb_log(GB_LOG_ERROR, "GREENBOOST_STATS_FILE=%s cannot be written", config->stats_file);
    if (fd >= 0) close(fd);
    return;
  }
  gb_report_take(&r);
  fprintf(file, "{\n  \"pid\": %d,\n  \"agent\": %s,\n  \"gated\": %s,\n  \"report\": \"%s\",\n",
          (int)getpid(), gb_client_ready() ? "true" : "false", config->gated ? "true" : "false",
          config->honest ? "honest" : "extend");
  print_budget(file, "vramBudgetBytes", config->vram_budget);
  print_budget(file, "ramBudgetBytes", config->ram_budget);
  fprintf(file, "  \"arenaBase\": \"0x%llx\",\n  \"arenaBytes\": %llu,\n",
          (unsigned long long)gb_arena_base_address, (unsigned long long)gb_arena_size_bytes);
  print_tiers(file, "Used", r.used_bytes);
  print_tiers(file, "Peak", r.peak_bytes);
  const struct {
    const char *name;
    uint64_t value;
  } rows[] = {
      {"allocationCount", r.allocation_count},
      {"allocatedBytes", r.allocated_bytes},
      {"launchCount", r.launch_count},
      {"copyCount", r.copy_count},
      {"fetchBytes", r.fetch_bytes},
      {"evictBytes", r.evict_bytes},
      {"cleanDropBytes", r.clean_drop_bytes},
      {"nvmeReadBytes", r.nvme_read_bytes},
      {"nvmeWriteBytes", r.nvme_write_bytes},
      {"unaccountedLaunchCount", r.unaccounted_launch_count},
      {"refusedLaunchCount", r.refused_launch_count},
      {"stallMicros", r.stall_micros},
      {"stagedInBytes", r.stage_in_bytes},
      {"stageOutBytes", r.stage_out_bytes},
      {"stageCleanBytes", r.stage_clean_bytes},
      {"remapCount", r.remap_count},
      {"switchCount", r.switch_count},
      {"switchAbandonedCount", r.switch_abandoned_count},
      {"switchMicros", r.switch_micros},
      {"graphSplitCount", r.graph_split_count},
      {"graphWholeCount", counter(GB_COUNT_GRAPHS_WHOLE)},
      {"frameBytes", r.frame_bytes},
      {"dispatchedCount", r.dispatched_count},
      {"undispatchedOwnersCount", r.undispatched_count[GB_UNDISPATCHED_OWNERS]},
      {"undispatchedCodeCount", r.undispatched_count[GB_UNDISPATCHED_CODE]},
      {"undispatchedKindCount", r.undispatched_count[GB_UNDISPATCHED_KIND]},
      {"undispatchedOutsideCount", r.undispatched_count[GB_UNDISPATCHED_OUTSIDE]},
      {"undispatchedHiddenCount", r.undispatched_count[GB_UNDISPATCHED_HIDDEN]},
      {"undispatchedRoomCount", r.undispatched_count[GB_UNDISPATCHED_ROOM]},
      {"undispatchedAwayCount", r.undispatched_count[GB_UNDISPATCHED_AWAY]},
      {"orderPercent", r.order_percent},
      {"stickyCudaError", r.sticky_error},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    fprintf(file, "  \"%s\": %llu,\n", rows[i].name, (unsigned long long)rows[i].value);
  }
  fprintf(file, "  \"launchOwners\": [");
  gb_lanes_write(file);
  fprintf(file, "],\n  \"staging\": \"%s\",\n", staging[r.staging]);
  fprintf(file, "  \"phase\": \"%s\"\n}\n", phases[r.phase]);
  fclose(file);
}
