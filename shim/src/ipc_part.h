/* SPDX-License-Identifier: Apache-2.0 */
/* ipc_part.h: what the three files of IPC share: the handle, the packets, the table of exports.
 * Nobody else includes it. */
#ifndef GB_IPC_PART_H
#define GB_IPC_PART_H

#include <sys/socket.h>
#include <sys/un.h>

#include "ipc.h"

#define GB_IPC_MAGIC 0x9c1e5b70d2a8f341ull /* random; another layout has another one */

/* What a CUipcMemHandle of ours holds. Bytes from outside: nothing in it is believed. */
struct gb_ipc_handle {
  uint64_t magic;
  uint64_t process;    /* random; the name of the exporter's socket */
  uint64_t export;     /* random */
  uint64_t allocation; /* buffer id in the exporter */
  uint64_t offset;     /* of the allocation in the exported memory */
  uint64_t bytes;      /* of the allocation */
  uint32_t pid;        /* for messages */
  uint32_t started;    /* of the process, clock ticks after boot, low part: pids are used again */
  uint64_t check;      /* over all before */
};
_Static_assert(sizeof(struct gb_ipc_handle) == sizeof(CUipcMemHandle), "64 bytes");

/* One packet each way, of exactly these sizes; the answer carries the descriptor. */
struct gb_ipc_ask {
  uint64_t magic;
  uint64_t export;
  uint64_t allocation;
  uint64_t offset;
  uint64_t bytes;
};
struct gb_ipc_answer {
  uint64_t magic;
  uint64_t memory_bytes; /* behind the descriptor; 0: there is no such allocation (any more) */
  CUuuid device;
};
_Static_assert(sizeof(struct gb_ipc_ask) == 40 && sizeof(struct gb_ipc_answer) == 32, "packets");

uint64_t gb_ipc_check(const struct gb_ipc_handle *handle);
/* Start of a process in clock ticks after boot, low part; 0: there is no such process. */
uint32_t gb_ipc_started(uint32_t pid);
/* The other end of a connected socket is a process of this user. */
bool gb_ipc_same_user(int fd);
/* The abstract address of a process. returns: its length. */
socklen_t gb_ipc_address(uint64_t process, struct sockaddr_un *address);
bool gb_ipc_uuid(CUdevice device, CUuuid *uuid);

/* ---- ipc_server.c ---- */

/* Starts the thread at the first call. returns: false when no socket or thread is to be had. */
bool gb_ipc_serve(void);
/* This process's name; 0: nothing was ever exported. */
uint64_t gb_ipc_process(void);
bool gb_ipc_has_place(void);
/* Enters an export. owns: the descriptor, from here on. returns: its random id.
 * pre: gb_ipc_has_place, one caller at a time. */
uint64_t gb_ipc_enter(uint64_t span_base, uint64_t span_bytes, int descriptor,
                      const CUuuid *device);
/* The id of the span's export; 0: it is not exported. */
uint64_t gb_ipc_export_id(uint64_t span_base);

/* ---- ipc_export.c ---- */

/* The allocation that holds a pointer of the arena. */
struct gb_ipc_subject {
  uint64_t span_base;
  uint64_t offset;
  uint64_t bytes;
  uint64_t allocation;
  CUcontext context;
  CUdevice device;
};
bool gb_ipc_subject(uint64_t pointer, struct gb_ipc_subject *subject);

#endif
