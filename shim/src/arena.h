/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h: the one reserved address range of the process and what lies where in it.
 *
 * One reservation at the agreed base holds one window for each device, side by side, so that
 * gb_owns stays one subtract and compare. A span is one piece of it: a large allocation, or a slab
 * of small ones.
 */
#ifndef GB_ARENA_H
#define GB_ARENA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hash.h"
#include "real.h"
#include "core.h"
#include "va.h"

#define GB_DEVICES_MAX 16
#define GB_SPANS_MAX (1u << 20)
/* Ranges leave the local tiers in pieces of this size; each granule of them has its own hash. */
#define GB_PIECE_BYTES (16ull << 20)
#define GB_PIECE_GRANULES (GB_PIECE_BYTES / GB_GRANULE)

/*
 * One physical handle, mapped at its fixed place in the span; the unit in which staging moves
 * memory (an extent). A chunk in VRAM that staging brought there, or may take away, keeps its host
 * chunk (home): mapped nowhere in the arena, and equal to the frame as long as nobody writes.
 */
struct gb_chunk {
  CUmemGenericAllocationHandle handle;
  uint64_t offset; /* in the span */
  uint64_t bytes;
  uint64_t alias; /* where the staging engine sees the handle; 0: nowhere yet */
  CUmemGenericAllocationHandle home;
  uint64_t home_alias; /* 0: no home */
  uint32_t unit;       /* in the learned order, + 1; 0: never touched */
  uint32_t slot;       /* of the hash taken when the frame was filled, + 1; 0: none */
  uint32_t touched;    /* tick of the last touch (stage.c) */
  uint32_t gaps[4];    /* ticks between the last touches, newest first */
  uint16_t away;       /* touches since it left VRAM, or since it was made in host memory */
  int8_t regular;      /* how far the gaps repeat: 0 and more, they do */
  enum gb_tier tier;   /* GB_TIER_T1 or GB_TIER_T2 */
  enum gb_hint hint;   /* the program's */
  bool fresh;          /* brought by staging and not touched yet */
  bool rotates;        /* comes and goes in the learned cycle; the others stay (stage_plan.c) */
  uint8_t dirty;       /* so many more times it is taken to have been written to (stage.h) */
  bool hashed;         /* slot holds the hash of what the home holds */
  bool pinned;         /* ours: reached by physical address, stays in VRAM */
  bool exported;       /* other processes may hold the handle: never moved, never used again */
  bool own;            /* the handle was made with the span's handle types */
};

enum gb_residency {
  GB_RESIDENT = 0,  /* chunks cover the span and are mapped */
  GB_UNWRITTEN = 1, /* admitted beyond the local tiers and never touched: no chunks, no content */
  GB_STORED = 2,    /* the content is on feeders or NVMe only: no chunks, unmapped */
};

/* What the content scan last said about a span. */
enum gb_scan { GB_SCAN_UNKNOWN = 0, GB_SCAN_CLEAN = 1, GB_SCAN_HIDDEN = 2 };

/* The copy of one piece on a feeder or NVMe. */
struct gb_piece {
  struct gb_digest digests[GB_PIECE_GRANULES];
  uint32_t slot; /* of the store, when NVMe keeps the span */
  uint8_t stale[2]; /* of each copy on feeders, by granule: it missed the last store (copies.h) */
  bool stored;   /* once before: what it holds changes, and nobody has seen it elsewhere */
  bool valid;    /* the digests name what the copy holds */
};

struct gb_slab;
struct gb_area;
struct gb_replica;
struct gb_newest;

/* Offsets that calls have named, sorted. */
struct gb_marks {
  uint64_t *offsets; /* owned */
  uint32_t count;
};

/* Addresses kept free behind each span: one past its end is still its own (an end pointer names
 * it), and an overrun meets nothing. */
#define GB_GUARD_BYTES GB_GRANULE

/*
 * Written under gb_lock; residency also only with the gate closed and every context drained, or
 * before the address is known to anybody. base, bytes, request_bytes, buffer_id, context and device
 * never change while it is in the index and may be read by whoever holds gb_index_lock. The atomics may be touched by
 * readers of the gate.
 */
struct gb_span {
  uint64_t base;
  uint64_t bytes;         /* multiple of GB_GRANULE */
  uint64_t request_bytes; /* what the program asked for; of a slab: bytes */
  uint64_t buffer_id;
  CUcontext context;
  CUdevice device;
  uint32_t slot;
  struct gb_slab *slab; /* NULL for a large allocation */
  struct gb_chunk *chunks; /* by offset */
  uint32_t chunk_count;
  struct gb_marks marks; /* of spans above GB_COVER_BYTES_MAX */
  _Atomic uint32_t residency; /* enum gb_residency */
  /* Beyond the local tiers: */
  _Atomic uint32_t scan;     /* enum gb_scan */
  _Atomic uint64_t last_use; /* tick; 0: never */
  _Atomic uint64_t interval; /* learned ticks between uses; 0: not known */
  _Atomic uint32_t lost;     /* the feeder that held a copy is gone */
  char lost_feeder[64];      /* valid once lost is set */
  bool placed;               /* keeper holds room for this span */
  bool going;                /* freed by the program; only its feeder room is left to drop */
  enum gb_tier keeper;       /* a feeder's tier, or GB_TIER_T3 */
  char feeder[64];
  struct gb_extent *extents; /* where it lies on feeders, in order; while it is placed there */
  uint32_t extent_count;
  struct gb_piece *pieces; /* one for each GB_PIECE_BYTES, allocated at the first placement */
  /* Dispatch (docs/adr/0013). newest: 0: here; else the lane whose replica holds it, what is mapped here is older, or
   * GB_NEWEST_PARTS; of resident spans, and changed like the residency. parts: newest.c, owned. coarse: some call has
   * named it of which nobody knows what it touches: it crosses as a whole. owner: the lane on which what names this
   * span can run, while it is GB_STORED there; 0: none. */
  _Atomic uint32_t newest;
  struct gb_newest *parts; /* written under gb_index_lock too; NULL: never any */
  _Atomic bool coarse;
  _Atomic uint32_t owner;
  uint32_t wanted_lane; /* where its next placement should be; 0: anywhere */
  _Atomic bool used_here;     /* by the program, since it was collected to be used here last */
  _Atomic bool changed_there; /* its owner has been told to write to it: no digest is valid any more */
  struct gb_replica *replicas; /* replica.h, owned; written under gb_index_lock too */
  uint32_t replica_count;
  /* Memory of the program's own handles (appspan.h): resident always, without a guard; base, context
   * and buffer_id change while it is not mapped. */
  bool app;
  bool still; /* its chunks are not moved; under gb_stage_lock too */
  bool filled; /* has been mapped: there may be content */
  bool fixed; /* one chunk that never moves and is never used again for anything else */
  uint32_t handle_types; /* CUmemAllocationHandleType of the handles in VRAM */
  uint8_t access[GB_DEVICES_MAX]; /* what the program granted (appspan.c) */
  struct gb_area *area; /* that it is mapped in, or NULL */
};

/* Reserves the arena. pre: cuInit succeeded, gb_lock. returns: false when the driver gave no window
 * address; the plain form is used then. */
bool gb_arena_reserve(void);
/* Number of devices that have a window; index of a device in [0, count), or -1. */
int gb_arena_device_count(void);
int gb_arena_device_index(CUdevice device);
CUdevice gb_arena_device(int index);
/* The whole reservation: the windows of our ranges (gb_owns), and behind them, in devices mode, one window for each
 * device of a feeder's, in which nothing is mapped here. */
uint64_t gb_arena_reserved_bytes(void);
uint64_t gb_arena_remote_window_bytes(void);

/* A span at a fresh address, entered in the index, without chunks. pre: gb_lock. owns:
 * gb_span_release gives it back. returns: NULL when addresses or memory are out. */
struct gb_span *gb_span_create(CUdevice device, CUcontext context, uint64_t bytes,
                               uint64_t request_bytes);
/* Takes the span out of the index; its address rests in quarantine. pre: gb_lock, nothing mapped.
 */
void gb_span_release(struct gb_span *span);
/* Leaves the index (the program may not find it any more), keeps the address. pre: gb_lock. */
void gb_span_hide(struct gb_span *span);
/* A span without an address, in no index. owns: gb_span_discard. returns: NULL without memory. */
struct gb_span *gb_span_new(CUdevice device, CUcontext context, uint64_t bytes);
void gb_span_discard(struct gb_span *span);
/* Gives it an address that is not another span's, or takes it away. pre: gb_lock. returns: false
 * when there are too many spans. */
bool gb_span_enter(struct gb_span *span, struct gb_area *area, uint64_t base);
void gb_span_leave(struct gb_span *span);
/* The addresses of a device's window, and how many there are. pre: gb_lock. */
struct gb_va *gb_arena_window(int index, uint64_t *bytes);
/* pre: gb_lock or gb_index_lock. returns: the span holding the address (or before it, within its
 * guard), or NULL. */
struct gb_span *gb_span_at(uint64_t address);
/* Walks all spans in slot order: pass NULL first. pre: gb_lock or gb_index_lock. */
struct gb_span *gb_span_next(const struct gb_span *span);
/* A pair of 32-bit integers looks like an address where the upper one is small and happens to be that of the arena:
 * token numbers, indices, counters. Therefore the first addresses after each multiple of 4 GiB are not given out, as
 * long as a range fits between, and words whose lower half is below this are no addresses. returns: 0 once some range
 * had to be laid across. */
#define GB_CLEAR_BYTES (16ull << 20)
uint64_t gb_arena_clear_bytes(void);
/* The program is about to be given these addresses. pre: gb_lock. */
void gb_arena_note(uint64_t base, uint64_t bytes);
/* A word found in memory may be an address that the program was given. */
bool gb_may_be_address(uint64_t word);
/* Bytes from the arena's base that ranges have ever reached: no pointer the program can have lies
 * beyond. Far less than the arena, so that data which merely looks like an address is rare in the
 * content scan. */
uint64_t gb_arena_reached_bytes(void);
/* The agent says that a feeder is gone with these bytes: marks the spans they belong to. Bytes from
 * outside: any value is harmless. Called by the link's thread; takes gb_index_lock. */
void gb_span_note_lost(const struct gb_lost *lost);
/* Next unique buffer id. */
uint64_t gb_buffer_id(void);

static inline uint32_t gb_residency(const struct gb_span *span) {
  return atomic_load_explicit(&span->residency, memory_order_acquire);
}

/* The bytes mapped here are the span's content. Whoever reads, hashes, moves out or hands on what a resident span holds
 * asks this first, and has it collected (replica.h) where it is not so. */
static inline bool gb_is_here(const struct gb_span *span) {
  return atomic_load_explicit(&span->newest, memory_order_acquire) == 0;
}

static inline uint32_t gb_piece_count(const struct gb_span *span) {
  return (uint32_t)((span->bytes + GB_PIECE_BYTES - 1) / GB_PIECE_BYTES);
}

static inline uint64_t gb_piece_bytes(const struct gb_span *span, uint32_t piece) {
  uint64_t offset = piece * GB_PIECE_BYTES;
  return span->bytes - offset < GB_PIECE_BYTES ? span->bytes - offset : GB_PIECE_BYTES;
}

#endif
