/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage.h: the staging engine (docs/adr/0007). Chunks that overflow VRAM are brought into frames
 * before the launches that use them, in the learned order, by switches: one at a time, with the
 * gate closed on the GPU.
 *
 *   stage.c         what a call touches, whether a switch is wanted, and the switch from its start
 *                   to its settlement
 *   stage_plan.c    which chunks come and which go
 *   stage_gpu.c     everything a switch puts on the GPU, and the waits before the program's calls
 *   stage_worker.c  the thread that remaps
 *   stage_state.c   learning, on, in place: what is measured to be faster
 */
#ifndef GB_STAGE_H
#define GB_STAGE_H

#include "arena.h"
#include "frame.h"
#include "scan.h"

/* Chunks that one switch brings, or takes. */
#define GB_STAGE_CHUNKS_MAX 256u
/* VRAM for frames when GREENBOOST_FRAMES does not say: an eighth of T1 within these. */
#define GB_STAGE_FRAMES_MIN (64ull << 20)
#define GB_STAGE_FRAMES_MAX (512ull << 20)
/* A call that names an address of a larger span touches it up to the next address that calls have
 * named; of smaller spans, to the end. An area holds many allocations: there it is so from a chunk's
 * size on. */
#define GB_COVER_BYTES_MAX (512ull << 20)
#define GB_COVER_MARKS_MAX 16384u
/* What does not come round regularly (activations, growing caches) is no part of the order: a chunk
 * touched again within this part of the chunks' mean gap, or after gaps that do not repeat. It stays
 * in VRAM until it has not been touched for so many. */
#define GB_STAGE_HOT_PART 8u
#define GB_STAGE_HEAT_TOUCHES 16384u
/* A hot chunk in host memory touched so often there comes to VRAM, whatever the state: a growing cache,
 * activations, a counter made when VRAM was full. */
#define GB_STAGE_AWAY_TOUCHES 64u
/* A chunk found changed when it left is written back without a look the next times. */
#define GB_STAGE_DIRTY_TIMES 15u
/* Limits of a switch. The GPU idle: with one stream nobody else is kept waiting, so its queue may be
 * long; with several less, and little once the program uses what can wait for later work (stream memory
 * operations, host callbacks, collectives), or when such a wait was in vain: more after switches that
 * were abandoned, less after others. Then: the gate, the copies, a caller waiting for the switch
 * before. */
#define GB_STAGE_QUEUE_NS (2ull * 1000000000)
#define GB_STAGE_IDLE_NS (5ull * 1000000)
#define GB_STAGE_IDLE_NS_MAX (160ull * 1000000)
#define GB_STAGE_COPY_NS (20ull * 1000000000)
#define GB_STAGE_WAIT_NS (30ull * 1000000000)

/* One chunk that changes its place. */
struct gb_remap {
  struct gb_span *span;
  uint32_t chunk;
  bool arrives; /* from home to frame; else from frame to home */
  bool hashed;  /* of one that leaves: the home equals the frame unless the hash says no */
  bool copied;  /* of one that leaves: written back whatever the hash says */
  bool done;
  uint64_t address;
  uint64_t bytes;
  CUmemGenericAllocationHandle from;
  CUmemGenericAllocationHandle to;
  struct gb_stage_frame frame; /* of one that arrives */
};

struct gb_switch {
  CUdevice device;
  uint32_t epoch;
  bool patient; /* one stream: its queue may be long */
  uint64_t lost_ns; /* abandoned: for so long it was waited for */
  uint32_t count;
  struct gb_remap remaps[2 * GB_STAGE_CHUNKS_MAX]; /* by address */
};

/* ---- for the core ---- */

/* After the arena. pre: gb_lock. */
void gb_stage_start(void);
/* Something lies beyond VRAM now, or nothing any more. pre: gb_lock. */
void gb_stage_update(void);
/* Waits for a switch under way and settles its accounts: chunks are where their tier says, nothing
 * of ours is about to change. pre: gb_lock, not inside the gate. */
void gb_stage_finish(void);
/* The same without gb_lock and without settling: no remap is under way any more, none begins while
 * captures are live. */
void gb_stage_settle_for_capture(void);
/* Like gb_stage_finish, but only if the switch moves chunks of this span. */
void gb_stage_release(const struct gb_span *span);
/* The chunk leaves its span for good. pre: gb_lock and gb_stage_lock, gb_stage_release. */
void gb_stage_forget(struct gb_span *span, struct gb_chunk *chunk);
/* pre: gb_lock, the context current, gb_stage_finish. */
void gb_stage_context_going(CUcontext context);
/* Moves chunks out of VRAM, for memory that can live nowhere else: `bytes` of it, or as far as the
 * tiers and pins allow. Only while something overflows already: every call passes the gate then. One
 * try: the GPU may not become idle in time. pre: gb_lock, a context of the device current, not inside
 * the gate. returns: whether a switch was made and has ended; ask for the room again. */
bool gb_stage_vacate(CUdevice device, uint64_t bytes);
/* A stream's handle may be reused. */
void gb_stage_stream_going(CUstream stream);

/* Learns from a call. pre: inside the gate. returns: whether a switch should come before it. */
bool gb_stage_wants(const struct gb_touch *touch);
/* pre: not inside the gate, no lock. */
void gb_stage_switch(const struct gb_touch *touch);
/* The stream waits for a switch under way. pre: inside the gate. */
CUresult gb_stage_join(CUstream stream);

/* VRAM set aside for staging: free frames, or what the engine works with. Any thread. */
uint64_t gb_stage_frame_bytes(void);

/* ---- stage_state.c; pre: gb_stage_lock ---- */

uint32_t gb_stage_state(void);         /* enum gb_staging; any thread */
uint32_t gb_stage_order_percent(void); /* hits of the learned order; any thread */
/* Steps the state at a call; now: nanoseconds. hits: percent; rounds, cycle: of the order. */
void gb_stage_step(uint64_t now, uint32_t hits, uint32_t cycle, uint64_t rounds);
void gb_stage_set_overflow(bool overflow);
void gb_stage_set_unsupported(void);

/* ---- stage_plan.c; pre: gb_lock and gb_stage_lock ---- */

/* Chunks a call names that are in host memory. pre: gb_index_lock too. returns: bytes. */
uint64_t gb_stage_missing(const struct gb_touch *touch, struct gb_remap *list, uint32_t *count);
void gb_stage_set_fresh(struct gb_chunk *chunk, bool fresh);
/* Bytes that staging brought and no call has touched yet. */
uint64_t gb_stage_unused(void);
/* Divides the chunks of the predicted cycle into those that stay and those that rotate, evenly along
 * it, so that the switches of a round are spread over the program's own time. */
void gb_stage_divide(CUdevice device);
/* Fills the switch: what comes (frames not taken yet) and what goes. all: what the call misses and what
 * comes next; else only what belongs in VRAM. returns: false when there is nothing to do. */
bool gb_stage_plan(const struct gb_touch *touch, CUdevice device, bool all, struct gb_switch *plan);
/* Fills the switch with what goes when `bytes` of VRAM are wanted for something else. */
bool gb_stage_plan_room(CUdevice device, uint64_t bytes, struct gb_switch *plan);
/* Frames this device should have. */
uint64_t gb_stage_frames_wanted(CUdevice device);
/* Calls the function for each chunk that the named place covers; in an area also those of the spans
 * that follow. pre: gb_lock or gb_index_lock too. */
void gb_stage_cover(struct gb_span *span, uint64_t address, uint64_t bytes, bool learn,
                    void (*each)(struct gb_span *, uint32_t, void *), void *context);
struct gb_order *gb_stage_order(void);
/* The chunk is touched: heat, or the next step of the order. */
void gb_stage_touch(struct gb_span *span, uint32_t chunk);
/* The chunk should be in VRAM even where nothing else is staged. */
bool gb_stage_belongs(const struct gb_chunk *chunk);
/* The chunk of a unit, or false. */
bool gb_stage_unit(uint32_t unit, struct gb_span **span, uint32_t *chunk);
uint32_t gb_stage_unit_of(struct gb_span *span, uint32_t chunk);

/* ---- stage_gpu.c ---- */

/* Streams, kernels and host words of a device. pre: gb_lock, the context current. */
bool gb_stage_gpu_ready(CUdevice device, CUcontext context);
CUcontext gb_stage_gpu_context(CUdevice device);
/* Marks all work of the process, submits the switch and raises the epoch. pre: gb_lock, the gate
 * closed, no capture live. returns: false when the driver refused; nothing is under way then. */
bool gb_stage_submit(struct gb_switch *work);
/* More than one stream got work since the last question. pre: the gate closed. */
bool gb_stage_take_several(void);
/* The work before the switch has ended: 1; not yet: 0; a context is broken: -1. */
int gb_stage_marked(void);
void gb_stage_go(uint32_t epoch, bool cancelled);
/* The copies of the epoch are done: 1; not yet: 0; a stream is broken: -1. */
int gb_stage_copied(const struct gb_switch *work);
/* Opens the gate on the GPU. */
void gb_stage_open(uint32_t epoch);
uint32_t gb_stage_opened(void);
/* Bytes that the kernel wrote back from the frame of the slot, since the last question. pre: the
 * switch is over. */
uint64_t gb_stage_written(uint32_t slot);

/* ---- stage_worker.c ---- */

enum gb_stage_end {
  GB_STAGE_UNDER_WAY,
  GB_STAGE_RUNS_OUT, /* abandoned, the gate is open; its copies are still under way */
  GB_STAGE_DONE,
  GB_STAGE_ABANDONED,
  GB_STAGE_BROKEN,
};
/* Starts the thread. returns: false when it cannot. */
bool gb_stage_worker_start(void);
/* Hands a submitted switch over. The remaps' `done` may be read once it is over. */
void gb_stage_worker_post(struct gb_switch *work);
/* A switch is under way. Any thread. */
bool gb_stage_worker_busy(void);
/* Waits until the switch is over, until the deadline; out: also until the copies of an abandoned one
 * have run out. */
enum gb_stage_end gb_stage_worker_wait(uint64_t deadline_ns, bool out);

#endif
