/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_ring.h: io_uring by its three system calls, for reads and writes of one file. One thread at a
 * time pushes and submits, one waits and pops.
 */
#ifndef GB_STORE_RING_H
#define GB_STORE_RING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gb_ring {
  int fd;
  uint32_t pushed; /* not submitted yet */
  uint32_t *sq_tail, *sq_head, *sq_array;
  uint32_t *cq_tail, *cq_head;
  uint32_t sq_mask, cq_mask, sq_entries;
  struct io_uring_sqe *sqes;
  struct io_uring_cqe *cqes;
  void *rings;
  size_t rings_bytes, sqes_bytes;
};

/* returns: 0, or -errno: -EPERM or -ENOSYS where it is forbidden or unknown. owns: gb_ring_close. */
int gb_ring_open(struct gb_ring *ring, uint32_t entries);
void gb_ring_close(struct gb_ring *ring);
/* opcode: IORING_OP_READ, IORING_OP_WRITE or IORING_OP_NOP. returns: false when the ring is full. */
bool gb_ring_push(struct gb_ring *ring, uint8_t opcode, int fd, void *buffer, uint32_t length,
                  uint64_t offset, uint64_t user_data);
/* Hands what was pushed to the kernel. returns: 0; -EAGAIN: some is left, try again later; -errno. */
int gb_ring_submit(struct gb_ring *ring);
/* Waits for one completion. returns: 0 or -errno. */
int gb_ring_wait(struct gb_ring *ring);
bool gb_ring_pop(struct gb_ring *ring, uint64_t *user_data, int *result);

#endif
