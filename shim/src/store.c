/* SPDX-License-Identifier: Apache-2.0 */
/* store.c: opening and closing T3, and which units of the file belong to which slot. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"
#include "lock.h"
#include "store_part.h"

struct gb_store gb_store = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

bool gb_store_ready(void) {
  return atomic_load_explicit(&gb_store.ready, memory_order_acquire);
}

uint64_t gb_store_capacity(void) {
  return gb_store_ready() ? (uint64_t)gb_store.unit_count * GB_STORE_UNIT_BYTES : 0;
}

uint64_t gb_store_used(void) {
  return atomic_load_explicit(&gb_store.used, memory_order_relaxed);
}

const char *gb_store_directory(void) {
  return gb_store.directory;
}

uint64_t gb_store_read_rate(void) {
  return gb_store.read_rate;
}

/* ---- slots; pre of the static ones: lock ---- */

static uint32_t take_unit(void) {
  uint32_t unit = gb_store.free_list;
  if (unit == GB_STORE_SLOT_NONE) {
    unit = gb_store.fresh++;
  } else {
    gb_store.free_list = gb_store.units[unit].next;
  }
  memset(&gb_store.units[unit], 0, sizeof gb_store.units[unit]);
  return unit;
}

uint32_t gb_store_take(size_t length) {
  uint32_t first = GB_STORE_SLOT_NONE;
  uint64_t count = (length + GB_STORE_UNIT_BYTES - 1) / GB_STORE_UNIT_BYTES;
  uint64_t bytes = count * GB_STORE_UNIT_BYTES;
  if (length == 0 || length > GB_STORE_SLOT_BYTES || !gb_store_ready()) return first;
  pthread_mutex_lock(&gb_store.lock);
  bool open = !gb_store.failed && !gb_store.closing;
  if (open && bytes <= gb_store_capacity() - gb_store_used()) {
    for (uint64_t i = 0; i < count; i++) {
      uint32_t unit = take_unit();
      gb_store.units[unit].next = first;
      first = unit;
    }
    gb_store.units[first].taken = true;
    gb_store.units[first].length = (uint32_t)length;
    atomic_fetch_add_explicit(&gb_store.used, bytes, memory_order_relaxed);
  }
  pthread_mutex_unlock(&gb_store.lock);
  return first;
}

static void free_units(uint32_t slot) {
  uint64_t bytes = 0;
  for (uint32_t unit = slot; unit != GB_STORE_SLOT_NONE;) {
    uint32_t next = gb_store.units[unit].next;
    gb_store.units[unit].taken = false;
    gb_store.units[unit].next = gb_store.free_list;
    gb_store.free_list = unit;
    bytes += GB_STORE_UNIT_BYTES;
    unit = next;
  }
  atomic_fetch_sub_explicit(&gb_store.used, bytes, memory_order_relaxed);
}

void gb_store_give(uint32_t slot) {
  pthread_mutex_lock(&gb_store.lock);
  if (slot < gb_store.fresh && gb_store.units[slot].taken) {
    gb_store_ahead_drop(slot);
    /* A write still out must not land on somebody else's bytes. */
    gb_store.units[slot].given = true;
    if (gb_store.units[slot].writing == 0) free_units(slot);
  }
  pthread_mutex_unlock(&gb_store.lock);
}

struct gb_unit *gb_store_block(uint32_t slot, uint32_t block, uint64_t *offset) {
  uint32_t unit = slot;
  for (uint32_t i = 0; i < block / GB_STORE_UNIT_BLOCKS; i++) unit = gb_store.units[unit].next;
  *offset = (uint64_t)unit * GB_STORE_UNIT_BYTES +
            (uint64_t)(block % GB_STORE_UNIT_BLOCKS) * GB_STORE_BLOCK_BYTES;
  return &gb_store.units[unit];
}

void gb_store_block_written(uint32_t slot, int error) {
  struct gb_unit *unit = &gb_store.units[slot];
  if (error != 0 && unit->error == 0) unit->error = error;
  unit->writing--;
  if (unit->writing == 0 && unit->given) free_units(slot);
}

/* ---- life ---- */

/* Writes and reads one slot: a disk that cannot is found out now, and its rate is known. */
static int try_one(void) {
  unsigned char *bytes = mmap(NULL, GB_STORE_SLOT_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint32_t slot = gb_store_take(GB_STORE_SLOT_BYTES);
  if (bytes == MAP_FAILED || slot == GB_STORE_SLOT_NONE) return -ENOMEM;
  madvise(bytes, GB_STORE_SLOT_BYTES, MADV_HUGEPAGE); /* as whoever reads in earnest */
  memset(bytes, 0x5a, GB_STORE_SLOT_BYTES);
  int error = gb_store_write(slot, bytes, GB_STORE_SLOT_BYTES);
  uint64_t before = gb_now_ns();
  if (error == 0) error = gb_store_read(slot, bytes, GB_STORE_SLOT_BYTES);
  uint64_t took = gb_now_ns() - before;
  gb_store.read_rate = (uint64_t)GB_STORE_SLOT_BYTES * 1000000000ull / (took > 0 ? took : 1);
  gb_store_give(slot);
  if (error != -ETIMEDOUT) munmap(bytes, GB_STORE_SLOT_BYTES);
  return error;
}

static int make_units(uint64_t bytes) {
  gb_store.unit_count = (uint32_t)(bytes / GB_STORE_UNIT_BYTES);
  gb_store.units = mmap(NULL, gb_store.unit_count * sizeof *gb_store.units, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (gb_store.units == MAP_FAILED) return -ENOMEM;
  gb_store.fresh = 0;
  gb_store.free_list = GB_STORE_SLOT_NONE;
  gb_store.used = 0;
  gb_store.failed = gb_store.closing = false;
  return 0;
}

static int start_parts(uint64_t bytes) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&gb_store.changed, &attributes);
  pthread_condattr_destroy(&attributes);
  int error = gb_crypt_open();
  if (error != 0) return error;
  error = make_units(bytes);
  if (error == 0) error = gb_store_queue_start();
  if (error == 0 && (error = gb_store_move_start()) != 0) gb_store_queue_stop();
  if (error != 0) {
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3: no memory or threads: %s", strerror(-error));
    gb_crypt_close();
  }
  return error;
}

int gb_store_open(const char *directory, uint64_t bytes, uint64_t write_bytes_per_day) {
  if (gb_store_ready()) return -EALREADY;
  if (strlen(directory) >= sizeof gb_store.directory) return -ENAMETOOLONG;
  strcpy(gb_store.directory, directory);
  int fd = gb_store_file_open(directory, &bytes);
  if (fd < 0) return fd;
  gb_store.fd = fd;
  int error = gb_write_budget_open(directory, write_bytes_per_day);
  if (error == 0) error = start_parts(bytes);
  if (error != 0) {
    gb_write_budget_close();
    close(fd);
    gb_store.fd = -1;
    return error;
  }
  atomic_store_explicit(&gb_store.ready, true, memory_order_release);
  error = try_one();
  if (error == 0) {
    gb_log(GB_LOG_INFO, "T3: %llu MiB in %s, %llu MB/s", (unsigned long long)(bytes >> 20),
           directory, (unsigned long long)(gb_store.read_rate / 1000000));
    return 0;
  }
  gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
           "T3: a first write and read in %s failed: %s", directory, strerror(-error));
  gb_store_close();
  return error;
}

void gb_store_close(void) {
  if (!gb_store_ready()) return;
  pthread_mutex_lock(&gb_store.lock);
  gb_store.closing = true;
  pthread_mutex_unlock(&gb_store.lock);
  gb_store_move_stop();
  pthread_mutex_lock(&gb_store.lock);
  atomic_store_explicit(&gb_store.ready, false, memory_order_release);
  gb_store.fresh = 0; /* who comes late finds no slot */
  bool stuck = gb_store.failed; /* the kernel may still write: its memory and descriptor stay */
  pthread_mutex_unlock(&gb_store.lock);
  if (!stuck) gb_store_queue_stop();
  gb_crypt_close();
  gb_write_budget_close();
  if (stuck) return;
  munmap(gb_store.units, gb_store.unit_count * sizeof *gb_store.units);
  close(gb_store.fd);
  gb_store.fd = -1;
}

void gb_store_forked(void) {
  atomic_store_explicit(&gb_store.ready, false, memory_order_release);
  if (gb_store.fd >= 0) close(gb_store.fd);
  gb_store.fd = -1;
}
