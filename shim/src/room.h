/* SPDX-License-Identifier: Apache-2.0 */
/* room.h: what fits locally, and making it fit by evicting. pre of everything: gb_lock. */
#ifndef GB_ROOM_H
#define GB_ROOM_H

#include "move.h"
#include "scan.h"

/* Bytes of large spans the device's tiers can hold in all: the resident ones, and what could be
 * added. pre: a context of the device is current. */
uint64_t gb_local_bytes(CUdevice device);
/* Brings the spans back, evicting others but never one of `keep`. pre: gate closed, drained. */
enum gb_moved gb_bring(struct gb_span *const *wanted, uint32_t wanted_count, const uint64_t *keep,
                       uint32_t keep_count);
/* Frees `bytes` of local room. pre: gate closed, drained. */
enum gb_moved gb_make_room(CUdevice device, uint64_t bytes, const uint64_t *keep,
                           uint32_t keep_count);
/* Live spans that are not resident. Any thread. */
extern _Atomic uint32_t gb_unmapped_count;

#endif
