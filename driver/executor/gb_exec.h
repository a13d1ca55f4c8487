/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_exec.h: the contract between a feeder daemon (TypeScript) and its executors (C), one process per attachment.
 *
 * The executor holds the lent memory: RAM (anonymous, locked as far as limits permit, or HOST_NUMA chunks where there
 * is a GPU) and VRAM, mapped at arena_base + offset, the same addresses the host's process uses. A fault of its CUDA
 * context ends that executor and nobody else.
 *
 * Transport: descriptor 3 of the executor is one end of a socket pair. Frames and rules as in gb_abi.h: a header,
 * exactly the payload of its type, little-endian; every request is answered by one frame of the same type with
 * GBX_FRAME_REPLY and the same id; replies may come in any order. EOF on descriptor 3 ends the executor.
 * Descriptor 4 is one end of an AF_UNIX SOCK_SEQPACKET pair; over it the daemon's door passes the TCP connections of
 * lanes (docs/adr/0012), which end in this process.
 *
 * driver/executor/abi.ts mirrors this file; test/arch compares every offset and size of the two.
 */
#ifndef GB_EXEC_H
#define GB_EXEC_H

#include <stddef.h>
#include <stdint.h>

#define GBX_VERSION 3u
#define GBX_PAYLOAD_BYTES_MAX 4096u
#define GBX_RANGE_ALIGN (2ull << 20)
#define GBX_FRAME_REPLY 1u

enum gbx_msg_type {
  GBX_MSG_INIT = 1,     /* gbx_init -> gbx_init_reply */
  GBX_MSG_ALLOCATE = 2, /* gbx_range -> gbx_status: maps zeroed memory at the range's address */
  GBX_MSG_FREE = 3,     /* gbx_range -> gbx_status, when scrubbed: exact range of an earlier ALLOCATE */
  /* 4 and 5 were in version 1. */
  GBX_MSG_STAT = 6,     /* no payload -> gbx_stat */
  GBX_MSG_GRANT = 7,    /* gbx_grant -> gbx_status: a ticket for one lane to a part of the arena */
  GBX_MSG_REVOKE = 8,   /* gbx_ticket -> gbx_status: after the answer that lane touches nothing */
  GBX_MSG_LANE = 9,     /* gbx_ticket -> gbx_lane_stat */
  GBX_MSG_PULL = 10,    /* gbx_pull -> gbx_status, when it has ended: bytes from another feeder's lane */
  GBX_MSG_PULL_STAT = 11,   /* gbx_pull_ref -> gbx_status: bytes so far; GBX_NOT_FOUND when it has ended */
  GBX_MSG_PULL_CANCEL = 12, /* gbx_pull_ref -> gbx_status: PULL is then answered with GBX_CANCELED, soon */
  GBX_MSG_CACHE = 13,       /* gbx_cache -> gbx_status: where blocks are kept; at most once, before the first GRANT */
  GBX_MSG_LANE_EVENT = 14,  /* executor: gbx_lane_event; notice (GBX_FRAME_REPLY with request_id 0) */
  GBX_MSG_LIMIT = 15,       /* gbx_limit -> gbx_status: another rate for a ticket's lane, from now on */
  GBX_MSG_RUN_LIMIT = 16,   /* gbx_run_limit -> gbx_status: how long kernels may run, from now on */
};

enum gbx_device_kind { GBX_DEVICE_RAM = 0, GBX_DEVICE_GPU = 1 };

/* Status values are those of enum gb_status in shim/include/gb_abi.h where they mean the same. */
enum gbx_status_code {
  GBX_OK = 0,
  GBX_INVALID = 1,
  GBX_VERSION_MISMATCH = 2,
  GBX_CAPACITY = 3,
  GBX_NOT_FOUND = 4,
  GBX_ARENA_UNAVAILABLE = 5, /* the arena could not be reserved at its base */
  GBX_DRIVER = 6,            /* detail: CUresult */
  GBX_SYSTEM = 7,            /* detail: errno */
  GBX_LANE = 8,              /* detail: enum gb_lane_status of driver/lane/lane.h */
  GBX_CANCELED = 9,
};

struct gbx_frame {
  uint32_t payload_bytes;
  uint16_t type;
  uint16_t flags;
  uint64_t request_id;
};

struct gbx_init {
  uint32_t version;
  uint32_t gpu_count;      /* 0: RAM only, no driver is loaded */
  uint64_t arena_base;
  uint64_t arena_bytes;
  int32_t gpu_ordinals[8];
};

struct gbx_init_reply {
  uint32_t status;
  int32_t detail;
  uint64_t arena_base;       /* as reserved: equal to the request, or status is not GBX_OK */
  uint32_t ram_is_host_numa; /* 1: RAM ranges are HOST_NUMA chunks the GPU can read in place */
  uint32_t reserved;
};

struct gbx_range {
  uint32_t device_kind;
  int32_t device_index; /* position in gpu_ordinals; 0 for RAM */
  uint64_t offset;
  uint64_t length;
};

struct gbx_status {
  uint32_t status;
  int32_t detail;
  uint64_t bytes; /* ALLOCATE: how many of them are locked in RAM; PULL, PULL_STAT: in place */
};

struct gbx_stat {
  uint32_t status;
  int32_t detail;
  uint64_t ram_bytes;
  uint64_t ram_locked_bytes;
  uint64_t vram_bytes[8];
  uint64_t read_bytes;
  uint64_t write_bytes;
  uint64_t range_count;
};

/* Rights are enum gb_lane_rights of driver/lane/lane.h. Calls (GB_LANE_MAY_CALL) are batches of gb_run.h; the right is
 * refused with GBX_INVALID where nothing can run: without a GPU, or with a driver that is too old. */
struct gbx_grant {
  uint8_t ticket_id[16];
  uint8_t secret[32];
  uint64_t offset; /* from the arena base; becomes offset 0 of region 0 */
  uint64_t length;
  uint64_t bytes_per_second; /* each way; 0: no limit */
  uint64_t tag;              /* the daemon's, comes back in events */
  uint32_t rights;
  uint32_t connections;
  uint32_t ttl_ms;
  uint32_t window; /* requests each connection may have outstanding; 0: the library's */
};

struct gbx_ticket {
  uint8_t ticket_id[16];
};

struct gbx_limit {
  uint8_t ticket_id[16];
  uint64_t bytes_per_second; /* each way; 0: no limit */
};

/* An executor ends, and says which kernel was running, when its GPU has completed nothing for so long although there
 * was work. GBX_RUN_LIMIT_MS until this is set; at least GBX_RUN_LIMIT_MS_MIN. */
struct gbx_run_limit {
  uint32_t kernel_ms;
  uint32_t reserved;
};
#define GBX_RUN_LIMIT_MS 10000u
#define GBX_RUN_LIMIT_MS_MIN 100u

struct gbx_lane_stat {
  uint32_t status;
  int32_t detail;
  uint32_t state; /* enum gb_lane_status: 0 open, GB_LANE_PENDING not opened yet, else how it ended */
  uint32_t connections;
  uint64_t bytes_read;    /* arrived from the peer */
  uint64_t bytes_written; /* sent to the peer */
  uint64_t wire_bytes_in;
  uint64_t wire_bytes_out;
  uint64_t cached_bytes; /* filled from the block cache */
  uint64_t round_trip_ns;
  uint64_t key_age_ms;
  char cipher[24];
  char provider[24];
};

struct gbx_pull {
  uint8_t ticket_id[16];
  uint8_t secret[32];
  uint64_t source_offset; /* in region 0 of the lane */
  uint64_t offset;        /* from the arena base; allocated */
  uint64_t length;
  uint32_t port;
  uint32_t connections;
  char address[64]; /* numeric, NUL-terminated */
};

struct gbx_pull_ref {
  uint64_t request_id; /* of the PULL */
};

struct gbx_cache {
  uint8_t key[32];
  uint64_t budget_bytes;
  char path[256]; /* an existing folder of the daemon's user, NUL-terminated */
};

struct gbx_lane_event {
  uint32_t kind;   /* enum gb_lane_event_kind */
  uint32_t reason; /* enum gb_lane_refusal */
  uint32_t status; /* enum gb_lane_status */
  uint32_t version; /* of gb_lane_event */
  uint64_t tag;
  uint8_t ticket_id[16];
  char address[64];
};

_Static_assert(sizeof(struct gbx_grant) == 96, "gbx_grant");
_Static_assert(sizeof(struct gbx_ticket) == 16, "gbx_ticket");
_Static_assert(sizeof(struct gbx_limit) == 24, "gbx_limit");
_Static_assert(sizeof(struct gbx_run_limit) == 8, "gbx_run_limit");
_Static_assert(sizeof(struct gbx_lane_stat) == 120, "gbx_lane_stat");
_Static_assert(sizeof(struct gbx_pull) == 144, "gbx_pull");
_Static_assert(sizeof(struct gbx_pull_ref) == 8, "gbx_pull_ref");
_Static_assert(sizeof(struct gbx_cache) == 296, "gbx_cache");
_Static_assert(sizeof(struct gbx_lane_event) == 104, "gbx_lane_event");
_Static_assert(sizeof(struct gbx_frame) == 16, "gbx_frame");
_Static_assert(sizeof(struct gbx_init) == 56, "gbx_init");
_Static_assert(sizeof(struct gbx_init_reply) == 24, "gbx_init_reply");
_Static_assert(sizeof(struct gbx_range) == 24, "gbx_range");
_Static_assert(sizeof(struct gbx_status) == 16, "gbx_status");
_Static_assert(sizeof(struct gbx_stat) == 112, "gbx_stat");

#endif
