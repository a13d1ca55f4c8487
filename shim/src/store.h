/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h: T3, an encrypted file on the local NVMe (GREENBOOST_NVME_DIR, GREENBOOST_NVME_BUDGET). The
 * file is reserved up front, has no name, and is read and written with direct I/O through io_uring
 * (threads where that is forbidden); its key lives in this process only. A slot holds one piece of up
 * to GB_STORE_SLOT_BYTES in units of GB_STORE_UNIT_BYTES. Nothing here knows spans or the driver.
 *
 * Thread-safe, except that one slot is written, read or given by one thread at a time. Buffers are
 * GB_STORE_ALIGN aligned host memory of the caller, lengths multiples of GB_STORE_ALIGN.
 * docs/adr/0008-nvme-tier.md says why it is built this way.
 */
#ifndef GB_STORE_H
#define GB_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GB_STORE_ALIGN 4096u
#define GB_STORE_SLOT_BYTES (16u << 20)
#define GB_STORE_UNIT_BYTES (2u << 20)
/* One I/O, and what one tag covers. */
#define GB_STORE_BLOCK_BYTES (1u << 20)
#define GB_STORE_SLOT_NONE UINT32_MAX
/* Reads and writes in flight. */
#define GB_STORE_DEPTH 32u
/* The store chooses: bytes, half of what is free but at most 64 GiB; write_bytes_per_day, three
 * tenths of the file system, which is what drives are warranted for. */
#define GB_STORE_CHOOSE UINT64_MAX
/* A disk that says nothing for so long is given up. */
#define GB_STORE_DEADLINE_MS 60000u

/* Opens the store of this process: checks the file system, reserves the space, tries one slot (its
 * time is gb_store_read_rate). returns: 0, or -errno, the reason said in an event. Not while it is open. */
int gb_store_open(const char *directory, uint64_t bytes, uint64_t write_bytes_per_day);
/* Waits for what is in flight, wipes the key; what was stored is gone. */
void gb_store_close(void);
/* In a forked child, which has no part in the store. Takes no lock. */
void gb_store_forked(void);
bool gb_store_ready(void);
/* Bytes in all; bytes of slots taken. Any thread. */
uint64_t gb_store_capacity(void);
uint64_t gb_store_used(void);
/* The directory, for messages; valid once open. */
const char *gb_store_directory(void);
/* Bytes per second at which the slot tried at the start came back, decrypted. */
uint64_t gb_store_read_rate(void);

/* A free slot for length bytes, or GB_STORE_SLOT_NONE. owns: gb_store_give. */
uint32_t gb_store_take(size_t length);
void gb_store_give(uint32_t slot);

/* Encrypts and queues one slot; the buffer keeps the plain bytes and may be changed afterwards. What
 * the slot held is gone, even on an error. returns: 0, -EDQUOT when the write budget of the day is
 * used up (the slot keeps what it held), or another -errno. */
int gb_store_write_begin(uint32_t slot, const void *bytes, size_t length);
/* Waits until the slot's bytes are on the disk. returns: 0 or -errno. */
int gb_store_write_end(uint32_t slot);
/* Both. */
int gb_store_write(uint32_t slot, const void *bytes, size_t length);

/* Reads and decrypts a slot of which as many bytes were written. returns: 0; -EBADMSG when what was
 * read is not what was written (the buffer is then zero); -ETIMEDOUT when the disk does not answer:
 * it may still write into the buffer, which must never be used again; or another -errno. */
int gb_store_read(uint32_t slot, void *bytes, size_t length);
/* Begins reading a slot into memory of the store's own, so that gb_store_read finds it there; at most
 * GB_STORE_AHEAD of them are kept. Never waits for the disk. */
#define GB_STORE_AHEAD 16u
/* Slots a sequential reader keeps begun: enough for GB_STORE_DEPTH. With more of them the memory they
 * pass through leaves the processor's caches, and the same drive gives a quarter less (measured: 3.6
 * and 2.7 GB/s with 64 and 256 MiB). */
#define GB_STORE_WINDOW 4u
void gb_store_prefetch(uint32_t slot, size_t length);

#endif
