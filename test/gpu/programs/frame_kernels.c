/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame_kernels: the two kernels of the staging engine against their definition, written down once
 * more here from shim/src/frame_kernels.h. frame_kernels [bytes, 64MiB] [repeats, 0]: correctness
 * with that many bytes, then with repeats the rates. Runs on a GPU and on the simulated driver.
 * Prints one JSON object; exit 1 when something is wrong.
 */
#include "../../../shim/src/frame_kernels.h"
#include "../../c/programs/program.h"

#define SEGMENT 32768u
#define HASH_BLOCKS_MAX 2112u

static CUfunction hash_kernel, write_kernel;
static unsigned wrong;

static void expect(int good, const char *what) {
  if (good) return;
  wrong++;
  fprintf(stderr, "wrong: %s\n", what);
}

/* ---- the definition ---- */

static uint64_t shift_multiply(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 29;
  x *= 0xc4ceb9fe1a85ec53ull;
  x ^= x >> 32;
  return x;
}

/* Key n of the stream that the seeds give: SplitMix64 with an odd step of our own. */
static uint32_t key_at(const uint64_t seed[2], uint32_t n) {
  const uint64_t drawn = shift_multiply(seed[0] + (n / 2 + 1) * (seed[1] | 1));
  return (uint32_t)(n % 2 == 0 ? drawn : drawn >> 32);
}

/* NH number `sum` of a thread's 32 words of a segment. */
static uint64_t nh(const uint32_t word[32], const uint32_t key[38], uint32_t sum) {
  uint64_t total = 0;
  for (uint32_t pair = 0; pair < 16; pair++) {
    const uint32_t left = word[2 * pair] + key[2 * (pair + sum)];
    const uint32_t right = word[2 * pair + 1] + key[2 * (pair + sum) + 1];
    total += (uint64_t)left * right;
  }
  return total;
}

static void reference(const unsigned char *bytes, uint64_t size, const uint64_t seed[2],
                      uint64_t result[2]) {
  uint32_t key[38], word[32];
  for (uint32_t n = 0; n < 38; n++) key[n] = key_at(seed, n);
  for (uint64_t segment = 0; segment < size / SEGMENT; segment++) {
    for (uint32_t thread = 0; thread < 256; thread++) {
      for (uint32_t n = 0; n < 32; n++)
        memcpy(&word[n], bytes + segment * SEGMENT + (n / 4) * 4096 + thread * 16 + n % 4 * 4, 4);
      const uint64_t place = (segment * 256 + thread) * 0x9e3779b97f4a7c15ull;
      result[0] += shift_multiply((nh(word, key, 0) + place) ^
                                  shift_multiply(nh(word, key, 1) + seed[0]));
      result[1] += shift_multiply((nh(word, key, 2) + place) ^
                                  shift_multiply(nh(word, key, 3) + seed[1]));
    }
  }
}

/* ---- launches ---- */

static void launch_hash(CUdeviceptr bytes, uint64_t size, const uint64_t seed[2],
                        CUdeviceptr result, unsigned blocks) {
  uint64_t words = size / 8, seed0 = seed[0], seed1 = seed[1];
  void *params[] = {&bytes, &words, &seed0, &seed1, &result};
  CU(cuMemsetD8Async(result, 0, 16, NULL));
  CU(cuLaunchKernel(hash_kernel, blocks, 1, 1, GB_FRAME_BLOCK, 1, 1, 0, NULL, params, NULL));
}

static void launch_write(CUdeviceptr frame, CUdeviceptr host, uint64_t size, CUdeviceptr digests,
                         CUdeviceptr words, uint32_t epoch, unsigned blocks) {
  uint64_t count = size / 8;
  CUdeviceptr then = digests + 16, written = words + 8;
  void *params[] = {&frame, &host, &count, &digests, &then, &words, &epoch, &written};
  CU(cuLaunchKernel(write_kernel, blocks, 1, 1, GB_FRAME_BLOCK, 1, 1, 0, NULL, params, NULL));
}

/* ---- correctness ---- */

static void fill_random(uint64_t *word, uint64_t size, uint64_t seed) {
  for (uint64_t i = 0; i < size / 8; i++) word[i] = mix64(i + seed) * mix64(seed ^ (i << 20));
}

static void check_hash(CUdeviceptr bytes, unsigned char *host, uint64_t size, CUdeviceptr result) {
  static const unsigned blocks[] = {1, 7, 264, 1056};
  const uint64_t seed[2] = {0x0123456789abcdefull, 0xfedcba9876543210ull};
  const uint64_t sizes[] = {SEGMENT, 2u << 20, size};
  uint64_t expected[2], got[2];
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    memset(expected, 0, sizeof expected);
    reference(host, sizes[s], seed, expected);
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
      launch_hash(bytes, sizes[s], seed, result, blocks[b]);
      CU(cuMemcpyDtoH(got, result, sizeof got));
      expect(memcmp(got, expected, sizeof got) == 0, "a hash");
    }
  }
  /* One bit anywhere, two words in each other's place: another hash. */
  for (uint64_t i = 0; i < 24; i++) {
    const uint64_t at = mix64(i + 5) % (size / 4) * 4;
    const uint32_t flipped = *(uint32_t *)(host + at) ^ (i % 3 == 0 ? 1u << 31 : 1u << i);
    uint64_t other[2];
    CU(cuMemcpyHtoD(bytes + at, &flipped, 4));
    launch_hash(bytes, size, seed, result, 264);
    CU(cuMemcpyDtoH(other, result, sizeof other));
    expect(other[0] != expected[0] && other[1] != expected[1], "the hash of a flipped bit");
    CU(cuMemcpyHtoD(bytes + at, host + at, 4));
  }
  CU(cuMemcpyHtoD(bytes, host + 64, 64));
  CU(cuMemcpyHtoD(bytes + 64, host, 64));
  launch_hash(bytes, size, seed, result, 264);
  CU(cuMemcpyDtoH(got, result, sizeof got));
  expect(got[0] != expected[0] && got[1] != expected[1], "the hash of exchanged words");
  CU(cuMemcpyHtoD(bytes, host, 128));
}

struct words {
  uint32_t cancelled, unused;
  uint64_t written;
};

/* One write-back under each condition. to: pinned host memory as host and device see it. */
static void check_write_back(CUdeviceptr bytes, const unsigned char *content, uint64_t size,
                             volatile struct words *words, CUdeviceptr words_device,
                             unsigned char *to, CUdeviceptr to_device, CUdeviceptr digests) {
  const uint64_t same[4] = {5, 6, 5, 6}, low[4] = {1, 6, 5, 6}, high[4] = {5, 1, 5, 6};
  const struct {
    const uint64_t *digests;
    uint32_t cancelled;
    int copies;
  } rows[] = {{same, 0, 0}, {low, 0, 1}, {high, 0, 1}, {low, 9, 0}, {high, 8, 1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    words->cancelled = rows[i].cancelled;
    words->written = 100;
    memset(to, 0xee, size + 4096);
    CU(cuMemcpyHtoD(digests, rows[i].digests, 32));
    launch_write(bytes, to_device, size, digests, words_device, 9, i % 2 == 0 ? 3 : 264);
    CU(cuCtxSynchronize());
    expect(words->written == 100 + (rows[i].copies ? size : 0), "the written bytes");
    if (rows[i].copies) expect(memcmp(to, content, size) == 0, "what was written back");
    else expect(to[0] == 0xee && to[size / 2] == 0xee && to[size - 1] == 0xee, "what must stay");
    expect(to[size] == 0xee && to[size + 4095] == 0xee, "the bytes behind");
  }
}

/* ---- rates ---- */

static double elapsed_ms(CUevent from, CUevent to) {
  float ms = 0;
  CU(cuEventSynchronize(to));
  CU(cuEventElapsedTime(&ms, from, to));
  return ms;
}

struct rates {
  double hash, write, copy; /* copy: of the driver, reads and writes counted */
  unsigned hash_blocks, write_blocks;
};

/* Best rates over some grids, in bytes a second. The hash goes over more bytes than the L2 holds. */
static struct rates measure(CUdeviceptr bytes, uint64_t size, CUdeviceptr host, uint64_t host_size,
                            CUdeviceptr digests, CUdeviceptr words, unsigned repeats) {
  static const unsigned grids[] = {66, 132, 264, 528, 792, 1056, HASH_BLOCKS_MAX};
  const uint64_t seed[2] = {11, 12}, frame = 64u << 20;
  struct rates best = {0};
  CUevent from, to;
  CU(cuEventCreate(&from, 0));
  CU(cuEventCreate(&to, 0));
  for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
    for (unsigned pass = 0; pass < 2; pass++) { /* the first one warms up */
      CU(cuEventRecord(from, NULL));
      for (unsigned i = 0; i < repeats; i++)
        for (uint64_t at = 0; at < size; at += frame)
          launch_hash(bytes + at, frame, seed, digests, grids[g]);
      CU(cuEventRecord(to, NULL));
      const double rate = (double)(size * repeats) / elapsed_ms(from, to) * 1e3;
      if (pass == 1) fprintf(stderr, "hash, %u blocks: %.2f TB/s\n", grids[g], rate / 1e12);
      if (pass == 1 && rate > best.hash) best.hash = rate, best.hash_blocks = grids[g];
    }
    CU(cuMemsetD8(digests, 1, 16));
    CU(cuEventRecord(from, NULL));
    launch_write(bytes, host, host_size, digests, words, 9, grids[g]);
    CU(cuEventRecord(to, NULL));
    const double rate = (double)host_size / elapsed_ms(from, to) * 1e3;
    fprintf(stderr, "write back, %u blocks: %.2f GB/s\n", grids[g], rate / 1e9);
    if (rate > best.write) best.write = rate, best.write_blocks = grids[g];
  }
  CU(cuEventRecord(from, NULL));
  for (unsigned i = 0; i < repeats; i++)
    CU(cuMemcpyDtoDAsync(bytes, bytes + size / 2, size / 2, NULL));
  CU(cuEventRecord(to, NULL));
  best.copy = (double)(size * repeats) / elapsed_ms(from, to) * 1e3;
  return best;
}

int main(int argc, char **argv) {
  const uint64_t size = argc > 1 ? parse_bytes(argv[1]) : 64u << 20;
  const unsigned repeats = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
  const uint64_t device_size = repeats > 0 ? 4ull << 30 : size;
  CUmodule module;
  CUdeviceptr bytes, digests, words_device, to_device;
  void *words = NULL, *to = NULL;
  open_context(0);
  CU(cuModuleLoadData(&module, gb_frame_ptx));
  hash_kernel = load_kernel(module, GB_FRAME_HASH_NAME);
  write_kernel = load_kernel(module, GB_FRAME_WRITE_BACK_NAME);
  CU(cuMemAlloc(&bytes, device_size));
  CU(cuMemAlloc(&digests, 32));
  CU(cuMemHostAlloc(&words, sizeof(struct words), CU_MEMHOSTALLOC_DEVICEMAP));
  CU(cuMemHostAlloc(&to, size + 4096, CU_MEMHOSTALLOC_DEVICEMAP));
  CU(cuMemHostGetDevicePointer(&words_device, words, 0));
  CU(cuMemHostGetDevicePointer(&to_device, to, 0));
  unsigned char *content = malloc(size);
  if (content == NULL) return EXIT_DRIVER;
  fill_random((uint64_t *)content, size, 7);
  CU(cuMemcpyHtoD(bytes, content, size));
  check_hash(bytes, content, size, digests);
  check_write_back(bytes, content, size, words, words_device, to, to_device, digests);
  struct rates rates = {0};
  if (repeats > 0) {
    CU(cuMemsetD8(bytes + size, 3, device_size - size));
    rates = measure(bytes, device_size, to_device, size, digests, words_device, repeats);
  }
  CU(cuMemFreeHost(to));
  CU(cuMemFreeHost(words));
  CU(cuMemFree(digests));
  CU(cuMemFree(bytes));
  CU(cuModuleUnload(module));
  CU(cuDevicePrimaryCtxRelease(0));
  free(content);
  printf("{\"bytes\":%llu,\"wrong\":%u,\"hashBytesPerSecond\":%.0f,\"hashBlocks\":%u,"
         "\"writeBackBytesPerSecond\":%.0f,\"writeBackBlocks\":%u,"
         "\"copyBytesPerSecond\":%.0f}\n",
         (unsigned long long)size, wrong, rates.hash, rates.hash_blocks, rates.write,
         rates.write_blocks, rates.copy);
  return wrong == 0 ? 0 : EXIT_WRONG;
}
