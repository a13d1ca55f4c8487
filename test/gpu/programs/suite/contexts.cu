// SPDX-License-Identifier: Apache-2.0
// The driver API alone: contexts made and destroyed, the primary one reset and used again, modules,
// launches with packed arguments, fills of every width, copies of every direction.
#include "suite.cuh"

// to[i] = to[i] * 1664525 + (from[i] ^ seed), for all i below words.
static const char *STIR = R"(
.version 7.0
.target sm_70
.address_size 64
.visible .entry stir(.param .u64 to, .param .u64 from, .param .u64 words, .param .u32 seed)
{
  .reg .pred %done;
  .reg .b32 %block, %thread, %blocks, %key, %left, %right;
  .reg .b64 %pto, %pfrom, %count, %i, %step, %wide, %byte, %a, %b;
  ld.param.u64 %pto, [to];
  ld.param.u64 %pfrom, [from];
  ld.param.u64 %count, [words];
  ld.param.u32 %key, [seed];
  cvta.to.global.u64 %pto, %pto;
  cvta.to.global.u64 %pfrom, %pfrom;
  mov.u32 %block, %ctaid.x;
  mov.u32 %thread, %tid.x;
  mov.u32 %blocks, %nctaid.x;
  mul.wide.u32 %i, %block, 256;
  cvt.u64.u32 %wide, %thread;
  add.u64 %i, %i, %wide;
  mul.wide.u32 %step, %blocks, 256;
again:
  setp.ge.u64 %done, %i, %count;
  @%done bra end;
  shl.b64 %byte, %i, 2;
  add.u64 %a, %pto, %byte;
  add.u64 %b, %pfrom, %byte;
  ld.global.u32 %left, [%a];
  ld.global.u32 %right, [%b];
  xor.b32 %right, %right, %key;
  mad.lo.u32 %left, %left, 1664525, %right;
  st.global.u32 [%a], %left;
  add.u64 %i, %i, %step;
  bra again;
end:
  ret;
}
)";

static u64 work(u32 seed) {
  constexpr int COUNT = 10, ROUNDS = 32;
  constexpr size_t BYTES = 32 * MIB;
  CUmodule module;
  CUfunction stir;
  CUstream stream;
  CUdeviceptr chunks[COUNT];
  CU(cuModuleLoadData(&module, STIR));
  CU(cuModuleGetFunction(&stir, module, "stir"));
  CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  for (int i = 0; i < COUNT; i++) {
    CU(cuMemAlloc(&chunks[i], BYTES));
    CU(cuMemsetD32(chunks[i], scramble(seed + i), BYTES / 4));
  }
  CU(cuCtxSynchronize());
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < COUNT; i++) {
      struct {
        CUdeviceptr to, from;
        u64 words;
        u32 seed;
      } packed = {chunks[(i + COUNT / 2) % COUNT], chunks[i], BYTES / 4, seed + u32(round)};
      size_t bytes = 28;
      void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                       CU_LAUNCH_PARAM_END};
      CU(cuLaunchKernel(stir, 512, 1, 1, 256, 1, 1, 0, stream, nullptr, extra));
    }
    CU(cuMemsetD8Async(chunks[0], (unsigned char)round, 3 * MIB + 1, stream));
    CU(cuMemsetD16Async(chunks[1] + 2, (unsigned short)(round * 7), MIB, stream));
    CU(cuMemsetD2D32Async(chunks[2], 4096, round, 100, 500, stream));
    CU(cuMemcpyDtoDAsync(chunks[3] + 128, chunks[4], 20 * MIB, stream));
    CU(cuMemcpyAsync(chunks[5], chunks[6] + 4096, 9 * MIB, stream));
  }
  CU(cuStreamSynchronize(stream));
  std::vector<u32> host(BYTES / 4);
  u64 sum = 0;
  for (int i = 0; i < COUNT; i++) {
    CU(cuMemcpyDtoH(host.data(), chunks[i], BYTES));
    for (u32 value : host) sum = sum * 1099511628211ull + value;
  }
  // Half of them are left for the context to drop.
  for (int i = 0; i < COUNT; i += 2) CU(cuMemFree(chunks[i]));
  CU(cuStreamDestroy(stream));
  return sum;
}

int main() {
  CUdevice device;
  CUcontext context;
  size_t free_before = 0, free_after = 0, total = 0;
  CU(cuInit(0));
  CU(cuDeviceGet(&device, 0));
  note_allocated(10 * 32 * MIB);
  for (u32 i = 0; i < 2; i++) {
#if CUDA_VERSION >= 13000
    CU(cuCtxCreate(&context, nullptr, 0, device));
#else
    CU(cuCtxCreate(&context, 0, device));
#endif
    result("created" + std::to_string(i), work(i));
    CU(cuCtxDestroy(context));
  }
  for (u32 i = 0; i < 2; i++) {
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));
    CU(cuMemGetInfo(&free_before, &total));
    result("primary" + std::to_string(i), work(10 + i));
    CU(cuDevicePrimaryCtxReset(device));
    CU(cuDevicePrimaryCtxRelease(device));
  }
  CU(cuDevicePrimaryCtxRetain(&context, device));
  CU(cuCtxSetCurrent(context));
  CU(cuMemGetInfo(&free_after, &total));
  MUST(free_after + 64 * MIB >= free_before);
  return finish();
}
