/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch_variables.c: what the host has written to variables of modules. A lane gets it before the first launch that
 * could see it; an image whose variables are used in any other way runs here only.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "replica.h"

/* Constants are small; a program that writes more, or in more pieces, runs that image here. */
#define WRITES_MAX 4096u
#define WRITES_BYTES_MAX (64ull << 20)
#define IMAGES_MAX 1024u

/* The last bytes that were written to one place. */
struct write {
  struct gb_code_symbol symbol;
  void *bytes; /* owned */
  uint64_t length;
  uint64_t version; /* in the order of the calls */
  struct {
    uint32_t lane;
    uint64_t version; /* that it has */
  } sent[GB_REPLICAS_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct write writes[WRITES_MAX]; /* in the order of their versions */
static uint32_t write_count;
static uint64_t write_bytes;
static uint64_t versions;
static const struct gb_image *bound[IMAGES_MAX]; /* to this machine */
static uint32_t bound_count;

/* pre: lock. */
static bool is_bound(const struct gb_image *image) {
  for (uint32_t i = 0; i < bound_count; i++) {
    if (bound[i] == image) return true;
  }
  return bound_count == IMAGES_MAX;
}

/* pre: lock. */
static void bind(const struct gb_image *image) {
  if (is_bound(image)) return;
  bound[bound_count++] = image;
  gb_event(GB_LOG_INFO, CUDA_SUCCESS, "image_stays_here",
           "kernels of one image run here only: the program reads its variables, or writes them in a way that is not "
           "repeated on feeders");
}

void gb_dispatch_variable_used(uint64_t address) {
  struct gb_code_symbol symbol;
  if (!gb_code_symbol_at(address, &symbol)) return;
  pthread_mutex_lock(&lock);
  bind(symbol.image);
  pthread_mutex_unlock(&lock);
}

static bool covers(const struct gb_code_symbol *symbol, uint64_t length, const struct write *older) {
  return older->symbol.image == symbol->image && strcmp(older->symbol.name, symbol->name) == 0 &&
         symbol->offset <= older->symbol.offset && older->symbol.offset + older->length <= symbol->offset + length;
}

/* What the new write covers is of no use any more. pre: lock. */
static void drop_covered(const struct gb_code_symbol *symbol, uint64_t length) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < write_count; i++) {
    if (!covers(symbol, length, &writes[i])) {
      writes[kept++] = writes[i];
      continue;
    }
    write_bytes -= writes[i].length;
    free(writes[i].bytes);
  }
  write_count = kept;
}

bool gb_dispatch_variable_written(uint64_t address, const void *host, uint64_t bytes) {
  struct gb_code_symbol symbol;
  if (!gb_code_symbol_at(address, &symbol)) return false;
  pthread_mutex_lock(&lock);
  drop_covered(&symbol, bytes);
  bool fits = write_count < WRITES_MAX && write_bytes + bytes <= WRITES_BYTES_MAX;
  void *copy = fits ? malloc(bytes) : NULL;
  if (copy == NULL) {
    bind(symbol.image);
  } else {
    memcpy(copy, host, bytes);
    writes[write_count++] = (struct write){.symbol = symbol, .bytes = copy, .length = bytes, .version = ++versions};
    write_bytes += bytes;
  }
  pthread_mutex_unlock(&lock);
  return true;
}

/* pre: lock. returns: CUDA_ERROR_NOT_SUPPORTED when too many lanes know it. */
static CUresult send_write(uint32_t lane, struct write *write) {
  for (uint32_t i = 0; i < GB_REPLICAS_MAX; i++) {
    if (write->sent[i].lane != lane && write->sent[i].lane != 0) continue;
    if (write->sent[i].lane == lane && write->sent[i].version == write->version) return CUDA_SUCCESS;
    CUresult result = gb_run_symbol(lane, &write->symbol, write->bytes, write->length);
    if (result != CUDA_SUCCESS) return result;
    write->sent[i].lane = lane;
    write->sent[i].version = write->version;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult gb_dispatch_variables(uint32_t lane, const struct gb_image *image) {
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&lock);
  if (is_bound(image)) result = CUDA_ERROR_NOT_SUPPORTED;
  for (uint32_t i = 0; i < write_count && result == CUDA_SUCCESS; i++) {
    if (writes[i].symbol.image == image) result = send_write(lane, &writes[i]);
  }
  pthread_mutex_unlock(&lock);
  return result;
}

void gb_dispatch_forked(void) {
  pthread_mutex_init(&lock, NULL);
}
