/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_move.c: slots to the disk and back. A write is sealed block by block into memory of the
 * store's own and queued. A read goes straight into the caller's memory and is unsealed in place, or
 * was begun ahead into memory of the store's own and is unsealed from there; blocks are unsealed as
 * they come in, by the caller and by the helping threads.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"
#include "lock.h"
#include "store_part.h"

/* Reads of callers at one moment; one more waits. */
#define DIRECT_READS 8u
#define READS (GB_STORE_AHEAD + DIRECT_READS)
#define HELPERS_MAX 3u
/* An entry read ahead is given up for another when so many slots were read without it. */
#define AHEAD_PATIENCE (2u * GB_STORE_AHEAD)

/* One slot on its way in. Entries from GB_STORE_AHEAD on belong to callers. */
struct reading {
  struct gb_store_op ops[GB_STORE_BLOCKS];
  unsigned char *memory; /* ahead entries: their own, mapped at the first use */
  uint32_t slot;         /* GB_STORE_SLOT_NONE: void, free once nothing is out */
  uint64_t sequence;
  uint32_t length;
  uint32_t blocks;
  uint64_t born;         /* reads before it */
  unsigned char *to;     /* set while a caller takes it */
  uint32_t claimed;      /* a bit for each block somebody unseals or has unsealed */
  uint32_t left;         /* blocks not unsealed yet */
  int error;
};

/* A block on its way out. */
struct writing {
  struct gb_store_op op; /* first: op.done finds the rest */
  bool busy;
};

static struct {
  struct reading reads[READS];
  struct writing writes[GB_STORE_DEPTH];
  unsigned char *write_memory;
  uint64_t read_count;
  uint32_t users; /* calls inside */
  pthread_t helpers[HELPERS_MAX];
  uint32_t helper_count;
  pthread_cond_t work; /* for helpers */
} moves;

/* ---- readings; pre of everything: lock ---- */

static bool is_out(const struct reading *reading) {
  for (uint32_t block = 0; block < reading->blocks; block++) {
    if (reading->ops[block].out) return true;
  }
  return false;
}

static void block_read(struct gb_store_op *op) {
  (void)op;
  if (moves.helper_count > 0) pthread_cond_signal(&moves.work);
}

static void start_reading(struct reading *reading, uint32_t slot, uint32_t length, bool urgent) {
  const struct gb_unit *unit = &gb_store.units[slot];
  reading->slot = slot;
  reading->sequence = unit->sequence;
  reading->length = length;
  reading->blocks = (length + GB_STORE_BLOCK_BYTES - 1) / GB_STORE_BLOCK_BYTES;
  reading->born = moves.read_count;
  reading->to = NULL;
  reading->claimed = 0;
  reading->left = reading->blocks;
  reading->error = 0;
  for (uint32_t block = 0; block < reading->blocks; block++) {
    struct gb_store_op *op = &reading->ops[block];
    uint32_t from = block * GB_STORE_BLOCK_BYTES;
    *op = (struct gb_store_op){.buffer = reading->memory + from, .done = block_read};
    op->length = length - from < GB_STORE_BLOCK_BYTES ? length - from : GB_STORE_BLOCK_BYTES;
    gb_store_block(slot, block, &op->offset);
    gb_store_queue(op, urgent);
  }
  gb_store_pump();
}

static struct reading *find_ahead(uint32_t slot) {
  for (uint32_t i = 0; i < GB_STORE_AHEAD; i++) {
    if (moves.reads[i].slot == slot) return &moves.reads[i];
  }
  return NULL;
}

void gb_store_ahead_drop(uint32_t slot) {
  struct reading *reading = find_ahead(slot);
  if (reading != NULL && reading->to == NULL) reading->slot = GB_STORE_SLOT_NONE;
}

static struct reading *free_ahead(void) {
  struct reading *oldest = NULL;
  for (uint32_t i = 0; i < GB_STORE_AHEAD; i++) {
    struct reading *reading = &moves.reads[i];
    if (reading->to != NULL || is_out(reading)) continue;
    if (reading->slot == GB_STORE_SLOT_NONE) return reading;
    if (moves.read_count - reading->born < AHEAD_PATIENCE) continue;
    if (oldest == NULL || reading->born < oldest->born) oldest = reading;
  }
  return oldest;
}

static struct reading *free_direct(void) {
  for (uint32_t i = GB_STORE_AHEAD; i < READS; i++) {
    if (moves.reads[i].slot == GB_STORE_SLOT_NONE && !is_out(&moves.reads[i]))
      return &moves.reads[i];
  }
  return NULL;
}

/* A block that has come in and nobody unseals. returns: its number, or GB_STORE_BLOCKS. */
static uint32_t claim(struct reading *reading) {
  for (uint32_t block = 0; block < reading->blocks; block++) {
    if (reading->claimed >> block & 1 || reading->ops[block].out) continue;
    reading->claimed |= 1u << block;
    return block;
  }
  return GB_STORE_BLOCKS;
}

/* Unseals a claimed block; the lock is let go meanwhile. */
static void unseal(struct reading *reading, uint32_t block) {
  const struct gb_store_op *op = &reading->ops[block];
  unsigned char *to = reading->to + block * GB_STORE_BLOCK_BYTES;
  unsigned char tag[GB_TAG_BYTES];
  uint64_t offset;
  uint64_t sequence = reading->sequence;
  int error = op->result;
  const struct gb_unit *unit = gb_store_block(reading->slot, block, &offset);
  memcpy(tag, unit->tag[block % GB_STORE_UNIT_BLOCKS], sizeof tag);
  if (error == 0) {
    pthread_mutex_unlock(&gb_store.lock);
    error = gb_crypt_unseal(sequence, block, op->buffer, to, op->length, tag);
    pthread_mutex_lock(&gb_store.lock);
  }
  if (error != 0 && reading->error == 0) reading->error = error;
  if (--reading->left == 0) pthread_cond_broadcast(&gb_store.changed);
}

static bool help_once(void) {
  for (uint32_t i = 0; i < READS; i++) {
    struct reading *reading = &moves.reads[i];
    if (reading->slot == GB_STORE_SLOT_NONE || reading->to == NULL) continue;
    uint32_t block = claim(reading);
    if (block == GB_STORE_BLOCKS) continue;
    unseal(reading, block);
    return true;
  }
  return false;
}

static void *help(void *unused) {
  (void)unused;
  pthread_mutex_lock(&gb_store.lock);
  for (;;) {
    if (help_once()) continue;
    if (gb_store.closing && moves.users == 0) break;
    pthread_cond_wait(&moves.work, &gb_store.lock);
  }
  pthread_mutex_unlock(&gb_store.lock);
  return NULL;
}

/* ---- reading a slot ---- */

/* pre: lock, reading->to is set. returns: 0 or -errno; the reading is free again unless the disk
 * never answered. */
static int take_in(struct reading *reading) {
  uint64_t deadline = gb_store_deadline();
  pthread_cond_broadcast(&moves.work);
  while (reading->left > 0) {
    uint32_t block = claim(reading);
    if (block < GB_STORE_BLOCKS)
      unseal(reading, block);
    else if (gb_store_wait(deadline) != 0)
      return -ETIMEDOUT;
  }
  reading->slot = GB_STORE_SLOT_NONE;
  reading->to = NULL;
  pthread_cond_broadcast(&gb_store.changed);
  return reading->error;
}

/* pre: lock. returns: 0 when the slot holds so many bytes, else -errno. */
static int check_read(uint32_t slot, size_t length) {
  if (gb_store.closing || gb_store.failed) return -EIO;
  if (slot >= gb_store.fresh || !gb_store.units[slot].taken) return -EINVAL;
  const struct gb_unit *unit = &gb_store.units[slot];
  if (unit->error != 0) return unit->error;
  if (unit->sequence == 0 || unit->writing > 0 || unit->written != length) return -EINVAL;
  return 0;
}

static int read_locked(uint32_t slot, unsigned char *bytes, size_t length) {
  int error = check_read(slot, length);
  if (error != 0) return error;
  struct reading *reading = find_ahead(slot);
  if (reading == NULL) {
    uint64_t deadline = gb_store_deadline();
    while ((reading = free_direct()) == NULL) {
      if (gb_store_wait(deadline) != 0) return -EBUSY;
    }
    reading->memory = bytes;
    start_reading(reading, slot, (uint32_t)length, true);
  }
  moves.read_count++;
  reading->to = bytes;
  return take_in(reading);
}

int gb_store_read(uint32_t slot, void *bytes, size_t length) {
  if (!gb_store_ready() || (uintptr_t)bytes % GB_STORE_ALIGN != 0) return -EINVAL;
  pthread_mutex_lock(&gb_store.lock);
  moves.users++;
  int error = read_locked(slot, bytes, length);
  moves.users--;
  pthread_cond_broadcast(&gb_store.changed);
  pthread_mutex_unlock(&gb_store.lock);
  if (error == 0 || error == -ETIMEDOUT) return error;
  memset(bytes, 0, length); /* neither sealed nor unproven bytes reach anybody */
  return error;
}

void gb_store_prefetch(uint32_t slot, size_t length) {
  if (!gb_store_ready()) return;
  pthread_mutex_lock(&gb_store.lock);
  struct reading *reading = NULL;
  if (check_read(slot, length) == 0 && find_ahead(slot) == NULL) reading = free_ahead();
  if (reading != NULL && reading->memory == NULL) {
    void *memory = mmap(NULL, GB_STORE_SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
      madvise(memory, GB_STORE_SLOT_BYTES, MADV_HUGEPAGE); /* fewer pages to pin for each read */
      madvise(memory, GB_STORE_SLOT_BYTES, MADV_DONTFORK);
      reading->memory = memory;
    }
  }
  if (reading != NULL && reading->memory != NULL)
    start_reading(reading, slot, (uint32_t)length, false);
  pthread_mutex_unlock(&gb_store.lock);
}

/* ---- writing a slot ---- */

static void block_written(struct gb_store_op *op) {
  ((struct writing *)(void *)op)->busy = false;
  gb_store_block_written(op->slot, op->result);
}

/* pre: lock. returns: a block of memory, or NULL when the disk never answered. */
static struct writing *take_writing(void) {
  uint64_t deadline = gb_store_deadline();
  for (;;) {
    for (uint32_t i = 0; i < GB_STORE_DEPTH; i++) {
      if (moves.writes[i].busy) continue;
      moves.writes[i].busy = true;
      return &moves.writes[i];
    }
    if (gb_store_wait(deadline) != 0) return NULL;
  }
}

/* pre: lock, which is let go while sealing. */
static int write_block(uint32_t slot, uint64_t sequence, uint32_t block,
                       const unsigned char *bytes, uint32_t length) {
  struct writing *writing = take_writing();
  if (writing == NULL) return -ETIMEDOUT;
  unsigned char *memory =
      moves.write_memory + (size_t)(writing - moves.writes) * GB_STORE_BLOCK_BYTES;
  unsigned char tag[GB_TAG_BYTES];
  pthread_mutex_unlock(&gb_store.lock);
  int error = gb_crypt_seal(sequence, block, bytes, memory, length, tag);
  pthread_mutex_lock(&gb_store.lock);
  if (error != 0) {
    writing->busy = false;
    return error;
  }
  writing->op = (struct gb_store_op){.write = true,
                                     .length = length,
                                     .buffer = memory,
                                     .done = block_written,
                                     .slot = slot};
  struct gb_unit *unit = gb_store_block(slot, block, &writing->op.offset);
  memcpy(unit->tag[block % GB_STORE_UNIT_BLOCKS], tag, sizeof tag);
  gb_store.units[slot].writing++;
  gb_store_queue(&writing->op, true);
  gb_store_pump();
  return 0;
}

/* pre: lock. Waits for an earlier write of the slot. returns: 0 or -errno. */
static int settle_write(uint32_t slot) {
  uint64_t deadline = gb_store_deadline();
  while (gb_store.units[slot].writing > 0) {
    if (gb_store_wait(deadline) != 0) return -ETIMEDOUT;
  }
  return 0;
}

static int check_write(uint32_t slot, const void *bytes, size_t length) {
  if (gb_store.closing || gb_store.failed) return -EIO;
  if (slot >= gb_store.fresh || !gb_store.units[slot].taken ||
      length > gb_store.units[slot].length || length == 0 || length % GB_STORE_ALIGN != 0 ||
      (uintptr_t)bytes % GB_STORE_ALIGN != 0)
    return -EINVAL;
  return settle_write(slot);
}

static int write_locked(uint32_t slot, const unsigned char *bytes, uint32_t length) {
  struct gb_unit *unit = &gb_store.units[slot];
  uint64_t sequence = ++gb_store.sequence;
  gb_store_ahead_drop(slot);
  unit->sequence = sequence;
  unit->written = length;
  unit->error = 0;
  int error = 0;
  for (uint32_t from = 0; from < length && error == 0; from += GB_STORE_BLOCK_BYTES) {
    uint32_t part = length - from < GB_STORE_BLOCK_BYTES ? length - from : GB_STORE_BLOCK_BYTES;
    error = write_block(slot, sequence, from / GB_STORE_BLOCK_BYTES, bytes + from, part);
  }
  if (error != 0 && unit->error == 0) unit->error = error;
  return unit->error;
}

int gb_store_write_begin(uint32_t slot, const void *bytes, size_t length) {
  if (!gb_store_ready()) return -EINVAL;
  pthread_mutex_lock(&gb_store.lock);
  moves.users++;
  int error = check_write(slot, bytes, length);
  pthread_mutex_unlock(&gb_store.lock);
  if (error == 0) error = gb_write_budget_take(length);
  pthread_mutex_lock(&gb_store.lock);
  if (error == 0) error = write_locked(slot, bytes, (uint32_t)length);
  moves.users--;
  pthread_cond_broadcast(&gb_store.changed);
  pthread_mutex_unlock(&gb_store.lock);
  return error;
}

int gb_store_write_end(uint32_t slot) {
  if (!gb_store_ready()) return -EINVAL;
  pthread_mutex_lock(&gb_store.lock);
  moves.users++;
  int error = -EINVAL;
  if (slot < gb_store.fresh && gb_store.units[slot].taken) {
    error = settle_write(slot);
    if (error == 0) error = gb_store.units[slot].error;
  }
  moves.users--;
  pthread_cond_broadcast(&gb_store.changed);
  pthread_mutex_unlock(&gb_store.lock);
  return error;
}

int gb_store_write(uint32_t slot, const void *bytes, size_t length) {
  int error = gb_store_write_begin(slot, bytes, length);
  int ended = error == -EDQUOT ? error : gb_store_write_end(slot);
  return error != 0 ? error : ended;
}

/* ---- life ---- */

static void start_helpers(void) {
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  uint32_t wanted = processors > (long)HELPERS_MAX ? HELPERS_MAX : (uint32_t)(processors - 1);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (moves.helper_count = 0; moves.helper_count < wanted; moves.helper_count++) {
    if (pthread_create(&moves.helpers[moves.helper_count], NULL, help, NULL) != 0) break;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int gb_store_move_start(void) {
  memset(&moves, 0, sizeof moves);
  for (uint32_t i = 0; i < READS; i++) moves.reads[i].slot = GB_STORE_SLOT_NONE;
  pthread_cond_init(&moves.work, NULL);
  size_t bytes = (size_t)GB_STORE_DEPTH * GB_STORE_BLOCK_BYTES;
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return -ENOMEM;
  madvise(memory, bytes, MADV_HUGEPAGE);
  madvise(memory, bytes, MADV_DONTFORK);
  moves.write_memory = memory;
  pthread_mutex_lock(&gb_store.lock); /* helpers read helper_count */
  start_helpers();
  pthread_mutex_unlock(&gb_store.lock);
  return 0;
}

static bool anything_out(void) {
  bool out = moves.users > 0;
  for (uint32_t i = 0; i < READS; i++) out |= is_out(&moves.reads[i]);
  for (uint32_t i = 0; i < GB_STORE_DEPTH; i++) out |= moves.writes[i].busy;
  return out;
}

void gb_store_move_stop(void) {
  uint64_t deadline = gb_store_deadline();
  pthread_mutex_lock(&gb_store.lock);
  while (anything_out() && !gb_store.failed) {
    if (gb_store_wait(deadline) != 0) break;
  }
  pthread_cond_broadcast(&moves.work);
  bool stuck = gb_store.failed;
  pthread_mutex_unlock(&gb_store.lock);
  if (stuck) return;
  for (uint32_t i = 0; i < moves.helper_count; i++) pthread_join(moves.helpers[i], NULL);
  for (uint32_t i = 0; i < GB_STORE_AHEAD; i++) {
    if (moves.reads[i].memory != NULL) munmap(moves.reads[i].memory, GB_STORE_SLOT_BYTES);
  }
  munmap(moves.write_memory, (size_t)GB_STORE_DEPTH * GB_STORE_BLOCK_BYTES);
}
