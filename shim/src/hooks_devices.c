/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_devices.c: what devices there are, and the order between them. Feeders' GPUs may be among them (devices.h);
 * everything else passes.
 */
#include <stdio.h>
#include <string.h>

#include "devices.h"
#include "hooks.h"
#include "refuse.h"

#define GB_BY_ORDINAL(call) GB_ON_DEVICE(gb_devices_by_ordinal(ordinal), call)

/* ---- how many, which ---- */

GB_WRAP(cuDeviceGetCount, int *count) {
  CUresult result = real(count);
  if (result == CUDA_SUCCESS && gb_devices_on()) *count = gb_devices_ordinals();
  return result;
}
GB_WRAP(cuDeviceGet, CUdevice *device, int ordinal) {
  if (device == NULL || !gb_devices_on() || gb_devices_by_ordinal(ordinal) == NULL) return real(device, ordinal);
  *device = ordinal;
  return CUDA_SUCCESS;
}

/* ---- its name ---- */

static CUresult name_of(const struct gb_device *device, char *name, int bytes) {
  if (name == NULL || bytes <= 0) return CUDA_ERROR_INVALID_VALUE;
  snprintf(name, (size_t)bytes, "%s", gb_device_name(device));
  return CUDA_SUCCESS;
}
GB_WRAP(cuDeviceGetName, char *name, int bytes, CUdevice ordinal) {
  GB_BY_ORDINAL(name_of(device, name, bytes));
  return real(name, bytes, ordinal);
}

static CUresult uuid_of(const struct gb_device *device, CUuuid *uuid) {
  if (uuid == NULL) return CUDA_ERROR_INVALID_VALUE;
  *uuid = gb_device_uuid(device);
  return CUDA_SUCCESS;
}
GB_WRAP(cuDeviceGetUuid, CUuuid *uuid, CUdevice ordinal) {
  GB_BY_ORDINAL(uuid_of(device, uuid));
  return real(uuid, ordinal);
}
GB_WRAP(cuDeviceGetUuid_v2, CUuuid *uuid, CUdevice ordinal) {
  GB_BY_ORDINAL(uuid_of(device, uuid));
  return real(uuid, ordinal);
}
GB_WRAP(cuDeviceGetLuid, char *luid, unsigned *mask, CUdevice ordinal) {
  GB_BY_ORDINAL(((void)device, CUDA_ERROR_NOT_SUPPORTED));
  return real(luid, mask, ordinal);
}

static CUresult bus_of(const struct gb_device *device, char *text, int bytes) {
  unsigned domain;
  unsigned bus;
  if (text == NULL || bytes <= 0) return CUDA_ERROR_INVALID_VALUE;
  gb_device_pci(device, &domain, &bus);
  snprintf(text, (size_t)bytes, "%04X:%02X:00.0", domain, bus);
  return CUDA_SUCCESS;
}
GB_WRAP(cuDeviceGetPCIBusId, char *text, int bytes, CUdevice ordinal) {
  GB_BY_ORDINAL(bus_of(device, text, bytes));
  return real(text, bytes, ordinal);
}
GB_WRAP(cuDeviceGetByPCIBusId, CUdevice *found, const char *text) {
  unsigned wanted[2];
  unsigned is[2];
  bool read = gb_devices_on() && found != NULL && text != NULL && sscanf(text, "%x:%x:", &wanted[0], &wanted[1]) == 2;
  for (CUdevice ordinal = 0; read && ordinal < gb_devices_ordinals(); ordinal++) {
    const struct gb_device *device = gb_devices_by_ordinal(ordinal);
    if (device == NULL) continue;
    gb_device_pci(device, &is[0], &is[1]);
    if (memcmp(wanted, is, sizeof is) != 0) continue;
    *found = ordinal;
    return CUDA_SUCCESS;
  }
  return real(found, text);
}

/* ---- its properties ---- */

static CUresult capability_of(const struct gb_device *device, int *major, int *minor) {
  CUresult result = gb_device_attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, major);
  if (result != CUDA_SUCCESS) return result;
  return gb_device_attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, minor);
}
GB_WRAP(cuDeviceComputeCapability, int *major, int *minor, CUdevice ordinal) {
  GB_BY_ORDINAL(capability_of(device, major, minor));
  return real(major, minor, ordinal);
}
GB_WRAP(cuDeviceGetTexture1DLinearMaxWidth, size_t *width, CUarray_format format, unsigned channels,
        CUdevice ordinal) {
  GB_BY_ORDINAL(real(width, format, channels, gb_device_backing(device)));
  return real(width, format, channels, ordinal);
}
GB_WRAP(cuKernelGetAttribute, int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice ordinal) {
  GB_BY_ORDINAL(real(value, attribute, kernel, gb_device_backing(device)));
  return real(value, attribute, kernel, ordinal);
}

/* Pools are the driver's. */
#define GB_NO_POOL                                                                              \
  GB_BY_ORDINAL(GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "device_refused",                           \
                          "%s: memory pools: use cudaMalloc, or cudaMallocAsync without a pool", \
                          gb_device_feeder(device)))
GB_WRAP(cuDeviceGetDefaultMemPool, CUmemoryPool *pool, CUdevice ordinal) {
  GB_NO_POOL;
  return real(pool, ordinal);
}
GB_WRAP(cuDeviceGetMemPool, CUmemoryPool *pool, CUdevice ordinal) {
  GB_NO_POOL;
  return real(pool, ordinal);
}
GB_WRAP(cuDeviceSetMemPool, CUdevice ordinal, CUmemoryPool pool) {
  GB_NO_POOL;
  return real(ordinal, pool);
}

/* ---- peers: copies work, other accesses do not ---- */

/* A device of a feeder's is one of the two. */
static bool is_far(CUdevice one, CUdevice other) {
  return gb_devices_on() && (gb_devices_by_ordinal(one) != NULL || gb_devices_by_ordinal(other) != NULL);
}
GB_WRAP(cuDeviceCanAccessPeer, int *can, CUdevice ordinal, CUdevice peer) {
  if (can == NULL || !is_far(ordinal, peer)) return real(can, ordinal, peer);
  *can = 0;
  return CUDA_SUCCESS;
}
GB_WRAP(cuDeviceGetP2PAttribute, int *value, CUdevice_P2PAttribute attribute, CUdevice ordinal, CUdevice peer) {
  if (value == NULL || !is_far(ordinal, peer)) return real(value, attribute, ordinal, peer);
  if (ordinal == peer) return CUDA_ERROR_INVALID_DEVICE;
  *value = 0;
  return CUDA_SUCCESS;
}

static bool is_far_context(CUcontext peer) {
  if (!gb_devices_on()) return false;
  return gb_devices_current_slow() != NULL || (peer != NULL && gb_devices_of_context(peer) != NULL);
}
GB_WRAP(cuCtxEnablePeerAccess, CUcontext peer, unsigned flags) {
  return is_far_context(peer) ? CUDA_ERROR_PEER_ACCESS_UNSUPPORTED : real(peer, flags);
}
GB_WRAP(cuCtxDisablePeerAccess, CUcontext peer) {
  return is_far_context(peer) ? CUDA_ERROR_PEER_ACCESS_NOT_ENABLED : real(peer);
}

/* ---- whose a context is ---- */

static CUresult told(CUresult result, CUdevice *ordinal, const struct gb_device *device) {
  if (result == CUDA_SUCCESS && device != NULL) *ordinal = gb_device_ordinal(device);
  return result;
}
GB_WRAP(cuCtxGetDevice, CUdevice *ordinal) {
  CUresult result = real(ordinal);
  return told(result, ordinal, gb_devices_current());
}
GB_WRAP(cuCtxGetDevice_v2, CUdevice *ordinal, CUcontext context) {
  CUresult result = real(ordinal, context);
  return gb_devices_on() ? told(result, ordinal, gb_devices_of_context(context)) : result;
}
GB_WRAP(cuStreamGetDevice, CUstream stream, CUdevice *ordinal) {
  CUresult result = real(stream, ordinal);
  return gb_devices_on() ? told(result, ordinal, gb_devices_of_stream(stream)) : result;
}
GB_WRAP(cuDevicePrimaryCtxGetState, CUdevice ordinal, unsigned *flags, int *active) {
  GB_BY_ORDINAL(gb_device_primary_state(device, flags, active));
  return real(ordinal, flags, active);
}
GB_WRAP(cuDevicePrimaryCtxSetFlags, CUdevice ordinal, unsigned flags) {
  GB_BY_ORDINAL(gb_device_primary_flags(device, flags));
  return real(ordinal, flags);
}
GB_WRAP(cuDevicePrimaryCtxSetFlags_v2, CUdevice ordinal, unsigned flags) {
  GB_BY_ORDINAL(gb_device_primary_flags(device, flags));
  return real(ordinal, flags);
}

/* ---- order between devices ---- */

GB_WRAP(cuStreamWaitEvent, CUstream stream, CUevent event, unsigned flags) {
  bool thread = real != gb_real.cuStreamWaitEvent;
  if (gb_devices_on() && !gb_recording(stream, thread)) gb_devices_order(gb_stream(stream, thread), event);
  return real(stream, event, flags);
}
GB_WRAP(cuEventDestroy, CUevent event) {
  gb_devices_event_going(event);
  return real(event);
}
GB_WRAP(cuEventDestroy_v2, CUevent event) {
  gb_devices_event_going(event);
  return real(event);
}

#define GB_SECTIONS GB_SECTION_DEVICE
#include "hooks_define.h"
