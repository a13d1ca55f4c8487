/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvml.c: NVML's memory figures, made to agree with what CUDA answers in the same process. A
 * process that has not initialised CUDA (nvidia-smi) sees the card as it is.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "hooks.h"

#define GB_UUID_TEXT_BYTES 96
#define GB_CUDA_DEVICES_MAX 64

/* NVML names devices by UUID text "GPU-8-4-4-4-12", CUDA by its 16 bytes. */
static void uuid_text(const CUuuid *uuid, char text[GB_UUID_TEXT_BYTES]) {
  size_t at = (size_t)snprintf(text, GB_UUID_TEXT_BYTES, "GPU-");
  for (int i = 0; i < 16; i++) {
    const char *dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
    at += (size_t)snprintf(text + at, GB_UUID_TEXT_BYTES - at, "%s%02x", dash,
                           (unsigned char)uuid->bytes[i]);
  }
}

/* returns: false for devices CUDA does not show to this process. */
static bool cuda_device(nvmlDevice_t device, CUdevice *found) {
  char wanted[GB_UUID_TEXT_BYTES], text[GB_UUID_TEXT_BYTES];
  CUresult (*ask)(CUuuid *, CUdevice) =
      gb_real.cuDeviceGetUuid_v2 != NULL ? gb_real.cuDeviceGetUuid_v2 : gb_real.cuDeviceGetUuid;
  if (gb_nvml.nvmlDeviceGetUUID == NULL || ask == NULL || gb_real.cuDeviceGetCount == NULL)
    return false;
  if (gb_nvml.nvmlDeviceGetUUID(device, wanted, sizeof wanted) != GB_NVML_SUCCESS) return false;
  int count = 0;
  if (gb_real.cuDeviceGetCount(&count) != CUDA_SUCCESS) return false;
  for (CUdevice i = 0; i < count && i < GB_CUDA_DEVICES_MAX; i++) {
    CUuuid uuid;
    if (ask(&uuid, i) != CUDA_SUCCESS) continue;
    uuid_text(&uuid, text);
    if (strcmp(text, wanted) != 0) continue;
    *found = i;
    return true;
  }
  return false;
}

/* It knows the local cards only: programs that count CUDA devices with it (PyTorch does) ask CUDA itself when it cannot
 * tell. Also before cuInit, which such programs put off. */
nvmlReturn_t gb_hook_nvmlDeviceGetCount_v2(unsigned *count) {
  if (!gb_nvml_load() || gb_nvml.nvmlDeviceGetCount_v2 == NULL) return GB_NVML_ERROR_FUNCTION_NOT_FOUND;
  return gb_config()->devices ? GB_NVML_ERROR_NOT_SUPPORTED : gb_nvml.nvmlDeviceGetCount_v2(count);
}

/* Free and total of the virtual device. NVML counts the driver's reserve into the total and CUDA
 * does not; the figures given are CUDA's, so that both agree. */
static bool virtual_memory(nvmlDevice_t device, uint64_t real_free, uint64_t *free_bytes,
                           uint64_t *total_bytes) {
  CUdevice found;
  size_t total;
  if (!gb_live() || !cuda_device(device, &found)) return false;
  if (gb_real.cuDeviceTotalMem_v2 == NULL ||
      gb_real.cuDeviceTotalMem_v2(&total, found) != CUDA_SUCCESS)
    return false;
  *free_bytes = real_free;
  *total_bytes = total;
  gb_identity_memory(found, real_free, total, free_bytes, total_bytes);
  return true;
}

static uint64_t minus(uint64_t from, uint64_t what) { return from > what ? from - what : 0; }

nvmlReturn_t gb_hook_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, struct gb_nvml_memory *memory) {
  if (!gb_nvml_load() || gb_nvml.nvmlDeviceGetMemoryInfo == NULL)
    return GB_NVML_ERROR_FUNCTION_NOT_FOUND;
  nvmlReturn_t result = gb_nvml.nvmlDeviceGetMemoryInfo(device, memory);
  uint64_t free_bytes, total_bytes;
  if (result != GB_NVML_SUCCESS ||
      !virtual_memory(device, memory->free_bytes, &free_bytes, &total_bytes))
    return result;
  *memory = (struct gb_nvml_memory){total_bytes, free_bytes, minus(total_bytes, free_bytes)};
  return result;
}

nvmlReturn_t gb_hook_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device,
                                                struct gb_nvml_memory_v2 *memory) {
  if (!gb_nvml_load() || gb_nvml.nvmlDeviceGetMemoryInfo_v2 == NULL)
    return GB_NVML_ERROR_FUNCTION_NOT_FOUND;
  nvmlReturn_t result = gb_nvml.nvmlDeviceGetMemoryInfo_v2(device, memory);
  uint64_t free_bytes, total_bytes;
  if (result != GB_NVML_SUCCESS ||
      !virtual_memory(device, memory->free_bytes, &free_bytes, &total_bytes))
    return result;
  *memory = (struct gb_nvml_memory_v2){.version = memory->version,
                                       .total_bytes = total_bytes,
                                       .free_bytes = free_bytes,
                                       .used_bytes = minus(total_bytes, free_bytes)};
  return result;
}

/* What this process uses beyond what the card sees of it: the two answers then add up to the
 * virtual device. */
static bool own_surplus(nvmlDevice_t device, uint64_t *surplus) {
  struct gb_nvml_memory memory;
  uint64_t free_bytes, total_bytes;
  if (gb_nvml.nvmlDeviceGetMemoryInfo == NULL) return false;
  if (gb_nvml.nvmlDeviceGetMemoryInfo(device, &memory) != GB_NVML_SUCCESS) return false;
  if (!virtual_memory(device, memory.free_bytes, &free_bytes, &total_bytes)) return false;
  *surplus = minus(minus(total_bytes, free_bytes), memory.used_bytes);
  return true;
}

/* Adds the surplus to our own entry of a list of whichever layout; unknown sizes (all ones) stay
 * unknown. */
#define GB_ADJUST(list, count)                                                      \
  do {                                                                              \
    uint64_t surplus;                                                               \
    if ((list) == NULL || (count) == NULL || !own_surplus(device, &surplus)) break; \
    for (unsigned i = 0; i < *(count); i++)                                         \
      if ((list)[i].pid == (unsigned)getpid() && (list)[i].used_bytes != ~0ull)     \
        (list)[i].used_bytes += surplus;                                            \
  } while (0)

#define GB_PROCESSES(symbol, type)                                                          \
  nvmlReturn_t gb_hook_##symbol(nvmlDevice_t device, unsigned *count, type *list) {         \
    if (!gb_nvml_load() || gb_nvml.symbol == NULL) return GB_NVML_ERROR_FUNCTION_NOT_FOUND; \
    nvmlReturn_t result = gb_nvml.symbol(device, count, list);                              \
    if (result == GB_NVML_SUCCESS) GB_ADJUST(list, count);                                  \
    return result;                                                                          \
  }

GB_PROCESSES(nvmlDeviceGetComputeRunningProcesses, struct gb_nvml_process_v1)
GB_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, struct gb_nvml_process)
GB_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, struct gb_nvml_process)
GB_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, struct gb_nvml_process_v1)
GB_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, struct gb_nvml_process)
GB_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, struct gb_nvml_process)
GB_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, struct gb_nvml_process_v1)
GB_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, struct gb_nvml_process)
GB_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, struct gb_nvml_process)

/* Newer form: one list for each mode, with the protected bytes apart. */
nvmlReturn_t gb_hook_nvmlDeviceGetRunningProcessDetailList(
    nvmlDevice_t device, struct gb_nvml_process_details *details) {
  if (!gb_nvml_load() || gb_nvml.nvmlDeviceGetRunningProcessDetailList == NULL)
    return GB_NVML_ERROR_FUNCTION_NOT_FOUND;
  nvmlReturn_t result = gb_nvml.nvmlDeviceGetRunningProcessDetailList(device, details);
  if (result == GB_NVML_SUCCESS && details != NULL) GB_ADJUST(details->list, &details->count);
  return result;
}

/* The size of the whole device; parts of one (MIG) have UUIDs that CUDA does not know. */
nvmlReturn_t gb_hook_nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                                struct gb_nvml_attributes *attributes) {
  if (!gb_nvml_load() || gb_nvml.nvmlDeviceGetAttributes_v2 == NULL)
    return GB_NVML_ERROR_FUNCTION_NOT_FOUND;
  nvmlReturn_t result = gb_nvml.nvmlDeviceGetAttributes_v2(device, attributes);
  uint64_t free_bytes, total_bytes;
  if (result == GB_NVML_SUCCESS && attributes != NULL &&
      virtual_memory(device, 0, &free_bytes, &total_bytes))
    attributes->memory_mib = total_bytes >> 20;
  return result;
}
