/* SPDX-License-Identifier: Apache-2.0 */
/* pinned.c: registering our own host memory, and doing so again. */
#include "pinned.h"

#include <sys/mman.h>

static struct gb_pinned *all;

static bool make(struct gb_pinned *pinned, size_t bytes) {
  void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return false;
  madvise(map, bytes, MADV_HUGEPAGE); /* direct I/O pins every page anew for each read */
  madvise(map, bytes, MADV_DONTFORK); /* a copied page would part from the one the GPU fills */
  *pinned = (struct gb_pinned){.host = map, .bytes = bytes, .next = all};
  all = pinned;
  return true;
}

bool gb_pinned_ready(struct gb_pinned *pinned, size_t bytes) {
  const unsigned flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
  CUcontext current = NULL;
  if (pinned->host == NULL && !make(pinned, bytes)) return false;
  if (pinned->context != NULL) return true;
  if (gb_real.cuCtxGetCurrent(&current) != CUDA_SUCCESS || current == NULL) return false;
  if (gb_real.cuMemHostRegister_v2(pinned->host, pinned->bytes, flags) != CUDA_SUCCESS) return false;
  if (gb_real.cuMemHostGetDevicePointer_v2(&pinned->device, pinned->host, 0) != CUDA_SUCCESS) {
    gb_real.cuMemHostUnregister(pinned->host);
    return false;
  }
  pinned->context = current;
  return true;
}

bool gb_pinned_in(CUcontext context) {
  const struct gb_pinned *pinned = all;
  while (pinned != NULL && pinned->context != context) pinned = pinned->next;
  return pinned != NULL;
}

void gb_pinned_context_going(CUcontext context) {
  for (struct gb_pinned *pinned = all; pinned != NULL; pinned = pinned->next) {
    if (pinned->context != context) continue;
    gb_real.cuMemHostUnregister(pinned->host);
    pinned->context = NULL;
  }
}
