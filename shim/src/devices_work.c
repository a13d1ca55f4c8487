/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices_work.c: launches, copies and fills on a feeder's device, and the order between devices.
 *
 * What is submitted to one device runs in that order. Where another device comes in, the calling thread waits: for a
 * stream or an event of the local GPU's, or for everything that was submitted to a feeder. Bytes between two devices go
 * through memory of ours.
 */
#include <stdlib.h>

#include "arena.h"
#include "code.h"
#include "devices_part.h"
#include "hooks.h"
#include "refuse.h"
#include "report.h"

/* A copy that does not stay on one machine is cut into these. */
#define PART_BYTES (8ull << 20)

static uint64_t offset_of(CUdeviceptr address) {
  return address - gb_arena_base_address;
}

/* ---- waiting ---- */

static const char *advice_of(CUresult error) {
  switch ((int)error) {
  case CUDA_ERROR_ILLEGAL_ADDRESS:
    return "a kernel touched memory that is not the device's own: copy to it what other devices and the host hold";
  case CUDA_ERROR_EXTERNAL_DEVICE: return "the feeder is gone with what it held: start the program again";
  default: return "nothing more is executed there";
  }
}

/* What the device has failed with stays with it. */
static CUresult checked(const struct gb_device *device, CUresult result) {
  static _Atomic uint32_t told;
  uint32_t bit = 1u << (device - gb_devices_all);
  if (result == CUDA_SUCCESS || (atomic_fetch_or(&told, bit) & bit) != 0) return result;
  char feeder[64] = "";
  char function[128] = "";
  gb_run_error(feeder, function);
  gb_event(GB_LOG_ERROR, result, "device_failed", "device %d, feeder %.60s%s%.80s: %s", device->ordinal, device->feeder,
           function[0] != '\0' ? ", in " : "", function, advice_of(result));
  return result;
}

CUresult gb_device_wait(struct gb_device *device) {
  uint32_t lane = gb_device_lane(device);
  return lane == 0 ? CUDA_SUCCESS : checked(device, gb_run_sync(lane));
}

/* What the stream was given before this copy is done, or is before it in the queue of one of these two. */
static CUresult wait_for_stream(CUstream stream, const struct gb_device *one, const struct gb_device *other) {
  struct gb_device *device = gb_devices_of_stream(stream);
  if (device != NULL) return device == one || device == other ? CUDA_SUCCESS : gb_device_wait(device);
  return gb_real.cuStreamSynchronize(stream == GB_STREAM_SYNC ? CU_STREAM_LEGACY : stream);
}

/* ---- events ---- */

#define EVENT_BUCKETS 4096u

struct event {
  struct event *next;
  CUevent handle;
  struct gb_device *device;
};

static struct event *events[EVENT_BUCKETS];
static pthread_mutex_t events_lock = PTHREAD_MUTEX_INITIALIZER;

static struct event **bucket_of(CUevent event) {
  return &events[((uint64_t)(uintptr_t)event * 0x9e3779b97f4a7c15ull) >> 52];
}

void gb_devices_event_created(CUevent event) {
  struct gb_device *device = gb_devices_current();
  struct event *entry = device != NULL ? malloc(sizeof *entry) : NULL;
  if (entry == NULL) return;
  pthread_mutex_lock(&events_lock);
  struct event **bucket = bucket_of(event);
  *entry = (struct event){*bucket, event, device};
  *bucket = entry;
  pthread_mutex_unlock(&events_lock);
}

void gb_devices_event_going(CUevent event) {
  if (!gb_devices_on()) return;
  pthread_mutex_lock(&events_lock);
  for (struct event **at = bucket_of(event); *at != NULL; at = &(*at)->next) {
    struct event *entry = *at;
    if (entry->handle != event) continue;
    *at = entry->next;
    free(entry);
    break;
  }
  pthread_mutex_unlock(&events_lock);
}

struct gb_device *gb_devices_of_event(CUevent event) {
  struct gb_device *device = NULL;
  pthread_mutex_lock(&events_lock);
  for (const struct event *entry = *bucket_of(event); entry != NULL && device == NULL; entry = entry->next) {
    if (entry->handle == event) device = entry->device;
  }
  pthread_mutex_unlock(&events_lock);
  return device;
}

void gb_devices_order(CUstream stream, CUevent event) {
  struct gb_device *waits = gb_devices_of_stream(stream);
  struct gb_device *records = gb_devices_of_event(event);
  if (waits == records) return;
  if (records != NULL)
    (void)gb_device_wait(records); /* its own calls tell what it failed with */
  else
    (void)gb_real.cuEventSynchronize(event);
}

/* ---- launches ---- */

static bool fits(const struct gb_device *device, CUdevice_attribute attribute, uint64_t value) {
  int limit = 0;
  return gb_device_attribute(device, attribute, &limit) == CUDA_SUCCESS && value <= (uint64_t)limit;
}

/* What the driver would say at once; later it would be the end of the queue. */
static bool is_launchable(const struct gb_device *device, const struct gb_run_request *launch) {
  uint64_t threads = (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
  bool whole = threads != 0 && launch->grid[0] != 0 && launch->grid[1] != 0 && launch->grid[2] != 0;
  return whole && launch->block[0] <= 1024 && launch->block[1] <= 1024 && launch->block[2] <= 64 && threads <= 1024 &&
         launch->grid[1] <= 65535 && launch->grid[2] <= 65535 &&
         fits(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, launch->shared_bytes);
}

static CUresult refused(const struct gb_device *device, CUfunction function) {
  const struct gb_code *code = gb_code_of(function);
  return GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "device_launch_refused",
                   "feeder %s does not run %.80s: %s; run this part on another device", device->feeder,
                   code != NULL ? code->name : "a kernel",
                   code != NULL ? "its GPU or an attribute of the launch is the reason"
                                : "its image, name or parameters are not known");
}

CUresult gb_device_launch(struct gb_device *device, const struct gb_run_request *launch) {
  uint32_t lane = gb_device_lane(device);
  if (launch->function == NULL) return CUDA_ERROR_INVALID_HANDLE;
  if (!is_launchable(device, launch)) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = gb_run_prepare(lane, launch);
  if (result == CUDA_SUCCESS) result = gb_run_launch(lane, launch);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return refused(device, launch->function);
  if (result != CUDA_SUCCESS) return checked(device, result);
  gb_count(&gb_counters.launches);
  gb_report_add(GB_COUNT_DISPATCHED, 1);
  return CUDA_SUCCESS;
}

/* ---- one part of a copy ---- */

/* Memory that is not ours: the CPU's, unless the driver says otherwise. */
static bool is_host(CUdeviceptr address) {
  unsigned type = 0;
  if (gb_owns(address)) return false;
  return gb_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) != CUDA_SUCCESS ||
         type == CU_MEMORYTYPE_HOST;
}

static CUcontext context_of(CUdeviceptr address) {
  CUcontext context = NULL;
  if (gb_answers(address))
    gb_pointer_attribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, address);
  else
    gb_real.cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, address);
  return context;
}

/* Between host memory and local device memory, in that memory's own context; done when it returns. */
static CUresult move_here(CUdeviceptr address, void *host, uint64_t bytes, bool out) {
  const struct gb_operand operand = {address, bytes};
  CUcontext context = context_of(address);
  CUcontext popped;
  bool slow;
  CUresult result = context != NULL ? gb_real.cuCtxPushCurrent_v2(context) : CUDA_SUCCESS;
  if (result != CUDA_SUCCESS) return result;
  result = gb_begin_copy(&operand, 1, GB_STREAM_SYNC, &slow);
  if (result == CUDA_SUCCESS) {
    result = out ? gb_real.cuMemcpyHtoD_v2(address, host, bytes) : gb_real.cuMemcpyDtoH_v2(host, address, bytes);
    gb_end(slow);
  }
  if (context != NULL) gb_real.cuCtxPopCurrent_v2(&popped);
  return result;
}

/* Between host memory and a device, whichever. */
static CUresult move(struct gb_device *device, CUdeviceptr address, void *host, uint64_t bytes, bool out) {
  if (device == NULL) return move_here(address, host, bytes, out);
  uint32_t lane = gb_device_lane(device);
  return checked(device, out ? gb_run_write(lane, offset_of(address), host, bytes, false)
                             : gb_run_read(lane, offset_of(address), host, bytes));
}

/* ---- copies ---- */

static CUresult copy_between(struct gb_device *target, CUdeviceptr to, struct gb_device *source, CUdeviceptr from,
                             uint64_t bytes) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static unsigned char *memory; /* kept: such copies come again and again */
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&lock);
  if (memory == NULL) memory = malloc(PART_BYTES);
  if (memory == NULL) result = CUDA_ERROR_OUT_OF_MEMORY;
  for (uint64_t at = 0; at < bytes && result == CUDA_SUCCESS; at += PART_BYTES) {
    uint64_t part = bytes - at < PART_BYTES ? bytes - at : PART_BYTES;
    result = move(source, from + at, memory, part, false);
    if (result == CUDA_SUCCESS) result = move(target, to + at, memory, part, true);
  }
  pthread_mutex_unlock(&lock);
  return result;
}

/* pre: one of the two is a feeder's. */
static CUresult copy_there(struct gb_device *target, CUdeviceptr to, struct gb_device *source, CUdeviceptr from,
                           uint64_t bytes, CUstream stream) {
  if (target != NULL && !gb_device_holds(target, to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (source != NULL && !gb_device_holds(source, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = wait_for_stream(stream, target, source);
  if (result != CUDA_SUCCESS) return result;
  if (target == source)
    return checked(target, gb_run_copy(gb_device_lane(target), offset_of(to), offset_of(from), bytes));
  if (source == NULL && is_host(from)) return move(target, to, (void *)(uintptr_t)from, bytes, true);
  if (target == NULL && is_host(to)) return move(source, from, (void *)(uintptr_t)to, bytes, false);
  return copy_between(target, to, source, from, bytes);
}

/* A call on a stream of a feeder's device that is about local memory of ours only: drains do not know that stream, so
 * the copy is made and done at once. returns: false: it is not that. */
static bool copy_here(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream, CUresult *result) {
  if (!gb_owns(to) && !gb_owns(from)) return false;
  struct gb_device *device = gb_devices_of_stream(stream);
  if (device == NULL) return false;
  *result = gb_device_wait(device);
  if (*result != CUDA_SUCCESS) return true;
  if (is_host(from))
    *result = move_here(to, (void *)(uintptr_t)from, bytes, true);
  else if (is_host(to))
    *result = move_here(from, (void *)(uintptr_t)to, bytes, false);
  else
    *result = copy_between(NULL, to, NULL, from, bytes);
  return true;
}

/* A variable of a module: the one the program has an address of is the local context's, and not used. */
static bool copy_variable(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream, CUresult *result) {
  struct gb_code_symbol symbol;
  bool read = !gb_owns(from) && gb_code_symbol_at(from, &symbol);
  if (!read && (gb_owns(to) || !gb_code_symbol_at(to, &symbol))) return false;
  if (symbol.group == GB_CODE_ANY || symbol.group > gb_devices_count) return false;
  struct gb_device *device = gb_devices_at(symbol.group - 1);
  if (read || !is_host(from)) {
    *result = GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "device_variable_refused",
                        "a variable of a module on feeder %s is read, or written from device memory: have a kernel "
                        "copy it to or from memory of cudaMalloc", device->feeder);
    return true;
  }
  *result = wait_for_stream(stream, device, NULL);
  if (*result == CUDA_SUCCESS)
    *result = checked(device, gb_run_symbol(gb_device_lane(device), &symbol, (const void *)(uintptr_t)from, bytes));
  return true;
}

static bool is_recording(CUstream stream) {
  return stream != GB_STREAM_SYNC && gb_recording(stream, false);
}

static CUresult refuse_capture(void) {
  return GB_REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "device_capture_refused",
                   "a stream capture names memory of a feeder's device: run that device without CUDA graphs");
}

bool gb_devices_copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream, CUresult *result) {
  bool there = gb_devices_owns(to) || gb_devices_owns(from);
  if (bytes == 0) return false;
  if (is_recording(stream)) {
    if (there) *result = refuse_capture();
    return there;
  }
  if (!there)
    return copy_variable(to, from, bytes, stream, result) || copy_here(to, from, bytes, stream, result);
  struct gb_device *target = gb_devices_owns(to) ? gb_devices_of_address(to) : NULL;
  struct gb_device *source = gb_devices_owns(from) ? gb_devices_of_address(from) : NULL;
  gb_count(&gb_counters.copies);
  if ((gb_devices_owns(to) && target == NULL) || (gb_devices_owns(from) && source == NULL))
    *result = CUDA_ERROR_INVALID_VALUE;
  else
    *result = copy_there(target, to, source, from, bytes, stream);
  return true;
}

bool gb_devices_copy_box(const struct gb_box_side *to, const struct gb_box_side *from, uint64_t width, uint64_t height,
                         uint64_t depth, CUstream stream, CUresult *result) {
  if (width == 0 || height == 0 || depth == 0 || to->base == 0 || from->base == 0) return false;
  /* Rows without gaps are one. */
  if (height > 1 && to->pitch == width && from->pitch == width && depth == 1)
    return gb_devices_copy(to->base, from->base, width * height, stream, result);
  for (uint64_t z = 0; z < depth; z++) {
    for (uint64_t y = 0; y < height; y++) {
      CUdeviceptr row = to->base + z * to->slice + y * to->pitch;
      if (!gb_devices_copy(row, from->base + z * from->slice + y * from->pitch, width, stream, result)) return false;
      if (*result != CUDA_SUCCESS) return true;
    }
  }
  return true;
}

/* ---- fills ---- */

bool gb_devices_fill(const struct gb_run_fill *fill, CUdeviceptr to, CUstream stream, CUresult *result) {
  struct gb_device *device = gb_devices_owns(to) ? gb_devices_of_address(to) : NULL;
  uint64_t width = fill->width * fill->element_bytes;
  if (!gb_devices_owns(to) || width == 0 || fill->height == 0) return false;
  uint64_t span = (fill->height - 1) * fill->pitch + width;
  bool fits_pitch = fill->height == 1 || (fill->pitch >= width && fill->pitch <= UINT64_MAX / fill->height);
  *result = CUDA_ERROR_INVALID_VALUE;
  if (is_recording(stream)) *result = refuse_capture();
  if (is_recording(stream) || device == NULL || !fits_pitch || to % fill->element_bytes != 0 ||
      !gb_device_holds(device, to, span))
    return true;
  gb_count(&gb_counters.copies);
  *result = wait_for_stream(stream, device, NULL);
  if (*result != CUDA_SUCCESS) return true;
  struct gb_run_fill there = *fill;
  there.offset = offset_of(to);
  *result = checked(device, gb_run_fill(gb_device_lane(device), &there));
  return true;
}
