/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph_operations.h: what the nodes of gb_graphs do, each also on the CPU, and the parameters the
 * driver is given for them.
 */
#ifndef GB_TEST_GRAPH_OPERATIONS_H
#define GB_TEST_GRAPH_OPERATIONS_H

#include <stdbool.h>

#include "kernels.h"
#include "program.h"

#define WINDOW 8192u /* words at the start of a buffer that operations use */
#define WORDS_MAX 512u
#define BUFFERS_MAX 64u

static unsigned buffer_count = 24;
static size_t buffer_bytes = (size_t)2 << 20;
static CUdeviceptr buffers[BUFFERS_MAX];
static uint64_t *models[BUFFERS_MAX];
static uint64_t *source; /* pinned; constant */
static uint64_t host_state, host_model;
static CUfunction update_kernel, mix_kernel;
static CUcontext context;

static uint64_t random_state;
static uint64_t random_word(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}
static unsigned below(unsigned limit) { return (unsigned)(random_word() >> 20) % limit; }

/* ---- operations ---- */

enum kind { UPDATE, MIX, FILL, COPY, UPLOAD, HOST, CHILD, KINDS };

struct operation {
  enum kind kind;
  unsigned to, from; /* buffers */
  uint64_t to_at, from_at, words, key;
  bool off;
  struct operation *child; /* of CHILD: two, one after the other */
};

static void randomise_values(struct operation *op) {
  op->words = 16 + below(WORDS_MAX - 16);
  op->to_at = below(WINDOW - WORDS_MAX);
  op->from_at = op->to == op->from ? op->to_at : below(WINDOW - WORDS_MAX);
  op->key = random_word() >> 8;
}

static void randomise(struct operation *op, enum kind kind) {
  *op = (struct operation){.kind = kind, .to = below(buffer_count), .from = below(buffer_count)};
  if (op->from == op->to) op->from = (op->from + 1) % buffer_count;
  randomise_values(op);
  if (kind != CHILD) return;
  op->child = calloc(2, sizeof *op->child);
  for (int i = 0; i < 2; i++) {
    randomise(&op->child[i], i == 0 ? MIX : UPDATE);
    op->child[i].to = op->to;
    op->child[i].from = op->from;
  }
}

static void run_model(const struct operation *op) {
  uint64_t *to = models[op->to] + op->to_at, *from = models[op->from] + op->from_at;
  if (op->off) return;
  switch (op->kind) {
    case UPDATE:
      for (uint64_t i = 0; i < op->words; i++) to[i] = to[i] * 3 + op->key + i;
      break;
    case MIX:
      for (uint64_t i = 0; i < op->words; i++) to[i] = to[i] * 5 + (from[i] ^ op->key);
      break;
    case FILL:
      for (uint64_t i = 0; i < op->words; i++)
        to[i] = (op->key & 0xffffffffu) | (op->key & 0xffffffffu) << 32;
      break;
    case COPY: memmove(to, from, op->words * 8); break;
    case UPLOAD: memcpy(to, source + op->from_at, op->words * 8); break;
    case HOST: host_model = host_model * 31 + op->key; break;
    default:
      for (int i = 0; i < 2; i++) run_model(&op->child[i]);
  }
}

static void host_function(void *data) {
  host_state = host_state * 31 + (uint64_t)(uintptr_t)data;
}

/* ---- parameters of nodes ---- */

struct mix_args {
  CUdeviceptr to, from;
  uint64_t words, key;
};

/* What a node's parameters point to while the driver reads them. */
struct arguments {
  CUdeviceptr to;
  uint64_t words, key;
  struct mix_args mix;
  void *list[3];
};

static CUDA_KERNEL_NODE_PARAMS kernel_params(const struct operation *op, struct arguments *args) {
  args->to = buffers[op->to] + op->to_at * 8;
  args->words = op->words;
  args->key = op->key;
  args->mix = (struct mix_args){args->to, buffers[op->from] + op->from_at * 8, op->words, op->key};
  args->list[0] = op->kind == UPDATE ? (void *)&args->to : (void *)&args->mix;
  args->list[1] = &args->words;
  args->list[2] = &args->key;
  return (CUDA_KERNEL_NODE_PARAMS){.func = op->kind == UPDATE ? update_kernel : mix_kernel,
                                   .gridDimX = 2,
                                   .gridDimY = 1,
                                   .gridDimZ = 1,
                                   .blockDimX = 128,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .kernelParams = args->list};
}

static CUDA_MEMSET_NODE_PARAMS fill_params(const struct operation *op) {
  return (CUDA_MEMSET_NODE_PARAMS){.dst = buffers[op->to] + op->to_at * 8,
                                   .value = (unsigned)op->key,
                                   .elementSize = 4,
                                   .width = op->words * 2,
                                   .height = 1};
}

static CUDA_MEMCPY3D copy_params(const struct operation *op) {
  CUDA_MEMCPY3D copy = {.dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = buffers[op->to],
                        .dstXInBytes = op->to_at * 8,
                        .WidthInBytes = op->words * 8,
                        .Height = 1,
                        .Depth = 1};
  if (op->kind == UPLOAD) {
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = source + op->from_at;
  } else {
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = buffers[op->from];
    copy.srcXInBytes = op->from_at * 8;
  }
  return copy;
}

static CUDA_HOST_NODE_PARAMS host_params(const struct operation *op) {
  return (CUDA_HOST_NODE_PARAMS){host_function, (void *)(uintptr_t)op->key};
}

static CUgraphNode add_node(CUgraph graph, const struct operation *op, const CUgraphNode *after,
                            size_t count) {
  CUgraphNode node = NULL;
  struct arguments args;
  switch (op->kind) {
    case UPDATE:
    case MIX: {
      CUDA_KERNEL_NODE_PARAMS params = kernel_params(op, &args);
      CU(cuGraphAddKernelNode(&node, graph, after, count, &params));
      break;
    }
    case FILL: {
      CUDA_MEMSET_NODE_PARAMS params = fill_params(op);
      CU(cuGraphAddMemsetNode(&node, graph, after, count, &params, context));
      break;
    }
    case COPY:
    case UPLOAD: {
      CUDA_MEMCPY3D params = copy_params(op);
      CU(cuGraphAddMemcpyNode(&node, graph, after, count, &params, context));
      break;
    }
    case HOST: {
      CUDA_HOST_NODE_PARAMS params = host_params(op);
      CU(cuGraphAddHostNode(&node, graph, after, count, &params));
      break;
    }
    default: {
      CUgraph inner;
      CU(cuGraphCreate(&inner, 0));
      CUgraphNode first = add_node(inner, &op->child[0], NULL, 0);
      add_node(inner, &op->child[1], &first, 1);
      CU(cuGraphAddChildGraphNode(&node, graph, after, count, inner));
      CU(cuGraphDestroy(inner));
    }
  }
  return node;
}

#endif
