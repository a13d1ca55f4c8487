/* SPDX-License-Identifier: Apache-2.0 */
/*
 * answers.c: what a program is told about memory it maps itself: every answer and error on standard
 * output, one a line, addresses relative to their reservation. run.sh compares what is printed with
 * and without the shim.
 *
 * usage: answers MODULE
 */
#include "../soak/soak.h"

#define GRANULE (2 * MIB)
#define RESERVED (64 * GRANULE)
#define BYTES (3 * GRANULE)

static CUdevice device;
static CUdeviceptr base;

#define SAY(call) printf("%s: %d\n", #call, (call))

static CUmemAllocationProp memory(CUmemAllocationHandleType types) {
  CUmemAllocationProp properties;
  memset(&properties, 0, sizeof properties);
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  properties.requestedHandleTypes = types;
  return properties;
}

static const CUmemAccessDesc *access_of(CUmemAccess_flags flags) {
  static CUmemAccessDesc access;
  access = (CUmemAccessDesc){{CU_MEM_LOCATION_TYPE_DEVICE, device}, flags};
  return &access;
}
#define RW access_of(CU_MEM_ACCESS_FLAGS_PROT_READWRITE)

/* Every attribute but the numbers of buffers; those only whether they are there. */
static void describe(const char *what, CUdeviceptr pointer) {
  static const struct {
    CUpointer_attribute attribute;
    unsigned bytes;
    char kind; /* a: address, n: number, i: whether it is not 0 */
  } all[] = {
      {CU_POINTER_ATTRIBUTE_CONTEXT, 8, 'n'},
      {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 4, 'n'},
      {CU_POINTER_ATTRIBUTE_DEVICE_POINTER, 8, 'a'},
      {CU_POINTER_ATTRIBUTE_HOST_POINTER, 8, 'a'},
      {CU_POINTER_ATTRIBUTE_BUFFER_ID, 8, 'i'},
      {CU_POINTER_ATTRIBUTE_IS_MANAGED, 1, 'n'},
      {CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, 4, 'n'},
      {CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, 1, 'n'},
      {CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, 8, 'a'},
      {CU_POINTER_ATTRIBUTE_RANGE_SIZE, 8, 'n'},
      {CU_POINTER_ATTRIBUTE_MAPPED, 1, 'n'},
      {CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES, 4, 'n'},
      {CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE, 1, 'n'},
      {CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, 4, 'n'},
      {CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, 8, 'n'},
      {CU_POINTER_ATTRIBUTE_MAPPING_SIZE, 8, 'n'},
      {CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, 8, 'a'},
      {CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, 8, 'i'},
  };
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    uint64_t value = 0, listed = 0;
    CUpointer_attribute attribute = all[i].attribute;
    void *data[] = {&listed};
    const CUresult single = cuPointerGetAttribute(&value, attribute, pointer);
    const CUresult list = cuPointerGetAttributes(1, &attribute, data, pointer);
    if (all[i].bytes < 8) {
      value &= (1ull << 8 * all[i].bytes) - 1;
      listed &= (1ull << 8 * all[i].bytes) - 1;
    }
    if (all[i].kind == 'a' && single == CUDA_SUCCESS) value -= base;
    if (all[i].kind == 'a' && listed != 0) listed -= base;
    if (all[i].kind == 'i') value = value != 0, listed = listed != 0;
    printf("%s attribute %d: %d %llx, %d %llx\n", what, attribute, single,
           single == CUDA_SUCCESS ? (unsigned long long)value : 0, list,
           (unsigned long long)listed);
  }
  CUdeviceptr start = 0;
  size_t bytes = 0;
  const CUresult result = cuMemGetAddressRange(&start, &bytes, pointer);
  printf("%s range: %d %llx %zu\n", what, result,
         result == CUDA_SUCCESS ? (unsigned long long)(start - base) : 0, bytes);
}

static void access_now(CUdeviceptr pointer) {
  unsigned long long flags = 77;
  const CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  const CUmemLocation host = {CU_MEM_LOCATION_TYPE_HOST, 0};
  CUresult result = cuMemGetAccess(&flags, &here, pointer);
  printf("access: %d %llu\n", result, flags);
  flags = 77;
  result = cuMemGetAccess(&flags, &host, pointer);
  printf("access of the host: %d %llu\n", result, flags);
}

static void mappings(CUmemGenericAllocationHandle handle) {
  const CUmemAccessDesc host = {{CU_MEM_LOCATION_TYPE_HOST, 0},
                                CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  const CUdeviceptr at = base + 8 * GRANULE;
  SAY(cuMemMap(at, BYTES, GRANULE, handle, 0));
  SAY(cuMemMap(at, BYTES - GRANULE, 0, handle, 0));
  SAY(cuMemMap(at, BYTES + GRANULE, 0, handle, 0));
  SAY(cuMemMap(at, 0, 0, handle, 0));
  SAY(cuMemMap(at + 4096, BYTES, 0, handle, 0));
  SAY(cuMemMap(at, BYTES, 0, handle, 1));
  SAY(cuMemMap(at, BYTES, 0, 0, 0));
  SAY(cuMemMap(base + RESERVED - GRANULE, BYTES, 0, handle, 0));
  SAY(cuMemSetAccess(at, BYTES, RW, 1));
  describe("hole", at);
  SAY(cuMemMap(at, BYTES, 0, handle, 0));
  SAY(cuMemMap(at, BYTES, 0, handle, 0));
  SAY(cuMemMap(at + GRANULE, BYTES, 0, handle, 0));
  describe("without access", at);
  access_now(at);
  SAY(cuMemSetAccess(at, BYTES + GRANULE, RW, 1));
  SAY(cuMemSetAccess(at, BYTES, RW, 0));
  SAY(cuMemSetAccess(at, BYTES, NULL, 1));
  SAY(cuMemSetAccess(at, BYTES, &host, 1));
  SAY(cuMemSetAccess(at, BYTES, RW, 1));
  access_now(at + GRANULE);
  describe("first", at);
  describe("inside", at + BYTES - 8);
  describe("behind", at + BYTES);
  SAY(cuMemFree(at));
  SAY(cuMemUnmap(at, GRANULE));
  SAY(cuMemUnmap(at + GRANULE, BYTES - GRANULE));
  SAY(cuMemAddressFree(base, RESERVED));
  SAY(cuMemSetAccess(at, BYTES, access_of(CU_MEM_ACCESS_FLAGS_PROT_READ), 1));
  access_now(at);
  SAY(cuMemSetAccess(at, BYTES, access_of(CU_MEM_ACCESS_FLAGS_PROT_NONE), 1));
  access_now(at);
  SAY(cuMemSetAccess(at, BYTES, RW, 1));
}

static void handles(CUmemGenericAllocationHandle handle, CUmemAllocationHandleType types) {
  CUmemGenericAllocationHandle retained = 0, other = 0;
  CUmemAllocationProp told;
  CUdeviceptr at = base + 8 * GRANULE, second = base + 20 * GRANULE;
  int descriptor = -1;
  memset(&told, 0xff, sizeof told);
  SAY(cuMemGetAllocationPropertiesFromHandle(&told, handle));
  const CUmemAllocationProp asked = memory(types);
  printf("properties as asked: %d\n", memcmp(&told, &asked, sizeof told) == 0);
  SAY(cuMemRetainAllocationHandle(&retained, (void *)(uintptr_t)(at + 100)));
  printf("the same handle: %d\n", retained == handle);
  SAY(cuMemRetainAllocationHandle(&other, (void *)(uintptr_t)second));
  SAY(cuMemRetainAllocationHandle(NULL, (void *)(uintptr_t)at));
  SAY(cuMemRelease(handle));
  SAY(cuMemGetAllocationPropertiesFromHandle(&told, retained));
  SAY(cuMemExportToShareableHandle(&descriptor, retained, CU_MEM_HANDLE_TYPE_FABRIC, 0));
  SAY(cuMemExportToShareableHandle(&descriptor, retained,
                                   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  printf("descriptor: %d\n", descriptor >= 0);
  /* The same memory twice, and by way of the descriptor a third time. */
  SAY(cuMemMap(second, BYTES, 0, retained, 0));
  SAY(cuMemSetAccess(second, BYTES, RW, 1));
  describe("second", second + GRANULE);
  if (descriptor >= 0) {
    SAY(cuMemImportFromShareableHandle(&other, (void *)(uintptr_t)descriptor,
                                       CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    SAY(cuMemMap(base + 30 * GRANULE, BYTES, 0, other, 0));
    SAY(cuMemSetAccess(base + 30 * GRANULE, BYTES, RW, 1));
    SAY(cuMemRelease(other));
    close(descriptor);
  }
  unsigned words[4] = {0};
  SAY(cuMemsetD32(at, 17, BYTES / 4));
  SAY(cuMemsetD32(second + GRANULE, 18, GRANULE / 4));
  SAY(cuCtxSynchronize());
  SAY(cuMemcpyDtoH(&words[0], at + GRANULE - 4, 8));
  SAY(cuMemcpyDtoH(&words[2], base + (descriptor >= 0 ? 30 : 20) * GRANULE + 2 * GRANULE - 4, 8));
  printf("words %u %u %u %u\n", words[0], words[1], words[2], words[3]);
  SAY(cuMemRelease(retained));
  SAY(cuMemUnmap(second, BYTES));
  describe("after", second);
  if (descriptor >= 0) SAY(cuMemUnmap(base + 30 * GRANULE, BYTES));
  SAY(cuMemUnmap(at, BYTES));
  describe("after all", at);
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  soak_open(arguments[1], 60);
  OK(cuCtxGetDevice(&device));
  CUdeviceptr wrong = 0;
  size_t granularity = 0;
  const CUmemAllocationProp plain = memory(CU_MEM_HANDLE_TYPE_NONE);
  SAY(cuMemGetAllocationGranularity(&granularity, &plain, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  printf("granularity %zu\n", granularity);
  SAY(cuMemAddressReserve(&wrong, 0, 0, 0, 0));
  SAY(cuMemAddressReserve(&wrong, RESERVED, 3 * GRANULE, 0, 0));
  SAY(cuMemAddressReserve(&wrong, RESERVED, 0, 0, 1));
  SAY(cuMemAddressReserve(NULL, RESERVED, 0, 0, 0));
  CUmemGenericAllocationHandle handle = 0;
  SAY(cuMemCreate(&handle, 0, &plain, 0));
  SAY(cuMemCreate(&handle, GRANULE + 4096, &plain, 0));
  SAY(cuMemCreate(&handle, GRANULE, &plain, 1));
  SAY(cuMemCreate(&handle, GRANULE, NULL, 0));
  SAY(cuMemCreate(NULL, GRANULE, &plain, 0));
  const CUmemAllocationHandleType types[] = {CU_MEM_HANDLE_TYPE_NONE,
                                             CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
  for (int i = 0; i < 2; i++) {
    const CUmemAllocationProp properties = memory(types[i]);
    printf("-- handle types %d\n", types[i]);
    SAY(cuMemAddressReserve(&base, RESERVED, i == 0 ? 0 : 64 * MIB, 0, 0));
    SAY(cuMemAddressFree(base, GRANULE));
    SAY(cuMemCreate(&handle, BYTES, &properties, 0));
    mappings(handle);
    handles(handle, types[i]);
    SAY(cuMemRelease(handle));
    SAY(cuMemMap(base, BYTES, 0, handle, 0));
    SAY(cuMemGetAllocationPropertiesFromHandle(&(CUmemAllocationProp){0}, handle));
    SAY(cuMemAddressFree(base, RESERVED));
    SAY(cuMemAddressFree(base, RESERVED));
  }
  return check_failures != 0;
}
