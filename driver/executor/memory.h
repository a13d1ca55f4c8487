/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h: the arena, and the bytes behind allocated ranges.
 *
 * RAM without a GPU is anonymous memory at its arena address. With GPUs the whole arena belongs to the driver: RAM is
 * HOST_NUMA chunks that GPU and CPU see at the same address, or, where the driver cannot do that, anonymous memory
 * elsewhere; VRAM is device chunks.
 * locks: nothing here locks except what ram.h says; one entry is only ever touched by one thread, save for
 * copies, which may overlap.
 */
#ifndef GBX_MEMORY_H
#define GBX_MEMORY_H

#include "driver.h"
#include "ram.h"
#include "ranges.h"

struct gbx_memory {
  struct gbx_driver driver; /* loaded when gpu_count > 0 */
  uint32_t gpu_count;
  CUdevice devices[GBX_GPUS_MAX];
  CUcontext contexts[GBX_GPUS_MAX];
  uint32_t peers; /* bit i: GPU 0 reaches the memory of GPU i, itself included */
  bool host_numa;
  int numa_node;
  uint64_t arena_base;
  uint64_t arena_bytes;
  struct gbx_ram ram;
};

/* What copies of one thread, or of one buffer, run on: a stream on each GPU, made when first needed. */
struct gbx_streams {
  CUstream of[GBX_GPUS_MAX];
  uint32_t busy; /* bit i: something was started on of[i] and not waited for */
};

struct gbx_result {
  enum gbx_status_code status;
  int32_t detail; /* errno or CUresult */
};

/* Reserves the arena, loads the driver if the request names GPUs. pre: init->version is ours.
 * post: on failure the process keeps nothing but a loaded driver. */
struct gbx_result gbx_memory_open(struct gbx_memory *memory, const struct gbx_init *init);

/* Backs a claimed entry with zeroed memory. post: on failure nothing of it is left. */
struct gbx_result gbx_memory_map(struct gbx_memory *memory, struct gbx_streams *streams, struct gbx_entry *entry);

/* Scrubs and gives back what backs the entry. */
struct gbx_result gbx_memory_unmap(struct gbx_memory *memory, struct gbx_streams *streams, struct gbx_entry *entry);

/* Fills what backs the entry with zeroes, and waits for that. */
struct gbx_result gbx_memory_scrub(struct gbx_memory *memory, struct gbx_streams *streams,
                                   const struct gbx_entry *entry);

/* Starts a copy between `host` and an entry. pre: the span is inside; both stay valid until gbx_memory_wait. */
struct gbx_result gbx_memory_copy(struct gbx_memory *memory, struct gbx_streams *streams, const struct gbx_entry *entry,
                                  uint64_t entry_offset, void *host, uint64_t length, bool to_host);

/* Waits for every copy that was started on `streams`. returns: how the worst of them ended. */
struct gbx_result gbx_memory_wait(struct gbx_memory *memory, struct gbx_streams *streams);

/* Memory that copies from and to VRAM are fast with, or plain memory where there is no GPU. NULL: there is none. */
void *gbx_memory_pinned(struct gbx_memory *memory, uint64_t bytes);

/* True when kernels of GPU 0 reach the bytes of a mapped entry at their address in the arena. */
bool gbx_memory_is_reached(const struct gbx_memory *memory, const struct gbx_entry *entry);

/* True for what a context that has met it answers for ever: faults of kernels and of the hardware. */
bool gbx_is_fatal(int cuda_error);

/* Ends the process, and with it this attachment alone, when after this result no call on the GPU can succeed. Where
 * somebody has asked for it by gbx_end_by, it is told instead, ends the process soon, and the caller goes on. */
void gbx_end_if_fatal(struct gbx_result result);
void gbx_end_by(void (*end)(void *context, int cuda_error), void *context);

#endif
