/* SPDX-License-Identifier: Apache-2.0 */
/* buffers.c: see buffers.h. */
#define _GNU_SOURCE
#include "buffers.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

void gbx_buffers_open(struct gbx_buffers *buffers, struct gbx_memory *memory, uint64_t bytes, unsigned most) {
  *buffers = (struct gbx_buffers){.memory = memory, .bytes = bytes, .most = most};
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&buffers->returned, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_init(&buffers->lock, NULL);
}

/* Pinning takes milliseconds: without the lock. */
static struct gbx_buffer *make(struct gbx_buffers *buffers) {
  struct gbx_buffer *buffer = calloc(1, sizeof(*buffer));
  if (!buffer)
    return NULL;
  buffer->memory = gbx_memory_pinned(buffers->memory, buffers->bytes);
  if (buffer->memory)
    return buffer;
  free(buffer);
  return NULL;
}

struct gbx_buffer *gbx_buffers_take(struct gbx_buffers *buffers, unsigned keep, unsigned wait_ms) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += wait_ms / 1000;
  until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_nsec -= 1000000000;
    until.tv_sec++;
  }
  pthread_mutex_lock(&buffers->lock);
  int waited = wait_ms == 0 ? ETIMEDOUT : 0;
  while (buffers->idle_count + (buffers->most - buffers->made) <= keep && waited != ETIMEDOUT)
    waited = pthread_cond_timedwait(&buffers->returned, &buffers->lock, &until);
  bool may = buffers->idle_count + (buffers->most - buffers->made) > keep;
  struct gbx_buffer *buffer = may ? buffers->idle : NULL;
  bool make_one = may && !buffer;
  if (buffer) {
    buffers->idle = buffer->next;
    buffers->idle_count--;
  }
  buffers->made += make_one;
  pthread_mutex_unlock(&buffers->lock);
  if (!make_one)
    return buffer;
  buffer = make(buffers);
  if (!buffer) {
    pthread_mutex_lock(&buffers->lock);
    buffers->made--;
    pthread_cond_signal(&buffers->returned);
    pthread_mutex_unlock(&buffers->lock);
  }
  return buffer;
}

void gbx_buffers_return(struct gbx_buffers *buffers, struct gbx_buffer *buffer) {
  pthread_mutex_lock(&buffers->lock);
  buffer->next = buffers->idle;
  buffers->idle = buffer;
  buffers->idle_count++;
  pthread_cond_signal(&buffers->returned);
  pthread_mutex_unlock(&buffers->lock);
}
