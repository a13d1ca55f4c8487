// SPDX-License-Identifier: Apache-2.0
// suite.cuh: what the programs of the suite share. A program works on chunks of 8 to 64 MiB in one
// repeated order for some tens of rounds, with integer arithmetic only, and prints one JSON line: the
// bytes it had allocated at its peak and a checksum of every result. The same line must come out
// whatever the memory lies in.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

using u32 = unsigned;
using u64 = unsigned long long;
constexpr size_t MIB = size_t(1) << 20;

[[noreturn]] inline void fail(const char *file, int line, const char *what, int code, const char *name) {
  fprintf(stderr, "%s:%d: %s: %d %s\n", file, line, what, code, name);
  fflush(nullptr);
  _Exit(1);
}
#define RT(call)                                                                     \
  do {                                                                               \
    cudaError_t code_ = (call);                                                      \
    if (code_ != cudaSuccess)                                                        \
      fail(__FILE__, __LINE__, #call, int(code_), cudaGetErrorName(code_));          \
  } while (0)
#define CU(call)                                                                     \
  do {                                                                               \
    CUresult code_ = (call);                                                         \
    if (code_ != CUDA_SUCCESS) fail(__FILE__, __LINE__, #call, int(code_), "driver"); \
  } while (0)
#define MUST(condition)                                                              \
  do {                                                                               \
    if (!(condition)) fail(__FILE__, __LINE__, #condition, 0, "not true");           \
  } while (0)

// ---- what was allocated, and what came out ----

inline size_t allocated_now = 0, allocated_peak = 0;
inline void note_allocated(size_t bytes) {
  allocated_now += bytes;
  if (allocated_now > allocated_peak) allocated_peak = allocated_now;
}
inline void note_freed(size_t bytes) { allocated_now -= bytes; }

inline std::vector<std::pair<std::string, u64>> results;
inline void result(const std::string &name, u64 value) { results.emplace_back(name, value); }
inline int finish() {
  printf("{\"peakBytes\": %zu", allocated_peak);
  for (auto &[name, value] : results) printf(", \"%s\": \"%016llx\"", name.c_str(), value);
  printf("}\n");
  return 0;
}

// ---- kernels everybody uses ----

__host__ __device__ inline u32 scramble(u32 x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}
static __global__ void fill(u32 *to, size_t words, u32 seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words;
       i += size_t(gridDim.x) * blockDim.x)
    to[i] = scramble(u32(i) + seed);
}
// Reads one chunk, changes another (or the same).
static __global__ void mix(u32 *to, const u32 *from, size_t words, u32 seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words;
       i += size_t(gridDim.x) * blockDim.x)
    to[i] = to[i] * 1664525u + scramble(from[i] + seed);
}
// A sum of hashes: it does not depend on the order of the threads.
static __global__ void digest(const u32 *from, size_t words, u64 *out) {
  u64 sum = 0;
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words;
       i += size_t(gridDim.x) * blockDim.x)
    sum += u64(scramble(from[i] ^ u32(i))) * (i + 1);
  atomicAdd(out, sum);
}
constexpr int BLOCKS = 512, THREADS = 256;

// ---- chunks ----

struct Chunks {
  std::vector<u32 *> at;
  size_t words = 0;
  size_t bytes() const { return words * 4; }
  int count() const { return int(at.size()); }
  void make(int count, size_t bytes_each, u32 seed) {
    words = bytes_each / 4;
    for (int i = 0; i < count; i++) {
      u32 *chunk = nullptr;
      RT(cudaMalloc(&chunk, bytes_each));
      note_allocated(bytes_each);
      fill<<<BLOCKS, THREADS>>>(chunk, words, seed + u32(i) * 7919u);
      at.push_back(chunk);
    }
    RT(cudaDeviceSynchronize());
  }
  void free() {
    for (u32 *chunk : at) {
      RT(cudaFree(chunk));
      note_freed(bytes());
    }
    at.clear();
  }
  // The chunk that one step changes while it reads the i-th: half a round away, so that nothing is used
  // twice in a row.
  u32 *across(int i) const { return at[(i + count() / 2) % count()]; }
  void round(u32 seed, cudaStream_t stream = nullptr) {
    for (int i = 0; i < count(); i++)
      mix<<<BLOCKS, THREADS, 0, stream>>>(across(i), at[i], words, seed + u32(i));
  }
};

inline u64 digest_of(const u32 *chunk, size_t words) {
  static u64 *out = nullptr;
  u64 value = 0;
  if (out == nullptr) RT(cudaMalloc(&out, sizeof *out));
  RT(cudaMemset(out, 0, sizeof *out));
  digest<<<BLOCKS, THREADS>>>(chunk, words, out);
  RT(cudaMemcpy(&value, out, sizeof value, cudaMemcpyDeviceToHost));
  return value;
}
inline void results_of(const char *name, const Chunks &chunks) {
  RT(cudaDeviceSynchronize());
  u64 all = 0;
  for (u32 *chunk : chunks.at) all = all * 31 + digest_of(chunk, chunks.words);
  result(name, all);
}
