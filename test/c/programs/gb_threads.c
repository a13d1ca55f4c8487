/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_threads: eight threads, each with its own streams, buffers and events. A thread fills a buffer
 * on one stream, hands it to another by an event, changes it there, and compares the result; all
 * contend for the same device. Exit 0 when right.
 */
#include <pthread.h>

#include "kernels.h"
#include "program.h"

#define THREADS 8
#define WORDS (1u << 17) /* 1 MiB a buffer */

struct job {
  pthread_t thread;
  unsigned number, steps;
  uint64_t wrong;
};

static CUcontext context;
static CUfunction fill, update;

static uint64_t step(CUstream producer, CUstream consumer, CUevent ready, CUevent done,
                     uint64_t *host, uint64_t seed) {
  CUdeviceptr buffer;
  uint64_t words = WORDS, key = seed * 7;
  void *fill_params[] = {&buffer, &words, &seed}, *update_params[] = {&buffer, &words, &key};
  CU(cuMemAlloc(&buffer, WORDS * 8));
  CU(cuLaunchKernel(fill, 64, 1, 1, 256, 1, 1, 0, producer, fill_params, NULL));
  CU(cuEventRecord(ready, producer));
  CU(cuStreamWaitEvent(consumer, ready, 0));
  CU(cuLaunchKernel(update, 64, 1, 1, 256, 1, 1, 0, consumer, update_params, NULL));
  CU(cuMemcpyDtoHAsync(host, buffer, WORDS * 8, consumer));
  CU(cuEventRecord(done, consumer));
  CU(cuEventSynchronize(done));
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < WORDS; i++) wrong += host[i] != mix64(i + seed) * 3 + key + i;
  CU(cuMemFree(buffer));
  return wrong;
}

static void *work(void *argument) {
  struct job *job = argument;
  CUstream producer, consumer;
  CUevent ready, done;
  void *host;
  CU(cuCtxSetCurrent(context));
  CU(cuMemHostAlloc(&host, WORDS * 8, 0));
  CU(cuStreamCreate(&producer, CU_STREAM_NON_BLOCKING));
  CU(cuStreamCreate(&consumer, job->number % 2 == 0 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING));
  CU(cuEventCreate(&ready, CU_EVENT_DISABLE_TIMING));
  CU(cuEventCreate(&done, CU_EVENT_DEFAULT));
  for (unsigned i = 0; i < job->steps; i++)
    job->wrong += step(producer, consumer, ready, done, host, job->number * 1000003ull + i);
  CU(cuEventDestroy(ready));
  CU(cuEventDestroy(done));
  CU(cuStreamDestroy(producer));
  CU(cuStreamDestroy(consumer));
  CU(cuMemFreeHost(host));
  return NULL;
}

int main(int argc, char **argv) {
  struct job jobs[THREADS] = {0};
  const unsigned steps = argc > 1 ? (unsigned)atoi(argv[1]) : 50;
  CUmodule module;
  context = open_context(0);
  CU(cuModuleLoadData(&module, test_kernels));
  fill = load_kernel(module, "gb_fill");
  update = load_kernel(module, "gb_update");
  const double start = now_ms();
  uint64_t wrong = 0;
  for (unsigned i = 0; i < THREADS; i++) {
    jobs[i].number = i;
    jobs[i].steps = steps;
    if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]) != 0) return EXIT_DRIVER;
  }
  for (unsigned i = 0; i < THREADS; i++) {
    pthread_join(jobs[i].thread, NULL);
    wrong += jobs[i].wrong;
  }
  CU(cuModuleUnload(module));
  printf(
      "{\"program\":\"gb_threads\",\"ok\":%s,\"threads\":%d,\"steps\":%u,\"mismatches\":%llu,"
      "\"milliseconds\":%.1f}\n",
      wrong == 0 ? "true" : "false", THREADS, steps, (unsigned long long)wrong, now_ms() - start);
  return wrong == 0 ? 0 : EXIT_WRONG;
}
