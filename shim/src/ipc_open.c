/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipc_open.c: memory of other processes: asked for, imported, mapped at an address outside the
 * arena, counted for each open, and taken away again. No lock is held while a peer is asked or the
 * driver is called.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "chunk.h"
#include "context.h"
#include "ipc_part.h"
#include "lock.h"
#include "refuse.h"

/* One allocation of a peer, mapped for one context. */
struct opened {
  uint64_t process;
  uint64_t export;
  uint64_t allocation;
  uint64_t map_base; /* of the whole exported memory */
  uint64_t map_bytes;
  struct gb_ipc_range range; /* the allocation in it */
  uint32_t count;            /* 0: closed while a capture was live, to be unmapped */
};

_Atomic uint32_t gb_ipc_open_count;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* for moments */
static struct opened *table;
static uint32_t count, capacity;

/* ---- the table; pre: table_lock ---- */

static struct opened *find(const struct gb_ipc_handle *handle, CUcontext context) {
  for (uint32_t i = 0; i < count; i++) {
    struct opened *it = &table[i];
    if (it->export == handle->export && it->process == handle->process &&
        it->allocation == handle->allocation && it->range.context == context)
      return it;
  }
  return NULL;
}

static bool has_place(void) {
  if (count < capacity) return true;
  if (capacity == GB_IPC_OPENS_MAX) return false;
  uint32_t larger = capacity == 0 ? 64 : 2 * capacity;
  struct opened *grown = realloc(table, larger * sizeof *grown);
  if (grown == NULL) return false;
  table = grown;
  capacity = larger;
  return true;
}

static void remove_at(uint32_t i) {
  table[i] = table[--count];
  gb_ipc_open_count = count;
}

bool gb_ipc_find_slow(CUdeviceptr pointer, struct gb_ipc_range *range) {
  bool found = false;
  pthread_mutex_lock(&table_lock);
  for (uint32_t i = 0; i < count && !found; i++) {
    found = pointer - table[i].range.base < table[i].range.bytes;
    if (found) *range = table[i].range;
  }
  pthread_mutex_unlock(&table_lock);
  return found;
}

/* ---- asking ---- */

static CUresult refuse_dead(const struct gb_ipc_handle *handle) {
  uint32_t started = gb_ipc_started(handle->pid);
  bool lives = started != 0 && started == handle->started;
  return GB_REFUSE(CUDA_ERROR_INVALID_HANDLE, "ipc_dead",
                   "the memory of a handle cannot be reached: %s",
                   lives ? "its process runs under another user or in another network namespace"
                         : "its process has ended");
}

static int connect_to(const struct gb_ipc_handle *handle) {
  struct sockaddr_un address;
  struct timeval limit = {.tv_sec = (time_t)(GB_IPC_ASK_NS / 1000000000ull)};
  socklen_t length = gb_ipc_address(handle->process, &address);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  int result = 0;
  do result = connect(fd, (struct sockaddr *)&address, length);
  while (result != 0 && errno == EINTR);
  /* What comes back is mapped and computed with: it has to be the same user's. */
  if (result == 0 && gb_ipc_same_user(fd)) return fd;
  close(fd);
  return -1;
}

/* The one descriptor of a message; others that came along are closed. -1: none. */
static int take_descriptor(struct msghdr *message) {
  int descriptor = -1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
       header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= header->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int one;
      memcpy(&one, CMSG_DATA(header) + at, sizeof one);
      if (descriptor < 0)
        descriptor = one;
      else
        close(one);
    }
  }
  return descriptor;
}

/* returns: false on silence, an end, or anything but one whole answer. */
static bool receive(int fd, struct gb_ipc_answer *answer, int *descriptor) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part = {.iov_base = answer, .iov_len = sizeof *answer};
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  uint64_t until = gb_now_ns() + GB_IPC_ASK_NS;
  *descriptor = -1;
  for (;;) {
    uint64_t now = gb_now_ns();
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (now >= until) return false;
    if (poll(&wait, 1, (int)((until - now) / GB_MS) + 1) > 0) break;
  }
  ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return false;
  *descriptor = take_descriptor(&message);
  return got == sizeof *answer && (message.msg_flags & MSG_TRUNC) == 0 &&
         answer->magic == GB_IPC_MAGIC;
}

/* owns: the caller closes *descriptor, on success only. */
static CUresult ask(const struct gb_ipc_handle *handle, struct gb_ipc_answer *answer,
                    int *descriptor) {
  struct gb_ipc_ask question = {GB_IPC_MAGIC, handle->export, handle->allocation, handle->offset,
                                handle->bytes};
  int fd = connect_to(handle);
  if (fd < 0) return refuse_dead(handle);
  bool sent = send(fd, &question, sizeof question, MSG_NOSIGNAL) == sizeof question;
  bool received = sent && receive(fd, answer, descriptor);
  close(fd);
  if (received && answer->memory_bytes == 0)
    return GB_REFUSE(CUDA_ERROR_INVALID_HANDLE, "ipc_freed",
                     "the memory of a handle was freed by the process that shared it");
  if (received && *descriptor >= 0) return CUDA_SUCCESS;
  if (sent && *descriptor >= 0) close(*descriptor);
  return GB_REFUSE(CUDA_ERROR_MAP_FAILED, "ipc_no_answer",
                   "the process that shared memory (pid %u) did not hand it over", handle->pid);
}

/* ---- mapping ---- */

static bool find_device(const CUuuid *uuid, CUdevice *device) {
  for (int i = 0; i < gb_arena_device_count(); i++) {
    CUuuid known;
    *device = gb_arena_device(i);
    if (gb_ipc_uuid(*device, &known) && memcmp(&known, uuid, sizeof known) == 0) return true;
  }
  return false;
}

static bool reaches(const CUmemAccessDesc *list, size_t length, CUdevice device) {
  for (size_t i = 0; i < length; i++) {
    if (list[i].location.id == device) return true;
  }
  return false;
}

static CUresult map_at_new_address(CUmemGenericAllocationHandle memory, uint64_t bytes,
                                   const CUmemAccessDesc *access, size_t access_count,
                                   uint64_t *base) {
  CUdeviceptr address = 0;
  CUresult result = gb_real.cuMemAddressReserve(&address, bytes, GB_GRANULE, 0, 0);
  if (result != CUDA_SUCCESS) return result;
  result = gb_real.cuMemMap(address, bytes, 0, memory, 0);
  if (result == CUDA_SUCCESS) {
    result = gb_real.cuMemSetAccess(address, bytes, access, access_count);
    if (result != CUDA_SUCCESS) gb_real.cuMemUnmap(address, bytes);
  }
  if (result != CUDA_SUCCESS) gb_real.cuMemAddressFree(address, bytes);
  *base = address;
  return result;
}

/* Imports and maps what the answer brought. */
static CUresult map(const struct gb_ipc_answer *answer, int descriptor, uint64_t *base) {
  CUmemAccessDesc access[GB_DEVICES_MAX];
  CUmemGenericAllocationHandle memory;
  CUdevice owner = 0;
  CUdevice own = 0;
  CUresult result = gb_real.cuCtxGetDevice(&own);
  if (result != CUDA_SUCCESS) return result;
  bool visible = find_device(&answer->device, &owner);
  size_t access_count = visible ? gb_access_list(owner, access) : 0;
  if (!reaches(access, access_count, own))
    return GB_REFUSE(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "ipc_no_peer",
                     "shared memory lies on a GPU that %s",
                     visible ? "this one cannot reach" : "this process does not see");
  result = gb_real.cuMemImportFromShareableHandle(&memory, (void *)(intptr_t)descriptor,
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  if (result == CUDA_SUCCESS) {
    result = map_at_new_address(memory, answer->memory_bytes, access, access_count, base);
    gb_real.cuMemRelease(memory); /* the mapping keeps it */
  }
  if (result == CUDA_SUCCESS) return result;
  return GB_REFUSE(result == CUDA_ERROR_OUT_OF_MEMORY ? result : CUDA_ERROR_MAP_FAILED,
                   "ipc_map_refused", "the driver does not map %llu shared bytes: %d",
                   (unsigned long long)answer->memory_bytes, result);
}

/* pre: nothing uses it. */
static CUresult unmap(uint64_t base, uint64_t bytes) {
  CUresult result = gb_real.cuMemUnmap(base, bytes);
  return result == CUDA_SUCCESS ? gb_real.cuMemAddressFree(base, bytes) : result;
}

/* ---- opening ---- */

bool gb_ipc_is_ours(const CUipcMemHandle *handle) {
  uint64_t magic;
  memcpy(&magic, handle, sizeof magic);
  return magic == GB_IPC_MAGIC;
}

/* Opens once more what the context has open. */
static bool open_again(const struct gb_ipc_handle *handle, CUcontext context,
                       CUdeviceptr *pointer) {
  pthread_mutex_lock(&table_lock);
  struct opened *it = find(handle, context);
  bool open = it != NULL && it->count < UINT32_MAX;
  if (open) {
    it->count++;
    *pointer = it->range.base;
  }
  pthread_mutex_unlock(&table_lock);
  return open;
}

static bool enter(const struct gb_ipc_handle *handle, const struct opened *made,
                  CUdeviceptr *pointer, bool *full) {
  pthread_mutex_lock(&table_lock);
  struct opened *it = find(handle, made->range.context);
  bool entered = it == NULL && has_place();
  *full = it == NULL && !entered;
  if (entered) {
    it = &table[count++];
    *it = *made;
    gb_ipc_open_count = count;
  } else if (it != NULL) { /* another thread was faster */
    it->count++;
  }
  if (it != NULL) *pointer = it->range.base;
  pthread_mutex_unlock(&table_lock);
  return entered;
}

static CUresult open_new(const struct gb_ipc_handle *handle, CUcontext context,
                         CUdeviceptr *pointer) {
  struct gb_ipc_answer answer;
  int descriptor = -1;
  uint64_t base = 0;
  CUresult result = ask(handle, &answer, &descriptor);
  if (result != CUDA_SUCCESS) return result;
  bool inside = handle->offset < answer.memory_bytes &&
                handle->bytes <= answer.memory_bytes - handle->offset &&
                answer.memory_bytes % GB_GRANULE == 0 && answer.memory_bytes <= 1ull << 46;
  result = inside ? map(&answer, descriptor, &base) : CUDA_ERROR_INVALID_HANDLE;
  close(descriptor);
  if (result != CUDA_SUCCESS) return result;
  struct opened made = {handle->process, handle->export,         handle->allocation,
                        base,            answer.memory_bytes,
                        {base + handle->offset, handle->bytes, context},
                        1};
  bool full = false;
  if (enter(handle, &made, pointer, &full)) return CUDA_SUCCESS;
  unmap(base, answer.memory_bytes);
  if (!full) return CUDA_SUCCESS;
  return GB_REFUSE(CUDA_ERROR_OUT_OF_MEMORY, "ipc_opens",
                   "this process has %u shared allocations open, which is the limit",
                   GB_IPC_OPENS_MAX);
}

static CUresult reap(void);

CUresult gb_ipc_open(CUdeviceptr *pointer, const CUipcMemHandle *handle, unsigned flags) {
  struct gb_ipc_handle ours;
  CUcontext context = NULL;
  if (pointer == NULL || (flags & ~(unsigned)CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  memcpy(&ours, handle, sizeof ours);
  if (ours.check != gb_ipc_check(&ours))
    return GB_REFUSE(CUDA_ERROR_INVALID_HANDLE, "ipc_damaged",
                     "a memory handle arrived damaged: all of its 64 bytes have to be sent");
  CUresult result = gb_real.cuCtxGetCurrent(&context);
  if (result != CUDA_SUCCESS) return result;
  /* The driver's answer, too, to handles of the process itself. */
  if (context == NULL || ours.process == gb_ipc_process()) return CUDA_ERROR_INVALID_CONTEXT;
  reap();
  if (open_again(&ours, context, pointer)) return CUDA_SUCCESS;
  return open_new(&ours, context, pointer);
}

/* ---- closing ---- */

/* Takes out one entry that the test says is to go. */
static bool take(bool (*goes)(const struct opened *, const void *), const void *argument,
                 struct opened *out) {
  bool taken = false;
  pthread_mutex_lock(&table_lock);
  for (uint32_t i = 0; i < count && !taken; i++) {
    taken = goes(&table[i], argument);
    if (!taken) continue;
    *out = table[i];
    remove_at(i);
  }
  pthread_mutex_unlock(&table_lock);
  return taken;
}

/* Like cuMemFree: what the context has submitted may still use it. */
static CUresult drop(const struct opened *it) {
  CUresult result = gb_context_push(it->range.context);
  if (result != CUDA_SUCCESS) return result;
  result = gb_real.cuCtxSynchronize();
  CUresult unmapped = unmap(it->map_base, it->map_bytes);
  gb_context_pop();
  return result != CUDA_SUCCESS ? result : unmapped;
}

static bool is_closed(const struct opened *it, const void *unused) {
  (void)unused;
  return it->count == 0;
}

/* Unmaps what is closed, unless nothing may be unmapped now. */
static CUresult reap(void) {
  struct opened it;
  CUresult result = CUDA_SUCCESS;
  while (gb_live_captures == 0 && gb_ipc_open_count != 0 && take(is_closed, NULL, &it)) {
    CUresult dropped = drop(&it);
    if (result == CUDA_SUCCESS) result = dropped;
  }
  return result;
}

bool gb_ipc_close(CUdeviceptr pointer, CUresult *result) {
  bool found = false;
  pthread_mutex_lock(&table_lock);
  for (uint32_t i = 0; i < count && !found; i++) {
    found = table[i].range.base == pointer && table[i].count > 0;
    if (found) table[i].count--;
  }
  pthread_mutex_unlock(&table_lock);
  if (found) *result = reap();
  return found;
}

static bool is_of_context(const struct opened *it, const void *context) {
  return it->range.context == context;
}

void gb_ipc_context_going(CUcontext context) {
  struct opened it;
  while (gb_ipc_open_count != 0 && take(is_of_context, context, &it))
    unmap(it.map_base, it.map_bytes);
}
