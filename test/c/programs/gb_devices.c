/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_devices: what a program with several GPUs does: on each device memory, kernels, copies, fills and questions;
 * between each two of them copies of every form, and streams that wait for each other's events. One large buffer for
 * each device, with pointer arithmetic inside, as engines have it. --far N: the last N devices are expected to answer
 * as feeders' do (docs/adr/0014-devices-mode.md). Prints one JSON object; exit 0 only when all was as it should be.
 */
#include "kernels.h"
#include "program.h"

#define DEVICES_MAX 16
#define WORDS (256ull << 10)
#define BYTES (WORDS * 8)
#define PARTS 4ull
#define SMALL_WORDS 96ull
#define ROUNDS 20u

struct device {
  CUdevice device;
  CUcontext context;
  CUfunction fill, update, mix;
  CUdeviceptr buffer; /* PARTS of BYTES */
  CUdeviceptr small;
  CUstream stream;
  CUevent event;
};

static struct device devices[DEVICES_MAX];
static int device_count, far_count;
static uint64_t *words;
static unsigned failures, checks;

static void check(int good, const char *what, int device) {
  checks++;
  if (good) return;
  failures++;
  fprintf(stderr, "device %d: %s\n", device, what);
}
static void check_error(CUresult got, CUresult wanted, const char *what, int device) {
  if (got != wanted) fprintf(stderr, "%s: %d, not %d\n", what, (int)got, (int)wanted);
  check(got == wanted, what, device);
}

static void use(int device) { CU(cuCtxSetCurrent(devices[device].context)); }

static void launch(CUfunction function, CUstream stream, CUdeviceptr at, uint64_t count, uint64_t value) {
  void *params[] = {&at, &count, &value};
  CU(cuLaunchKernel(function, 64, 1, 1, 128, 1, 1, 0, stream, params, NULL));
}
static uint64_t filled(uint64_t i, uint64_t seed) { return mix64(i + seed); }
static uint64_t updated(uint64_t word, uint64_t i, uint64_t key) { return word * 3 + key + i; }

/* All words at the address, read on whichever device, are those of gb_fill, after `rounds` of gb_update. */
static int holds(CUdeviceptr at, uint64_t count, uint64_t seed, unsigned rounds) {
  int equal = 1;
  memset(words, 0xEE, count * 8);
  CU(cuMemcpyDtoH(words, at, count * 8));
  for (uint64_t i = 0; i < count && equal; i++) {
    uint64_t word = filled(i, seed);
    for (unsigned round = 0; round < rounds; round++) word = updated(word, i, round);
    equal = words[i] == word;
  }
  return equal;
}

/* ---- one device ---- */

static void open_device(int ordinal) {
  struct device *device = &devices[ordinal];
  CUmodule module;
  CUdevice current = -1;
  CU(cuDeviceGet(&device->device, ordinal));
  CU(cuDevicePrimaryCtxRetain(&device->context, device->device));
  use(ordinal);
  CU(cuCtxGetDevice(&current));
  check(current == device->device, "the current device is another", ordinal);
  CU(cuModuleLoadData(&module, test_kernels));
  device->fill = load_kernel(module, "gb_fill");
  device->update = load_kernel(module, "gb_update");
  device->mix = load_kernel(module, "gb_mix");
  CU(cuMemAlloc(&device->buffer, PARTS * BYTES));
  CU(cuMemAlloc(&device->small, SMALL_WORDS * 8));
  CU(cuStreamCreate(&device->stream, CU_STREAM_NON_BLOCKING));
  CU(cuEventCreate(&device->event, CU_EVENT_DISABLE_TIMING));
}

static void ask_device(int ordinal) {
  const struct device *device = &devices[ordinal];
  char name[128] = "", bus[32] = "";
  CUuuid uuid, other;
  size_t total = 0, total_now = 0, free_before = 0, free_after = 0;
  int major = 0, processors = 0;
  CUdeviceptr base = 0, memory = 0;
  size_t bytes = 0;
  int where = -1;
  CU(cuDeviceGetName(name, sizeof name, device->device));
  CU(cuDeviceGetUuid(&uuid, device->device));
  CU(cuDeviceGetPCIBusId(bus, sizeof bus, device->device));
  CU(cuDeviceTotalMem(&total, device->device));
  CU(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device->device));
  CU(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device->device));
  check(name[0] != '\0' && major > 0 && processors > 0, "it has no name or properties", ordinal);
  for (int i = 0; i < ordinal; i++) {
    CU(cuDeviceGetUuid(&other, devices[i].device));
    check(memcmp(&uuid, &other, sizeof uuid) != 0, "two devices have one UUID", ordinal);
  }
  CUdevice by_bus = -1;
  CU(cuDeviceGetByPCIBusId(&by_bus, bus));
  check(by_bus == device->device, "its PCI address is another's", ordinal);
  use(ordinal);
  CU(cuMemGetInfo(&free_before, &total_now));
  check(total_now == total && free_before <= total, "its sizes do not agree", ordinal);
  CU(cuMemAlloc(&memory, 8 * BYTES));
  CU(cuMemGetInfo(&free_after, &total_now));
  check(free_before - free_after >= 8 * BYTES, "an allocation is not missing in what is free", ordinal);
  CU(cuMemGetAddressRange(&base, &bytes, memory + 12345));
  check(base == memory && bytes == 8 * BYTES, "its allocation has another address range", ordinal);
  CU(cuPointerGetAttribute(&where, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, memory + 8));
  check(where == ordinal, "its pointer is another device's", ordinal);
  CU(cuMemFree(memory));
  const size_t allocated = free_after;
  for (int i = 0; i < 200 && free_after <= allocated; i++) { /* a feeder scrubs it first */
    sleep_ms(20);
    CU(cuMemGetInfo(&free_after, &total_now));
  }
  check(free_after > allocated || ordinal < device_count - far_count, "what was freed is not free", ordinal);
  check_error(cuMemFree(memory), CUDA_ERROR_INVALID_VALUE, "freeing twice", ordinal);
  printf("%s{\"ordinal\":%d,\"name\":\"%s\",\"pciBusId\":\"%s\",\"totalBytes\":%zu}", ordinal > 0 ? "," : "", ordinal,
         name, bus, total);
}

static void compute(int ordinal) {
  const struct device *device = &devices[ordinal];
  use(ordinal);
  for (uint64_t part = 0; part < PARTS; part++) launch(device->fill, NULL, device->buffer + part * BYTES, WORDS, part);
  for (unsigned round = 0; round < ROUNDS; round++)
    launch(device->update, NULL, device->buffer + BYTES, WORDS, round);
  CU(cuCtxSynchronize());
  check(holds(device->buffer, WORDS, 0, 0), "filled words differ", ordinal);
  check(holds(device->buffer + BYTES, WORDS, 1, ROUNDS), "updated words differ", ordinal);
  check(holds(device->buffer + 3 * BYTES, WORDS, 3, 0), "the last part differs", ordinal);
  launch(device->fill, NULL, device->small, SMALL_WORDS, 77);
  check(holds(device->small, SMALL_WORDS, 77, 0), "a small allocation differs", ordinal);
}

static void copy_and_fill(int ordinal) {
  const struct device *device = &devices[ordinal];
  const CUdeviceptr to = device->buffer + 2 * BYTES;
  use(ordinal);
  CU(cuMemcpyDtoD(to, device->buffer, BYTES));
  check(holds(to, WORDS, 0, 0), "a copy within the device differs", ordinal);
  for (uint64_t i = 0; i < WORDS; i++) words[i] = filled(i, 900);
  CU(cuMemcpyHtoDAsync(to, words, BYTES, device->stream));
  launch(device->update, device->stream, to, WORDS, 0);
  CU(cuStreamSynchronize(device->stream));
  check(holds(to, WORDS, 900, 1), "an upload before a kernel differs", ordinal);
  CU(cuMemsetD8(to, 0x5A, BYTES));
  CU(cuMemsetD32(to + 4096, 0x01020304, 1024));
  CU(cuMemcpyDtoH(words, to, BYTES));
  check(words[0] == 0x5A5A5A5A5A5A5A5Aull && words[512] == 0x0102030401020304ull && words[1024] == words[0],
        "a fill differs", ordinal);
  /* A column of 64 rows, out and in again. */
  CUDA_MEMCPY2D rows = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = device->buffer, .srcPitch = 4096,
                        .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = words, .dstPitch = 64,
                        .WidthInBytes = 64, .Height = 64};
  CU(cuMemcpy2D(&rows));
  int equal = 1;
  for (uint64_t row = 0; row < 64; row++) equal &= words[row * 8] == filled(row * 512, 0);
  check(equal, "rows of a rectangle differ", ordinal);
}

/* ---- between two ---- */

static void copy_across(int from, int to) {
  const struct device *source = &devices[from], *target = &devices[to];
  const CUdeviceptr at = target->buffer + 2 * BYTES;
  const uint64_t seed = 1000 + (uint64_t)from * 16;
  use(from);
  launch(source->fill, NULL, source->buffer, WORDS, seed);
  CU(cuMemcpyPeer(at, target->context, source->buffer, source->context, BYTES));
  check(holds(at, WORDS, seed, 0), "a peer copy differs", to);
  use(from);
  launch(source->update, NULL, source->buffer, WORDS, 0);
  CU(cuMemcpyDtoD(at, source->buffer, BYTES));
  check(holds(at, WORDS, seed, 1), "a copy by addresses differs", to);
  use(to);
  CU(cuMemcpy(at + 64, source->buffer + 64, 128));
  check(holds(at, WORDS, seed, 1), "a short copy by addresses differs", to);
}

/* One step of a model whose layers lie on two devices: fill here, hand on, update there, hand back, in streams that
 * wait for each other's events and for nothing else. */
static void pass_to_and_fro(int one, int other) {
  const struct device *a = &devices[one], *b = &devices[other];
  const CUdeviceptr there = b->buffer + 3 * BYTES;
  use(one);
  launch(a->fill, a->stream, a->buffer, WORDS, 5000);
  for (unsigned round = 0; round < ROUNDS; round += 2) {
    use(one);
    launch(a->update, a->stream, a->buffer, WORDS, round);
    CU(cuMemcpyPeerAsync(there, b->context, a->buffer, a->context, BYTES, a->stream));
    CU(cuEventRecord(a->event, a->stream));
    use(other);
    CU(cuStreamWaitEvent(b->stream, a->event, 0));
    launch(b->update, b->stream, there, WORDS, round + 1);
    CU(cuMemcpyPeerAsync(a->buffer, a->context, there, b->context, BYTES, b->stream));
    CU(cuEventRecord(b->event, b->stream));
    use(one);
    CU(cuStreamWaitEvent(a->stream, b->event, 0));
  }
  CU(cuStreamSynchronize(a->stream));
  check(holds(a->buffer, WORDS, 5000, ROUNDS), "words that went to and fro differ", other);
}

/* ---- what feeders' devices do not do ---- */

static void refuse(int ordinal) {
  const struct device *device = &devices[ordinal];
  CUdeviceptr pointer = 0;
  int can = 1, mapped = 1;
  CUdeviceptr at = device->buffer;
  uint64_t count = WORDS, value = 0;
  void *params[] = {&at, &count, &value};
  use(ordinal);
  CU(cuDeviceCanAccessPeer(&can, device->device, devices[0].device));
  CU(cuDeviceGetAttribute(&mapped, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, device->device));
  check(can == 0 && mapped == 0, "it says it reaches memory that it does not", ordinal);
  check_error(cuCtxEnablePeerAccess(devices[0].context, 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access", ordinal);
  check_error(cuMemAllocManaged(&pointer, 4096, 1), CUDA_ERROR_NOT_SUPPORTED, "managed memory", ordinal);
  check_error(cuLaunchCooperativeKernel(device->fill, 1, 1, 1, 32, 1, 1, 0, NULL, params), CUDA_ERROR_NOT_SUPPORTED,
              "a cooperative launch", ordinal);
  check_error(cuStreamBeginCapture(device->stream, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_ERROR_NOT_SUPPORTED,
              "a capture", ordinal);
  check_error(cuLaunchKernel(device->fill, 0, 1, 1, 128, 1, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE,
              "a grid of nothing", ordinal);
  check_error(cuMemcpyHtoD(device->buffer + PARTS * BYTES - 8, words, 16), CUDA_ERROR_INVALID_VALUE,
              "an upload beyond the end", ordinal);
  launch(device->fill, NULL, device->small, SMALL_WORDS, 3);
  check(holds(device->small, SMALL_WORDS, 3, 0), "it does not go on after what it refused", ordinal);
}

int main(int argc, char **argv) {
  int wanted = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--far") == 0) far_count = atoi(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--count") == 0) wanted = atoi(option_value(argc, argv, &i));
    else return fprintf(stderr, "gb_devices [--count N] [--far N]\n"), EXIT_USAGE;
  }
  CU(cuInit(0));
  CU(cuDeviceGetCount(&device_count));
  if (device_count > DEVICES_MAX) device_count = DEVICES_MAX;
  if (wanted != 0) check(device_count == wanted, "there are more devices, or fewer", device_count);
  for (int i = 0; i < device_count; i++) open_device(i);
  CU(cuMemHostAlloc((void **)&words, BYTES, 0));
  printf("{\"devices\":[");
  for (int i = 0; i < device_count; i++) ask_device(i);
  for (int i = 0; i < device_count; i++) compute(i);
  for (int i = 0; i < device_count; i++) copy_and_fill(i);
  for (int i = 0; i < device_count; i++) {
    for (int j = 0; j < device_count; j++) {
      if (i == j) continue;
      copy_across(i, j);
      pass_to_and_fro(i, j);
    }
  }
  for (int i = device_count - far_count; i < device_count; i++) refuse(i);
  for (int i = 0; i < device_count; i++) {
    use(i);
    CU(cuMemFree(devices[i].buffer));
    CU(cuMemFree(devices[i].small));
    CU(cuEventDestroy(devices[i].event));
    CU(cuStreamDestroy(devices[i].stream));
    CU(cuDevicePrimaryCtxRelease(devices[i].device));
  }
  printf("],\"checks\":%u,\"failures\":%u}\n", checks, failures);
  return failures == 0 ? 0 : EXIT_WRONG;
}
