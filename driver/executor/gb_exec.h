/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_exec.h: the contract between a feeder daemon (TypeScript) and its executors (C), one process per attachment.
 *
 * The executor holds the lent memory: RAM (anonymous, locked as far as limits permit, or HOST_NUMA chunks where there
 * is a GPU) and VRAM, mapped at arena_base + offset, the same addresses the host's process uses. A fault of its CUDA
 * context ends that executor and nobody else.
 *
 * Transport: descriptor 3 of the executor is one end of a socket pair. Frames and rules as in gb_abi.h: a header,
 * exactly the payload of its type, little-endian; every request is answered by one frame of the same type with
 * GBX_FRAME_REPLY and the same id; replies may come in any order. Bulk bytes lie in a memfd the executor creates at
 * INIT, which the daemon opens through /proc/PID/fd/N and uses with pread and pwrite.
 * EOF on descriptor 3 ends the executor.
 *
 * driver/executor/abi.ts mirrors this file; test/arch compares every offset and size of the two.
 */
#ifndef GB_EXEC_H
#define GB_EXEC_H

#include <stddef.h>
#include <stdint.h>

#define GBX_VERSION 1u
#define GBX_PAYLOAD_BYTES_MAX 4096u
#define GBX_RANGE_ALIGN (2ull << 20)
#define GBX_FRAME_REPLY 1u

enum gbx_msg_type {
  GBX_MSG_INIT = 1,     /* gbx_init -> gbx_init_reply */
  GBX_MSG_ALLOCATE = 2, /* gbx_range -> gbx_status: maps zeroed memory at the range's address */
  GBX_MSG_FREE = 3,     /* gbx_range -> gbx_status: exact range of an earlier ALLOCATE; scrubbed */
  GBX_MSG_WRITE = 4,    /* gbx_transfer -> gbx_status: staging -> range; may be inside or across ranges of one device */
  GBX_MSG_READ = 5,     /* gbx_transfer -> gbx_status: range -> staging */
  GBX_MSG_STAT = 6,     /* no payload -> gbx_stat */
};

enum gbx_device_kind { GBX_DEVICE_RAM = 0, GBX_DEVICE_GPU = 1 };

/* Status values are those of enum gb_status in shim/include/gb_abi.h where they mean the same. */
enum gbx_status_code {
  GBX_OK = 0,
  GBX_INVALID = 1,
  GBX_VERSION_MISMATCH = 2,
  GBX_CAPACITY = 3,
  GBX_NOT_FOUND = 4,
  GBX_ARENA_UNAVAILABLE = 5, /* the arena could not be reserved at its base */
  GBX_DRIVER = 6,            /* detail: CUresult */
  GBX_SYSTEM = 7,            /* detail: errno */
};

struct gbx_frame {
  uint32_t payload_bytes;
  uint16_t type;
  uint16_t flags;
  uint64_t request_id;
};

struct gbx_init {
  uint32_t version;
  uint32_t gpu_count;      /* 0: RAM only, no driver is loaded */
  uint64_t arena_base;
  uint64_t arena_bytes;
  uint64_t staging_bytes;
  int32_t gpu_ordinals[8];
};

struct gbx_init_reply {
  uint32_t status;
  int32_t detail;
  int32_t staging_fd;
  uint32_t ram_is_host_numa; /* 1: RAM ranges are HOST_NUMA chunks the GPU can read in place */
  uint64_t arena_base;       /* as reserved: equal to the request, or status is not GBX_OK */
};

struct gbx_range {
  uint32_t device_kind;
  int32_t device_index; /* position in gpu_ordinals; 0 for RAM */
  uint64_t offset;
  uint64_t length;
};

struct gbx_transfer {
  uint64_t offset;
  uint64_t length;
  uint64_t staging_offset;
};

struct gbx_status {
  uint32_t status;
  int32_t detail;
  uint64_t bytes; /* ALLOCATE: how many of them are locked in RAM; READ, WRITE: moved */
};

struct gbx_stat {
  uint32_t status;
  int32_t detail;
  uint64_t ram_bytes;
  uint64_t ram_locked_bytes;
  uint64_t vram_bytes[8];
  uint64_t read_bytes;
  uint64_t write_bytes;
  uint64_t range_count;
};

_Static_assert(sizeof(struct gbx_frame) == 16, "gbx_frame");
_Static_assert(sizeof(struct gbx_init) == 64, "gbx_init");
_Static_assert(sizeof(struct gbx_init_reply) == 24, "gbx_init_reply");
_Static_assert(sizeof(struct gbx_range) == 24, "gbx_range");
_Static_assert(sizeof(struct gbx_transfer) == 24, "gbx_transfer");
_Static_assert(sizeof(struct gbx_status) == 16, "gbx_status");
_Static_assert(sizeof(struct gbx_stat) == 112, "gbx_stat");

#endif
