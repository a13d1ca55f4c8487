// SPDX-License-Identifier: Apache-2.0
// A GPU-bound loop: cuBLAS GEMMs of decode and prefill shape and a kernel of its own between them. Prints the
// microseconds per iteration, measured with events after a warm-up.
#include <cstdio>
#include <cstdlib>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define CHECK(call)                                                          \
  do {                                                                       \
    if ((int)(call) != 0) {                                                  \
      fprintf(stderr, "%s:%d failed\n", __FILE__, __LINE__);                 \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

__global__ void gelu(__nv_bfloat16 *x, int count) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    float v = __bfloat162float(x[i]);
    x[i] = __float2bfloat16(0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v))));
  }
}

int main(int argc, char **argv) {
  const int hidden = 4096, inner = 11008, layers = 8;
  const int tokens = argc > 1 ? atoi(argv[1]) : 1;
  const int iterations = argc > 2 ? atoi(argv[2]) : 200;
  cublasHandle_t blas;
  CHECK(cublasCreate(&blas));
  __nv_bfloat16 *up[layers], *down[layers], *x, *y;
  for (int i = 0; i < layers; i++) {
    CHECK(cudaMalloc(&up[i], sizeof(*up[i]) * hidden * inner));
    CHECK(cudaMalloc(&down[i], sizeof(*down[i]) * hidden * inner));
    CHECK(cudaMemset(up[i], 0, sizeof(*up[i]) * hidden * inner));
    CHECK(cudaMemset(down[i], 0, sizeof(*down[i]) * hidden * inner));
  }
  CHECK(cudaMalloc(&x, sizeof(*x) * hidden * tokens));
  CHECK(cudaMalloc(&y, sizeof(*y) * inner * tokens));
  CHECK(cudaMemset(x, 0, sizeof(*x) * hidden * tokens));
  const float one = 1.0f, zero = 0.0f;
  auto step = [&] {
    for (int i = 0; i < layers; i++) {
      CHECK(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, inner, tokens, hidden, &one, up[i], CUDA_R_16BF, inner, x,
                         CUDA_R_16BF, hidden, &zero, y, CUDA_R_16BF, inner, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
      gelu<<<132, 256>>>(y, inner * tokens);
      CHECK(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, hidden, tokens, inner, &one, down[i], CUDA_R_16BF, hidden, y,
                         CUDA_R_16BF, inner, &zero, x, CUDA_R_16BF, hidden, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    }
  };
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  for (int i = 0; i < 20; i++) step();
  CHECK(cudaEventRecord(begin));
  for (int i = 0; i < iterations; i++) step();
  CHECK(cudaEventRecord(end));
  CHECK(cudaEventSynchronize(end));
  float milliseconds = 0;
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
  printf("%.3f\n", milliseconds * 1000.0 / iterations);
  return 0;
}
