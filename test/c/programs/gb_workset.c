/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_workset: works on a set of buffers of any size and proves every word right.
 *
 * Buffer b of a set of n is paired with the buffer n/2 away. Kernels fill all buffers from a seed,
 * then rounds of kernels change them (one buffer from an inner offset on, or both of a pair by a
 * struct argument), and host copies write and read slices at odd addresses. Each pair keeps the
 * list of what was done to it; at the end the host repeats that list in its own memory and compares
 * every word, by kernel checksum and by copying back. Exit 0 only when all are equal.
 */
#include <stdbool.h>
#include <unistd.h>

#include "kernels.h"
#include "program.h"

#define BUFFERS_MAX 65536u
#define STEPS_MAX 4096u
#define SLICE_BYTES_MAX 65536u
#define COPY_BYTES (4u << 20)

enum step_kind { STEP_UPDATE, STEP_MIX, STEP_WRITE };

struct step {
  enum step_kind kind;
  unsigned side;  /* which of the pair is changed */
  uint64_t from;  /* first word (UPDATE), first byte (WRITE) */
  uint64_t bytes; /* WRITE */
  uint64_t key;
};

struct pair {
  struct step *steps;
  size_t count;
};

static struct {
  uint64_t bytes, buffer_bytes, seed;
  unsigned rounds, device;
  bool random_order, json;
  double pause_seconds, hold_seconds, round_seconds;
  const char *phase_file, *until_file;
} options = {.bytes = 256ull << 20, .buffer_bytes = 16ull << 20, .seed = 1, .rounds = 3};

static CUdeviceptr *buffers;
static struct pair *pairs;
static size_t buffer_count, half;
static uint64_t words; /* per buffer */
static CUfunction fill, update, mix, checksum;
static uint64_t launches, host_copies, mismatches, random_state;
static FILE *progress;

static uint64_t random_next(void) { return mix64(random_state += 0x9E3779B97F4A7C15ull); }

/* Tests wait for the name of a phase in the file. */
static void phase(const char *name) {
  if (options.phase_file == NULL) return;
  char path[4096];
  snprintf(path, sizeof path, "%s.new", options.phase_file);
  FILE *file = fopen(path, "w");
  if (file == NULL) return;
  fprintf(file, "%s\n", name);
  fclose(file);
  rename(path, options.phase_file);
}

/* ---- what is done to a pair, on the device ---- */

static struct step *step_add(size_t b, enum step_kind kind) {
  struct pair *pair = &pairs[b % half];
  if (pair->count == STEPS_MAX) {
    fprintf(stderr, "too many rounds\n");
    exit(EXIT_USAGE);
  }
  struct step *step = &pair->steps[pair->count++];
  *step = (struct step){.kind = kind, .side = (unsigned)(b / half), .key = random_next()};
  return step;
}

static void launch(CUfunction function, void **params) {
  CU(cuLaunchKernel(function, 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
  launches++;
}

static void do_update(size_t b) {
  struct step *step = step_add(b, STEP_UPDATE);
  step->from = random_next() % (words / 2);
  CUdeviceptr at = buffers[b] + step->from * 8;
  uint64_t count = words - step->from;
  void *params[] = {&at, &count, &step->key};
  launch(update, params);
}

static void do_mix(size_t b) {
  struct step *step = step_add(b, STEP_MIX);
  struct {
    CUdeviceptr dst, src;
    uint64_t words, key;
  } args = {buffers[b], buffers[(b + half) % buffer_count], words, step->key};
  void *params[] = {&args};
  launch(mix, params);
}

static unsigned char written_byte(uint64_t key, uint64_t i) {
  return (unsigned char)(mix64(key + i / 8) >> (i % 8 * 8));
}

static void slice(uint64_t *from, uint64_t *bytes) {
  const uint64_t most =
      options.buffer_bytes / 4 < SLICE_BYTES_MAX ? options.buffer_bytes / 4 : SLICE_BYTES_MAX;
  *bytes = 1 + random_next() % most;
  *from = random_next() % (options.buffer_bytes - *bytes);
}

static void do_write(size_t b) {
  static unsigned char bytes[SLICE_BYTES_MAX];
  struct step *step = step_add(b, STEP_WRITE);
  slice(&step->from, &step->bytes);
  for (uint64_t i = 0; i < step->bytes; i++) bytes[i] = written_byte(step->key, i);
  CU(cuMemcpyHtoD(buffers[b] + step->from, bytes, step->bytes));
  host_copies++;
}

/* ---- the same on the host ---- */

/* Repeats the pair's steps for words [from, from + count) of both buffers. */
static void model(size_t p, uint64_t from, uint64_t count, uint64_t *word[2]) {
  for (unsigned side = 0; side < 2; side++)
    for (uint64_t i = 0; i < count; i++)
      word[side][i] = mix64(from + i + options.seed + (p + side * half) * 0x100000001ull);
  for (size_t s = 0; s < pairs[p].count; s++) {
    const struct step *step = &pairs[p].steps[s];
    uint64_t *dst = word[step->side], *src = word[1 - step->side];
    if (step->kind == STEP_MIX) {
      for (uint64_t i = 0; i < count; i++) dst[i] = dst[i] * 5 + (src[i] ^ step->key);
    } else if (step->kind == STEP_UPDATE) {
      for (uint64_t i = step->from > from ? step->from - from : 0; i < count; i++)
        dst[i] = dst[i] * 3 + step->key + (from + i - step->from);
    } else {
      const uint64_t low = step->from > from * 8 ? step->from : from * 8;
      const uint64_t high = step->from + step->bytes < (from + count) * 8 ? step->from + step->bytes
                                                                          : (from + count) * 8;
      for (uint64_t at = low; at < high; at++)
        ((unsigned char *)dst)[at - from * 8] = written_byte(step->key, at - step->from);
    }
  }
}

static void compare(size_t b, uint64_t at, const unsigned char *got, const unsigned char *want,
                    uint64_t bytes) {
  if (memcmp(got, want, bytes) == 0) return;
  for (uint64_t i = 0; i < bytes; i++) {
    if (got[i] == want[i]) continue;
    if (mismatches++ < 5)
      fprintf(stderr, "buffer %zu byte %llu: %02x instead of %02x\n", b,
              (unsigned long long)(at + i), got[i], want[i]);
  }
}

/* Copies a slice at an odd address back in the middle of the work and compares it. */
static void do_read(size_t b) {
  static unsigned char got[SLICE_BYTES_MAX];
  static uint64_t block[2][SLICE_BYTES_MAX / 8 + 2];
  uint64_t *word[2] = {block[0], block[1]}, from, bytes;
  slice(&from, &bytes);
  CU(cuMemcpyDtoH(got, buffers[b] + from, bytes));
  host_copies++;
  const uint64_t first = from / 8, last = (from + bytes + 7) / 8;
  model(b % half, first, last - first, word);
  compare(b, from, got, (const unsigned char *)word[b / half] + (from - first * 8), bytes);
}

/* ---- phases ---- */

static void allocate(void) {
  for (size_t b = 0; b < buffer_count; b++) CU(cuMemAlloc(&buffers[b], options.buffer_bytes));
}

static void fill_all(void) {
  for (size_t b = 0; b < buffer_count; b++) {
    uint64_t seed = options.seed + b * 0x100000001ull;
    void *params[] = {&buffers[b], &words, &seed};
    launch(fill, params);
  }
  CU(cuCtxSynchronize());
}

static void shuffle(size_t *order) {
  for (size_t i = 0; i < buffer_count; i++) order[i] = i;
  for (size_t i = buffer_count; options.random_order && i > 1; i--) {
    const size_t j = (size_t)(random_next() % i), kept = order[i - 1];
    order[i - 1] = order[j];
    order[j] = kept;
  }
}

static void round_run(size_t *order) {
  shuffle(order);
  for (size_t i = 0; i < buffer_count; i++) {
    const size_t b = order[i];
    if (random_next() % 2 == 0) do_update(b);
    else do_mix(b);
    if (i % 8 == 3) do_write(b);
    if (i % 8 == 7) do_read(b);
  }
  CU(cuCtxSynchronize());
}

static bool told_to_end(void) {
  return options.until_file != NULL && access(options.until_file, F_OK) == 0;
}

/* returns: the device's checksum of buffer b; launched by the `extra` form. */
static uint64_t device_checksum(size_t b, CUdeviceptr result) {
  struct {
    CUdeviceptr pointer;
    uint64_t words;
    CUdeviceptr result;
  } args = {buffers[b], words, result};
  size_t size = sizeof args;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &args, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  uint64_t sum = 0;
  CU(cuMemcpyHtoD(result, &sum, sizeof sum));
  CU(cuLaunchKernel(checksum, 256, 1, 1, 256, 1, 1, 0, NULL, NULL, extra));
  launches++;
  CU(cuMemcpyDtoH(&sum, result, sizeof sum));
  return sum;
}

static void verify(void) {
  uint64_t *word[2];
  unsigned char *got = malloc(COPY_BYTES);
  CUdeviceptr result;
  for (unsigned side = 0; side < 2; side++) word[side] = malloc(options.buffer_bytes);
  if (got == NULL || word[0] == NULL || word[1] == NULL) {
    fprintf(stderr, "no host memory for two buffers\n");
    exit(EXIT_DRIVER);
  }
  CU(cuMemAlloc(&result, 8));
  for (size_t p = 0; p < half; p++) {
    model(p, 0, words, word);
    for (unsigned side = 0; side < 2; side++) {
      const size_t b = p + side * half;
      uint64_t sum = 0;
      for (uint64_t i = 0; i < words; i++) sum += mix64(word[side][i] + i);
      if (device_checksum(b, result) != sum) {
        mismatches++;
        fprintf(stderr, "buffer %zu: wrong checksum\n", b);
      }
      for (uint64_t at = 0; at < options.buffer_bytes;) {
        const uint64_t rest = options.buffer_bytes - at,
                       bytes = rest < COPY_BYTES - 3 ? rest : COPY_BYTES - 3;
        CU(cuMemcpyDtoH(got, buffers[b] + at, bytes));
        host_copies++;
        compare(b, at, got, (const unsigned char *)word[side] + at, bytes);
        at += bytes;
      }
    }
  }
  CU(cuMemFree(result));
  free(word[0]);
  free(word[1]);
  free(got);
}

static void usage(void) {
  printf(
      "gb_workset [--bytes 256MiB] [--buffer-bytes 16MiB] [--rounds 3] [--order sequential|random] "
      "[--seed 1]\n"
      "           [--device 0] [--json] [--pause-seconds 0] [--hold-seconds 0] [--phase-file PATH]\n"
      "           [--round-seconds 0] [--until-file PATH]\n"
      "A round takes at least its seconds; no other begins once the file is there.\n");
}

static void options_read(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--bytes") == 0) options.bytes = parse_bytes(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--buffer-bytes") == 0)
      options.buffer_bytes = parse_bytes(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--rounds") == 0)
      options.rounds = (unsigned)atoi(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--order") == 0)
      options.random_order = strcmp(option_value(argc, argv, &i), "random") == 0;
    else if (strcmp(argv[i], "--seed") == 0)
      options.seed = strtoull(option_value(argc, argv, &i), NULL, 10);
    else if (strcmp(argv[i], "--device") == 0)
      options.device = (unsigned)atoi(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--pause-seconds") == 0)
      options.pause_seconds = atof(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--hold-seconds") == 0)
      options.hold_seconds = atof(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--phase-file") == 0)
      options.phase_file = option_value(argc, argv, &i);
    else if (strcmp(argv[i], "--round-seconds") == 0)
      options.round_seconds = atof(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--until-file") == 0)
      options.until_file = option_value(argc, argv, &i);
    else if (strcmp(argv[i], "--json") == 0) options.json = true;
    else {
      usage();
      exit(strcmp(argv[i], "--help") == 0 ? 0 : EXIT_USAGE);
    }
  }
  options.buffer_bytes &= ~7ull;
  buffer_count = options.buffer_bytes < 4096 ? 0 : options.bytes / options.buffer_bytes & ~1ull;
  if (buffer_count < 2 || buffer_count > BUFFERS_MAX) {
    fprintf(stderr, "at least two and at most %u buffers of at least 4 KiB\n", BUFFERS_MAX);
    exit(EXIT_USAGE);
  }
}

int main(int argc, char **argv) {
  options_read(argc, argv);
  progress = options.json ? stderr : stdout;
  setvbuf(stdout, NULL, _IOLBF, 0);
  half = buffer_count / 2;
  words = options.buffer_bytes / 8;
  random_state = options.seed;
  buffers = calloc(buffer_count, sizeof *buffers);
  pairs = calloc(half, sizeof *pairs);
  size_t *order = calloc(buffer_count, sizeof *order);
  for (size_t p = 0; pairs != NULL && p < half; p++)
    pairs[p].steps = calloc(options.rounds * 4u + 4u, sizeof(struct step));
  if (buffers == NULL || pairs == NULL || order == NULL) return EXIT_DRIVER;
  const double start = now_ms();
  CUmodule module;
  open_context((int)options.device);
  CU(cuModuleLoadData(&module, test_kernels));
  fill = load_kernel(module, "gb_fill");
  update = load_kernel(module, "gb_update");
  mix = load_kernel(module, "gb_mix");
  checksum = load_kernel(module, "gb_checksum");
  phase("started");
  allocate();
  fprintf(progress, "%zu buffers of %llu bytes, %llu in all\n", buffer_count,
          (unsigned long long)options.buffer_bytes,
          (unsigned long long)(buffer_count * options.buffer_bytes));
  phase("allocated");
  fill_all();
  fprintf(progress, "filled\n");
  phase("filled");
  for (unsigned r = 1; r <= options.rounds && !told_to_end(); r++) {
    const double from = now_ms();
    char name[32];
    snprintf(name, sizeof name, "round %u", r);
    phase(name);
    round_run(order);
    fprintf(progress, "round %u of %u\n", r, options.rounds);
    const double left = options.round_seconds * 1e3 - (now_ms() - from);
    if (left > 0) sleep_ms(left);
  }
  phase("pausing");
  if (options.pause_seconds > 0) sleep_ms(options.pause_seconds * 1e3);
  phase("verifying");
  verify();
  const double ms = now_ms() - start;
  fprintf(progress, "%s: %llu mismatches\n", mismatches == 0 ? "right" : "WRONG",
          (unsigned long long)mismatches);
  printf(
      "{\"program\":\"gb_workset\",\"ok\":%s,\"bytes\":%llu,\"buffers\":%zu,\"buffer_bytes\":%llu,"
      "\"rounds\":%u,\"launches\":%llu,"
      "\"host_copies\":%llu,\"mismatches\":%llu,\"milliseconds\":%.1f}\n",
      mismatches == 0 ? "true" : "false", (unsigned long long)(buffer_count * options.buffer_bytes),
      buffer_count, (unsigned long long)options.buffer_bytes, options.rounds,
      (unsigned long long)launches, (unsigned long long)host_copies, (unsigned long long)mismatches,
      ms);
  fflush(stdout);
  phase("verified");
  if (options.hold_seconds > 0) sleep_ms(options.hold_seconds * 1e3);
  for (size_t b = 0; b < buffer_count; b++) CU(cuMemFree(buffers[b]));
  CU(cuModuleUnload(module));
  phase("done");
  return mismatches == 0 ? 0 : EXIT_WRONG;
}
