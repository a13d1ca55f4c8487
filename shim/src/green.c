/* SPDX-License-Identifier: Apache-2.0 */
/* green.c: which contexts are green, and whose memory they use. */
#include "green.h"

#include <pthread.h>

#include "real.h"

static struct green {
  CUgreenCtx handle;
  CUcontext context; /* NULL: nobody asked for it yet */
  CUcontext primary;
  CUdevice device;
} greens[GB_GREEN_MAX];
static _Atomic uint32_t green_count; /* written under the lock */
static pthread_mutex_t greens_lock = PTHREAD_MUTEX_INITIALIZER;

/* A green context holds its device's primary one: it is asked for and the reference given back. */
static CUcontext primary_of(CUdevice device) {
  CUcontext primary = NULL;
  if (gb_real.cuDevicePrimaryCtxRetain == NULL || gb_real.cuDevicePrimaryCtxRelease_v2 == NULL ||
      gb_real.cuDevicePrimaryCtxRetain(&primary, device) != CUDA_SUCCESS)
    return NULL;
  (void)gb_real.cuDevicePrimaryCtxRelease_v2(device);
  return primary;
}

void gb_green_created(CUgreenCtx handle, CUdevice device) {
  CUcontext primary = primary_of(device);
  if (primary == NULL) return;
  pthread_mutex_lock(&greens_lock);
  uint32_t count = green_count;
  if (count < GB_GREEN_MAX) {
    greens[count] = (struct green){.handle = handle, .primary = primary, .device = device};
    green_count = count + 1;
  }
  pthread_mutex_unlock(&greens_lock);
  gb_core_context_created(primary, device);
}

static struct green *find(CUgreenCtx handle) {
  for (uint32_t i = 0; i < green_count; i++)
    if (greens[i].handle == handle) return &greens[i];
  return NULL;
}

void gb_green_context(CUgreenCtx handle, CUcontext context) {
  CUdevice device = 0;
  pthread_mutex_lock(&greens_lock);
  struct green *green = find(handle);
  if (green != NULL) {
    green->context = context;
    device = green->device;
  }
  pthread_mutex_unlock(&greens_lock);
  if (green != NULL) gb_core_context_created(context, device);
}

void gb_green_going(CUgreenCtx handle) {
  CUcontext context = NULL;
  pthread_mutex_lock(&greens_lock);
  struct green *green = find(handle);
  if (green != NULL) {
    context = green->context;
    *green = greens[--green_count];
  }
  pthread_mutex_unlock(&greens_lock);
  if (context != NULL) gb_core_context_going(context);
}

bool gb_green_enter(void) {
  if (green_count == 0) return false;
  CUcontext current = NULL, primary = NULL;
  if (gb_real.cuCtxGetCurrent(&current) != CUDA_SUCCESS || current == NULL) return false;
  pthread_mutex_lock(&greens_lock);
  for (uint32_t i = 0; i < green_count; i++)
    if (greens[i].context == current) primary = greens[i].primary;
  pthread_mutex_unlock(&greens_lock);
  return primary != NULL && gb_real.cuCtxPushCurrent_v2(primary) == CUDA_SUCCESS;
}

void gb_green_leave(void) {
  CUcontext popped = NULL;
  (void)gb_real.cuCtxPopCurrent_v2(&popped);
}
