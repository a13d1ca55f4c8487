/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage_gpu.c: everything a switch puts on the GPU, all of it submitted before the first stream of
 * the program is told to wait:
 *
 *   arrivals  wait go; for each that arrives: home -> frame, event
 *   returns   wait go; for each that leaves and is known to differ: frame -> home; event
 *   kernels   wait go; for each other that leaves: hash, write back where it differs from the hash
 *             then; for each that arrives: its event, hash; event of the returns; write copied
 *
 * and the wait on a stream of the program for the epoch. Host words carry the order between the CPU
 * and the GPU; waits are cyclic (GEQ), so an epoch may pass 2^32.
 */
#include "stage.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>

#include "context.h"
#include "frame_kernels.h"
#include "lock.h"
#include "pinned.h"

#define HASH_BLOCKS 1056u
#define WRITE_BLOCKS 66u /* 52 GB/s over PCIe 5; 264: 47, 1056: 31 */

/* In host memory that the device sees, too. */
struct words {
  _Atomic uint32_t go;        /* the copies of this epoch may begin */
  _Atomic uint32_t cancelled; /* the write-backs of this epoch do nothing */
  _Atomic uint32_t copied;    /* everything of this epoch is done */
  _Atomic uint32_t opened;    /* the gate is open again for this epoch */
  _Atomic uint64_t written[GB_FRAME_SLOTS_MAX]; /* bytes written back by the kernel, by slot */
};

struct gpu {
  CUcontext context;
  CUstream arrivals;
  CUstream returns;
  CUstream kernels;
  CUmodule module;
  CUfunction hash;
  CUfunction write_back;
  CUevent events[GB_STAGE_CHUNKS_MAX];
  CUevent returned;
  CUdeviceptr table; /* for each slot: then[2], now[2] */
  bool refused;
};

static struct words *_Atomic words; /* set once, under gb_lock; then read by any thread */
static struct gb_pinned words_memory;
static uint64_t seeds[2];
static struct gpu gpus[GB_DEVICES_MAX];
static _Atomic uint32_t epoch;
static CUevent marks[GB_CONTEXTS_MAX];
static uint32_t mark_count;

/* Streams that wait for an epoch already: a second wait is harmless, a missing one is not. */
#define JOINED 256u
static struct {
  _Atomic uintptr_t stream;
  _Atomic uint32_t epoch;
} joined[JOINED];

/* ---- making ---- */

static bool have_words(void) {
  bool seeded = words != NULL || getrandom(seeds, sizeof seeds, 0) == (ssize_t)sizeof seeds;
  if (!seeded || !gb_pinned_ready(&words_memory, sizeof *words)) return false;
  words = words_memory.host;
  return true;
}

static CUresult make(struct gpu *gpu) {
  size_t table = (size_t)GB_FRAME_SLOTS_MAX * 32;
  CUresult result = gb_real.cuStreamCreate(&gpu->arrivals, CU_STREAM_NON_BLOCKING);
  if (result == CUDA_SUCCESS) result = gb_real.cuStreamCreate(&gpu->returns, CU_STREAM_NON_BLOCKING);
  if (result == CUDA_SUCCESS)
    result = gb_real.cuEventCreate(&gpu->returned, CU_EVENT_DISABLE_TIMING);
  if (result == CUDA_SUCCESS) result = gb_real.cuStreamCreate(&gpu->kernels, CU_STREAM_NON_BLOCKING);
  if (result == CUDA_SUCCESS) result = gb_real.cuModuleLoadData(&gpu->module, gb_frame_ptx);
  if (result == CUDA_SUCCESS)
    result = gb_real.cuModuleGetFunction(&gpu->hash, gpu->module, GB_FRAME_HASH_NAME);
  if (result == CUDA_SUCCESS)
    result = gb_real.cuModuleGetFunction(&gpu->write_back, gpu->module, GB_FRAME_WRITE_BACK_NAME);
  for (uint32_t i = 0; i < GB_STAGE_CHUNKS_MAX && result == CUDA_SUCCESS; i++)
    result = gb_real.cuEventCreate(&gpu->events[i], CU_EVENT_DISABLE_TIMING);
  if (result == CUDA_SUCCESS) result = gb_real.cuMemAlloc_v2(&gpu->table, table);
  return result;
}

static void drop(struct gpu *gpu) {
  if (gpu->arrivals != NULL) gb_real.cuStreamDestroy_v2(gpu->arrivals);
  if (gpu->returns != NULL) gb_real.cuStreamDestroy_v2(gpu->returns);
  if (gpu->returned != NULL) gb_real.cuEventDestroy_v2(gpu->returned);
  if (gpu->kernels != NULL) gb_real.cuStreamDestroy_v2(gpu->kernels);
  for (uint32_t i = 0; i < GB_STAGE_CHUNKS_MAX; i++) {
    if (gpu->events[i] != NULL) gb_real.cuEventDestroy_v2(gpu->events[i]);
  }
  if (gpu->module != NULL) gb_real.cuModuleUnload(gpu->module);
  if (gpu->table != 0) gb_real.cuMemFree_v2(gpu->table);
  *gpu = (struct gpu){.refused = gpu->refused};
}

bool gb_stage_gpu_ready(CUdevice device, CUcontext context) {
  int index = gb_arena_device_index(device);
  if (index < 0 || gpus[index].refused || !have_words()) return false;
  struct gpu *gpu = &gpus[index];
  if (gpu->context != NULL) return true;
  CUresult result = make(gpu);
  if (result == CUDA_SUCCESS) {
    gpu->context = context;
    return true;
  }
  gpu->refused = true;
  drop(gpu);
  gb_event(GB_LOG_WARN, result, "staging_refused",
           "the driver refuses what staging needs: overflow is read in place");
  return false;
}

CUcontext gb_stage_gpu_context(CUdevice device) {
  int index = gb_arena_device_index(device);
  return index < 0 ? NULL : gpus[index].context;
}

void gb_stage_context_going(CUcontext context) {
  for (int i = 0; i < gb_arena_device_count(); i++) {
    if (gpus[i].context == context && context != NULL) drop(&gpus[i]);
  }
}

/* ---- one switch ---- */

static CUdeviceptr word(size_t offset) {
  return words_memory.device + offset;
}

static CUdeviceptr then_of(const struct gpu *gpu, uint32_t slot) {
  return gpu->table + (CUdeviceptr)(slot - 1) * 32;
}

static CUresult hash(const struct gpu *gpu, const struct gb_stage_frame *frame, CUdeviceptr result) {
  CUdeviceptr bytes = frame->alias;
  uint64_t count = frame->bytes / 8;
  void *params[] = {&bytes, &count, &seeds[0], &seeds[1], &result};
  CUresult error = gb_real.cuMemsetD32Async(result, 0, 4, gpu->kernels);
  if (error != CUDA_SUCCESS) return error;
  return gb_real.cuLaunchKernel(gpu->hash, HASH_BLOCKS, 1, 1, GB_FRAME_BLOCK, 1, 1, 0, gpu->kernels,
                                params, NULL);
}

static CUresult submit_leaving(const struct gpu *gpu, const struct gb_remap *remap, CUdeviceptr home,
                               uint32_t number) {
  CUdeviceptr then = then_of(gpu, remap->frame.slot);
  CUdeviceptr now = then + 16;
  CUdeviceptr frame = remap->frame.alias;
  CUdeviceptr cancelled = word(offsetof(struct words, cancelled));
  CUdeviceptr written = word(offsetof(struct words, written)) + (remap->frame.slot - 1) * 8ull;
  uint64_t count = remap->bytes / 8;
  void *params[] = {&frame, &home, &count, &now, &then, &cancelled, &number, &written};
  if (remap->copied)
    return gb_real.cuMemcpyDtoDAsync_v2(home, frame, remap->bytes, gpu->returns);
  CUresult result = hash(gpu, &remap->frame, now);
  if (result != CUDA_SUCCESS) return result;
  return gb_real.cuLaunchKernel(gpu->write_back, WRITE_BLOCKS, 1, 1, GB_FRAME_BLOCK, 1, 1, 0,
                                gpu->kernels, params, NULL);
}

/* By the copy engine: unmapping waits for kernels that run, not for copies. */
static CUresult submit_arrival(const struct gpu *gpu, const struct gb_remap *remap) {
  const struct gb_chunk *chunk = &remap->span->chunks[remap->chunk];
  return gb_real.cuMemcpyDtoDAsync_v2(remap->frame.alias, chunk->home_alias, remap->bytes,
                                      gpu->arrivals);
}

static CUresult submit_arrivals(const struct gpu *gpu, const struct gb_switch *work) {
  CUresult result = CUDA_SUCCESS;
  uint32_t arriving = 0;
  for (uint32_t i = 0; i < work->count && result == CUDA_SUCCESS; i++) {
    if (!work->remaps[i].arrives) continue;
    result = submit_arrival(gpu, &work->remaps[i]);
    if (result == CUDA_SUCCESS)
      result = gb_real.cuEventRecord(gpu->events[arriving++], gpu->arrivals);
  }
  return result;
}

static CUresult submit_all(const struct gpu *gpu, const struct gb_switch *work, uint32_t number) {
  CUdeviceptr go = word(offsetof(struct words, go));
  CUresult result = gb_real.cuStreamWaitValue32_v2(gpu->arrivals, go, number, 0);
  if (result == CUDA_SUCCESS) result = submit_arrivals(gpu, work);
  if (result == CUDA_SUCCESS)
    result = gb_real.cuStreamWaitValue32_v2(gpu->returns, go, number, 0);
  if (result == CUDA_SUCCESS)
    result = gb_real.cuStreamWaitValue32_v2(gpu->kernels, go, number, 0);
  for (uint32_t i = 0; i < work->count && result == CUDA_SUCCESS; i++) {
    const struct gb_remap *remap = &work->remaps[i];
    if (!remap->arrives)
      result = submit_leaving(gpu, remap, remap->span->chunks[remap->chunk].alias, number);
  }
  uint32_t arriving = 0;
  for (uint32_t i = 0; i < work->count && result == CUDA_SUCCESS; i++) {
    const struct gb_remap *remap = &work->remaps[i];
    if (!remap->arrives) continue;
    result = gb_real.cuStreamWaitEvent(gpu->kernels, gpu->events[arriving++], 0);
    if (result == CUDA_SUCCESS) result = hash(gpu, &remap->frame, then_of(gpu, remap->frame.slot));
  }
  if (result == CUDA_SUCCESS) result = gb_real.cuEventRecord(gpu->returned, gpu->returns);
  if (result == CUDA_SUCCESS) result = gb_real.cuStreamWaitEvent(gpu->kernels, gpu->returned, 0);
  if (result != CUDA_SUCCESS) return result;
  return gb_real.cuStreamWriteValue32_v2(gpu->kernels, word(offsetof(struct words, copied)), number,
                                         0);
}

bool gb_stage_submit(struct gb_switch *work) {
  struct gpu *gpu = &gpus[gb_arena_device_index(work->device)];
  uint32_t number = atomic_load(&epoch) + 1;
  mark_count = 0;
  CUresult result = gb_contexts_mark(marks, &mark_count);
  if (result == CUDA_SUCCESS) result = gb_context_push(gpu->context);
  if (result != CUDA_SUCCESS) {
    gpu->refused = true;
    gb_event(GB_LOG_WARN, result, "staging_refused",
             "the driver does not mark a context: overflow is read in place");
    return false;
  }
  result = submit_all(gpu, work, number);
  gb_context_pop();
  if (result != CUDA_SUCCESS) {
    /* What was submitted before the refusal runs harmlessly: frames nobody maps, and a cancelled
     * write-back. */
    gb_stage_go(number, true);
    atomic_store(&words->opened, number);
    atomic_store(&epoch, number);
    gpu->refused = true;
    gb_event(GB_LOG_WARN, result, "staging_refused",
             "the driver refuses a switch: overflow is read in place from here on");
    return false;
  }
  work->epoch = number;
  atomic_store(&epoch, number);
  return true;
}

int gb_stage_marked(void) {
  for (uint32_t i = 0; i < mark_count; i++) {
    CUresult result = gb_real.cuEventQuery(marks[i]);
    if (result == CUDA_ERROR_NOT_READY) return 0;
    if (result != CUDA_SUCCESS) return -1;
  }
  return 1;
}

void gb_stage_go(uint32_t number, bool cancelled) {
  if (cancelled) atomic_store(&words->cancelled, number);
  atomic_store(&words->go, number);
}

int gb_stage_copied(const struct gb_switch *work) {
  if ((int32_t)(atomic_load(&words->copied) - work->epoch) >= 0) return 1;
  CUresult result = gb_real.cuStreamQuery(gpus[gb_arena_device_index(work->device)].kernels);
  return result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY ? 0 : -1;
}

void gb_stage_open(uint32_t number) {
  atomic_store(&words->opened, number);
}

uint32_t gb_stage_opened(void) {
  return words == NULL ? 0 : atomic_load(&words->opened);
}

uint64_t gb_stage_written(uint32_t slot) {
  return atomic_exchange(&words->written[slot - 1], 0);
}

/* ---- the program's streams ---- */

static CUresult wait_here(uint32_t number) {
  uint64_t until = gb_now_ns() + GB_STAGE_WAIT_NS;
  while ((int32_t)(gb_stage_opened() - number) < 0) {
    if (gb_now_ns() >= until) return CUDA_ERROR_TIMEOUT;
    gb_sleep_ns(5000);
  }
  return CUDA_SUCCESS;
}

static size_t place_of(CUstream stream) {
  return (size_t)(((uintptr_t)stream * 0x9e3779b97f4a7c15ull) >> 56) % JOINED;
}

/* The named default streams are one for each context or thread: always waited for again. */
static bool is_shared_name(CUstream stream) {
  return stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD;
}

/* Whether more than one stream got work since the last switch. */
static _Atomic uintptr_t only_stream;
static _Atomic bool several_streams;

static void note_stream(CUstream stream) {
  uintptr_t name = (uintptr_t)stream;
  uintptr_t only = atomic_load_explicit(&only_stream, memory_order_relaxed);
  if (only == name || stream == GB_STREAM_SYNC) return;
  if (only != 0 || !atomic_compare_exchange_strong(&only_stream, &only, name))
    several_streams = true;
}

bool gb_stage_take_several(void) {
  only_stream = 0;
  return atomic_exchange(&several_streams, false);
}

CUresult gb_stage_join(CUstream stream) {
  note_stream(stream);
  uint32_t number = atomic_load_explicit(&epoch, memory_order_acquire);
  if (words == NULL || (int32_t)(gb_stage_opened() - number) >= 0) return CUDA_SUCCESS;
  if (stream == GB_STREAM_SYNC) return wait_here(number);
  size_t place = place_of(stream);
  bool shared = is_shared_name(stream);
  if (!shared && atomic_load(&joined[place].stream) == (uintptr_t)stream &&
      atomic_load(&joined[place].epoch) == number)
    return CUDA_SUCCESS;
  CUresult result =
      gb_real.cuStreamWaitValue32_v2(stream, word(offsetof(struct words, opened)), number, 0);
  if (result != CUDA_SUCCESS) return wait_here(number);
  if (!shared) {
    /* Another stream of the same place is forgotten first: no reader may see its name beside this
     * epoch. */
    atomic_store(&joined[place].stream, 0);
    atomic_store(&joined[place].epoch, number);
    atomic_store(&joined[place].stream, (uintptr_t)stream);
  }
  return CUDA_SUCCESS;
}

void gb_stage_stream_going(CUstream stream) {
  uintptr_t known = (uintptr_t)stream;
  atomic_compare_exchange_strong(&joined[place_of(stream)].stream, &known, 0);
}
