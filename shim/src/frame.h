/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h: the memory that staging moves between: frames (VRAM that no address of the program maps)
 * and homes (the host chunks of chunks that are in VRAM). Both are seen by the engine at addresses
 * of its own, aliases, so that copies need nothing of the program's mappings.
 *
 * pre of everything: gb_lock, a context of the device current, no switch under way that uses what is
 * given back (stage.h).
 */
#ifndef GB_FRAME_H
#define GB_FRAME_H

#include "arena.h"

/* Frames with a place for their hash, for each device. */
#define GB_FRAME_SLOTS_MAX 16384u

struct gb_stage_frame {
  CUmemGenericAllocationHandle handle;
  uint64_t bytes;
  uint64_t alias;
  uint32_t slot; /* + 1 */
};

/* An alias of any handle, readable and writable by the device. returns: false when addresses are out
 * or the driver refuses. owns: gb_alias_unmap. */
bool gb_alias_map(CUdevice device, CUmemGenericAllocationHandle handle, uint64_t bytes,
                  uint64_t *alias);
void gb_alias_unmap(uint64_t alias, uint64_t bytes);

/* A free frame of exactly `bytes`: one that waits, or a new one in the room of T1, or in the room of
 * frames of other sizes. Every frame is counted in GB_ACCOUNT_STAGE of T1 until it is released or
 * becomes a chunk's (the caller moves it to GB_ACCOUNT_USED). returns: false when there is no room. */
bool gb_frame_take(CUdevice device, uint64_t bytes, struct gb_stage_frame *frame);
/* Back among the free ones. */
void gb_frame_give(CUdevice device, const struct gb_stage_frame *frame);
/* Bytes of free frames. */
uint64_t gb_frames_free(CUdevice device);
/* Releases free frames until `bytes` are given back (or none is left). returns: bytes. */
uint64_t gb_frames_drop(CUdevice device, uint64_t bytes);

/* A slot for a frame's hash, + 1; 0 when all are taken. */
uint32_t gb_frame_slot_take(CUdevice device);
void gb_frame_slot_give(CUdevice device, uint32_t slot);

/* Gives a chunk in VRAM a host chunk to go to, counted in GB_ACCOUNT_STAGE of T2, and aliases for
 * both sides. returns: false when T2 has no room. */
bool gb_home_make(struct gb_span *span, struct gb_chunk *chunk);
/* Takes everything of staging away from a chunk that goes: aliases, home, slot. */
void gb_home_drop(struct gb_span *span, struct gb_chunk *chunk);

#endif
