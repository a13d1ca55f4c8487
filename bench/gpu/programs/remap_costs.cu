// SPDX-License-Identifier: Apache-2.0
// What it costs to change what lies at an address, on this GPU and driver (the table of docs/adr/0007):
//
//   remap_costs           milliseconds per GiB of mapping and unmapping host memory and VRAM in handles of several
//                         sizes, alone, while a copy runs, and while a kernel runs; microseconds that a wait for a word
//                         in memory, and a small kernel before it, add to a launch
//   remap_costs shadow    whether a kernel that reads an address of ours which nothing is mapped to reads what the CPU
//                         has mapped there (HMM), and at what speed; the context is gone when it does not
//
// Prints one JSON line.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <cuda.h>
#include <cuda_runtime.h>

// Of the driver and of its runtime; 0 is success of both.
#define MUST(call)                                                       \
  do {                                                                   \
    const int status = (int)(call);                                      \
    if (status != 0) {                                                   \
      fprintf(stderr, "%s:%d failed: %d\n", __FILE__, __LINE__, status); \
      exit(1);                                                           \
    }                                                                    \
  } while (0)

using Clock = std::chrono::steady_clock;

static const size_t MIB = 1 << 20, REGION = 512 * MIB, ALIGN = 512 * MIB;
static const int TIMES = 7, LAUNCHES = 2000;
static const long SPIN_NS = 20 * 1000 * 1000;

// ---- the driver ----

template <class Function>
static Function entry(const char *name) {
  void *function = nullptr;
  cudaDriverEntryPointQueryResult found;
  MUST(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
  MUST(found != cudaDriverEntryPointSuccess);
  return (Function)function;
}
#define DRIVER(name) static const auto name = entry<decltype(&::name)>(#name)

static CUmemGenericAllocationHandle create(CUmemLocationType type, size_t bytes) {
  DRIVER(cuMemCreate);
  CUmemAllocationProp prop = {};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {type, 0};
  CUmemGenericAllocationHandle handle;
  MUST(cuMemCreate(&handle, bytes, &prop, 0));
  return handle;
}

static CUdeviceptr reserve(size_t bytes) {
  DRIVER(cuMemAddressReserve);
  CUdeviceptr base;
  MUST(cuMemAddressReserve(&base, bytes, ALIGN, 0, 0));
  return base;
}

// One mapping per handle, access for all at once.
static void map(CUdeviceptr base, const std::vector<CUmemGenericAllocationHandle> &handles, size_t each) {
  DRIVER(cuMemMap);
  DRIVER(cuMemSetAccess);
  for (size_t i = 0; i < handles.size(); i++) MUST(cuMemMap(base + i * each, each, 0, handles[i], 0));
  const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  MUST(cuMemSetAccess(base, handles.size() * each, &access, 1));
}

static void unmap(CUdeviceptr base, size_t bytes) {
  DRIVER(cuMemUnmap);
  MUST(cuMemUnmap(base, bytes));
}

// ---- times ----

static double milliseconds(const std::function<void()> &work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

static double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

__global__ void spin(long nanoseconds) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  while (now - start < (unsigned long long)nanoseconds);
}

// ---- remaps ----

struct Place {
  size_t each;
  CUdeviceptr base;
  std::vector<CUmemGenericAllocationHandle> host, vram;
};

static Place make_place(size_t each) {
  Place place = {each, reserve(REGION), {}, {}};
  for (size_t at = 0; at < REGION; at += each) {
    place.host.push_back(create(CU_MEM_LOCATION_TYPE_HOST_NUMA, each));
    place.vram.push_back(create(CU_MEM_LOCATION_TYPE_DEVICE, each));
  }
  return place;
}

static void drop_place(const Place &place) {
  DRIVER(cuMemRelease);
  DRIVER(cuMemAddressFree);
  for (auto handle : place.host) MUST(cuMemRelease(handle));
  for (auto handle : place.vram) MUST(cuMemRelease(handle));
  MUST(cuMemAddressFree(place.base, REGION));
}

// {map host, unmap host, map VRAM, unmap VRAM}, milliseconds of the whole region; `begin` before each.
static std::string remaps(const Place &place, const std::function<void()> &begin, const std::function<void()> &end) {
  std::vector<double> taken[4];
  for (int i = 0; i < TIMES; i++) {
    const std::vector<CUmemGenericAllocationHandle> *kinds[] = {&place.host, &place.vram};
    for (int kind = 0; kind < 2; kind++) {
      begin();
      taken[2 * kind].push_back(milliseconds([&] { map(place.base, *kinds[kind], place.each); }));
      end();
      begin();
      taken[2 * kind + 1].push_back(milliseconds([&] { unmap(place.base, REGION); }));
      end();
    }
  }
  char text[256];
  const double per_gib = 1024.0 * MIB / REGION;
  snprintf(text, sizeof text, "{\"mapHost\":%.3f,\"unmapHost\":%.3f,\"mapVram\":%.3f,\"unmapVram\":%.3f}",
           median(taken[0]) * per_gib, median(taken[1]) * per_gib, median(taken[2]) * per_gib,
           median(taken[3]) * per_gib);
  return text;
}

static std::string all_remaps() {
  char *host, *device;
  cudaStream_t stream;
  const size_t bytes = 4096 * MIB;
  MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  MUST(cudaMallocHost(&host, REGION));
  MUST(cudaMalloc(&device, REGION));
  const auto nothing = [] {};
  const auto wait = [&] { MUST(cudaStreamSynchronize(stream)); };
  const auto copy = [&] {
    for (size_t at = 0; at < bytes; at += REGION)
      MUST(cudaMemcpyAsync(device, host, REGION, cudaMemcpyHostToDevice, stream));
  };
  const auto kernel = [&] { spin<<<1, 1, 0, stream>>>(SPIN_NS); };
  std::string text;
  for (size_t mib : {2, 32, 64, 128, 256}) {
    const size_t each = mib * MIB;
    const Place place = make_place(each);
    text += (text.empty() ? "\"" : ",\"") + std::to_string(mib) + "MiB\":{\"alone\":" + remaps(place, nothing, nothing);
    text += ",\"whileACopyRuns\":" + remaps(place, copy, wait);
    text += ",\"whileAKernelRuns\":" + remaps(place, kernel, wait) + "}";
    drop_place(place);
  }
  MUST(cudaStreamDestroy(stream));
  MUST(cudaFreeHost(host));
  MUST(cudaFree(device));
  return "\"millisecondsPerGiB\":{" + text + "},\"kernelMilliseconds\":" + std::to_string(SPIN_NS / 1e6);
}

// ---- launches ----

__global__ void look(const unsigned *words, unsigned count, unsigned *verdict) {
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
    if (words[i] == 0xfeedbeefu) *verdict = 0;
}
__global__ void work(unsigned *words) { words[threadIdx.x]++; }

static std::string launches() {
  DRIVER(cuStreamWaitValue32);
  unsigned *words, *verdict;
  cudaStream_t stream;
  MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  MUST(cudaMalloc(&words, MIB));
  MUST(cudaMemset(words, 0, MIB));
  MUST(cudaMallocHost(&verdict, 4));
  *verdict = 1;
  const auto micros = [&](bool looks, bool waits) {
    std::vector<double> taken;
    for (int i = 0; i < TIMES; i++) {
      taken.push_back(milliseconds([&] {
        for (int k = 0; k < LAUNCHES; k++) {
          if (looks) look<<<4, 256, 0, stream>>>(words, MIB / 4, verdict);
          if (waits) MUST(cuStreamWaitValue32(stream, (CUdeviceptr)verdict, 1, CU_STREAM_WAIT_VALUE_GEQ));
          work<<<1, 256, 0, stream>>>(words);
        }
        MUST(cudaStreamSynchronize(stream));
      }));
    }
    return median(taken) * 1e3 / LAUNCHES;
  };
  micros(true, true);
  char text[256];
  snprintf(text, sizeof text,
           "\"microsecondsPerLaunch\":{\"plain\":%.3f,\"withWait\":%.3f,\"withLook\":%.3f,\"withBoth\":%.3f}",
           micros(false, false), micros(false, true), micros(true, false), micros(true, true));
  return text;
}

// ---- what lies below ----

__global__ void sum(const unsigned *words, size_t count, unsigned long long *out) {
  unsigned long long mine = 0;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
    mine += words[i];
  atomicAdd(out, mine);
}

static void shadow() {
  const size_t bytes = 64 * MIB, count = bytes / 4;
  int pageable = 0;
  unsigned long long *out;
  MUST(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, 0));
  MUST(cudaMallocHost(&out, 8));
  const CUdeviceptr base = reserve(REGION);
  map(base, {create(CU_MEM_LOCATION_TYPE_DEVICE, bytes)}, bytes);
  MUST(cudaMemset((void *)base, 1, bytes));
  MUST(cudaDeviceSynchronize());
  unmap(base, bytes);
  const int file = memfd_create("shadow", MFD_CLOEXEC);
  MUST(file < 0 || ftruncate(file, (off_t)bytes) != 0);
  void *below = mmap((void *)base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
  const bool mapped = below == (void *)base;
  double taken[2] = {0, 0};
  bool right = mapped;
  cudaError_t error = cudaSuccess;
  if (mapped) memset(below, 2, bytes);
  for (int i = 0; i < 2 && mapped && error == cudaSuccess; i++) {
    *out = 0;
    taken[i] = milliseconds([&] {
      sum<<<256, 256>>>((const unsigned *)base, count, out);
      error = cudaDeviceSynchronize();
    });
    right = right && error == cudaSuccess && *out == count * 0x02020202ull;
  }
  printf("{\"pageableMemoryAccess\":%d,\"cpuMapping\":%s,\"error\":\"%s\",\"right\":%s,\"firstMilliseconds\":%.3f,"
         "\"secondMilliseconds\":%.3f,\"bytes\":%zu}\n",
         pageable, mapped ? "true" : "false", cudaGetErrorName(error), right ? "true" : "false", taken[0], taken[1],
         bytes);
}

int main(int argc, char **argv) {
  MUST(cudaFree(nullptr));
  if (argc > 1 && strcmp(argv[1], "shadow") == 0) {
    shadow();
    return 0;
  }
  const std::string table = all_remaps();
  printf("{%s,%s}\n", table.c_str(), launches().c_str());
  return 0;
}
