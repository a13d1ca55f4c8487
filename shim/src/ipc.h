/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipc.h: legacy CUDA IPC for memory of the arena (docs/adr/0010).
 *
 *   ipc_export.c   makes an allocation one exportable handle, and the 64 bytes that name it
 *   ipc_server.c   hands descriptors to peers, by a thread that calls no CUDA function
 *   ipc_open.c     the peer's side: asks, imports, maps, counts
 *
 * Any thread, no lock held, unless it says so.
 */
#ifndef GB_IPC_H
#define GB_IPC_H

#include "core.h"

/* Named limits. */
#define GB_IPC_EXPORTS_MAX 512u  /* descriptors kept open */
#define GB_IPC_OPENS_MAX 4096u   /* mappings of peers' memory */
#define GB_IPC_CONNECTIONS_MAX 16u
#define GB_IPC_SERVE_NS (2ull * 1000000000) /* a connection that says nothing is closed */
#define GB_IPC_ASK_NS (10ull * 1000000000)  /* a peer waits for its answer */
#define GB_IPC_ROOM_NS (3ull * 1000000000)  /* for VRAM that others have to leave */

/* ---- exporting ---- */

/* Memory that the driver shares by itself: not the shim's, or a whole one of the driver's. */
bool gb_ipc_is_drivers(CUdeviceptr pointer);
/* The memory could be exported at this moment. */
bool gb_ipc_capable(CUdeviceptr pointer);
/* cuIpcGetMemHandle. pre: gb_owns(pointer); an interior pointer names its allocation. returns:
 * those of the driver's call, and CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED. Blocks for up to
 * GB_DRAIN_TOTAL_NS the first time. */
CUresult gb_ipc_export(CUipcMemHandle *handle, CUdeviceptr pointer);
/* An export is being made: chunks may have to leave VRAM although nothing overflows. */
bool gb_ipc_exporting(void);
/* Waits for a move under way. pre: gb_live_captures is raised, so that none begins. */
void gb_ipc_settle_for_capture(void);
/* The memory behind this span is given back. pre: gb_lock. */
void gb_ipc_forget(uint64_t span_base);

/* ---- opening ---- */

/* Made by a shim, whole or not. */
bool gb_ipc_is_ours(const CUipcMemHandle *handle);
/* cuIpcOpenMemHandle. pre: gb_ipc_is_ours. */
CUresult gb_ipc_open(CUdeviceptr *pointer, const CUipcMemHandle *handle, unsigned flags);
/* cuIpcCloseMemHandle. returns: false when the pointer is not one that gb_ipc_open gave; else the
 * call's answer is in *result. */
bool gb_ipc_close(CUdeviceptr pointer, CUresult *result);

/* Memory of a peer that holds the pointer. */
struct gb_ipc_range {
  CUdeviceptr base;
  uint64_t bytes;
  CUcontext context;
};
bool gb_ipc_find_slow(CUdeviceptr pointer, struct gb_ipc_range *range);
extern _Atomic uint32_t gb_ipc_open_count;
static inline bool gb_ipc_find(CUdeviceptr pointer, struct gb_ipc_range *range) {
  return atomic_load_explicit(&gb_ipc_open_count, memory_order_acquire) != 0 &&
         gb_ipc_find_slow(pointer, range);
}
/* Unmaps what the context has open. pre: it is current and idle. */
void gb_ipc_context_going(CUcontext context);

/* ---- life ---- */

/* At exit: the thread ends, the sockets close. */
void gb_ipc_stop(void);
/* In a forked child: closes what is the parent's. Takes no lock. */
void gb_ipc_forked(void);

#endif
