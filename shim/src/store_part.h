/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_part.h: what the parts of the store share: store.c (life, slots), store_move.c (reads, writes,
 * reading ahead), store_queue.c (operations in flight), store_ring.c (io_uring), store_crypt.c (AEAD),
 * store_file.c (the file, the write budget). Nobody else includes it but their tests and bench.
 */
#ifndef GB_STORE_PART_H
#define GB_STORE_PART_H

#include <pthread.h>
#include <stdatomic.h>

#include "store.h"

#define GB_STORE_BLOCKS (GB_STORE_SLOT_BYTES / GB_STORE_BLOCK_BYTES)
#define GB_STORE_UNIT_BLOCKS (GB_STORE_UNIT_BYTES / GB_STORE_BLOCK_BYTES)
#define GB_TAG_BYTES 16u
/* In place of io_uring where it is forbidden: enough to keep a drive busy with blocks of 1 MiB. */
#define GB_STORE_THREADS 8u

/* ---- store_queue.c: operations on the file ---- */

/* One block on its way. */
struct gb_store_op {
  struct gb_store_op *next;
  bool write;
  bool out;    /* queued or in flight */
  int result;  /* 0 or -errno, once it is not out */
  uint32_t length;
  uint32_t done_bytes;
  uint64_t offset;
  unsigned char *buffer;
  void (*done)(struct gb_store_op *op); /* with the lock held; may be NULL */
  uint32_t slot;
};

/* Starts io_uring, or the threads. pre: gb_store.fd. returns: 0 or -errno. */
int gb_store_queue_start(void);
/* pre: nothing is out, and nobody will ask for more. */
void gb_store_queue_stop(void);
/* Enters an operation; urgent ones go first. pre: lock. Complete with gb_store_pump. */
void gb_store_queue(struct gb_store_op *op, bool urgent);
/* Submits what may be submitted. pre: lock. */
void gb_store_pump(void);
/* Waits for gb_store.changed; on the deadline the store is given up. pre: lock. returns: 0 or
 * -ETIMEDOUT. */
int gb_store_wait(uint64_t deadline_ns);
uint64_t gb_store_deadline(void);

/* ---- store_crypt.c: AES-256-GCM by libcrypto ---- */

/* Loads the library and makes a key. returns: 0 or -errno, the reason said. */
int gb_crypt_open(void);
void gb_crypt_close(void);
/* length is at most GB_STORE_BLOCK_BYTES; in and out are the same or apart. (sequence, block) names
 * one message of the key for ever: sealed once. returns: 0; -EBADMSG: not what was sealed. */
int gb_crypt_seal(uint64_t sequence, uint32_t block, const void *in, void *out, size_t length,
                  unsigned char tag[GB_TAG_BYTES]);
int gb_crypt_unseal(uint64_t sequence, uint32_t block, const void *in, void *out, size_t length,
                    const unsigned char tag[GB_TAG_BYTES]);

/* ---- store_file.c ---- */

/* Opens the nameless file and reserves *bytes (GB_STORE_CHOOSE is replaced). returns: a descriptor
 * or -errno, the reason said. */
int gb_store_file_open(const char *directory, uint64_t *bytes);
/* The day's account of this user in the directory. returns: 0 or -errno, the reason said. */
int gb_write_budget_open(const char *directory, uint64_t bytes_per_day);
/* Counts bytes about to be written. returns: 0, -EDQUOT (said once a day), -errno. */
int gb_write_budget_take(uint64_t bytes);
void gb_write_budget_close(void);

/* ---- store_move.c ---- */

/* returns: 0 or -errno. */
int gb_store_move_start(void);
/* Waits until nothing is out, stops the threads that help. pre: gb_store.closing. */
void gb_store_move_stop(void);
/* What was read ahead of the slot is void. pre: lock. */
void gb_store_ahead_drop(uint32_t slot);

/* ---- store.c: slots ---- */

/* A unit of the file. A slot is named by its first unit and chained by next. */
struct gb_unit {
  uint64_t sequence; /* of the slot's last write; 0: none yet. First unit only, as what follows: */
  uint32_t length;   /* taken for */
  uint32_t written;  /* bytes of the last write */
  uint32_t writing;  /* its blocks still out */
  int32_t error;     /* it failed with */
  bool taken;
  bool given; /* free once nothing is out */
  uint32_t next; /* of the slot or of the free list; GB_STORE_SLOT_NONE ends */
  unsigned char tag[GB_STORE_UNIT_BLOCKS][GB_TAG_BYTES];
};

struct gb_store {
  pthread_mutex_t lock; /* protects everything below, and every operation */
  pthread_cond_t changed;
  _Atomic bool ready;
  bool failed;  /* the disk was given up */
  bool closing;
  int fd;
  char directory[256];
  struct gb_unit *units; /* mapped, zero until used */
  uint32_t unit_count;
  uint32_t fresh; /* units from here on were never taken */
  uint32_t free_list;
  _Atomic uint64_t used;
  uint64_t sequence; /* of the last write */
  uint64_t read_rate;
};

extern struct gb_store gb_store;

/* The unit that holds a block, and where the block lies in the file. pre: lock, a taken slot. */
struct gb_unit *gb_store_block(uint32_t slot, uint32_t block, uint64_t *offset);
/* A block of a write is done. pre: lock. */
void gb_store_block_written(uint32_t slot, int error);

#endif
