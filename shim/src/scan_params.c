/* SPDX-License-Identifier: Apache-2.0 */
/* scan_params.c: the addresses among a launch's arguments. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "lock.h"
#include "scan.h"
#include "side.h"
#include "slab.h"

#define FUNCTIONS_MAX 8192 /* power of two; beyond half of it the table is emptied */
#define PARAMS_MAX 4096
#define EXTRA_PAIRS_MAX 16

/* Sizes of a function's parameters, as the driver tells; shared by all threads. */
struct signature {
  CUfunction function;
  uint32_t count;
  bool known;
  uint32_t *bytes; /* count entries, owned */
};

static struct signature table[FUNCTIONS_MAX];
static uint32_t table_count;
static pthread_rwlock_t table_lock = PTHREAD_RWLOCK_INITIALIZER;

/* ---- addresses ---- */

static void add_content(struct gb_touch *touch, uint64_t address, uint64_t bytes) {
  for (uint32_t i = 0; i < touch->content_count; i++) {
    if (touch->content[i].address == address) return;
  }
  if (touch->content_count == GB_OPERANDS_MAX) {
    touch->accounted = false;
    return;
  }
  touch->content[touch->content_count++] = (struct gb_operand){address, bytes};
}

/* Beyond the table the call is still accounted for: only staging knows less. */
static void add_named(struct gb_touch *touch, uint64_t address, uint64_t bytes) {
  for (uint32_t i = 0; i < touch->named_count; i++) {
    if (touch->named[i].address == address) return;
  }
  if (touch->named_count < GB_OPERANDS_MAX)
    touch->named[touch->named_count++] = (struct gb_operand){address, bytes};
}

static void add_span(struct gb_touch *touch, const struct gb_span *span) {
  for (uint32_t i = 0; i < touch->count; i++) {
    if (touch->bases[i] == span->base) return;
  }
  if (touch->count == GB_OPERANDS_MAX) {
    touch->accounted = false;
    return;
  }
  touch->bases[touch->count++] = span->base;
}

/* A kernel that is given a place in an area may read addresses from any part of it. */
static void add_area(struct gb_touch *touch, const struct gb_area *area) {
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && touch->accounted;
       span = gb_span_next(span)) {
    if (span->area == area) add_span(touch, span);
  }
}

void gb_touch_address(struct gb_touch *touch, uint64_t address, uint64_t touched) {
  uint64_t base = 0;
  uint64_t bytes = 0;
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_span *span = gb_span_at(address);
  if (span == NULL) {
    if (!gb_owns(address) && gb_side_at(address, &base, &bytes)) add_content(touch, base, bytes);
  } else if (span->slab == NULL) {
    add_span(touch, span);
    if (span->area != NULL && gb_gated_on()) add_area(touch, span->area);
    if (address < span->base + span->bytes) add_named(touch, address, touched);
  } else {
    const struct gb_small *small = gb_slab_find(span, address, &base);
    if (small != NULL) add_content(touch, base, small->bytes);
  }
  pthread_rwlock_unlock(&gb_index_lock);
}

static void touch_bytes(struct gb_touch *touch, const void *bytes, size_t length) {
  bool outside = gb_gated_on(); /* staging asks only for what is in the arena */
  for (size_t at = 0; at + 8 <= length; at += 4) {
    uint64_t word;
    memcpy(&word, (const unsigned char *)bytes + at, sizeof word);
    if (!gb_owns(word) && (!outside || word < (1ull << 16) || word >= (1ull << 57))) continue;
    if (gb_dispatching() && !gb_owns(word)) gb_dispatch_variable_used(word);
    gb_touch_address(touch, word, 0);
  }
}

/* ---- signatures ---- */

static CUresult ask(CUfunction function, bool kernel, size_t index, size_t *bytes) {
  size_t offset = 0;
  if (kernel) return gb_real.cuKernelGetParamInfo((CUkernel)function, index, &offset, bytes);
  return gb_real.cuFuncGetParamInfo(function, index, &offset, bytes);
}

/* The driver answers INVALID_VALUE one past the last parameter; anything else means that it does
 * not know. */
static void learn(struct signature *signature) {
  uint32_t sizes[PARAMS_MAX];
  size_t bytes = 0;
  if (gb_real.cuFuncGetParamInfo == NULL) return;
  CUresult result = ask(signature->function, false, 0, &bytes);
  bool kernel = result != CUDA_SUCCESS && result != CUDA_ERROR_INVALID_VALUE &&
                gb_real.cuKernelGetParamInfo != NULL;
  for (signature->count = 0; signature->count < PARAMS_MAX; signature->count++) {
    result = ask(signature->function, kernel, signature->count, &bytes);
    if (result != CUDA_SUCCESS) break;
    sizes[signature->count] = (uint32_t)bytes;
  }
  if (result != CUDA_ERROR_INVALID_VALUE) return;
  signature->bytes = malloc((signature->count + 1) * sizeof *signature->bytes);
  if (signature->bytes == NULL) return;
  memcpy(signature->bytes, sizes, signature->count * sizeof *sizes);
  signature->known = true;
}

static uint32_t place_of(CUfunction function) {
  uint64_t hash = (uint64_t)(uintptr_t)function * 0x9e3779b97f4a7c15ull;
  uint32_t at = (uint32_t)(hash >> 40) & (FUNCTIONS_MAX - 1);
  while (table[at].function != NULL && table[at].function != function)
    at = (at + 1) & (FUNCTIONS_MAX - 1);
  return at;
}

static void empty_table(void) {
  for (uint32_t i = 0; i < FUNCTIONS_MAX; i++) free(table[i].bytes);
  memset(table, 0, sizeof table);
  table_count = 0;
}

void gb_core_functions_unloaded(void) {
  pthread_rwlock_wrlock(&table_lock);
  empty_table();
  pthread_rwlock_unlock(&table_lock);
}

/* Enters the function. A thread that meets the same one meanwhile finds it here. */
static void enter(CUfunction function) {
  struct signature signature = {.function = function};
  learn(&signature);
  pthread_rwlock_wrlock(&table_lock);
  if (table_count >= FUNCTIONS_MAX / 2) empty_table();
  uint32_t at = place_of(function);
  if (table[at].function == NULL) {
    table[at] = signature;
    table_count++;
    signature.bytes = NULL;
  }
  pthread_rwlock_unlock(&table_lock);
  free(signature.bytes);
}

/* ---- arguments ---- */

/* The `extra` form: pairs of a tag and a value, up to CU_LAUNCH_PARAM_END. */
static bool visit_extra(void **extra, gb_visit visit, void *context) {
  const void *buffer = NULL;
  size_t bytes = 0;
  bool known = true;
  for (int i = 0; i < EXTRA_PAIRS_MAX && extra[0] != CU_LAUNCH_PARAM_END; i++, extra += 2) {
    if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER)
      buffer = extra[1];
    else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE)
      memcpy(&bytes, extra[1], sizeof bytes);
    else
      known = false;
  }
  if (buffer != NULL) visit(context, buffer, bytes);
  return known;
}

/* The function's entry, read-locked: unlock table_lock afterwards. */
static const struct signature *signature_of(CUfunction function) {
  pthread_rwlock_rdlock(&table_lock);
  const struct signature *signature = &table[place_of(function)];
  if (signature->function == NULL) {
    pthread_rwlock_unlock(&table_lock);
    enter(function);
    pthread_rwlock_rdlock(&table_lock);
    signature = &table[place_of(function)];
  }
  return signature;
}

bool gb_arguments_visit(CUfunction function, void **params, void **extra, gb_visit visit,
                        void *context) {
  if (extra != NULL && extra[0] != CU_LAUNCH_PARAM_END) return visit_extra(extra, visit, context);
  const struct signature *signature = signature_of(function);
  bool known = signature->function != NULL && signature->known;
  for (uint32_t i = 0; known && params != NULL && i < signature->count; i++) {
    if (params[i] != NULL) visit(context, params[i], signature->bytes[i]);
  }
  pthread_rwlock_unlock(&table_lock);
  return known;
}

bool gb_arguments_equal(CUfunction function, void **a, void **b) {
  const struct signature *signature = signature_of(function);
  bool equal = signature->function != NULL && signature->known &&
               (signature->count == 0 || (a != NULL && b != NULL));
  for (uint32_t i = 0; equal && i < signature->count; i++) {
    equal = a[i] != NULL && b[i] != NULL && memcmp(a[i], b[i], signature->bytes[i]) == 0;
  }
  pthread_rwlock_unlock(&table_lock);
  return equal;
}

/* ---- launches ---- */

static void touch_argument(void *context, const void *bytes, size_t length) {
  touch_bytes(context, bytes, length);
}

void gb_touch_launch(struct gb_touch *touch, CUfunction function, void **params, void **extra) {
  if (!gb_arguments_visit(function, params, extra, touch_argument, touch)) touch->accounted = false;
}
