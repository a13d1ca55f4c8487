/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vram.c: a lane to a real gb-executor that lends RAM and VRAM, and the copies of the GPU beside it. The executor is a
 * process of its own, started and asked as the daemon does; this one reads its VRAM into pinned memory and on into VRAM
 * of its own, piece by piece as the shim does (shim/src/remote.c).
 * Does one step for each line on its standard input and answers with one JSON line, so that whoever measures can put
 * steps of several programs side by side:
 *
 *   ram-read, ram-write    the executor's RAM, from and to ordinary memory of the full size
 *   vram-read, vram-write  the executor's VRAM, from and to VRAM of this process through pinned memory
 *   h2d, d2h               between pinned memory and VRAM of this process, nothing else
 *   check                  content goes there by vram-write and comes back by vram-read as it was
 *
 * usage: fabric-vram GB-EXECUTOR [MiB [no-gpu]]      no-gpu: RAM only, as a feeder without a GPU lends it
 */
#include <cuda.h>

#include "../../test/c/executor/lane_peer.h"

#define PIECE (16 * MIB)
#define PIECES 4u
#define DEADLINE_MS 600000u

static struct {
  uint64_t bytes; /* of RAM, and of VRAM */
  struct executor executor;
  struct gbx_grant grant;
  gb_lane *lane;
  uint8_t *memory; /* ordinary */
  uint8_t *pinned; /* PIECES of PIECE */
  CUdeviceptr vram;
  CUstream stream;
  char gpu[128];
} bench;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "fabric-vram: %s: %s\n", what, why);
  exit(1);
}

static void cuda(CUresult result, const char *what) {
  const char *name = NULL;
  if (result == CUDA_SUCCESS) return;
  cuGetErrorName(result, &name);
  fail(what, name == NULL ? "?" : name);
}

static void lane_ok(int status, const char *what) {
  if (status != GB_LANE_OK) fail(what, gb_lane_status_name(status));
}

static double seconds_now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static uint64_t vram_offset(void) { return bench.bytes; } /* in the lane's region, behind the RAM */

/* ---- steps ---- */

static void ram_read(void) {
  lane_ok(gb_lane_read(bench.lane, 0, 0, bench.memory, bench.bytes, GB_LANE_NORMAL, DEADLINE_MS), "read");
}

static void ram_write(void) {
  lane_ok(gb_lane_write(bench.lane, 0, 0, bench.memory, bench.bytes, GB_LANE_NORMAL, DEADLINE_MS), "write");
}

/* Begins one piece over the lane. returns: its request. */
static uint64_t begin(uint64_t piece, uint32_t operation) {
  uint64_t id = 0;
  struct gb_lane_segment segment = {.offset = vram_offset() + piece * PIECE,
                                    .bytes = PIECE,
                                    .memory = bench.pinned + piece % PIECES * PIECE};
  struct gb_lane_request request = {.size = sizeof request,
                                    .operation = operation,
                                    .priority = operation == GB_LANE_READ ? GB_LANE_DEMAND : GB_LANE_NORMAL,
                                    .deadline_ms = DEADLINE_MS,
                                    .segment_count = 1,
                                    .segments = &segment};
  lane_ok(gb_lane_submit(bench.lane, &request, &id), "submit");
  return id;
}

static void end(uint64_t id) {
  lane_ok(gb_lane_wait(bench.lane, id, DEADLINE_MS), "wait");
}

static void settle(void) {
  cuda(cuStreamSynchronize(bench.stream), "cuStreamSynchronize");
}

static void vram_read(void) {
  uint64_t ids[PIECES], count = bench.bytes / PIECE, sent = 0;
  for (uint64_t piece = 0; piece < count; piece++) {
    for (; sent < count && sent < piece + PIECES; sent++) ids[sent % PIECES] = begin(sent, GB_LANE_READ);
    end(ids[piece % PIECES]);
    cuda(cuMemcpyHtoDAsync(bench.vram + piece * PIECE, bench.pinned + piece % PIECES * PIECE, PIECE, bench.stream),
         "cuMemcpyHtoDAsync");
    settle();
  }
}

static void vram_write(void) {
  uint64_t ids[PIECES], count = bench.bytes / PIECE;
  for (uint64_t piece = 0; piece < count + PIECES; piece++) {
    if (piece >= PIECES && piece - PIECES < count) end(ids[piece % PIECES]);
    if (piece >= count) continue;
    cuda(cuMemcpyDtoHAsync(bench.pinned + piece % PIECES * PIECE, bench.vram + piece * PIECE, PIECE, bench.stream),
         "cuMemcpyDtoHAsync");
    settle();
    ids[piece % PIECES] = begin(piece, GB_LANE_WRITE);
  }
}

static void copy(bool to_device) {
  for (uint64_t piece = 0; piece < bench.bytes / PIECE; piece++) {
    uint8_t *memory = bench.pinned + piece % PIECES * PIECE;
    CUdeviceptr vram = bench.vram + piece * PIECE;
    cuda(to_device ? cuMemcpyHtoDAsync(vram, memory, PIECE, bench.stream)
                   : cuMemcpyDtoHAsync(memory, vram, PIECE, bench.stream),
         "a copy");
  }
  settle();
}

static void h2d(void) { copy(true); }

static void d2h(void) { copy(false); }

/* Something else in every word. */
static void pattern(uint8_t *to) {
  for (uint64_t at = 0; at < bench.bytes; at += 8) {
    uint64_t word = (at + 8) * 0x9E3779B97F4A7C15ull;
    memcpy(to + at, &word, 8);
  }
}

/* There and back once more, and every byte is looked at. */
static void check(void) {
  pattern(bench.memory);
  cuda(cuMemcpyHtoD(bench.vram, bench.memory, bench.bytes), "cuMemcpyHtoD");
  vram_write();
  cuda(cuMemsetD8Async(bench.vram, 0, bench.bytes, bench.stream), "cuMemsetD8Async");
  settle();
  vram_read();
  for (uint64_t piece = 0; piece < bench.bytes / PIECE; piece++) {
    cuda(cuMemcpyDtoH(bench.pinned, bench.vram + piece * PIECE, PIECE), "cuMemcpyDtoH");
    if (memcmp(bench.pinned, bench.memory + piece * PIECE, PIECE) != 0) fail("check", "other bytes came back");
  }
}

static const struct {
  const char *name;
  void (*run)(void);
  bool gpu;
} steps[] = {{"ram-read", ram_read, false}, {"ram-write", ram_write, false}, {"vram-read", vram_read, true},
             {"vram-write", vram_write, true}, {"h2d", h2d, true},           {"d2h", d2h, true},
             {"check", check, true}};

static void step(const char *name) {
  for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    if (strcmp(steps[i].name, name) != 0 || (steps[i].gpu && !with_gpu)) continue;
    double begun = seconds_now();
    steps[i].run();
    printf("{\"did\":\"%s\",\"bytes\":%llu,\"seconds\":%.6f}\n", name, (unsigned long long)bench.bytes,
           seconds_now() - begun);
    fflush(stdout);
    return;
  }
  fail("no such step", name);
}

/* ---- the two ends ---- */

static void start_executor(void) {
  spawn_executor(&bench.executor);
  struct gbx_init init = good_init();
  struct gbx_init_reply reply = initialise(&bench.executor, &init);
  if (reply.status != GBX_OK) fail("gb-executor", "does not start");
  if (change(&bench.executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, bench.bytes) != GBX_OK ||
      (with_gpu &&
       change(&bench.executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, vram_offset(), bench.bytes) != GBX_OK))
    fail("gb-executor", "has not so much memory");
  bench.grant = grant_of(1, 0, bench.bytes * (with_gpu ? 2 : 1));
  if (give(&bench.executor, &bench.grant) != GBX_OK) fail("gb-executor", "grants no lane");
  lane_ok(open_lane(&bench.grant, 1, &bench.lane), "open");
}

static void open_gpu(void) {
  CUdevice device;
  CUcontext context;
  cuda(cuInit(0), "cuInit");
  cuda(cuDeviceGet(&device, 0), "cuDeviceGet");
  cuda(cuDeviceGetName(bench.gpu, sizeof bench.gpu, device), "cuDeviceGetName");
  cuda(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
  cuda(cuCtxSetCurrent(context), "cuCtxSetCurrent");
  cuda(cuMemAlloc(&bench.vram, bench.bytes), "cuMemAlloc");
  cuda(cuMemHostAlloc((void **)&bench.pinned, PIECES * PIECE, CU_MEMHOSTALLOC_PORTABLE), "cuMemHostAlloc");
  cuda(cuStreamCreate(&bench.stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
}

static void fill_executor(void) {
  bench.memory = mmap(NULL, bench.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (bench.memory == MAP_FAILED) fail("memory", strerror(errno));
  pattern(bench.memory);
  ram_write();
  if (with_gpu)
    lane_ok(gb_lane_write(bench.lane, 0, vram_offset(), bench.memory, bench.bytes, GB_LANE_NORMAL, DEADLINE_MS),
            "write");
}

int main(int argc, char **argv) {
  char line[64];
  char *harness[] = {argv[0], argv[1], argc > 3 ? "ram" : "sim", NULL};
  bench.bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1024) * MIB / PIECE * PIECE;
  if (argc < 2 || bench.bytes < PIECES * PIECE || 2 * bench.bytes > ARENA_BYTES)
    fail("usage", "fabric-vram GB-EXECUTOR [MiB, 64 or more [no-gpu]]");
  if (!lane_peer_begin(3, harness)) fail("lanes", "no door");
  start_executor();
  if (with_gpu) open_gpu();
  fill_executor();
  struct gb_lane_counters counters;
  lane_ok(gb_lane_counters(bench.lane, &counters), "counters");
  printf("{\"did\":\"start\",\"bytes\":%llu,\"gpu\":\"%s\",\"cipher\":\"%s\",\"provider\":\"%s\",\"connections\":1}\n",
         (unsigned long long)bench.bytes, bench.gpu, counters.cipher, counters.provider);
  fflush(stdout);
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    step(line);
  }
  gb_lane_close(bench.lane, 1000);
  gb_lane_door_close(lane_door);
  return close_executor(&bench.executor) == 0 ? 0 : 1;
}
