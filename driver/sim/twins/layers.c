/* SPDX-License-Identifier: Apache-2.0 */
/* layers.c: C twins of the PTX kernels in test/c/programs/layers_kernels.h. */
#include <gbsim_kernel.h>

#define PARAM(index, value) gbsim_param(launch, index, &(value))

static uint64_t mix64(uint64_t value) {
  value *= 0x9E3779B97F4A7C15ull;
  return value ^ (value >> 32);
}

static uint64_t word_of(uint64_t value) { return mix64(value) | 0x8000000080000000ull; }

/* (out, n, width, table, feed) */
GBSIM_KERNEL(gb_layer_embed, 5, {8, 8, 8, 8, 8}) {
  uint64_t *out, n, width;
  const uint64_t *table, *feed;
  PARAM(0, out);
  PARAM(1, n);
  PARAM(2, width);
  PARAM(3, table);
  PARAM(4, feed);
  for (uint64_t i = 0; i < n; i++) out[i] = table[feed[1 + i / width] * width + i % width];
}

static void norm_run(const struct gbsim_launch *launch, uint64_t key) {
  uint64_t *out, n, width;
  const uint64_t *x, *norm;
  PARAM(0, out);
  PARAM(1, n);
  PARAM(2, width);
  PARAM(3, x);
  PARAM(4, norm);
  for (uint64_t i = 0; i < n; i++) out[i] = word_of(((x[i] * 3) ^ norm[i % width]) + key);
}

/* (out, n, width, x, norm) */
GBSIM_KERNEL(gb_layer_norm, 5, {8, 8, 8, 8, 8}) { norm_run(launch, 0); }

/* The same, and a variable of the module. */
GBSIM_KERNEL(gb_layer_norm_symbol, 5, {8, 8, 8, 8, 8}) {
  size_t bytes = 0;
  const uint64_t *key = launch->global(launch, "gb_layer_key", &bytes);
  norm_run(launch, *key);
}

/* The words of a row are summed where they are written in the end: every weight is read once for all rows. */
static void matmul_run(uint64_t *out, uint64_t n, uint64_t width, const uint64_t *w, uint64_t depth,
                       const uint64_t *x) {
  memset(out, 0, n * sizeof *out);
  for (uint64_t k = 0; k < depth; k++)
    for (uint64_t row = 0; row < n / width; row++) {
      const uint64_t factor = x[row * width + k % width];
      for (uint64_t column = 0; column < width; column++)
        out[row * width + column] += w[k * width + column] * factor;
    }
  for (uint64_t i = 0; i < n; i++) out[i] = word_of(out[i]);
}

/* (out, n, width, w, depth, x) */
GBSIM_KERNEL(gb_layer_matmul, 6, {8, 8, 8, 8, 8, 8}) {
  uint64_t *out, n, width, depth;
  const uint64_t *w, *x;
  PARAM(0, out);
  PARAM(1, n);
  PARAM(2, width);
  PARAM(3, w);
  PARAM(4, depth);
  PARAM(5, x);
  matmul_run(out, n, width, w, depth, x);
}

/* (struct of the same six) */
GBSIM_KERNEL(gb_layer_matmul_struct, 1, {48}) {
  struct {
    uint64_t *out, n, width;
    const uint64_t *w;
    uint64_t depth;
    const uint64_t *x;
  } args;
  PARAM(0, args);
  matmul_run(args.out, args.n, args.width, args.w, args.depth, args.x);
}

/* (out, n, width, table, index, depth, x) */
GBSIM_KERNEL(gb_layer_matmul_table, 7, {8, 8, 8, 8, 8, 8, 8}) {
  uint64_t *out, n, width, index, depth;
  const uint64_t *const *table, *x;
  PARAM(0, out);
  PARAM(1, n);
  PARAM(2, width);
  PARAM(3, table);
  PARAM(4, index);
  PARAM(5, depth);
  PARAM(6, x);
  matmul_run(out, n, width, table[index], depth, x);
}

/* (out, n, kv, capacity, feed, x) */
GBSIM_KERNEL(gb_layer_attend, 6, {8, 8, 8, 8, 8, 8}) {
  uint64_t *out, n, *kv, capacity;
  const uint64_t *feed, *x;
  PARAM(0, out);
  PARAM(1, n);
  PARAM(2, kv);
  PARAM(3, capacity);
  PARAM(4, feed);
  PARAM(5, x);
  const uint64_t position = feed[0], rows = position + 1 < capacity ? position + 1 : capacity;
  memcpy(kv + position % capacity * n, x, n * sizeof *kv);
  for (uint64_t i = 0; i < n; i++) {
    uint64_t sum = 0;
    for (uint64_t p = 0; p < rows; p++) sum += kv[p * n + i] * (2 * p + 1);
    out[i] = word_of(sum);
  }
}

/* (out, n, a, b) */
GBSIM_KERNEL(gb_layer_add, 4, {8, 8, 8, 8}) {
  uint64_t *out, n;
  const uint64_t *a, *b;
  PARAM(0, out);
  PARAM(1, n);
  PARAM(2, a);
  PARAM(3, b);
  for (uint64_t i = 0; i < n; i++) out[i] = word_of(a[i] * 5 + b[i]);
}

/* (logits, n, width, result) */
GBSIM_KERNEL(gb_layer_reduce, 4, {8, 8, 8, 8}) {
  const uint64_t *logits;
  uint64_t n, width, *result;
  PARAM(0, logits);
  PARAM(1, n);
  PARAM(2, width);
  PARAM(3, result);
  for (uint64_t i = 0; i < n; i++) {
    uint64_t *of = result + i / width * 2;
    const uint64_t best = (logits[i] & 0xFFFFFFFFFFFF0000ull) | (i % width);
    if (best > of[0]) of[0] = best;
    of[1] += mix64(logits[i] + i);
  }
}
