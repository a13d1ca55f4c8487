// SPDX-License-Identifier: Apache-2.0
// Pointers where no argument shows them: tables in device memory as batched BLAS takes them, pointers
// in __device__ and __constant__ variables, a linked list through the chunks themselves.
#include "suite.cuh"

struct Node {
  Node *next;
  u32 value[14];
};
__device__ u32 *symbol_target;
__constant__ u32 *constant_targets[4];

static __global__ void batched(u32 *const *to, const u32 *const *from, int count, size_t words, u32 seed) {
  for (int batch = blockIdx.y; batch < count; batch += gridDim.y)
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words;
         i += size_t(gridDim.x) * blockDim.x)
      to[batch][i] = to[batch][i] * 69069u + scramble(from[batch][i] + seed + batch);
}
static __global__ void by_symbols(size_t words, u32 seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words;
       i += size_t(gridDim.x) * blockDim.x) {
    u32 sum = 0;
    for (u32 *target : constant_targets) sum += target[i];
    symbol_target[i] += scramble(sum + seed);
  }
}
static __global__ void link(Node *nodes, size_t count, Node *next) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
       i += size_t(gridDim.x) * blockDim.x)
    nodes[i].next = next + (i * 7919) % count;
}
// Each thread follows its list through several chunks and leaves a mark in each node.
static __global__ void walk(Node *start, size_t count, int steps, u32 seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
       i += size_t(gridDim.x) * blockDim.x) {
    Node *node = start + i;
    for (int step = 0; step < steps; step++) {
      atomicAdd(&node->value[step % 14], scramble(u32(i) + seed));
      node = node->next;
    }
  }
}

int main() {
  constexpr int COUNT = 12, ROUNDS = 34;
  Chunks chunks, lists;
  chunks.make(COUNT, 32 * MIB, 7);
  lists.make(4, 32 * MIB, 8);
  std::vector<u32 *> to, from;
  for (int i = 0; i < COUNT; i++) {
    to.push_back(chunks.at[i]);
    from.push_back(chunks.at[(i * 5 + 1) % COUNT]);
  }
  u32 **table;
  RT(cudaMalloc(&table, 2 * COUNT * sizeof *table));
  RT(cudaMemcpy(table + COUNT, from.data(), COUNT * sizeof *table, cudaMemcpyHostToDevice));
  size_t nodes = lists.bytes() / sizeof(Node);
  for (int i = 0; i < 4; i++) {
    RT(cudaMemset(lists.at[i], 0, lists.bytes()));
    link<<<BLOCKS, THREADS>>>((Node *)lists.at[i], nodes, (Node *)lists.at[(i + 1) % 4]);
  }
  for (int round = 0; round < ROUNDS; round++) {
    // One batch writes what no other of it reads: halves.
    for (int half = 0; half < 2; half++) {
      std::vector<u32 *> targets;
      std::vector<u32 *> sources;
      for (int i = half; i < COUNT; i += 2) {
        targets.push_back(chunks.at[i]);
        sources.push_back(chunks.at[(i + 1 + 2 * (round % 3)) % COUNT]);
      }
      RT(cudaMemcpy(table, targets.data(), targets.size() * sizeof *table, cudaMemcpyHostToDevice));
      RT(cudaMemcpy(table + COUNT, sources.data(), sources.size() * sizeof *table, cudaMemcpyHostToDevice));
      batched<<<dim3(128, COUNT / 2), THREADS>>>(table, table + COUNT, COUNT / 2, chunks.words, round);
    }
    u32 *target = chunks.at[round % COUNT];
    u32 *constants[4] = {chunks.at[(round + 1) % COUNT], chunks.at[(round + 2) % COUNT],
                         chunks.at[(round + 5) % COUNT], chunks.at[(round + 9) % COUNT]};
    RT(cudaMemcpyToSymbol(symbol_target, &target, sizeof target));
    RT(cudaMemcpyToSymbol(constant_targets, constants, sizeof constants));
    by_symbols<<<BLOCKS, THREADS>>>(chunks.words, round);
    walk<<<BLOCKS, THREADS>>>((Node *)lists.at[round % 4], nodes / 16, 8, round);
    chunks.round(round);  // The same chunks, named.
  }
  results_of("chunks", chunks);
  u64 marks = 0;  // Without the pointers, which are other numbers in every process.
  std::vector<Node> host(nodes);
  for (u32 *list : lists.at) {
    RT(cudaMemcpy(host.data(), list, lists.bytes(), cudaMemcpyDeviceToHost));
    for (auto &node : host)
      for (u32 value : node.value) marks = marks * 1099511628211ull + value;
  }
  result("marks", marks);
  return finish();
}
