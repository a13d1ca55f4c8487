/* SPDX-License-Identifier: Apache-2.0 */
/* config.h: what the environment asks of the shim, read once. */
#ifndef GB_CONFIG_H
#define GB_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define GB_PATH_BYTES 256

/* GREENBOOST_STAGING */
enum gb_staging_mode {
  GB_STAGING_AUTO,   /* when it is measured to be faster than reading in place */
  GB_STAGING_NEVER,  /* off */
  GB_STAGING_ALWAYS, /* as soon as an order is known */
};

struct gb_config {
  bool disabled;                  /* GREENBOOST_DISABLE=1 */
  bool gated;                     /* GREENBOOST_OVERCOMMIT=gated */
  bool replicas;                  /* GREENBOOST_REPLICAS=2: two copies on feeders */
  bool merged;                    /* GREENBOOST_REMOTE=merged: kernels run on feeders (docs/adr/0013) */
  bool merged_refused;            /* asked for, and not with this overcommit and these replicas */
  bool devices;                   /* GREENBOOST_REMOTE=devices: feeders' GPUs are devices (docs/adr/0014) */
  bool devices_refused;           /* asked for, and not with this overcommit and these replicas */
  bool honest;                    /* GREENBOOST_REPORT=honest: the size of the device itself */
  uint64_t extend_bytes; /* GREENBOOST_REPORT=extend=SIZE: at most this much more; else UINT64_MAX */
  uint64_t vram_budget;           /* bytes of each device; UINT64_MAX: what the device has */
  uint64_t ram_budget;            /* bytes; UINT64_MAX: what the agent (or this machine) grants */
  uint64_t nvme_budget;           /* GREENBOOST_NVME_BUDGET; UINT64_MAX: the store chooses */
  uint64_t nvme_writes_per_day;   /* bytes; UINT64_MAX: the store chooses */
  char nvme_dir[GB_PATH_BYTES];   /* GREENBOOST_NVME_DIR; empty: no T3 */
  uint64_t arena_base;            /* the address tried first */
  uint64_t arena_bytes;           /* of each device */
  enum gb_staging_mode staging;
  uint64_t frames; /* GREENBOOST_FRAMES: bytes of VRAM for staging; UINT64_MAX: chosen */
  uint64_t graph_segment; /* GREENBOOST_GRAPH_SEGMENT: graphs that name more run in pieces that name
                             at most this; 0: the frames decide */
  char socket[GB_PATH_BYTES];     /* agent; empty: there is no runtime directory to look in */
  char stats_file[GB_PATH_BYTES]; /* empty: none */
};

/* The configuration. Thread-safe; the first call reads the environment. */
const struct gb_config *gb_config(void);

/* Parses "4GiB", "1.5GiB", "512MiB", "4096". returns: false when the text is no size. */
bool gb_parse_size(const char *text, uint64_t *bytes);

#endif
