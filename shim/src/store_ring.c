/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_ring.c: io_uring_setup, io_uring_enter and the two rings (io_uring(7)). By hand, because a
 * library in a program's process could meet another version of itself there, and these are a hundred
 * lines.
 */
#include "store_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One mapping for both rings, IORING_OP_READ (Linux 5.6), no completion ever dropped. */
#define FEATURES (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_RW_CUR_POS | IORING_FEAT_NODROP)

static uint32_t *at(const struct gb_ring *ring, uint32_t offset) {
  return (uint32_t *)((char *)ring->rings + offset);
}

static int map_rings(struct gb_ring *ring, const struct io_uring_params *p) {
  size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  int how = MAP_SHARED | MAP_POPULATE;
  ring->rings_bytes = sq > cq ? sq : cq;
  ring->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
  ring->rings = mmap(NULL, ring->rings_bytes, PROT_READ | PROT_WRITE, how, ring->fd,
                     IORING_OFF_SQ_RING);
  if (ring->rings == MAP_FAILED) return -errno;
  ring->sqes = mmap(NULL, ring->sqes_bytes, PROT_READ | PROT_WRITE, how, ring->fd, IORING_OFF_SQES);
  if (ring->sqes == MAP_FAILED) {
    int error = -errno;
    munmap(ring->rings, ring->rings_bytes);
    return error;
  }
  /* The file belongs to this process alone: a child must not see the rings. */
  madvise(ring->rings, ring->rings_bytes, MADV_DONTFORK);
  madvise(ring->sqes, ring->sqes_bytes, MADV_DONTFORK);
  ring->sq_head = at(ring, p->sq_off.head);
  ring->sq_tail = at(ring, p->sq_off.tail);
  ring->sq_array = at(ring, p->sq_off.array);
  ring->sq_mask = *at(ring, p->sq_off.ring_mask);
  ring->sq_entries = p->sq_entries;
  ring->cq_head = at(ring, p->cq_off.head);
  ring->cq_tail = at(ring, p->cq_off.tail);
  ring->cq_mask = *at(ring, p->cq_off.ring_mask);
  ring->cqes = (struct io_uring_cqe *)(void *)at(ring, p->cq_off.cqes);
  return 0;
}

int gb_ring_open(struct gb_ring *ring, uint32_t entries) {
  struct io_uring_params params = {.flags = 0};
  memset(ring, 0, sizeof *ring);
  long fd = syscall(SYS_io_uring_setup, entries, &params);
  if (fd < 0) return -errno;
  ring->fd = (int)fd;
  int error = (params.features & FEATURES) == FEATURES ? map_rings(ring, &params) : -ENOSYS;
  if (error != 0) close(ring->fd);
  return error;
}

void gb_ring_close(struct gb_ring *ring) {
  munmap(ring->sqes, ring->sqes_bytes);
  munmap(ring->rings, ring->rings_bytes);
  close(ring->fd);
}

bool gb_ring_push(struct gb_ring *ring, uint8_t opcode, int fd, void *buffer, uint32_t length,
                  uint64_t offset, uint64_t user_data) {
  uint32_t tail = *ring->sq_tail;
  if (tail - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE) >= ring->sq_entries) return false;
  struct io_uring_sqe *sqe = &ring->sqes[tail & ring->sq_mask];
  memset(sqe, 0, sizeof *sqe);
  sqe->opcode = opcode;
  sqe->fd = fd;
  sqe->addr = (uint64_t)(uintptr_t)buffer;
  sqe->len = length;
  sqe->off = offset;
  sqe->user_data = user_data;
  ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
  __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
  ring->pushed++;
  return true;
}

int gb_ring_submit(struct gb_ring *ring) {
  while (ring->pushed > 0) {
    long taken = syscall(SYS_io_uring_enter, ring->fd, ring->pushed, 0, 0, NULL, 0);
    if (taken < 0 && errno == EINTR) continue;
    if (taken < 0) return errno == EBUSY ? -EAGAIN : -errno;
    if (taken == 0) return -EAGAIN;
    ring->pushed -= (uint32_t)taken;
  }
  return 0;
}

int gb_ring_wait(struct gb_ring *ring) {
  long result = syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
  return result < 0 && errno != EINTR ? -errno : 0;
}

bool gb_ring_pop(struct gb_ring *ring, uint64_t *user_data, int *result) {
  uint32_t head = *ring->cq_head;
  if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) return false;
  const struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
  *user_data = cqe->user_data;
  *result = cqe->res;
  __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
  return true;
}
