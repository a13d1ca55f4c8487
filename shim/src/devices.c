/* SPDX-License-Identifier: Apache-2.0 */
/* devices.c: the devices there are, what they say of themselves, and their contexts. */
#include "devices_part.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "client.h"
#include "code.h"
#include "config.h"

/* Domains of real cards have 16 bits, and start at 0. */
#define PCI_DOMAIN 0xfeedu
#define CONTEXTS_MAX 64u

_Atomic uint32_t gb_devices_count;
uint64_t gb_devices_base_address;
uint64_t gb_devices_size_bytes;
struct gb_device gb_devices_all[GB_ABI_DEVICES_MAX];

static int local_count;

/* Read without a lock; written under contexts_lock. */
static struct {
  _Atomic(CUcontext) handle;
  struct gb_device *device;
} contexts[CONTEXTS_MAX];
static _Atomic uint32_t contexts_end;
static pthread_mutex_t contexts_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- start ---- */

static uint32_t capability_of(CUdevice device) {
  int major = 0;
  int minor = 0;
  gb_real.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  gb_real.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  return (uint32_t)(major * 10 + minor);
}

/* A local GPU that can load what runs on the other: code for 8.6 loads on 8.9, not the other way round. */
static bool find_backing(uint32_t capability, CUdevice *backing) {
  for (int i = 0; i < gb_arena_device_count(); i++) {
    uint32_t local = capability_of(gb_arena_device(i));
    *backing = gb_arena_device(i);
    if (local / 10 == capability / 10 && local >= capability) return true;
  }
  return false;
}

static void add_device(uint32_t index, const struct gb_device_reply *reply) {
  uint32_t count = gb_devices_count;
  struct gb_device *device = &gb_devices_all[count];
  CUdevice backing = 0;
  if (!find_backing(reply->compute_capability, &backing)) {
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "device_left_out",
             "feeder %.60s is no device: no local GPU loads the code of its %.60s (compute capability %u.%u)",
             reply->feeder, reply->name, reply->compute_capability / 10, reply->compute_capability % 10);
    return;
  }
  device->ordinal = local_count + (int)count;
  device->backing = backing;
  device->index = index;
  device->window = gb_devices_base_address + count * gb_arena_remote_window_bytes();
  memcpy(device->feeder, reply->feeder, sizeof device->feeder);
  memcpy(device->name, reply->name, sizeof device->name);
  memcpy(device->uuid.bytes, reply->uuid, sizeof reply->uuid);
  device->total_bytes = reply->total_bytes;
  device->compute_capability = reply->compute_capability;
  memcpy(device->attributes, reply->attributes, sizeof device->attributes);
  pthread_mutex_init(&device->lock, NULL);
  pthread_rwlock_init(&device->blocks_lock, NULL);
  if (!gb_device_memory_start(device)) return;
  gb_log(GB_LOG_INFO, "device %d: %s of feeder %s", device->ordinal, device->name, device->feeder);
  atomic_store_explicit(&gb_devices_count, count + 1, memory_order_release);
}

void gb_devices_start(void) {
  if (!gb_config()->devices) return;
  if (gb_arena_size_bytes == 0 || (gb_client_features() & GB_FEATURE_DEVICES) == 0) {
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "devices_refused", "feeders are no devices: %s",
             gb_arena_size_bytes == 0 ? "there is no arena" : "no agent has agreed to --remote devices");
    return;
  }
  if (gb_real.cuDeviceGetCount(&local_count) != CUDA_SUCCESS || local_count == 0) return;
  gb_devices_base_address = gb_arena_base_address + gb_arena_size_bytes;
  gb_devices_size_bytes = gb_arena_remote_window_bytes() * GB_ABI_DEVICES_MAX;
  uint32_t count = 1;
  for (uint32_t i = 0; i < count && i < GB_ABI_DEVICES_MAX; i++) {
    struct gb_device_request request = {.index = i};
    struct gb_device_reply reply;
    if (gb_client_device(&request, &reply, GB_DEVICE_TIMEOUT_MS) != GB_STATUS_OK) break;
    count = reply.count;
    if (i < count) add_device(i, &reply);
  }
  if (gb_devices_count == 0)
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "devices_none",
             "no feeder is a device: connect one that lends a GPU with compute (greenboost connect)");
}

void gb_devices_forked(void) {
  atomic_store_explicit(&gb_devices_count, 0, memory_order_relaxed);
  gb_devices_size_bytes = 0;
}

/* ---- which ---- */

struct gb_device *gb_devices_of_context(CUcontext context) {
  uint32_t end = atomic_load_explicit(&contexts_end, memory_order_acquire);
  if (context == NULL && gb_real.cuCtxGetCurrent(&context) != CUDA_SUCCESS) return NULL;
  for (uint32_t i = 0; i < end && context != NULL; i++) {
    if (atomic_load_explicit(&contexts[i].handle, memory_order_acquire) == context) return contexts[i].device;
  }
  return NULL;
}

struct gb_device *gb_devices_current_slow(void) {
  return gb_devices_of_context(NULL);
}

struct gb_device *gb_devices_by_ordinal(CUdevice ordinal) {
  uint32_t index = (uint32_t)(ordinal - local_count);
  return ordinal >= local_count && index < gb_devices_count ? gb_devices_at(index) : NULL;
}

struct gb_device *gb_devices_of_stream(CUstream stream) {
  CUcontext context = NULL;
  bool named = stream != NULL && stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD &&
               stream != GB_STREAM_SYNC;
  if (named && gb_real.cuStreamGetCtx(stream, &context) != CUDA_SUCCESS) return NULL;
  return gb_devices_of_context(context);
}

struct gb_device *gb_devices_of_address(CUdeviceptr pointer) {
  uint64_t index = (pointer - gb_devices_base_address) / gb_arena_remote_window_bytes();
  return index < gb_devices_count ? gb_devices_at((uint32_t)index) : NULL;
}

/* ---- what it is ---- */

int gb_devices_ordinals(void) {
  return local_count + (int)gb_devices_count;
}
const char *gb_device_feeder(const struct gb_device *device) {
  return device->feeder;
}
const char *gb_device_name(const struct gb_device *device) {
  return device->name;
}
CUdevice gb_device_ordinal(const struct gb_device *device) {
  return device->ordinal;
}
CUdevice gb_device_backing(const struct gb_device *device) {
  return device->backing;
}
CUuuid gb_device_uuid(const struct gb_device *device) {
  return device->uuid;
}
uint64_t gb_device_total_bytes(const struct gb_device *device) {
  return device->total_bytes;
}
void gb_device_pci(const struct gb_device *device, unsigned *domain, unsigned *bus) {
  *domain = PCI_DOMAIN;
  *bus = (unsigned)(device - gb_devices_all) + 1;
}

/* These describe the processor, and are the feeder's; of all others it has none, or they are below. */
static bool is_of_processor(CUdevice_attribute attribute) {
  static const struct {
    int first, last;
  } runs[] = {
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT},
      {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH, CU_DEVICE_ATTRIBUTE_ECC_ENABLED},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT},
      {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE},
      {CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR},
      {CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO,
       CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR},
      {CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE},
      {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK},
      {CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH},
      {CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT, CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED},
  };
  for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
    if ((int)attribute >= runs[i].first && (int)attribute <= runs[i].last) return true;
  }
  return false;
}

CUresult gb_device_attribute(const struct gb_device *device, CUdevice_attribute attribute, int *value) {
  unsigned domain;
  unsigned bus;
  if (value == NULL || attribute <= 0) return CUDA_ERROR_INVALID_VALUE;
  int answer = 0;
  /* What no driver knows is asked of ours, which says so. */
  CUresult result = gb_real.cuDeviceGetAttribute(&answer, attribute, device->backing);
  if (result != CUDA_SUCCESS) return result;
  gb_device_pci(device, &domain, &bus);
  int told = (uint32_t)attribute < GB_ABI_ATTRIBUTES_MAX ? device->attributes[attribute] : GB_ABI_ATTRIBUTE_UNKNOWN;
  switch ((int)attribute) {
  case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID: *value = (int)domain; break;
  case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: *value = (int)bus; break;
  case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
  case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED: *value = answer; break;
  case CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID: *value = device->ordinal; break;
  case CU_DEVICE_ATTRIBUTE_NUMA_ID:
  case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID: *value = -1; break;
  default:
    *value = is_of_processor(attribute) ? (told != GB_ABI_ATTRIBUTE_UNKNOWN ? told : answer) : 0;
  }
  return CUDA_SUCCESS;
}

uint32_t gb_device_group(const struct gb_device *device) {
  return 1 + (uint32_t)(device - gb_devices_all);
}

bool gb_devices_code_group(uint32_t *group) {
  struct gb_device *device = gb_devices_current();
  *group = device != NULL ? gb_device_group(device) : GB_CODE_ANY;
  return device != NULL || !gb_devices_on();
}

/* ---- contexts ---- */

static bool enter_context(struct gb_device *device, CUcontext context) {
  bool entered = false;
  pthread_mutex_lock(&contexts_lock);
  for (uint32_t i = 0; i < CONTEXTS_MAX && !entered; i++) {
    if (contexts[i].handle != NULL) continue;
    contexts[i].device = device;
    atomic_store_explicit(&contexts[i].handle, context, memory_order_release);
    if (i >= contexts_end) atomic_store_explicit(&contexts_end, i + 1, memory_order_release);
    entered = true;
  }
  pthread_mutex_unlock(&contexts_lock);
  return entered;
}

static void leave_context(CUcontext context) {
  pthread_mutex_lock(&contexts_lock);
  for (uint32_t i = 0; i < contexts_end; i++) {
    if (contexts[i].handle == context) atomic_store_explicit(&contexts[i].handle, NULL, memory_order_release);
  }
  pthread_mutex_unlock(&contexts_lock);
}

static CUresult make(struct gb_device *device, CUcontext *context, unsigned flags) {
  if (gb_real.cuCtxCreate_v2 != NULL) return gb_real.cuCtxCreate_v2(context, flags, device->backing);
  if (gb_real.cuCtxCreate_v4 != NULL) return gb_real.cuCtxCreate_v4(context, NULL, flags, device->backing);
  return CUDA_ERROR_NOT_FOUND;
}

/* A context that is current afterwards. pre: lock. */
static CUresult create(struct gb_device *device, CUcontext *context, unsigned flags) {
  CUresult result = gb_device_open(device);
  if (result == CUDA_SUCCESS) result = make(device, context, flags);
  if (result != CUDA_SUCCESS || enter_context(device, *context)) return result;
  gb_real.cuCtxDestroy_v2(*context);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

/* pre: lock. */
static CUresult destroy(struct gb_device *device, CUcontext context) {
  gb_device_memory_drop(device, context);
  leave_context(context);
  gb_core_context_going(context); /* what the core made in it for itself */
  return gb_real.cuCtxDestroy_v2(context);
}

CUresult gb_device_context_create(struct gb_device *device, CUcontext *context, unsigned flags) {
  if (context == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&device->lock);
  CUresult result = create(device, context, flags);
  pthread_mutex_unlock(&device->lock);
  return result;
}

CUresult gb_device_context_destroy(struct gb_device *device, CUcontext context) {
  pthread_mutex_lock(&device->lock);
  CUresult result = context == device->primary ? CUDA_ERROR_INVALID_CONTEXT : destroy(device, context);
  pthread_mutex_unlock(&device->lock);
  return result;
}

CUresult gb_device_primary_retain(struct gb_device *device, CUcontext *context) {
  if (context == NULL) return CUDA_ERROR_INVALID_VALUE;
  CUcontext popped;
  pthread_mutex_lock(&device->lock);
  CUresult result = CUDA_SUCCESS;
  if (device->primary == NULL) {
    result = create(device, &device->primary, device->primary_flags);
    if (result == CUDA_SUCCESS)
      gb_real.cuCtxPopCurrent_v2(&popped);
    else
      device->primary = NULL;
  }
  if (result == CUDA_SUCCESS) {
    device->primary_retained++;
    *context = device->primary;
  }
  pthread_mutex_unlock(&device->lock);
  return result;
}

CUresult gb_device_primary_release(struct gb_device *device) {
  pthread_mutex_lock(&device->lock);
  CUresult result = device->primary_retained > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
  if (result == CUDA_SUCCESS && --device->primary_retained == 0) {
    result = destroy(device, device->primary);
    device->primary = NULL;
    gb_code_group_gone(gb_device_group(device));
  }
  pthread_mutex_unlock(&device->lock);
  return result;
}

/* Its memory is gone. Handles of modules, streams and events stay good, since the driver's context does. */
CUresult gb_device_primary_reset(struct gb_device *device) {
  pthread_mutex_lock(&device->lock);
  if (device->primary != NULL) gb_device_memory_drop(device, device->primary);
  pthread_mutex_unlock(&device->lock);
  return CUDA_SUCCESS;
}

CUresult gb_device_primary_flags(struct gb_device *device, unsigned flags) {
  pthread_mutex_lock(&device->lock);
  device->primary_flags = flags;
  pthread_mutex_unlock(&device->lock);
  return CUDA_SUCCESS;
}

CUresult gb_device_primary_state(struct gb_device *device, unsigned *flags, int *active) {
  if (flags == NULL || active == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&device->lock);
  *flags = device->primary_flags;
  *active = device->primary_retained > 0;
  pthread_mutex_unlock(&device->lock);
  return CUDA_SUCCESS;
}
