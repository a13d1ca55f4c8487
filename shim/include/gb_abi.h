/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_abi.h: the one contract between the shim (C, inside a user's process) and the host agent
 * (TypeScript).
 *
 * Transport: one SOCK_STREAM Unix socket per attachment (default
 * $XDG_RUNTIME_DIR/greenboost/shim.sock). Every message is a gb_frame followed by exactly the
 * payload of its type; all integers are little-endian; no implicit padding. Bulk bytes go over lanes
 * (driver/lane/lane.h) straight to feeders, never to the agent.
 *
 * The first message of the shim is HELLO, the first of the agent HELLO_ACK; nothing else is sent
 * before. A different abi_major and an unknown required feature are refused with status
 * GB_STATUS_VERSION and the agent's version; a peer with a larger abi_minor may
 * send longer payloads of known types (the excess is ignored) and unknown types with
 * GB_FRAME_OPTIONAL set (ignored). Unknown types without it are a protocol error and close the
 * connection.
 *
 * Every request carries a request_id chosen by the shim (never 0) and is answered by one frame of
 * the same type with GB_FRAME_REPLY set and the same id. Several requests may be outstanding;
 * replies may come in any order. Frames with request_id 0 are notices and are not answered.
 *
 * host/shim/abi.ts mirrors this file; test/arch compares every offset and size of the two.
 */
#ifndef GB_ABI_H
#define GB_ABI_H

#include <stddef.h>
#include <stdint.h>

#define GB_ABI_MAJOR 1u
#define GB_ABI_MINOR 1u
#define GB_ABI_MAGIC 0x48534247u /* "GBSH" */

/* Largest payload either side accepts; checked before anything is allocated. */
#define GB_ABI_PAYLOAD_BYTES_MAX 4096u
/* Requests outstanding per attachment; one more is a protocol error. */
#define GB_ABI_REQUESTS_MAX 16u
/* Addresses and lengths of ranges that are placed on feeders are multiples of this. */
#define GB_ABI_RANGE_ALIGN (2ull << 20)

/* Extents of one placed range. */
#define GB_ABI_EXTENTS_MAX 64u
/* Touches of one STEP, and of a whole step; owners in one answer. */
#define GB_ABI_TOUCHES_MAX 128u
#define GB_ABI_STEP_TOUCHES_MAX 8192u
#define GB_ABI_OWNERS_MAX 128u
/* Lanes of one attachment: leases on feeders, those that have ended not counted. */
#define GB_ABI_LANES_MAX 64u

/* The window in which every arena lies; see docs/architecture.md. */
#define GB_ARENA_WINDOW_BASE 0x500000000000ull
#define GB_ARENA_WINDOW_END 0x555500000000ull
#define GB_ARENA_BYTES_DEFAULT (1ull << 40)

enum gb_frame_flag {
  GB_FRAME_REPLY = 1u << 0,
  GB_FRAME_OPTIONAL = 1u << 1,
};

enum gb_msg_type {
  GB_MSG_HELLO = 1,    /* shim: gb_hello; reply gb_hello_ack */
  GB_MSG_GRANT = 2,    /* shim: gb_budget; reply gb_budget_reply. Ask before memory of that tier is created. */
  GB_MSG_RETURN = 3,   /* shim: gb_budget; reply gb_budget_reply. Memory of that tier was destroyed. */
  GB_MSG_PLACE = 4,    /* shim: gb_place_request; reply gb_place_reply. Reserve room for the range on feeders. */
  GB_MSG_DROP = 5,     /* shim: gb_range; reply gb_status_reply. Free the range on its feeders. */
  GB_MSG_LANE = 6,    /* shim: gb_ticket_request; reply gb_ticket_reply. A ticket to (re)open the lane of extents. */
  GB_MSG_MOVED = 7,   /* shim: gb_move_reply; reply gb_status_reply. The answer to MOVE begin and commit. */
  GB_MSG_REPORT = 8,   /* shim: gb_report; notice, at least every GB_REPORT_INTERVAL_MS while something changed */
  GB_MSG_EVENT = 9,    /* shim: gb_event; notice: something people should know (shown by `greenboost events`) */
  GB_MSG_LANES = 10,   /* shim: gb_lane_report; notice, one for each lane, with REPORT */
  GB_MSG_LOST = 11,    /* agent: gb_lost; notice: the bytes of a stored range are gone with their feeder */
  GB_MSG_LIMITS = 12,  /* agent: gb_limits; notice: what may be held has changed (T1: the shim shrinks to it) */
  GB_MSG_MOVE = 13,    /* agent: gb_move; notice: a copy moves to another lane (docs/adr/0012) */
  GB_MSG_ROOM = 14,    /* shim: gb_room_request; reply gb_status_reply. Room for a replica of a resident range on
                        * one lease (docs/adr/0013), on its GPU if it has one; or back. Freed with the lease at the
                        * latest. */
  GB_MSG_DEVICE = 15, /* shim: gb_device_request; reply gb_device_reply. A feeder's GPU as a further CUDA device
                       * (docs/adr/0014): what it is, and with a first range the lane that opens it. */
  GB_MSG_STEP = 16,    /* shim: gb_step; reply gb_step_reply. What one observed step of the program names, in parts; the
                        * answer to the last one says which ranges should lie elsewhere (docs/adr/0013). */
  GB_MSG_SHIFT = 17,   /* shim: gb_place_request; reply gb_status_reply. The range moves to that lane; the agent asks
                        * with MOVE as for any move, and answers when it is over. */
};

#define GB_REPORT_INTERVAL_MS 500u

/* Status of a reply; the CUDA error each becomes is in docs/protocol.md. */
enum gb_status {
  GB_STATUS_OK = 0,
  GB_STATUS_INVALID = 1,     /* malformed request: a bug of the shim */
  GB_STATUS_VERSION = 2,     /* abi_major differs, or a required feature is unknown */
  GB_STATUS_CAPACITY = 3,    /* no room: CUDA_ERROR_OUT_OF_MEMORY */
  GB_STATUS_NOT_FOUND = 4,   /* range was never placed */
  GB_STATUS_UNREACHABLE = 5, /* feeder away for the moment, bytes may come back: retry until a deadline */
  GB_STATUS_DATA_LOSS = 6,   /* feeder is gone with the bytes: sticky CUDA_ERROR_EXTERNAL_DEVICE for the owner */
  GB_STATUS_INTERNAL = 7,
  GB_STATUS_REFUSED = 8,     /* another user, another arena, too many attachments */
};

/* Tiers, as in docs/architecture.md; also the order of the arrays below. */
enum gb_tier {
  GB_TIER_T1 = 0,  /* local VRAM */
  GB_TIER_T2 = 1,  /* local RAM, mapped at the same address */
  GB_TIER_T1R = 2, /* feeder VRAM */
  GB_TIER_T2R = 3, /* feeder RAM */
  GB_TIER_T3 = 4,  /* local NVMe: a file, not mapped */
  GB_TIER_COUNT = 5,
};

enum gb_feature {
  GB_FEATURE_GATED = 1ull << 0, /* --overcommit gated: ranges beyond T1+T2 may live unmapped on feeders */
  GB_FEATURE_REPLICAS = 1ull << 1, /* --replicas 2, with GATED: extents have a mirror, on another feeder.
                                    * Budgets count the bytes once; the agent leases them twice. */
  GB_FEATURE_DISPATCH = 1ull << 2, /* --remote merged, with GATED and without REPLICAS: kernels run where ranges are;
                                    * PLACE fills one feeder that lends compute after the other, in order of calls */
  GB_FEATURE_DEVICES = 1ull << 3, /* --remote devices, without GATED and REPLICAS: DEVICE, and ROOM on its lanes, in
                                   * VRAM only */
};

struct gb_frame {
  uint32_t payload_bytes;
  uint16_t type;  /* enum gb_msg_type */
  uint16_t flags; /* enum gb_frame_flag */
  uint64_t request_id;
};

struct gb_hello {
  uint32_t magic;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint64_t features;          /* enum gb_feature the shim asks for; bits the agent does not know are ignored */
  uint8_t attachment_id[16];  /* random; the same after a reconnect, so that the agent can re-adopt its leases */
  uint32_t pid;
  uint32_t reserved;
  uint64_t arena_base;
  uint64_t arena_bytes;
  uint64_t vram_budget_bytes; /* T1 limit; UINT64_MAX: what the device has */
  uint64_t ram_budget_bytes;  /* T2 limit; UINT64_MAX: what the agent grants */
  uint64_t held_bytes[GB_TIER_COUNT]; /* granted amounts the shim still holds (after a reconnect), else 0 */
  uint64_t device_total_bytes;
  char device_name[64];       /* NUL-terminated UTF-8 */
  uint8_t device_uuid[16];
  char command[128];          /* NUL-terminated; from /proc/self/cmdline, NULs as spaces */
  uint64_t features_required; /* without one of these the agent refuses with GB_STATUS_VERSION */
};

struct gb_hello_ack {
  uint32_t status;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint64_t features;          /* subset of what was asked that is in force */
  uint32_t agent_pid;
  uint32_t reserved;
  uint64_t limit_bytes[GB_TIER_COUNT]; /* what the agent would grant in all, per tier, at this moment */
};

struct gb_budget {
  uint32_t tier;     /* T1 and T3 (accounting only), T2, or T2R for feeder bytes of either kind */
  uint32_t reserved;
  uint64_t bytes;
};

struct gb_budget_reply {
  uint32_t status;
  uint32_t tier;
  uint64_t held_bytes;  /* total granted to this attachment in this tier after the call */
  uint64_t limit_bytes; /* what could be held in all */
};

struct gb_range {
  uint64_t offset; /* from the arena base, multiple of GB_ABI_RANGE_ALIGN */
  uint64_t length; /* multiple of GB_ABI_RANGE_ALIGN, not 0 */
};

/* lane: where it should lie, if that lease has room; 0: anywhere. SHIFT: there, or nowhere else. */
struct gb_place_request {
  uint64_t offset; /* as in gb_range */
  uint64_t length;
  uint32_t lane;
  uint32_t reserved;
};

/* A launch of the step names this range, which lies whole on that lane (0: with the program). */
struct gb_step_touch {
  uint64_t offset; /* as in gb_range */
  uint64_t length;
  uint32_t launch; /* its number in the step; the touches are in this order */
  uint32_t lane;
};

struct gb_step {
  uint32_t first;        /* number of the first touch of this part; 0: a new step begins */
  uint32_t count;        /* of this part, at most GB_ABI_TOUCHES_MAX */
  uint32_t total;        /* of the step, at most GB_ABI_STEP_TOUCHES_MAX */
  uint32_t launch_count; /* of the step */
  uint64_t local_bytes;  /* what the program's own tiers can hold of such ranges */
  struct gb_step_touch touches[GB_ABI_TOUCHES_MAX];
};

struct gb_owner {
  uint64_t offset; /* a range of the step */
  uint64_t length;
  uint32_t lane;   /* where it should lie; 0: with the program */
  uint32_t reserved;
};

/* Before the last part is there, count is 0. */
struct gb_step_reply {
  uint32_t status;
  uint32_t count;            /* of owners, in the order in which they should move */
  uint32_t crossings_before; /* of one step, by the agent's count */
  uint32_t crossings_after;
  struct gb_owner owners[GB_ABI_OWNERS_MAX];
};

struct gb_room_request {
  uint64_t offset; /* as in gb_range */
  uint64_t length;
  uint32_t lane;
  uint32_t drop; /* 1: give back exactly this range */
};

/* Devices whose windows an arena has. */
#define GB_ABI_DEVICES_MAX 7u
/* CUdevice_attribute, by number. */
#define GB_ABI_ATTRIBUTES_MAX 160u
#define GB_ABI_ATTRIBUTE_UNKNOWN INT32_MIN

struct gb_device_request {
  uint32_t index; /* less than the count of every reply; that never changes for an attachment */
  uint32_t reserved;
  uint64_t offset; /* a first range on it, as in gb_range; the same one again is answered alike */
  uint64_t length; /* 0: only a question */
};

struct gb_device_reply {
  uint32_t status; /* OK, also without such a device; CAPACITY, UNREACHABLE, DATA_LOSS */
  uint32_t count;  /* of devices */
  uint32_t lane;   /* behind which all its ranges lie; 0: not opened */
  uint32_t compute_capability; /* 90 is 9.0 */
  uint64_t total_bytes;        /* that the feeder lends of it */
  uint64_t free_bytes;         /* that a program could get now */
  char feeder[64];
  char name[96];
  uint8_t uuid[16];
  int32_t attributes[GB_ABI_ATTRIBUTES_MAX];
};

struct gb_status_reply {
  uint32_t status;
  uint32_t tier;     /* PLACE: tier of the first byte (T1R or T2R); else 0 */
  char feeder[64];   /* name of the feeder concerned, or empty */
};

/* A run of bytes of a placed range and the lane behind which it lies, at the same arena offset. */
struct gb_extent {
  uint64_t offset; /* from the arena base, multiple of GB_ABI_RANGE_ALIGN */
  uint64_t length;
  uint32_t lane;   /* the agent's number of a lease of this attachment, never 0, never used twice */
  uint32_t mirror; /* the lane of the second copy; 0: none */
};

struct gb_place_reply {
  uint32_t status;
  uint32_t tier;     /* of the first byte: T1R or T2R */
  char feeder[64];   /* of the first byte, or the one concerned, or empty */
  uint32_t extent_count;
  uint32_t reserved;
  struct gb_extent extents[GB_ABI_EXTENTS_MAX]; /* in order, side by side, covering the range */
};

struct gb_ticket_request {
  uint32_t lane;
  uint32_t attempt; /* how often this lane was opened before; for the log */
};

/* What opens a lane to region 0, which is the whole arena of the attachment (offset 0: the arena's base). */
struct gb_ticket_reply {
  uint32_t status; /* OK, UNREACHABLE (ask again later), DATA_LOSS, NOT_FOUND */
  uint32_t lane;
  uint32_t port;
  uint32_t connections; /* for bulk */
  uint64_t features;    /* enum gb_lane_feature */
  uint8_t ticket_id[16];
  uint8_t secret[32];
  char address[64];     /* numeric */
  char feeder[64];
  uint32_t compute_capability; /* of its GPU, with GB_LANE_FEATURE_RUN: 90 is 9.0 */
  uint32_t reserved;
};

enum gb_lane_feature {
  GB_LANE_FEATURE_OFFER = 1ull << 0, /* the feeder has a content cache */
  GB_LANE_FEATURE_RUN = 1ull << 1,   /* it takes calls (driver/executor/gb_run.h): it has a GPU and lends compute */
};

struct gb_lane_report {
  uint32_t lane;
  uint32_t state; /* enum gb_lane_status of driver/lane/lane.h: 0 while open */
  uint64_t bytes_read;
  uint64_t bytes_written;
  uint64_t wire_bytes_in;
  uint64_t wire_bytes_out;
  uint64_t cached_bytes; /* not written because the feeder had them */
  uint64_t round_trip_ns;
  uint64_t key_age_ms;
  uint32_t connections;
  uint32_t opened_count; /* lanes opened for this number so far */
  char cipher[24];
  char provider[24];
  uint64_t launch_count;     /* dispatched, docs/adr/0013 */
  uint64_t crossing_count;   /* changed blocks went there or came back */
  uint64_t crossing_bytes_out;
  uint64_t crossing_bytes_in;
  uint64_t replica_bytes;    /* room for replicas there now */
};

enum gb_move_phase {
  GB_MOVE_BEGIN = 1,  /* note whether the extent is written to from now on; answered by MOVED */
  GB_MOVE_COMMIT = 2, /* use to_lane instead of from_lane from the answer on; asked twice, answered alike */
  GB_MOVE_CANCEL = 3, /* forget it; not answered */
};

struct gb_move {
  uint64_t sequence; /* of this move */
  uint64_t offset;   /* a whole extent, or a part of one that becomes an extent of its own */
  uint64_t length;
  uint32_t phase;
  uint32_t from_lane; /* lane or mirror of the extent */
  uint32_t to_lane;
  uint32_t source_lane; /* where the bytes are pulled from: from_lane, or the other copy when that is lost */
};

enum gb_move_outcome {
  GB_MOVE_OK = 1,
  GB_MOVE_DIRTY = 2,   /* written to since BEGIN: the old lane stays in use */
  GB_MOVE_UNKNOWN = 3, /* no such extent behind from_lane, or no such move */
};

struct gb_move_reply {
  uint64_t sequence;
  uint32_t phase;
  uint32_t outcome;
};

/* Why a launch that names a range of a feeder was not made there. */
enum gb_undispatched {
  GB_UNDISPATCHED_OWNERS = 0,   /* several feeders' ranges, or one on a feeder without compute */
  GB_UNDISPATCHED_CODE = 1,     /* its image, name or parameters are not known, or the feeder's GPU cannot run it */
  GB_UNDISPATCHED_KIND = 2,     /* graph, cooperative, capture, texture, an attribute that is not taken */
  GB_UNDISPATCHED_OUTSIDE = 3,  /* it names memory outside the arena, or the program's own mappings */
  GB_UNDISPATCHED_HIDDEN = 4,   /* an operand holds addresses */
  GB_UNDISPATCHED_ROOM = 5,     /* no room for a replica */
  GB_UNDISPATCHED_AWAY = 6,     /* the feeder does not answer */
  GB_UNDISPATCHED_COUNT = 8,
};

struct gb_report {
  uint64_t used_bytes[GB_TIER_COUNT];
  uint64_t peak_bytes[GB_TIER_COUNT];
  uint64_t allocation_count;
  uint64_t allocated_bytes; /* sum of live requests as the program made them */
  uint64_t launch_count;
  uint64_t copy_count;
  uint64_t fetch_bytes;     /* feeder -> local since start */
  uint64_t evict_bytes;     /* local -> feeder since start */
  uint64_t clean_drop_bytes; /* evictions that moved nothing because the feeder's copy was equal */
  uint64_t unaccounted_launch_count;
  uint64_t refused_launch_count;
  uint64_t stall_micros;    /* time application calls waited behind the gate */
  uint64_t stage_in_bytes;    /* T2 -> VRAM frames since start (docs/adr/0007) */
  uint64_t stage_out_bytes;   /* frames written back to T2 because their content had changed */
  uint64_t stage_clean_bytes; /* frames given up without a copy: equal to their source */
  uint64_t remap_count;       /* extents whose mapping changed under a live address */
  uint64_t switch_count;      /* closings of the gate that remapped something */
  uint64_t switch_abandoned_count; /* the GPU did not become idle by the deadline: nothing was remapped */
  uint64_t switch_micros;     /* time the GPU was held behind the gate by switches */
  uint64_t frame_bytes;       /* VRAM set aside for staging now (part of used_bytes[T1]) */
  uint64_t graph_split_count; /* graph executables that run as several graphs */
  uint64_t nvme_read_bytes;
  uint64_t nvme_write_bytes;
  uint32_t staging;         /* enum gb_staging */
  uint32_t order_percent;   /* touches that came as predicted, of the last 1000 */
  uint32_t phase;           /* enum gb_phase */
  uint32_t sticky_error;    /* CUresult given to the program for good, or 0 */
  uint64_t dispatched_count; /* launches made on feeders */
  uint64_t undispatched_count[GB_UNDISPATCHED_COUNT]; /* that name a range of a feeder and ran here, by reason */
};

/* What the staging engine does, and why. */
enum gb_staging {
  GB_STAGING_OFF = 0,       /* nothing lies beyond VRAM */
  GB_STAGING_LEARNING = 1,  /* overflow is read in place until its order repeats */
  GB_STAGING_ON = 2,
  GB_STAGING_IN_PLACE = 3,  /* reading in place was measured to be faster, or the order does not repeat */
  GB_STAGING_UNSUPPORTED = 4, /* no stream memory operations or cuCtxRecordEvent, or GREENBOOST_STAGING=off */
};

enum gb_phase {
  GB_PHASE_INIT = 0,
  GB_PHASE_MODEL_LOAD = 1,
  GB_PHASE_INFERENCE = 2,
  GB_PHASE_STEADY = 3,
  GB_PHASE_IDLE = 4,
};

struct gb_event {
  uint32_t severity;  /* 0 info, 1 warning, 2 error */
  uint32_t cuda_error; /* CUresult involved, or 0 */
  char name[48];      /* stable, e.g. "launch_refused" */
  char text[200];
};

struct gb_lost {
  uint64_t offset;
  uint64_t length;
  char feeder[64];
};

struct gb_limits {
  uint64_t limit_bytes[GB_TIER_COUNT];
};

_Static_assert(sizeof(struct gb_frame) == 16, "gb_frame");
_Static_assert(sizeof(struct gb_hello) == 336, "gb_hello");
_Static_assert(offsetof(struct gb_hello, held_bytes) == 72, "gb_hello.held_bytes");
_Static_assert(offsetof(struct gb_hello, device_name) == 120, "gb_hello.device_name");
_Static_assert(offsetof(struct gb_hello, command) == 200, "gb_hello.command");
_Static_assert(sizeof(struct gb_hello_ack) == 64, "gb_hello_ack");
_Static_assert(sizeof(struct gb_budget) == 16, "gb_budget");
_Static_assert(sizeof(struct gb_budget_reply) == 24, "gb_budget_reply");
_Static_assert(sizeof(struct gb_range) == 16, "gb_range");
_Static_assert(sizeof(struct gb_place_request) == 24, "gb_place_request");
_Static_assert(sizeof(struct gb_step_touch) == 24, "gb_step_touch");
_Static_assert(sizeof(struct gb_step) == 3096, "gb_step");
_Static_assert(offsetof(struct gb_step, touches) == 24, "gb_step.touches");
_Static_assert(sizeof(struct gb_owner) == 24, "gb_owner");
_Static_assert(sizeof(struct gb_step_reply) == 3088, "gb_step_reply");
_Static_assert(sizeof(struct gb_room_request) == 24, "gb_room_request");
_Static_assert(sizeof(struct gb_device_request) == 24, "gb_device_request");
_Static_assert(sizeof(struct gb_device_reply) == 848, "gb_device_reply");
_Static_assert(sizeof(struct gb_status_reply) == 72, "gb_status_reply");
_Static_assert(sizeof(struct gb_extent) == 24, "gb_extent");
_Static_assert(sizeof(struct gb_place_reply) == 1616, "gb_place_reply");
_Static_assert(sizeof(struct gb_ticket_request) == 8, "gb_ticket_request");
_Static_assert(sizeof(struct gb_ticket_reply) == 208, "gb_ticket_reply");
_Static_assert(sizeof(struct gb_lane_report) == 160, "gb_lane_report");
_Static_assert(sizeof(struct gb_move) == 40, "gb_move");
_Static_assert(sizeof(struct gb_move_reply) == 16, "gb_move_reply");
_Static_assert(sizeof(struct gb_report) == 336, "gb_report");
_Static_assert(sizeof(struct gb_event) == 256, "gb_event");
_Static_assert(sizeof(struct gb_lost) == 80, "gb_lost");
_Static_assert(sizeof(struct gb_limits) == 40, "gb_limits");

#endif
