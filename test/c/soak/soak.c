/* SPDX-License-Identifier: Apache-2.0 */
/*
 * soak.c: an ordinary program that does everything at random for a while and knows every byte. Each
 * thread has buffers, a copy of each in host memory, and two streams that it orders by events. It
 * goes through phases: rounds over its buffers (which the staging engine learns), single operations,
 * captures that are replayed, frees and allocations.
 *
 * usage: soak MODULE SEED SECONDS THREADS BUFFERS BUFFER_MIB_MAX
 */
#include <pthread.h>
#include <stdatomic.h>

#include "soak.h"

#define SLOTS_MAX 160u
#define STREAMS 2u
#define PINNED_WORDS 4096u
#define WORK_WORDS_MAX 2048u /* of a buffer, that one kernel works on */
#define CAPTURED 12u

struct buffer {
  CUdeviceptr device;
  uint64_t *host;
  uint64_t words;
};

/* A host function's work: new content of the pinned page. */
struct note {
  uint64_t *page, value;
};

struct worker {
  uint64_t random;
  double until;
  uint32_t slots, mib_max, on;
  struct buffer buffer[SLOTS_MAX];
  CUstream stream[STREAMS];
  CUevent event;
  CUdeviceptr table;
  uint64_t *pinned, *rows; /* a page for copies and host functions; the table's new rows */
  struct note note;
  unsigned launches, hidden, replays, refused, compared, notes;
};

static uint64_t below(struct worker *w, uint64_t limit) { return soak_below(&w->random, limit); }

/* The stream for the next operation; ordered after the one before. */
static CUstream turn(struct worker *w) {
  const uint32_t next = (uint32_t)below(w, 16) == 0 ? 1 - w->on : w->on;
  if (next != w->on) {
    OK(cuEventRecord(w->event, w->stream[w->on]));
    OK(cuStreamWaitEvent(w->stream[next], w->event, 0));
    w->on = next;
  }
  return w->stream[w->on];
}

static void settle(struct worker *w) { OK(cuStreamSynchronize(w->stream[w->on])); }

static struct buffer *pick(struct worker *w) {
  for (;;) {
    struct buffer *buffer = &w->buffer[below(w, w->slots)];
    if (buffer->words != 0) return buffer;
  }
}

/* ---- allocation ---- */

static void make(struct worker *w, struct buffer *buffer) {
  const uint64_t mib = below(w, 3) == 0 ? 1 + below(w, w->mib_max) : 2;
  const uint64_t bytes = mib * MIB - below(w, 3) * 4096;
  const CUresult result = cuMemAlloc(&buffer->device, bytes);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    w->refused++;
    return;
  }
  CHECK(result == CUDA_SUCCESS, "alloc: %d", result);
  buffer->words = bytes / 8;
  buffer->host = malloc(bytes);
  const unsigned char value = (unsigned char)below(w, 256);
  OK(cuMemsetD8Async(buffer->device, value, bytes, turn(w)));
  memset(buffer->host, value, bytes);
}

static void compare(struct worker *w, const struct buffer *buffer, uint64_t at, uint64_t words) {
  uint64_t *got = malloc(words * 8);
  settle(w);
  OK(cuMemcpyDtoHAsync(got, buffer->device + at * 8, words * 8, turn(w)));
  settle(w);
  CHECK(memcmp(got, buffer->host + at, words * 8) == 0, "%llu words at %llu of %llu differ",
        (unsigned long long)words, (unsigned long long)at, (unsigned long long)buffer->words);
  w->compared++;
  free(got);
}

static void drop(struct worker *w, struct buffer *buffer) {
  compare(w, buffer, 0, buffer->words);
  OK(cuMemFree(buffer->device));
  free(buffer->host);
  *buffer = (struct buffer){0};
}

/* ---- single operations ---- */

/* Where in both buffers a kernel works, and on how many words. */
static uint64_t piece(struct worker *w, const struct buffer *a, const struct buffer *b,
                      uint64_t at[2]) {
  const uint64_t shorter = a->words < b->words ? a->words : b->words;
  const uint64_t words = 1 + below(w, shorter < WORK_WORDS_MAX ? shorter : WORK_WORDS_MAX);
  at[0] = below(w, a->words - words + 1);
  at[1] = below(w, b->words - words + 1);
  return words;
}

static void launch(struct worker *w, struct buffer *to, const struct buffer *from) {
  uint64_t at[2];
  if (to == from) return;
  const uint64_t words = piece(w, to, from, at), seed = below(w, 1u << 20);
  w->launches++;
  OK(soak_launch_mix(to->device + at[0] * 8, from->device + at[1] * 8, words, seed, turn(w)));
  soak_mix_host(to->host + at[0], from->host + at[1], words, seed);
}

/* The operands are named in device memory only. */
static void launch_hidden(struct worker *w, struct buffer *to, const struct buffer *from) {
  uint64_t at[2];
  if (to == from) return;
  uint64_t words = piece(w, to, from, at), seed = below(w, 1u << 20);
  settle(w); /* the rows may still be on their way */
  w->rows[0] = to->device + at[0] * 8;
  w->rows[1] = from->device + at[1] * 8;
  const CUstream stream = turn(w);
  OK(cuMemcpyHtoDAsync(w->table, w->rows, 16, stream));
  void *params[] = {&w->table, &words, &seed};
  OK(soak_launch(soak_table, stream, params));
  soak_mix_host(to->host + at[0], from->host + at[1], words, seed);
  w->hidden++;
}

static void host_write(struct worker *w, struct buffer *buffer) {
  const uint64_t words = 1 + below(w, buffer->words < PINNED_WORDS ? buffer->words : PINNED_WORDS);
  const uint64_t at = below(w, buffer->words - words + 1), value = below(w, UINT32_MAX);
  settle(w);
  for (uint64_t i = 0; i < words; i++) w->pinned[i] = buffer->host[at + i] = value * i + at;
  OK(cuMemcpyHtoDAsync(buffer->device + at * 8, w->pinned, words * 8, turn(w)));
}

static void note_called(void *data) {
  const struct note *note = data;
  for (uint32_t i = 0; i < WORK_WORDS_MAX; i++) note->page[i] = note->value ^ i;
}

/* A host function writes what the next kernel reads, in pinned memory. */
static void host_function(struct worker *w, struct buffer *buffer) {
  uint64_t words = buffer->words < WORK_WORDS_MAX ? buffer->words : WORK_WORDS_MAX;
  settle(w);
  w->note = (struct note){w->pinned, below(w, UINT32_MAX)};
  const CUstream stream = turn(w);
  OK(cuLaunchHostFunc(stream, note_called, &w->note));
  OK(soak_launch_mix(buffer->device, (CUdeviceptr)w->pinned, words, 5, stream));
  for (uint64_t i = 0; i < words; i++)
    buffer->host[i] = buffer->host[i] * 3 + (w->note.value ^ i) + 5;
  w->notes++;
}

static void copy_between(struct worker *w, struct buffer *to, const struct buffer *from) {
  const uint64_t words = 1 + below(w, to->words < from->words ? to->words : from->words);
  if (to == from) return;
  OK(cuMemcpyDtoDAsync(to->device, from->device, words * 8, turn(w)));
  memcpy(to->host, from->host, words * 8);
}

static void single(struct worker *w) {
  struct buffer *a = pick(w);
  const struct buffer *b = pick(w);
  switch (below(w, 9)) {
    case 0: host_write(w, a); break;
    case 1: host_function(w, a); break;
    case 2: copy_between(w, a, b); break;
    case 3: launch_hidden(w, a, b); break;
    case 4: {
      const uint64_t at = below(w, a->words);
      compare(w, a, at, 1 + below(w, a->words - at));
      break;
    }
    case 5: {
      const uint32_t value = (uint32_t)below(w, UINT32_MAX);
      OK(cuMemsetD32Async(a->device, value, a->words * 2, turn(w)));
      for (uint64_t i = 0; i < a->words; i++) a->host[i] = (uint64_t)value << 32 | value;
      break;
    }
    default: launch(w, a, b); break;
  }
}

/* ---- phases ---- */

static bool due(const struct worker *w) {
  return soak_seconds() >= w->until || check_failures != 0;
}

/* Rounds over all buffers in one order: read, now and then written, by name or through the table. */
static void rounds(struct worker *w) {
  struct buffer *sum = pick(w);
  for (uint64_t round = 2 + below(w, 12); round > 0 && !due(w); round--) {
    for (uint32_t i = 0; i < w->slots; i++) {
      struct buffer *buffer = &w->buffer[i];
      if (buffer->words == 0) continue;
      launch(w, sum, buffer);
      if (below(w, 8) == 0) launch(w, buffer, sum);
      if (below(w, 40) == 0) launch_hidden(w, pick(w), buffer);
      if (below(w, 60) == 0) host_function(w, sum);
    }
    if (below(w, 3) == 0) settle(w);
  }
}

/* Kernels captured once and replayed, with other work between. */
static void captured(struct worker *w) {
  struct {
    struct buffer *to;
    const struct buffer *from;
    uint64_t at[2], words, seed;
  } kept[CAPTURED];
  CUgraph graph = NULL;
  CUgraphExec exec = NULL;
  const CUstream stream = w->stream[w->on];
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  for (uint32_t i = 0; i < CAPTURED; i++) {
    do {
      kept[i].to = pick(w);
      kept[i].from = pick(w);
    } while (kept[i].to == kept[i].from);
    kept[i].words = piece(w, kept[i].to, kept[i].from, kept[i].at);
    kept[i].seed = below(w, 1000);
    OK(soak_launch_mix(kept[i].to->device + kept[i].at[0] * 8,
                       kept[i].from->device + kept[i].at[1] * 8, kept[i].words, kept[i].seed,
                       stream));
  }
  if (!OK(cuStreamEndCapture(stream, &graph))) return;
  OK(cuGraphInstantiate(&exec, graph, 0));
  for (uint64_t replay = 1 + below(w, 8); replay > 0 && !due(w); replay--) {
    OK(cuGraphLaunch(exec, turn(w)));
    for (uint32_t i = 0; i < CAPTURED; i++)
      soak_mix_host(kept[i].to->host + kept[i].at[0], kept[i].from->host + kept[i].at[1],
                    kept[i].words, kept[i].seed);
    w->replays++;
    if (below(w, 3) == 0) single(w);
  }
  settle(w);
  OK(cuGraphExecDestroy(exec));
  OK(cuGraphDestroy(graph));
}

static void change(struct worker *w) {
  for (uint64_t n = below(w, 6); n > 0; n--) {
    struct buffer *buffer = &w->buffer[2 + below(w, w->slots - 2)]; /* two always stay */
    if (buffer->words != 0) drop(w, buffer);
    else make(w, buffer);
  }
}

static void *work(void *argument) {
  struct worker *w = argument;
  OK(cuCtxSetCurrent(soak_context));
  for (uint32_t i = 0; i < STREAMS; i++)
    OK(cuStreamCreate(&w->stream[i], CU_STREAM_NON_BLOCKING));
  OK(cuEventCreate(&w->event, CU_EVENT_DISABLE_TIMING));
  OK(cuMemAlloc(&w->table, 16));
  OK(cuMemHostAlloc((void **)&w->pinned, PINNED_WORDS * 8, CU_MEMHOSTALLOC_DEVICEMAP));
  OK(cuMemHostAlloc((void **)&w->rows, 16, 0));
  for (uint32_t i = 0; i < w->slots; i++) make(w, &w->buffer[i]);
  CHECK(w->buffer[0].words != 0 && w->buffer[1].words != 0, "no memory for two buffers");
  while (!due(w)) {
    switch (below(w, 8)) {
      case 0: change(w); break;
      case 1: captured(w); break;
      case 2:
      case 3:
        for (uint64_t n = below(w, 60); n > 0 && !due(w); n--) single(w);
        break;
      default: rounds(w); break;
    }
  }
  for (uint32_t i = 0; i < w->slots; i++)
    if (w->buffer[i].words != 0) drop(w, &w->buffer[i]);
  OK(cuMemFree(w->table));
  OK(cuMemFreeHost(w->pinned));
  OK(cuMemFreeHost(w->rows));
  OK(cuEventDestroy(w->event));
  for (uint32_t i = 0; i < STREAMS; i++) OK(cuStreamDestroy(w->stream[i]));
  return NULL;
}

int main(int count, char **arguments) {
  static struct worker workers[16], sum;
  pthread_t threads[16];
  size_t before = 0, after = 0;
  if (count != 7) return 2;
  const double seconds = atof(arguments[3]);
  const uint32_t thread_count = (uint32_t)atoi(arguments[4]);
  const uint32_t slots = (uint32_t)atoi(arguments[5]) / (thread_count == 0 ? 1 : thread_count);
  if (thread_count == 0 || thread_count > 16 || slots < 4 || slots > SLOTS_MAX) return 2;
  soak_open(arguments[1], (unsigned)seconds + 120);
  OK(cuMemGetInfo(&before, NULL));
  for (uint32_t i = 0; i < thread_count; i++) {
    workers[i] = (struct worker){
        .random = (strtoull(arguments[2], NULL, 0) * 64 + i + 1) * 0x9e3779b97f4a7c15ull,
        .until = soak_seconds() + seconds,
        .slots = slots,
        .mib_max = (uint32_t)atoi(arguments[6])};
    pthread_create(&threads[i], NULL, work, &workers[i]);
  }
  for (uint32_t i = 0; i < thread_count; i++) {
    pthread_join(threads[i], NULL);
    sum.launches += workers[i].launches;
    sum.hidden += workers[i].hidden;
    sum.replays += workers[i].replays;
    sum.notes += workers[i].notes;
    sum.refused += workers[i].refused;
    sum.compared += workers[i].compared;
  }
  /* Frees that were asked for while some thread captured are done at the next allocation. */
  OK(cuMemAlloc(&workers[0].table, 16));
  OK(cuMemFree(workers[0].table));
  OK(cuMemGetInfo(&after, NULL));
  /* One empty slab stays with its context. */
  CHECK(before - after <= 2 * MIB, "free before %zu, after %zu", before, after);
  printf("launches %u, hidden %u, replays %u, host functions %u, compared %u, refused %u; ",
         sum.launches, sum.hidden, sum.replays, sum.notes, sum.compared, sum.refused);
  return CHECK_RESULT();
}
