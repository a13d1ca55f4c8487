/* SPDX-License-Identifier: Apache-2.0 */
/* layers_reference.h: gb_layers on the CPU: what its memory holds from a seed, and one step of decoding. */
#ifndef GB_TEST_LAYERS_REFERENCE_H
#define GB_TEST_LAYERS_REFERENCE_H

#include <stdbool.h>

#include "program.h"

#define WORD_BITS 0x8000000080000000ull
/* What --fill sets and copies at a time. */
#define STRIP_WORDS 512u

struct shape {
  unsigned layers, rows;
  uint64_t width;    /* words of a row of activations; also how many tokens there are */
  uint64_t n;        /* rows * width */
  uint64_t depth;    /* a matrix of a layer is depth * width words */
  uint64_t capacity; /* tokens that a KV buffer keeps, n words each; then the first is overwritten */
  uint64_t seed;
};

/* Numbers of the matrices: two for each layer, the head, the table of tokens, two norms for each layer. */
enum { MATRICES_OF_LAYER = 2 };
static inline uint64_t matrix_of(unsigned layer, unsigned which) { return layer * 2ull + which; }
static inline uint64_t head_of(const struct shape *s) { return s->layers * 2ull; }
static inline uint64_t table_of(const struct shape *s) { return s->layers * 2ull + 1; }
static inline uint64_t norm_of(const struct shape *s, unsigned layer, unsigned which) {
  return s->layers * 2ull + 2 + layer * 2ull + which;
}

static inline void random_words(const struct shape *s, uint64_t matrix, uint64_t from, uint64_t count,
                                uint64_t *words) {
  const uint64_t start = mix64(s->seed + matrix * 0x100000001ull);
  for (uint64_t i = 0; i < count; i++) words[i] = mix64(start + from + i) | WORD_BITS;
}

/* ---- what --fill does with the strips of a matrix, before each token ---- */

struct strips {
  uint64_t set, from, to; /* first words */
  uint32_t value;         /* 32 bits, set everywhere */
};

static inline struct strips strips_of(const struct shape *s, uint64_t position) {
  const uint64_t count = s->depth * s->width / STRIP_WORDS;
  return (struct strips){.set = position * 7 % count * STRIP_WORDS,
                         .from = (position * 5 + 1) % count * STRIP_WORDS,
                         .to = (position * 3 + 2) % count * STRIP_WORDS,
                         .value = (uint32_t)mix64(position) | 0x80000000u};
}

/* What each row begins with. */
static inline uint64_t first_token(const struct shape *s, unsigned row) { return row * 11ull % s->width; }

/* Used by the kernel that reads a variable of its module. */
static inline uint64_t key_of(uint64_t position) { return mix64(position + 0x5EEDull); }

/* ---- the model ---- */

struct reference {
  const struct shape *shape;
  uint64_t **matrices; /* by number: two for each layer, head, table */
  uint64_t **norms;
  uint64_t **kv;
  uint64_t *x, *y, *work[3], *logits;
  uint64_t position, *tokens; /* of each row */
  uint64_t sums;              /* of the last logits, as the device's reduction has them */
};

static inline uint64_t *words_new(uint64_t count) {
  uint64_t *words = calloc(count, sizeof *words);
  if (words == NULL) {
    fprintf(stderr, "no host memory for the reference\n");
    exit(EXIT_DRIVER);
  }
  return words;
}

static inline uint64_t *random_new(const struct shape *s, uint64_t matrix, uint64_t count) {
  uint64_t *words = words_new(count);
  random_words(s, matrix, 0, count, words);
  return words;
}

static inline void reference_open(struct reference *r, const struct shape *s) {
  *r = (struct reference){.shape = s};
  r->matrices = calloc(s->layers * 2ull + 2, sizeof *r->matrices);
  r->norms = calloc(s->layers * 2ull, sizeof *r->norms);
  r->kv = calloc(s->layers, sizeof *r->kv);
  if (r->matrices == NULL || r->norms == NULL || r->kv == NULL) exit(EXIT_DRIVER);
  for (unsigned layer = 0; layer < s->layers; layer++) {
    for (unsigned which = 0; which < 2; which++) {
      r->matrices[matrix_of(layer, which)] = random_new(s, matrix_of(layer, which), s->depth * s->width);
      r->norms[layer * 2 + which] = random_new(s, norm_of(s, layer, which), s->width);
    }
    r->kv[layer] = words_new(s->capacity * s->n);
  }
  r->matrices[head_of(s)] = random_new(s, head_of(s), s->width * s->width);
  r->matrices[table_of(s)] = random_new(s, table_of(s), s->width * s->width);
  r->x = words_new(s->n);
  r->y = words_new(s->n);
  for (unsigned i = 0; i < 3; i++) r->work[i] = words_new(s->n);
  r->logits = words_new(s->n);
  r->tokens = words_new(s->rows);
  for (unsigned row = 0; row < s->rows; row++) r->tokens[row] = first_token(s, row);
}

static inline void reference_norm(const struct shape *s, uint64_t *out, const uint64_t *x, const uint64_t *norm,
                                  uint64_t key) {
  for (uint64_t i = 0; i < s->n; i++) out[i] = mix64(((x[i] * 3) ^ norm[i % s->width]) + key) | WORD_BITS;
}

static inline void reference_matmul(const struct shape *s, uint64_t *out, const uint64_t *w, uint64_t depth,
                                    const uint64_t *x) {
  memset(out, 0, s->n * sizeof *out);
  for (uint64_t k = 0; k < depth; k++)
    for (unsigned row = 0; row < s->rows; row++) {
      const uint64_t factor = x[row * s->width + k % s->width];
      for (uint64_t column = 0; column < s->width; column++)
        out[row * s->width + column] += w[k * s->width + column] * factor;
    }
  for (uint64_t i = 0; i < s->n; i++) out[i] = mix64(out[i]) | WORD_BITS;
}

static inline void reference_add(const struct shape *s, uint64_t *out, const uint64_t *a, const uint64_t *b) {
  for (uint64_t i = 0; i < s->n; i++) out[i] = mix64(a[i] * 5 + b[i]) | WORD_BITS;
}

static inline void reference_attend(const struct reference *r, unsigned layer, uint64_t *out, const uint64_t *x) {
  const struct shape *s = r->shape;
  uint64_t *kv = r->kv[layer];
  const uint64_t rows = r->position + 1 < s->capacity ? r->position + 1 : s->capacity;
  memcpy(kv + r->position % s->capacity * s->n, x, s->n * sizeof *kv);
  for (uint64_t i = 0; i < s->n; i++) {
    uint64_t sum = 0;
    for (uint64_t p = 0; p < rows; p++) sum += kv[p * s->n + i] * (2 * p + 1);
    out[i] = mix64(sum) | WORD_BITS;
  }
}

static inline void reference_fill(const struct reference *r) {
  const struct shape *s = r->shape;
  const struct strips strips = strips_of(s, r->position);
  const uint64_t value = (uint64_t)strips.value << 32 | strips.value, bytes = STRIP_WORDS * 8;
  for (unsigned layer = 0; layer < s->layers; layer++) {
    uint64_t *first = r->matrices[matrix_of(layer, 0)], *second = r->matrices[matrix_of(layer, 1)];
    uint64_t *next = r->matrices[matrix_of((layer + 1) % s->layers, 0)];
    for (unsigned i = 0; i < STRIP_WORDS; i++) first[strips.set + i] = value;
    memcpy(second + strips.to, first + strips.set, bytes);
    memcpy(next + strips.to, second + strips.from, bytes);
  }
}

/* One token of every row: the logits' sums, and the tokens that follow. */
static inline void reference_step(struct reference *r, bool fill, bool symbol) {
  const struct shape *s = r->shape;
  const uint64_t key = symbol ? key_of(r->position) : 0;
  if (fill) reference_fill(r);
  for (uint64_t i = 0; i < s->n; i++)
    r->x[i] = r->matrices[table_of(s)][r->tokens[i / s->width] * s->width + i % s->width];
  for (unsigned layer = 0; layer < s->layers; layer++) {
    reference_norm(s, r->work[0], r->x, r->norms[layer * 2], key);
    reference_matmul(s, r->work[1], r->matrices[matrix_of(layer, 0)], s->depth, r->work[0]);
    reference_attend(r, layer, r->work[2], r->work[1]);
    reference_add(s, r->y, r->x, r->work[2]);
    reference_norm(s, r->work[0], r->y, r->norms[layer * 2 + 1], key);
    reference_matmul(s, r->work[1], r->matrices[matrix_of(layer, 1)], s->depth, r->work[0]);
    reference_add(s, r->x, r->y, r->work[1]);
  }
  reference_matmul(s, r->logits, r->matrices[head_of(s)], s->width, r->x);
  r->sums = 0;
  for (unsigned row = 0; row < s->rows; row++) {
    uint64_t best = 0;
    for (uint64_t i = row * s->width; i < (row + 1) * s->width; i++) {
      const uint64_t logit = (r->logits[i] & ~0xFFFFull) | (i % s->width);
      if (logit > best) best = logit;
      r->sums += mix64(r->logits[i] + i);
    }
    r->tokens[row] = best & 0xFFFF;
  }
  r->position++;
}

#endif
