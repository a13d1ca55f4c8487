/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_probe.c: tries what may crash a driver in a process of its own, without the shim. usage:
 *   gb-probe NODE              HOST_NUMA memory on that node; some drivers (r560 to r575) crash on it. Started by the
 *                              shim (shim/src/probe.c) and by `greenboost doctor`.
 *   gb-probe arena BASE BYTES  the arena's addresses (0x...), as a program under the shim reserves them
 * Exit 0: it works; 1: it does not; 2: there is no driver; 3: the addresses are not to be had; a signal: the driver
 * crashed.
 */
#define GB_CUDA_NO_ALIASES 1
#include <cuda.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_BYTES (2ull << 20)

/* The driver's functions, by the symbol of exactly this ABI. */
#define NEED(name)                                        \
  __typeof__(&name) real_##name;                          \
  *(void **)(void *)&real_##name = dlsym(library, #name); \
  if (real_##name == NULL) return false

static bool works(void *library, int node) {
  CUdevice device;
  CUcontext context;
  CUmemGenericAllocationHandle handle;
  CUdeviceptr address;
  unsigned char back = 0;
  NEED(cuInit);
  NEED(cuDeviceGet);
  NEED(cuDevicePrimaryCtxRetain);
  NEED(cuCtxSetCurrent);
  NEED(cuMemCreate);
  NEED(cuMemAddressReserve);
  NEED(cuMemMap);
  NEED(cuMemSetAccess);
  NEED(cuMemsetD8_v2);
  NEED(cuMemcpyDtoH_v2);
  CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                    .location = {CU_MEM_LOCATION_TYPE_HOST_NUMA, node}};
  if (real_cuInit(0) != CUDA_SUCCESS || real_cuDeviceGet(&device, 0) != CUDA_SUCCESS) return false;
  CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device},
                            CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  if (real_cuDevicePrimaryCtxRetain(&context, device) != CUDA_SUCCESS) return false;
  if (real_cuCtxSetCurrent(context) != CUDA_SUCCESS) return false;
  if (real_cuMemCreate(&handle, PROBE_BYTES, &properties, 0) != CUDA_SUCCESS) return false;
  if (real_cuMemAddressReserve(&address, PROBE_BYTES, 0, 0, 0) != CUDA_SUCCESS) return false;
  if (real_cuMemMap(address, PROBE_BYTES, 0, handle, 0) != CUDA_SUCCESS) return false;
  if (real_cuMemSetAccess(address, PROBE_BYTES, &access, 1) != CUDA_SUCCESS) return false;
  if (real_cuMemsetD8_v2(address, 0x5a, PROBE_BYTES) != CUDA_SUCCESS) return false;
  if (real_cuMemcpyDtoH_v2(&back, address + PROBE_BYTES - 1, 1) != CUDA_SUCCESS) return false;
  return back == 0x5a;
}

/* The driver takes the address as a wish: what it gives is compared. */
static bool reserves(void *library, uint64_t base, uint64_t bytes) {
  CUdeviceptr address = 0;
  NEED(cuInit);
  NEED(cuMemAddressReserve);
  if (real_cuInit(0) != CUDA_SUCCESS) return false;
  return real_cuMemAddressReserve(&address, bytes, 0, base, 0) == CUDA_SUCCESS && address == base;
}

int main(int count, char **arguments) {
  bool arena = count == 4 && strcmp(arguments[1], "arena") == 0;
  if (count != 2 && !arena) return 1;
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return 2;
  if (!arena) return works(library, atoi(arguments[1])) ? 0 : 1;
  return reserves(library, strtoull(arguments[2], NULL, 0), strtoull(arguments[3], NULL, 0)) ? 0 : 3;
}
