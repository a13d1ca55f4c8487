/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h: T3, an encrypted file on the local NVMe (GREENBOOST_NVME_DIR, GREENBOOST_NVME_BUDGET). A
 * slot of fixed size (GB_PIECE_BYTES) holds one piece. The file is reserved up front, unlinked once
 * open and read and written with direct I/O through io_uring; its key lives in this process only.
 * Nothing here knows spans or the driver.
 *
 * Thread-safe. Buffers are GB_STORE_ALIGN aligned host memory of the caller.
 */
#ifndef GB_STORE_H
#define GB_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GB_STORE_ALIGN 4096u
#define GB_STORE_SLOT_NONE UINT32_MAX
/* Reads and writes in flight. */
#define GB_STORE_DEPTH 32u

/* Opens the store of this process. returns: 0, or -errno with the reason logged (no directory, no
 * space, no direct I/O). Once. */
int gb_store_open(const char *directory, uint64_t bytes, uint64_t write_bytes_per_day);
void gb_store_close(void);
bool gb_store_ready(void);
uint64_t gb_store_capacity(void);
uint64_t gb_store_used(void);

/* A free slot, or GB_STORE_SLOT_NONE. */
uint32_t gb_store_take(void);
void gb_store_give(uint32_t slot);

/* Encrypts and writes, or reads and decrypts, one slot. The buffer keeps the plain bytes. returns: 0,
 * -EDQUOT when the write budget of the day is used up, -EBADMSG when what was read is not what was
 * written, or another -errno. */
int gb_store_write(uint32_t slot, const void *bytes, size_t length);
int gb_store_read(uint32_t slot, void *bytes, size_t length);
/* Begins reading a slot into memory of the store's own, so that gb_store_read finds it there; at most
 * GB_STORE_AHEAD of them are kept. */
#define GB_STORE_AHEAD 16u
void gb_store_prefetch(uint32_t slot, size_t length);

#endif
