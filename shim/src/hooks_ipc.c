/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_ipc.c: legacy CUDA IPC. Memory of the arena travels by handles of ours (ipc.h); everything
 * else, and every handle that does not carry our mark, is the driver's.
 */
#include "hooks.h"
#include "ipc.h"
#include "refuse.h"

/* Whole allocations of the driver's own (a driver without an arena) are shared by the driver; host
 * memory that stands in for VRAM cannot be. */
GB_WRAP(cuIpcGetMemHandle, CUipcMemHandle *handle, CUdeviceptr pointer) {
  if (gb_owns(pointer)) return gb_ipc_export(handle, pointer);
  if (gb_ipc_is_drivers(pointer)) return real(handle, pointer);
  return GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "ipc_refused",
                   "memory that overflowed into RAM on this driver cannot be shared: raise --vram");
}

static CUresult open_handle(CUresult (*real)(CUdeviceptr *, CUipcMemHandle, unsigned),
                            CUdeviceptr *pointer, CUipcMemHandle handle, unsigned flags) {
  return gb_ipc_is_ours(&handle) ? gb_ipc_open(pointer, &handle, flags)
                                 : real(pointer, handle, flags);
}

GB_WRAP(cuIpcOpenMemHandle, CUdeviceptr *pointer, CUipcMemHandle handle, unsigned flags) {
  return open_handle(real, pointer, handle, flags);
}
GB_WRAP(cuIpcOpenMemHandle_v2, CUdeviceptr *pointer, CUipcMemHandle handle, unsigned flags) {
  return open_handle(real, pointer, handle, flags);
}

GB_WRAP(cuIpcCloseMemHandle, CUdeviceptr pointer) {
  CUresult result = CUDA_SUCCESS;
  return gb_ipc_close(pointer, &result) ? result : real(pointer);
}

#define GB_SECTIONS GB_SECTION_IPC
#include "hooks_define.h"
