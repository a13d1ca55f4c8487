/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h: the inside of the simulated driver.
 *
 * One lock, sim_lock, guards everything that is not said to be otherwise; workers (one thread per
 * stream) drop it while an operation runs. sim_progress is broadcast whenever an operation
 * completes. Device memory is memory of this process; what a kernel or copy touches without a
 * mapping raises SIGSEGV in the worker, which ends the operation and makes
 * CUDA_ERROR_ILLEGAL_ADDRESS the answer to every later call.
 */
#ifndef GBSIM_SIM_H
#define GBSIM_SIM_H

#define GB_CUDA_NO_ALIASES
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gbsim_kernel.h"
#include "gpu.h"

#define SIM_DRIVER_VERSION 13000
#define SIM_GRANULARITY (2ull << 20)
#define SIM_PAGE 4096ull
#define SIM_ALLOC_ALIGN 512ull
#define SIM_CONTEXT_STACK_MAX 64
#define SIM_QUEUE_MAX                                                                    \
  1024 /* operations waiting in one stream; more block the caller, as the driver does */
#define SIM_PARAM_BYTES_MAX 32764u /* the driver's limit for kernel arguments */
#define SIM_SNAPSHOT_BYTES_MAX                                      \
  65536u /* pageable sources up to this size are copied at the call \
          */
#define SIM_HINT_BYTES_MIN (26ull << 20) /* the driver puts smaller hinted reservations elsewhere \
                                          */

struct sim_context;
struct sim_stream;
struct sim_module;
struct sim_graph;
struct sim_op;
struct sim_exec;
struct sim_pool;

/* A range of addresses. */
struct sim_span {
  uint64_t base, bytes;
};

/* ---- configuration and call entry (state.c) ---- */

struct sim_config {
  int devices;
  uint64_t vram_bytes;
  double pcie_bytes_per_ns; /* 0: unlimited */
  uint64_t kernel_ns_min;
  int log_level; /* 0 silent, 1 what is not simulated, 2 every call */
  bool strict_abort;
  bool strict_exit;
  bool strict_remap;
  bool noop_launch;
  bool host_numa; /* false: as a driver without HOST_NUMA VMM */
};

extern struct sim_config sim_config;
extern pthread_mutex_t sim_lock;
extern pthread_cond_t sim_progress;
extern _Atomic int sim_sticky; /* CUresult that every call gives from now on, or 0 */

enum sim_need { SIM_NEED_NOTHING = 0, SIM_NEED_INIT = 1, SIM_NEED_CONTEXT = 3 };

/* Checks what every entry point checks: error injection, fork, cuInit, sticky error, current
 * context. */
CUresult sim_enter(const char *function, enum sim_need need);
#define SIM_ENTER(need)                                 \
  do {                                                  \
    const CUresult entered = sim_enter(__func__, need); \
    if (entered != CUDA_SUCCESS) return entered;        \
  } while (0)

void sim_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Reports wrong use on stderr; aborts under GBSIM_STRICT=abort. returns: `result`. */
CUresult sim_strict(CUresult result, const char *format, ...) __attribute__((format(printf, 2, 3)));
CUresult sim_state_init(void);
bool sim_initialised(void);
uint64_t sim_now_ns(void);
void sim_sleep_until(uint64_t deadline_ns);
/* What a name without a simulation answers. */
CUresult sim_not_simulated(const char *name);

/* ---- handles (handles.c): which pointers given out are alive ---- */

enum sim_type {
  SIM_CONTEXT = 1,
  SIM_STREAM,
  SIM_EVENT,
  SIM_MODULE,
  SIM_FUNCTION,
  SIM_CHUNK,
  SIM_GRAPH,
  SIM_NODE,
  SIM_EXEC,
  SIM_POOL,
  SIM_ARRAY,
  SIM_MIPMAP
};
void sim_handle_add(enum sim_type type, const void *handle);
bool sim_handle_is(enum sim_type type, const void *handle);
void sim_handle_remove(const void *handle);
size_t sim_handle_count(enum sim_type type);

/* ---- contexts (context.c) ---- */

struct sim_context {
  int device;
  unsigned flags;
  bool primary;
  bool alive;
  unsigned retained;
  uint64_t id;
  struct sim_stream *streams;
  struct sim_stream *legacy;
  struct sim_stream *marks; /* records events of the whole context; NULL until one is */
  uint64_t peers; /* devices with peer access enabled */
};

/* The calling thread's current context, alive, or NULL. */
struct sim_context *sim_current(void);
/* Every context that lives in this process; for draining a device. locks: held. */
struct sim_context *sim_context_at(size_t index);

/* ---- memory (memory.c) ---- */

enum sim_region_kind {
  SIM_REGION_DEVICE = 1,
  SIM_REGION_POOL,
  SIM_REGION_MANAGED,
  SIM_REGION_HOST,
  SIM_REGION_REGISTERED,
  SIM_REGION_MAPPING,
  SIM_REGION_GLOBAL
};

struct sim_chunk;

struct sim_region {
  uint64_t base;
  uint64_t bytes;
  enum sim_region_kind kind;
  int device;
  unsigned flags;
  uint64_t buffer_id;
  uint64_t charged; /* bytes taken from the GPU's capacity */
  struct sim_context *context;
  struct sim_chunk *chunk;         /* mappings */
  struct sim_pool *pool;           /* pool allocations */
  CUmemAccess_flags device_access; /* mappings: what kernels may do */
  CUmemAccess_flags host_access;
  uint64_t changed; /* mappings: number of the map */
};

/* Regions sorted by address. locks: held for all of these; a pointer stays valid until the next add
 * or remove. */
struct sim_region *sim_region_find(uint64_t address);
struct sim_region *sim_region_add(struct sim_region region);
void sim_region_remove(uint64_t base);
bool sim_region_overlaps(uint64_t base, uint64_t bytes);
size_t sim_region_count(void);
struct sim_region *sim_region_index(size_t index);
/* Anonymous zeroed pages; 0 when there are none. */
uint64_t sim_pages(uint64_t bytes);
CUresult sim_device_alloc(struct sim_context *context, enum sim_region_kind kind, uint64_t bytes,
                          uint64_t *address);
void sim_region_free(struct sim_region *region);
void sim_context_free_memory(struct sim_context *context);
/* True when one reservation holds the whole range; which one goes to `reservation`, or NULL. */
bool sim_reservation_find(uint64_t base, uint64_t bytes, struct sim_span *reservation);
void sim_vmm_report_leaks(void);
/* What a chunk is made of. locks: held. */
bool sim_chunk_on_host(const struct sim_chunk *chunk);
CUmemAllocationHandleType sim_chunk_handle_types(const struct sim_chunk *chunk);
/* True for bytes in the GPU's own memory (not HOST_NUMA chunks, pinned, managed or unknown memory).
 */
bool sim_in_vram(uint64_t address);
/* True when every byte of the range belongs to a region. locks: held. */
bool sim_range_known(uint64_t base, uint64_t bytes);

/* ---- copies (copy.c, array.c) ---- */

struct sim_array {
  uint64_t address;
  size_t row_bytes, height, depth; /* height and depth at least 1 */
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
};
/* Turns either 3D description into one copy operation; checks both sides. locks: held. owns: the
 * caller's. */
CUresult sim_copy3d_op(const CUDA_MEMCPY3D *what, struct sim_op **op, bool *pageable);
CUresult sim_copy3d(CUstream stream, CUstream fallback, const CUDA_MEMCPY3D *what, bool async);
CUresult sim_fill_op(CUdeviceptr dst, size_t pitch, uint32_t value, uint32_t element, size_t width,
                     size_t height, struct sim_op **op);

/* ---- operations, streams, events (stream.c) ---- */

enum sim_op_kind {
  SIM_OP_KERNEL = 1,
  SIM_OP_COPY,
  SIM_OP_FILL,
  SIM_OP_HOST,
  SIM_OP_CALLBACK,
  SIM_OP_RECORD,
  SIM_OP_WAIT,
  SIM_OP_GRAPH,
  SIM_OP_VALUE_WAIT,
  SIM_OP_VALUE_WRITE,
  SIM_OP_EMPTY
};

enum sim_direction { SIM_DIRECT = 0, SIM_TO_DEVICE, SIM_TO_HOST };

struct sim_function;
struct sim_event;

struct sim_copy {
  uint64_t dst, src;
  size_t dst_pitch, dst_slice, src_pitch, src_slice;
  size_t width, height, depth; /* height and depth at least 1 */
  enum sim_direction direction;
};

struct sim_fill {
  uint64_t dst;
  size_t pitch, width, height; /* width in elements */
  uint32_t value, element;     /* element: 1, 2 or 4 bytes */
};

struct sim_kernel_call {
  struct sim_function *function;
  uint32_t grid[3], block[3], shared_bytes;
  uint32_t param_bytes;
};

struct sim_wait {
  struct sim_stream *stream;
  uint64_t seq;
};

struct sim_op {
  struct sim_op *next;
  enum sim_op_kind kind;
  uint64_t seq;
  uint64_t began; /* number of the remap before it ran */
  struct sim_wait *waits; /* owned */
  size_t wait_count;
  struct sim_span *spans; /* owned: what the operation was given, for the strict checks */
  size_t span_count;
  unsigned char *bytes; /* owned: kernel arguments, or the snapshot of a pageable source */
  union {
    struct sim_kernel_call kernel;
    struct sim_copy copy;
    struct sim_fill fill;
    struct {
      CUhostFn run;
      void *data;
    } host;
    struct {
      CUstreamCallback run;
      void *data;
      CUstream stream;
    } callback;
    struct {
      struct sim_event *event;
      uint64_t serial;
    } event;
    struct {
      struct sim_exec *exec;
    } graph;
    struct {
      uint64_t address, value;
      unsigned flags;
      bool wide;
    } value;
  };
};

struct sim_capture {
  struct sim_graph *graph;
  struct sim_stream *origin;
  CUstreamCaptureMode mode;
  pthread_t thread;
  uint64_t id;
  unsigned streams; /* that are part of it */
  bool invalid;
  bool own_graph; /* false: cuStreamBeginCaptureToGraph */
};

#define SIM_TAIL_MAX 64 /* nodes a captured stream's next node may depend on */

struct sim_stream {
  struct sim_context *context;
  struct sim_stream *next;
  uint64_t id;
  unsigned flags;
  int priority;
  unsigned refs;
  bool legacy, per_thread, closing, started, running;
  pthread_t thread;
  pthread_cond_t work;
  struct sim_op *head, *tail, *current;
  size_t queued;
  uint64_t submitted, completed;
  struct sim_capture *capture;
  uint32_t tail_nodes[SIM_TAIL_MAX];
  size_t tail_count;
};

struct sim_event {
  struct sim_context *context;
  unsigned flags;
  unsigned refs;
  bool destroyed;
  uint64_t recorded, done; /* serials */
  uint64_t time_ns;
  struct sim_capture *capture; /* recorded last inside this capture */
  uint64_t capture_id;
  uint32_t nodes[SIM_TAIL_MAX];
  size_t node_count;
};

#define SIM_S(stream) sim_stream_of(stream, fallback)
/* Handle to stream of the current context; fallback is what NULL means here. NULL: invalid handle.
 * locks: held. */
struct sim_stream *sim_stream_of(CUstream handle, CUstream fallback);
struct sim_stream *sim_stream_create(struct sim_context *context, unsigned flags, int priority);
void sim_stream_close(struct sim_stream *stream);
/* Appends the operation to the stream, or to the graph the stream captures. owns: `op` (from
 * sim_op_new) is the stream's. locks: held. returns: capture errors. seq: may be NULL. */
CUresult sim_submit(struct sim_stream *stream, struct sim_op *op, uint64_t *seq);
struct sim_op *sim_op_new(enum sim_op_kind kind);
void sim_op_free(struct sim_op *op);
void sim_op_span(struct sim_op *op, uint64_t base, uint64_t bytes);
/* The operation starts when the stream has completed `seq`. pre: not submitted yet. locks: held. */
void sim_op_wait_for(struct sim_op *op, struct sim_stream *stream, uint64_t seq);
/* Drops one of stream->refs. locks: held. */
void sim_stream_release(struct sim_stream *stream);
/* Runs an operation on the calling thread, catching faults. locks: not held. */
void sim_op_run(struct sim_op *op);
/* locks: held, dropped while waiting. returns: sticky error or success. */
CUresult sim_stream_wait(struct sim_stream *stream, uint64_t seq);
CUresult sim_event_wait(struct sim_event *event);
CUresult sim_context_wait(struct sim_context *context);
/* An operation that runs and was given bytes of the range, or one that could begin to: not behind a
 * wait for a memory value that is not there yet. NULL: none. locks: held. */
const struct sim_op *sim_range_user(uint64_t base, uint64_t bytes);
/* A kernel's name, "a copy", "a graph": what messages call it. */
const char *sim_op_name(const struct sim_op *op);
/* The value that a wait operation is for is there. */
bool sim_value_due(const struct sim_op *op);
void sim_fault_handler_install(void);
void sim_streams_fork_child(void);

/* Refuses calls that a live capture forbids (and invalidates the capture). locks: held. */
CUresult sim_capture_guard(void);
/* The same for calls that no mode allows. locks: held. */
CUresult sim_capture_forbidden(void);
/* Takes the stream's operation as a graph node. locks: held. */
CUresult sim_capture_add(struct sim_stream *stream, struct sim_op *op);
void sim_exec_run(struct sim_exec *exec);
void sim_exec_release(struct sim_exec *exec);

/* ---- strictness about remaps (strict.c) ---- */

/* The operation is about to run. locks: held. */
void sim_strict_begin(struct sim_op *op);
/* Around its run, on the thread that runs it. */
void sim_strict_enter(const struct sim_op *op);
void sim_strict_leave(void);
/* The protection that pages may get now: `protection`, or none while older operations run. locks:
 * held. */
int sim_strict_veil(struct sim_region *region, int protection);
/* In the fault handler: true when the access may be tried again. async-signal-safe: only for faults
 * outside the simulated driver's own code. */
bool sim_strict_fault(uint64_t address);
/* locks: held. returns: the number of the map. */
void sim_strict_unmapped(uint64_t base, uint64_t bytes);
uint64_t sim_strict_mapped(uint64_t base, uint64_t bytes);
uint64_t sim_violations(void);

/* ---- modules (module.c, image.c) ---- */

struct sim_global {
  char name[256];
  uint64_t address;
  size_t bytes;
};

struct sim_function {
  char name[256];
  struct sim_module *module;
  const struct gbsim_kernel *kernel;
  uint32_t param_bytes;
  int attributes[32];
};

struct sim_module {
  struct sim_context *context; /* NULL for libraries */
  bool library;
  void *object; /* dlopen handle, or NULL for PTX */
  struct sim_function **functions;
  size_t function_count;
  struct sim_global *globals;
  size_t global_count;
};

/* Reads an image (ELF shared object or PTX text, plain or in a fat binary with uncompressed PTX).
 * returns: INVALID_IMAGE, INVALID_PTX, NO_BINARY_FOR_GPU. locks: held. */
CUresult sim_image_load(struct sim_module *module, const void *image);
CUresult sim_image_load_file(struct sim_module *module, const char *path);
struct sim_function *sim_module_add(struct sim_module *module, const char *name,
                                    const struct gbsim_kernel *kernel);
CUresult sim_module_add_global(struct sim_module *module, const char *name, uint64_t address,
                               size_t bytes);
const struct gbsim_kernel *sim_twin(const char *name);

/* Builds the kernel operation from either argument form. owns: the caller's until submitted. locks:
 * held. */
CUresult sim_launch_op(CUfunction function, const uint32_t grid[3], const uint32_t block[3],
                       uint32_t shared_bytes, void **params, void **extra, struct sim_op **op);

#endif
