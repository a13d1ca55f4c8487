/* SPDX-License-Identifier: Apache-2.0 */
/* handles.c: the set of handles that are alive, so that a stale or foreign one is an error and not
 * a crash. */
#include "sim.h"

struct entry {
  const void *handle; /* NULL: empty; DELETED: was one */
  enum sim_type type;
};

#define DELETED ((const void *)1)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *table;
static size_t capacity, filled; /* filled counts deleted ones too */
static size_t counts[32];

static size_t place(const void *handle) {
  return (size_t)(((uint64_t)handle >> 4) * 0x9e3779b97f4a7c15ull >> 20) & (capacity - 1);
}

static struct entry *find(const void *handle) {
  if (capacity == 0) return NULL;
  for (size_t i = place(handle);; i = (i + 1) & (capacity - 1)) {
    if (table[i].handle == handle) return &table[i];
    if (table[i].handle == NULL) return NULL;
  }
}

static void insert(const void *handle, enum sim_type type) {
  size_t i = place(handle);
  while (table[i].handle != NULL) i = (i + 1) & (capacity - 1);
  table[i] = (struct entry){handle, type};
  filled++;
}

static void grow(void) {
  struct entry *old = table;
  const size_t old_capacity = capacity;
  size_t live = 0;
  for (size_t i = 0; i < old_capacity; i++)
    live += old[i].handle != NULL && old[i].handle != DELETED;
  capacity = 256;
  while (capacity < live * 4) capacity *= 2;
  table = calloc(capacity, sizeof *table);
  if (table == NULL) abort();
  filled = 0;
  for (size_t i = 0; i < old_capacity; i++)
    if (old[i].handle != NULL && old[i].handle != DELETED) insert(old[i].handle, old[i].type);
  free(old);
}

void sim_handle_add(enum sim_type type, const void *handle) {
  pthread_mutex_lock(&lock);
  if (filled * 2 >= capacity) grow();
  insert(handle, type);
  counts[type]++;
  pthread_mutex_unlock(&lock);
}

bool sim_handle_is(enum sim_type type, const void *handle) {
  if (handle == NULL || handle == DELETED) return false;
  pthread_mutex_lock(&lock);
  const struct entry *entry = find(handle);
  const bool is = entry != NULL && entry->type == type;
  pthread_mutex_unlock(&lock);
  return is;
}

void sim_handle_remove(const void *handle) {
  pthread_mutex_lock(&lock);
  struct entry *entry = find(handle);
  if (entry != NULL) {
    counts[entry->type]--;
    entry->handle = DELETED;
  }
  pthread_mutex_unlock(&lock);
}

size_t sim_handle_count(enum sim_type type) {
  pthread_mutex_lock(&lock);
  const size_t count = counts[type];
  pthread_mutex_unlock(&lock);
  return count;
}
