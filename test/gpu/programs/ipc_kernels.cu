/* SPDX-License-Identifier: Apache-2.0 */
/* ipc_kernels.cu: test/c/soak/kernels.c for a GPU: one block of 32 threads each. */
#include <stdint.h>

static __device__ void linger(uint64_t nanoseconds) {
  uint64_t start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  while (now - start < nanoseconds);
}

static __device__ void mix(uint64_t *to, const uint64_t *from, uint64_t words, uint64_t seed) {
  for (uint64_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = to[i] * 3 + from[i] + seed;
}

extern "C" __global__ void soak_mix(uint64_t *to, const uint64_t *from, uint64_t words,
                                    uint64_t seed) {
  mix(to, from, words, seed);
}

extern "C" __global__ void soak_table(uint64_t **table, uint64_t words, uint64_t seed) {
  mix(table[0], table[1], words, seed);
}

extern "C" __global__ void soak_gather(uint64_t **table, const uint64_t *list, uint64_t count,
                                       uint64_t *out) {
  for (uint64_t i = threadIdx.x; i < count; i += blockDim.x)
    out[i] = table[list[2 * i]][list[2 * i + 1]];
}

extern "C" __global__ void soak_poke(uint64_t **table, uint64_t row, uint64_t word, uint64_t amount,
                                     uint64_t nanoseconds) {
  if (threadIdx.x != 0) return;
  volatile uint64_t *at = &table[row][word];
  const uint64_t was = *at;
  linger(nanoseconds);
  *at = was + amount;
}
