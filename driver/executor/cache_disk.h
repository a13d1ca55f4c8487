/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_disk.h: blocks on a disk, in a folder that several executors share. A block's file is named by
 * HMAC-SHA256(key, digest); its content is sealed with AES-256-GCM under a key of its own,
 *
 *   HKDF-SHA256(ikm = key, salt = "greenboost block cache, version 1", info = "content" digest, 32 bytes),
 *
 * which never seals anything else, so the nonce is zero. The disk tells nothing, and a file that was changed, cut or
 * renamed does not open. The folder's total is kept in one small file under a lock; who would exceed the budget removes
 * what was used last, by the files' times.
 * locks: none in this process: any thread may call everything.
 */
#ifndef GBX_CACHE_DISK_H
#define GBX_CACHE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GBX_BLOCK_BYTES (1u << 20)
#define GBX_DIGEST_BYTES 32u
/* Least budget that is of use. */
#define GBX_DISK_BYTES_MIN (16ull * GBX_BLOCK_BYTES)
/* Files of one folder; more are not added. */
#define GBX_DISK_FILES_MAX (1u << 20)
/* Room for this part of the budget is made at once. */
#define GBX_DISK_ROOM_PART 16u

struct gbx_disk {
  int folder;
  uint64_t budget_bytes;
  uint8_t key[32];
};

/* Opens the folder, which has to be this user's alone, and counts what is there. returns: 0 or errno. */
int gbx_disk_open(struct gbx_disk *disk, const char *path, const uint8_t *key, uint64_t budget_bytes);

/* Reads a block into `content` (GBX_BLOCK_BYTES), proven by its tag and by its digest; `scratch` holds as much and a
 * tag. A file that proves wrong is removed. returns: whether the block is there. */
bool gbx_disk_get(struct gbx_disk *disk, const uint8_t *digest, uint8_t *content, uint8_t *scratch);

/* Adds a block; `content` has this digest. Seals it in `scratch`. returns: 0, also when it is there already, or errno.
 */
int gbx_disk_put(struct gbx_disk *disk, const uint8_t *digest, const uint8_t *content, uint8_t *scratch);

/* Room that `scratch` needs. */
#define GBX_DISK_SCRATCH_BYTES (GBX_BLOCK_BYTES + 16u)

void gbx_disk_close(struct gbx_disk *disk);

#endif
