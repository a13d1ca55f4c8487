/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices.h: GPUs of feeders as further CUDA devices (docs/adr/0014-devices-mode.md). Wrappers ask whether a call is
 * about one, by its ordinal, the current context, a stream or an address, and have it made there; otherwise it goes the
 * way it always went.
 *
 *   known (cuInit) --first context--> open: a lease, a lane, a first range --what the lane fails with--> lost
 *
 * Any thread. Locks: each device's own, in which the agent may be waited for; no other lock of ours is taken in them
 * but the queue's, the client's and the log's.
 */
#ifndef GB_DEVICES_H
#define GB_DEVICES_H

#include "core.h"
#include "run.h"

struct gb_device;

/* Once, after HELLO: asks the agent for the devices. Their number never changes afterwards. */
void gb_devices_start(void);
/* In a forked child. */
void gb_devices_forked(void);

extern _Atomic uint32_t gb_devices_count; /* 0: the mode is off */
static inline bool gb_devices_on(void) {
  return __builtin_expect(atomic_load_explicit(&gb_devices_count, memory_order_relaxed) != 0, 0);
}

/* ---- which device a call is about; NULL: none of these ---- */

struct gb_device *gb_devices_current_slow(void);
static inline struct gb_device *gb_devices_current(void) {
  return gb_devices_on() ? gb_devices_current_slow() : NULL;
}
struct gb_device *gb_devices_by_ordinal(CUdevice ordinal);
struct gb_device *gb_devices_of_context(CUcontext context); /* NULL: the current one */
struct gb_device *gb_devices_of_stream(CUstream stream);    /* NULL and the like: the current context's */
struct gb_device *gb_devices_of_event(CUevent event);

/* The windows of all devices, side by side behind ours. */
extern uint64_t gb_devices_base_address;
extern uint64_t gb_devices_size_bytes;
static inline bool gb_devices_owns(CUdeviceptr pointer) {
  return (uint64_t)pointer - gb_devices_base_address < gb_devices_size_bytes;
}

/* Returns the call's result when its device is one of these. */
#define GB_ON_DEVICE(which, call)                         \
  do {                                                    \
    struct gb_device *device = gb_devices_on() ? (which) : NULL; \
    if (__builtin_expect(device != NULL, 0)) return (call); \
  } while (0)
#define GB_ON_CURRENT_DEVICE(call) GB_ON_DEVICE(gb_devices_current_slow(), call)
/* What these devices do not do; once for each place, one line says what to do. */
#define GB_NOT_ON_DEVICE(error, text) \
  GB_ON_CURRENT_DEVICE(GB_REFUSE(error, "device_refused", "%s: %s", gb_device_feeder(device), text))

/* ---- what it is ---- */

/* All devices, the driver's included; the driver's come first. */
int gb_devices_ordinals(void);
const char *gb_device_feeder(const struct gb_device *device);
const char *gb_device_name(const struct gb_device *device);
CUdevice gb_device_ordinal(const struct gb_device *device);
/* The local GPU whose contexts stand for it. */
CUdevice gb_device_backing(const struct gb_device *device);
CUuuid gb_device_uuid(const struct gb_device *device);
uint64_t gb_device_total_bytes(const struct gb_device *device);
/* Its PCI address: one that no card has. */
void gb_device_pci(const struct gb_device *device, unsigned *domain, unsigned *bus);
CUresult gb_device_attribute(const struct gb_device *device, CUdevice_attribute attribute, int *value);
/* For code.h: whose variables are its. */
uint32_t gb_device_group(const struct gb_device *device);
/* The group of a module that is loaded now. returns: false: its code runs here only. */
bool gb_devices_code_group(uint32_t *group);

/* ---- contexts; real ones on the local GPU ---- */

CUresult gb_device_context_create(struct gb_device *device, CUcontext *context, unsigned flags);
/* pre: of the device. Frees what was allocated in it. */
CUresult gb_device_context_destroy(struct gb_device *device, CUcontext context);
CUresult gb_device_primary_retain(struct gb_device *device, CUcontext *context);
CUresult gb_device_primary_release(struct gb_device *device);
CUresult gb_device_primary_reset(struct gb_device *device);
CUresult gb_device_primary_flags(struct gb_device *device, unsigned flags);
CUresult gb_device_primary_state(struct gb_device *device, unsigned *flags, int *active);

/* Events of its contexts. */
void gb_devices_event_created(CUevent event);
void gb_devices_event_going(CUevent event);

/* ---- memory (devices_memory.c) ---- */

CUresult gb_device_alloc(struct gb_device *device, CUdeviceptr *pointer, size_t bytes);
CUresult gb_device_alloc_pitch(struct gb_device *device, CUdeviceptr *pointer, size_t *pitch, size_t width_bytes,
                               size_t height, unsigned element_bytes);
CUresult gb_device_memory(struct gb_device *device, size_t *free_bytes, size_t *total_bytes);
/* pre of these: gb_devices_owns(pointer). As the driver's functions. */
CUresult gb_devices_free(CUdeviceptr pointer);
CUresult gb_devices_address_range(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer);
CUresult gb_devices_pointer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer);

/* ---- work (devices_work.c) ---- */

CUresult gb_device_launch(struct gb_device *device, const struct gb_run_request *launch);
/* A copy or fill that has to do with one of these devices: its memory, its streams with local memory of ours, or a
 * variable of its code. stream: GB_STREAM_SYNC blocks the caller. returns: false: it has not. */
bool gb_devices_copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream, CUresult *result);
bool gb_devices_fill(const struct gb_run_fill *fill, CUdeviceptr to, CUstream stream, CUresult *result);
struct gb_box_side {
  CUdeviceptr base; /* of the first byte; a host pointer as it is */
  uint64_t pitch;   /* from row to row */
  uint64_t slice;   /* from layer to layer, in bytes */
};
/* The same for rows of a box. */
bool gb_devices_copy_box(const struct gb_box_side *to, const struct gb_box_side *from, uint64_t width, uint64_t height,
                         uint64_t depth, CUstream stream, CUresult *result);

/* All that was submitted to it is done, or has failed. */
CUresult gb_device_wait(struct gb_device *device);
/* What comes next in the stream comes after the event, whatever devices they are of. Waits where it must. */
void gb_devices_order(CUstream stream, CUevent event);

#endif
