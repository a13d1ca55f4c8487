// SPDX-License-Identifier: Apache-2.0
// What a llama.cpp-like engine looks like to the driver: all weights in ONE buffer with pointers inside, cuBLAS GEMMs
// and small kernels between them, a whole pass captured as one CUDA graph (or launched anew each time), the logits of
// the last token copied to the host after every pass. Llama shape, random bf16 weights of a fixed seed.
//
//   engine_loop decode|prefill graph|launch [--layers 16] [--passes 20] [--warm 6] [--tokens 2048]
//
// decode: each pass takes the token that the one before chose. prefill: each pass does the same --tokens tokens.
// Prints one JSON line: seconds of each pass, bytes a pass touches, tokens and a digest of the last logits.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define CHECK(call)                                                       \
  do {                                                                    \
    const int status = (int)(call);                                       \
    if (status != 0) {                                                    \
      fprintf(stderr, "%s:%d failed: %d\n", __FILE__, __LINE__, status);  \
      exit(1);                                                            \
    }                                                                     \
  } while (0)

using bf16 = __nv_bfloat16;
using std::chrono::steady_clock;

static const int HIDDEN = 4096, INNER = 11008, HEADS = 32, HEAD = HIDDEN / HEADS, VOCABULARY = 32000;
static const size_t WORKSPACE = 32 << 20;

// ---- kernels ----

__global__ void fill(bf16 *out, size_t count, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
    uint64_t x = seed + i;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    out[i] = __float2bfloat16(((float)(x >> 40) / (1 << 23) - 1.0f) * scale);
  }
}

// One block per token.
__global__ void embed(bf16 *x, const bf16 *table, const int *tokens) {
  for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x)
    x[(size_t)blockIdx.x * HIDDEN + i] = table[(size_t)tokens[blockIdx.x] * HIDDEN + i];
}

template <class Op>
__device__ float reduce(float value, Op op) {
  __shared__ float shared[256];
  shared[threadIdx.x] = value;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] = op(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  __syncthreads();
  value = shared[0];
  __syncthreads();
  return value;
}

// One block of 256 per token.
__global__ void rms_norm(bf16 *out, const bf16 *in) {
  const size_t row = (size_t)blockIdx.x * HIDDEN;
  float sum = 0;
  for (int i = threadIdx.x; i < HIDDEN; i += 256) {
    const float v = __bfloat162float(in[row + i]);
    sum += v * v;
  }
  const float scale = rsqrtf(reduce(sum, [](float a, float b) { return a + b; }) / HIDDEN + 1e-5f);
  for (int i = threadIdx.x; i < HIDDEN; i += 256)
    out[row + i] = __float2bfloat16(__bfloat162float(in[row + i]) * scale);
}

// Copies the keys and values of this pass to their place in the cache. One block per token.
__global__ void append(bf16 *cache_k, bf16 *cache_v, const bf16 *k, const bf16 *v, const int *position) {
  const size_t to = (size_t)(*position + blockIdx.x) * HIDDEN, from = (size_t)blockIdx.x * HIDDEN;
  for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) {
    cache_k[to + i] = k[from + i];
    cache_v[to + i] = v[from + i];
  }
}

// Causal; one block of 256 per token and head.
__global__ void softmax(bf16 *scores, int context, int tokens, const int *position) {
  bf16 *row = scores + ((size_t)blockIdx.y * tokens + blockIdx.x) * context;
  const int valid = *position + blockIdx.x + 1;
  const float scale = 0.08838834764f;  // 1 / sqrt(HEAD)
  float most = -1e30f, sum = 0;
  for (int i = threadIdx.x; i < valid; i += 256) most = fmaxf(most, __bfloat162float(row[i]));
  most = reduce(most, [](float a, float b) { return fmaxf(a, b); });
  for (int i = threadIdx.x; i < valid; i += 256) sum += __expf((__bfloat162float(row[i]) - most) * scale);
  sum = reduce(sum, [](float a, float b) { return a + b; });
  for (int i = threadIdx.x; i < context; i += 256)
    row[i] = __float2bfloat16(i < valid ? __expf((__bfloat162float(row[i]) - most) * scale) / sum : 0.0f);
}

__global__ void add(bf16 *x, const bf16 *y, size_t count) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
    x[i] = __hadd(x[i], y[i]);
}

__global__ void silu_mul(bf16 *gate, const bf16 *up, size_t count) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
    const float g = __bfloat162float(gate[i]);
    gate[i] = __float2bfloat16(g / (1.0f + __expf(-g)) * __bfloat162float(up[i]));
  }
}

// Chooses the next token and moves on. One block of 256.
__global__ void choose(int *tokens, int *position, const bf16 *logits) {
  __shared__ float best[256];
  __shared__ int which[256];
  float most = -1e30f;
  int at = 0;
  for (int i = threadIdx.x; i < VOCABULARY; i += 256) {
    const float v = __bfloat162float(logits[i]);
    if (v > most) most = v, at = i;
  }
  best[threadIdx.x] = most;
  which[threadIdx.x] = at;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int t = 1; t < 256; t++)
    if (best[t] > best[0] || (best[t] == best[0] && which[t] < which[0])) best[0] = best[t], which[0] = which[t];
  tokens[0] = which[0];
  *position += 1;
}

// ---- the model ----

struct Layer {
  bf16 *q, *k, *v, *o, *gate, *up, *down, *cache_k, *cache_v;
};

static bool decode, graph;
static int layer_count = 16, passes = 20, warm = 6, tokens = 2048, context;
static uint64_t allocated, touched;
static std::vector<Layer> layers;
static bf16 *table, *head, *x, *h, *q, *k, *v, *attention, *gate, *up, *scores, *logits;
static int *token_ids, *position;
static cudaStream_t stream;
static cublasHandle_t blas;

template <class T>
static T *allocate(size_t count, bool counts = true) {
  T *pointer;
  CHECK(cudaMalloc(&pointer, count * sizeof(T)));
  allocated += count * sizeof(T);
  if (counts) touched += count * sizeof(T);
  return pointer;
}

static void build_weights() {
  const size_t square = (size_t)HIDDEN * HIDDEN, wide = (size_t)HIDDEN * INNER;
  const size_t vocabulary = (size_t)VOCABULARY * HIDDEN;
  const size_t per_layer = 4 * square + 3 * wide, total = layer_count * per_layer + 2 * vocabulary;
  bf16 *weights = allocate<bf16>(total);
  touched -= vocabulary * sizeof(bf16);  // of the table a pass reads its tokens' rows only
  touched += (size_t)tokens * HIDDEN * sizeof(bf16);
  fill<<<528, 256, 0, stream>>>(weights, total, 7, 0.027f);  // a standard deviation of 1 / sqrt(HIDDEN)
  auto take = [&weights](size_t count) { return weights += count, weights - count; };
  table = take(vocabulary);
  for (int i = 0; i < layer_count; i++) {
    Layer layer = {take(square), take(square), take(square), take(square), take(wide), take(wide), take(wide), nullptr,
                   nullptr};
    layers.push_back(layer);
  }
  head = take(vocabulary);
}

static void build_state() {
  const size_t row = (size_t)tokens * HIDDEN, inner = (size_t)tokens * INNER, cache = (size_t)context * HIDDEN;
  bf16 *all = allocate<bf16>(2 * cache * layer_count);
  CHECK(cudaMemsetAsync(all, 0, 2 * cache * layer_count * sizeof(bf16), stream));
  for (Layer &layer : layers) {
    layer.cache_k = all;
    layer.cache_v = all + cache;
    all += 2 * cache;
  }
  for (bf16 **buffer : {&x, &h, &q, &k, &v, &attention}) *buffer = allocate<bf16>(row);
  for (bf16 **buffer : {&gate, &up}) *buffer = allocate<bf16>(inner);
  scores = allocate<bf16>((size_t)HEADS * tokens * context);
  logits = allocate<bf16>(VOCABULARY);
  token_ids = allocate<int>(tokens);
  position = allocate<int>(1);
  std::vector<int> ids(tokens);
  for (int i = 0; i < tokens; i++) ids[i] = (i * 13 + 1) % VOCABULARY;
  CHECK(cudaMemcpyAsync(token_ids, ids.data(), tokens * sizeof(int), cudaMemcpyHostToDevice, stream));
  CHECK(cudaMemsetAsync(position, 0, sizeof(int), stream));
}

// out[columns][rows] = in[columns][inner] * weights; row-major, as everything here.
static void multiply(bf16 *out, const bf16 *weights, const bf16 *in, int rows, int columns, int inner) {
  const float one = 1.0f, zero = 0.0f;
  CHECK(cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, rows, columns, inner, &one, weights, CUDA_R_16BF, inner, in,
                     CUDA_R_16BF, inner, &zero, out, CUDA_R_16BF, rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

static void attend(const Layer &layer) {
  const float one = 1.0f, zero = 0.0f;
  append<<<tokens, 256, 0, stream>>>(layer.cache_k, layer.cache_v, k, v, position);
  CHECK(cublasGemmStridedBatchedEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, context, tokens, HEAD, &one, layer.cache_k,
                                   CUDA_R_16BF, HIDDEN, HEAD, q, CUDA_R_16BF, HIDDEN, HEAD, &zero, scores, CUDA_R_16BF,
                                   context, (long long)context * tokens, HEADS, CUBLAS_COMPUTE_32F,
                                   CUBLAS_GEMM_DEFAULT));
  softmax<<<dim3(tokens, HEADS), 256, 0, stream>>>(scores, context, tokens, position);
  CHECK(cublasGemmStridedBatchedEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, HEAD, tokens, context, &one, layer.cache_v,
                                   CUDA_R_16BF, HIDDEN, HEAD, scores, CUDA_R_16BF, context,
                                   (long long)context * tokens, &zero, attention, CUDA_R_16BF, HIDDEN, HEAD, HEADS,
                                   CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

static void submit_pass() {
  const size_t row = (size_t)tokens * HIDDEN, inner = (size_t)tokens * INNER;
  embed<<<tokens, 256, 0, stream>>>(x, table, token_ids);
  for (const Layer &layer : layers) {
    rms_norm<<<tokens, 256, 0, stream>>>(h, x);
    multiply(q, layer.q, h, HIDDEN, tokens, HIDDEN);
    multiply(k, layer.k, h, HIDDEN, tokens, HIDDEN);
    multiply(v, layer.v, h, HIDDEN, tokens, HIDDEN);
    attend(layer);
    multiply(h, layer.o, attention, HIDDEN, tokens, HIDDEN);
    add<<<528, 256, 0, stream>>>(x, h, row);
    rms_norm<<<tokens, 256, 0, stream>>>(h, x);
    multiply(gate, layer.gate, h, INNER, tokens, HIDDEN);
    multiply(up, layer.up, h, INNER, tokens, HIDDEN);
    silu_mul<<<528, 256, 0, stream>>>(gate, up, inner);
    multiply(h, layer.down, gate, HIDDEN, tokens, INNER);
    add<<<528, 256, 0, stream>>>(x, h, row);
  }
  rms_norm<<<1, 256, 0, stream>>>(h, x + row - HIDDEN);
  multiply(logits, head, h, VOCABULARY, 1, HIDDEN);
  if (decode) choose<<<1, 256, 0, stream>>>(token_ids, position, logits);
  CHECK(cudaGetLastError());
}

static cudaGraphExec_t capture_pass() {
  cudaGraph_t captured;
  cudaGraphExec_t executable;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  submit_pass();
  CHECK(cudaStreamEndCapture(stream, &captured));
  CHECK(cudaGraphInstantiate(&executable, captured, 0));
  return executable;
}

static uint64_t digest(const void *bytes, size_t count) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < count; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3ull;
  return hash;
}

static bool parse(int argc, char **argv) {
  if (argc < 3) return false;
  decode = strcmp(argv[1], "decode") == 0;
  graph = strcmp(argv[2], "graph") == 0;
  for (int i = 3; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    int *value = name == "--layers" ? &layer_count : name == "--passes" ? &passes : name == "--warm" ? &warm
                 : name == "--tokens" ? &tokens : nullptr;
    if (value == nullptr) return false;
    *value = atoi(argv[i + 1]);
  }
  if (decode) tokens = 1;
  context = decode ? (warm + passes + 63) / 64 * 64 : tokens;
  return (decode || strcmp(argv[1], "prefill") == 0) && (graph || strcmp(argv[2], "launch") == 0) && passes > 0;
}

int main(int argc, char **argv) {
  if (!parse(argc, argv)) {
    fprintf(stderr, "usage: engine_loop decode|prefill graph|launch [--layers N] [--passes N] [--warm N] "
                    "[--tokens N]\n");
    return 2;
  }
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cublasCreate(&blas));
  CHECK(cublasSetStream(blas, stream));
  CHECK(cublasSetWorkspace(blas, allocate<char>(WORKSPACE, false), WORKSPACE));
  build_weights();
  build_state();
  CHECK(cudaStreamSynchronize(stream));
  cudaGraphExec_t executable = graph ? capture_pass() : nullptr;
  bf16 *answer;
  int *chosen;
  CHECK(cudaMallocHost(&answer, VOCABULARY * sizeof(bf16)));
  CHECK(cudaMallocHost(&chosen, sizeof(int)));
  std::vector<double> seconds;
  std::vector<int> all_tokens;
  uint64_t hash = 0, different = 0;
  for (int pass = 0; pass < warm + passes; pass++) {
    const auto start = steady_clock::now();
    if (graph)
      CHECK(cudaGraphLaunch(executable, stream));
    else
      submit_pass();
    CHECK(cudaMemcpyAsync(answer, logits, VOCABULARY * sizeof(bf16), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaMemcpyAsync(chosen, token_ids, sizeof(int), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    const double took = std::chrono::duration<double>(steady_clock::now() - start).count();
    if (pass >= warm) seconds.push_back(took);
    const uint64_t now = digest(answer, VOCABULARY * sizeof(bf16));
    different += !decode && pass > 0 && now != hash;  // the same tokens give the same logits every time
    hash = now;
    if (decode) all_tokens.push_back(*chosen);
  }
  printf("{\"results\":{\"digest\":\"%016llx\",\"passesThatDiffer\":%llu,\"tokens\":[", (unsigned long long)hash,
         (unsigned long long)different);
  for (size_t i = 0; i < all_tokens.size(); i++) printf("%s%d", i ? "," : "", all_tokens[i]);
  printf("]},\"peakBytes\":%llu,\"phases\":{\"%s\":{\"touchedBytes\":%llu,\"seconds\":[", (unsigned long long)allocated,
         decode ? "decode" : "prefill", (unsigned long long)touched);
  for (size_t i = 0; i < seconds.size(); i++) printf("%s%.7f", i ? "," : "", seconds[i]);
  printf("]}}}\n");
  return different != 0;
}
