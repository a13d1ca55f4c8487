/* SPDX-License-Identifier: Apache-2.0 */
/* device.c: initialisation, errors by name, and what a simulated device says about itself (shaped
 * after one H200). */
#include "sim.h"

#include <stdio.h>

#define SIM_DRIVER_VERSION 13000

CUresult cuInit(unsigned flags) {
  SIM_ENTER(SIM_NEED_NOTHING);
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return sim_state_init();
}

CUresult cuDriverGetVersion(int *version) {
  SIM_ENTER(SIM_NEED_NOTHING);
  if (version == NULL) return CUDA_ERROR_INVALID_VALUE;
  *version = SIM_DRIVER_VERSION;
  return CUDA_SUCCESS;
}

static const struct {
  CUresult value;
  const char *name;
} errors[] = {
#define GB_CU_ERROR(name, value) {name, #name},
#include "gb_cuda/errors.def"
#undef GB_CU_ERROR
};

CUresult cuGetErrorName(CUresult error, const char **text) {
  if (text == NULL) return CUDA_ERROR_INVALID_VALUE;
  *text = NULL;
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
    if (errors[i].value == error) *text = errors[i].name;
  return *text == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  const CUresult result = cuGetErrorName(error, text);
  if (error == CUDA_SUCCESS) *text = "no error";
  if (error == CUDA_ERROR_OUT_OF_MEMORY) *text = "out of memory";
  if (error == CUDA_ERROR_ILLEGAL_ADDRESS) *text = "an illegal memory access was encountered";
  return result;
}

#define DEVICE_CHECK(device)                                                           \
  if ((device) < 0 || (device) >= sim_config.devices) return CUDA_ERROR_INVALID_DEVICE

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  SIM_ENTER(SIM_NEED_INIT);
  if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(ordinal);
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  SIM_ENTER(SIM_NEED_INIT);
  if (count == NULL) return CUDA_ERROR_INVALID_VALUE;
  *count = sim_config.devices;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (name == NULL || bytes <= 0) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  snprintf(name, (size_t)bytes, "GreenBoost Simulated GPU");
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (uuid == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  gbsim_device_uuid(device, (uint8_t *)uuid->bytes);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (bytes == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  struct gbsim_usage usage;
  if (gbsim_gpu_usage(device, &usage) != 0) return CUDA_ERROR_SYSTEM_NOT_READY;
  *bytes = usage.total_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *text, int bytes, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (text == NULL || bytes <= 0) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  snprintf(text, (size_t)bytes, "0000:%02X:00.0", device + 1);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *text) {
  SIM_ENTER(SIM_NEED_INIT);
  unsigned domain = 0, bus = 0;
  if (device == NULL || text == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (sscanf(text, "%x:%x:", &domain, &bus) != 2 || bus == 0) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK((int)bus - 1);
  *device = (int)bus - 1;
  return CUDA_SUCCESS;
}

static const struct {
  CUdevice_attribute attribute;
  int value;
} attributes[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_PITCH, 2147483647},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 62914560},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, 32},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
    {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
    {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
};

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL || attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  *value = 0;
  for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++)
    if (attributes[i].attribute == attribute) *value = attributes[i].value;
  if (attribute == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID) *value = device + 1;
  if (attribute == CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED ||
      attribute == CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)
    *value = sim_config.host_numa;
  if (attribute == CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID) *value = sim_config.host_numa ? 0 : -1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (major == NULL || minor == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  *major = 9;
  *minor = 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
  SIM_ENTER(SIM_NEED_INIT);
  if (can == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  DEVICE_CHECK(peer);
  *can = device != peer;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attribute, CUdevice device,
                                 CUdevice peer) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  DEVICE_CHECK(peer);
  if (device == peer) return CUDA_ERROR_INVALID_DEVICE;
  *value = attribute == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED;
  return CUDA_SUCCESS;
}
