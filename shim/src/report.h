/* SPDX-License-Identifier: Apache-2.0 */
/* report.h: counters of the process, its phase, and the statistics file. */
#ifndef GB_REPORT_H
#define GB_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "gb_abi.h"

enum gb_counter {
  GB_COUNT_FETCH_BYTES,
  GB_COUNT_EVICT_BYTES,
  GB_COUNT_CLEAN_DROP_BYTES,
  GB_COUNT_NVME_READ_BYTES,
  GB_COUNT_NVME_WRITE_BYTES,
  GB_COUNT_UNACCOUNTED,
  GB_COUNT_REFUSED,
  GB_COUNT_STALL_NS,
  GB_COUNT_STAGE_IN_BYTES,
  GB_COUNT_STAGE_OUT_BYTES,
  GB_COUNT_STAGE_CLEAN_BYTES,
  GB_COUNT_REMAPS,
  GB_COUNT_SWITCHES,
  GB_COUNT_SWITCHES_ABANDONED,
  GB_COUNT_SWITCH_NS,
  GB_COUNT_GRAPH_SPLITS, /* graph executables that run as several graphs */
  GB_COUNT_GRAPHS_WHOLE, /* those that cannot, though they name more than the frames hold */
  GB_COUNT_ALLOCATIONS,     /* live */
  GB_COUNT_ALLOCATED_BYTES, /* live, as the program asked */
  GB_COUNT_DISPATCHED,      /* launches made on feeders */
  GB_COUNT_UNDISPATCHED,    /* and not, by enum gb_undispatched */
  GB_COUNT_UNDISPATCHED_LAST = GB_COUNT_UNDISPATCHED + GB_UNDISPATCHED_COUNT - 1,
  GB_COUNTERS,
};

/* No thread is between begin and end of a call that found the slow path off. */
bool gb_counters_nobody_inside(void);
/* Any thread. */
void gb_report_add(enum gb_counter counter, uint64_t amount);
/* Makes the thread's counters part of the sum until it ends. */
void gb_report_start(void);
/* Fills a report. returns: whether anything but the stall time differs from the one before. One
 * thread at a time. */
bool gb_report_take(struct gb_report *report);
/* Steps the phase; called about every GB_REPORT_INTERVAL_MS. */
void gb_report_tick(void);
/* Writes GREENBOOST_STATS_FILE, if set. No CUDA calls. */
void gb_report_write(void);

#endif
