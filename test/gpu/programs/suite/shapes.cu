// SPDX-License-Identifier: Apache-2.0
// Pitched memory, 2D and 3D copies and fills, arrays, copies by batch and by peer.
#include "suite.cuh"

int main() {
  constexpr size_t WIDTH = 4000 * 4, HEIGHT = 2048, PLANES = 8;  // 16,000 of 16,384 bytes a row
  constexpr int COUNT = 10, ROUNDS = 32;
  size_t pitch = 0;
  std::vector<u32 *> planes(COUNT);
  for (auto &plane : planes) {
    RT(cudaMallocPitch(&plane, &pitch, WIDTH, HEIGHT));
    note_allocated(pitch * HEIGHT);
    fill<<<BLOCKS, THREADS>>>(plane, pitch / 4 * HEIGHT, u32(&plane - planes.data()));
  }
  MUST(pitch % 512 == 0);
  cudaExtent extent = make_cudaExtent(WIDTH, HEIGHT / PLANES, PLANES);
  cudaPitchedPtr box;
  RT(cudaMalloc3D(&box, extent));
  note_allocated(box.pitch * HEIGHT);
  RT(cudaMemset3D(box, 3, extent));
  std::vector<unsigned char> host(WIDTH * 64);
  for (size_t i = 0; i < host.size(); i++) host[i] = (unsigned char)(i * 31);
  cudaStream_t stream;
  RT(cudaStreamCreate(&stream));
  cudaArray_t array;
  cudaChannelFormatDesc format = cudaCreateChannelDesc<u32>();
  RT(cudaMallocArray(&array, &format, 1024, 1024));
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < COUNT; i++) {
      u32 *from = planes[i], *to = planes[(i + COUNT / 2) % COUNT];
      RT(cudaMemcpy2DAsync(to, pitch, from + 16, pitch, WIDTH / 2, HEIGHT, cudaMemcpyDeviceToDevice, stream));
      RT(cudaMemset2DAsync(to + 64, pitch, round + i, 256, HEIGHT, stream));
      RT(cudaMemcpy2DAsync(to + 1024, pitch, host.data(), WIDTH, 2048, 64, cudaMemcpyHostToDevice, stream));
      mix<<<BLOCKS, THREADS, 0, stream>>>(to, from, pitch / 4 * HEIGHT, round);
    }
    cudaMemcpy3DParms copy{};
    copy.srcPtr = make_cudaPitchedPtr(planes[round % COUNT], pitch, WIDTH, HEIGHT / PLANES);
    copy.dstPtr = box;
    copy.extent = make_cudaExtent(WIDTH / 2, HEIGHT / PLANES / 2, PLANES);
    copy.srcPos = make_cudaPos(64, 3, 0);
    copy.kind = cudaMemcpyDeviceToDevice;
    RT(cudaMemcpy3DAsync(&copy, stream));
    RT(cudaMemcpy2DToArrayAsync(array, 0, 0, planes[(round + 3) % COUNT], pitch, 4096, 1024,
                                cudaMemcpyDeviceToDevice, stream));
    RT(cudaMemcpy2DFromArrayAsync(planes[(round + 5) % COUNT], pitch, array, 0, 0, 4096, 1024,
                                  cudaMemcpyDeviceToDevice, stream));
    RT(cudaMemcpyPeerAsync(planes[(round + 7) % COUNT], 0, planes[round % COUNT], 0, 8 * MIB, stream));
#if CUDART_VERSION >= 13000
    void *to[2] = {planes[(round + 2) % COUNT], planes[(round + 4) % COUNT]};
    const void *from[2] = {planes[(round + 6) % COUNT], planes[(round + 8) % COUNT]};
    size_t sizes[2] = {4 * MIB, 2 * MIB}, first = 0;
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    RT(cudaMemcpyBatchAsync(to, from, sizes, 2, &attributes, &first, 1, stream));
#endif
  }
  RT(cudaMemcpy2D(host.data(), WIDTH, planes[1], pitch, WIDTH, 64, cudaMemcpyDeviceToHost));
  RT(cudaStreamSynchronize(stream));
  u64 sum = 0;
  for (unsigned char byte : host) sum = sum * 131 + byte;
  result("host", sum);
  for (int i = 0; i < COUNT; i++) result("plane" + std::to_string(i), digest_of(planes[i], pitch / 4 * HEIGHT));
  result("box", digest_of((u32 *)box.ptr, box.pitch / 4 * HEIGHT));
  for (auto plane : planes) RT(cudaFree(plane));
  RT(cudaFree(box.ptr));
  RT(cudaFreeArray(array));
  return finish();
}
