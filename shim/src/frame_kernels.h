/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame_kernels.h: the two kernels of the staging engine, as PTX text (sm_70 and later), and their
 * parameters; driver/sim/twins/frame_kernels.c does the same on the CPU.
 *
 *   gb_frame_hash(const u64 *bytes, u64 words, u64 seed0, u64 seed1, u64 *result)
 *     adds the 128-bit keyed hash of words 64-bit words (a multiple of 4096: 32 KiB) to result[0],
 *     result[1], which the caller set to 0. Each thread of a segment of 32 KiB takes every 256th
 *     16 bytes of it: 128 bytes, as four sums of 32-bit NH (UMAC, RFC 4418, section 5.2: products of
 *     keyed pairs of 32-bit words, each sum with the keys one pair further on; keys drawn from the
 *     seeds by SplitMix64). The four sums and the place are mixed to 128 bits, and those are added
 *     up: neither the number nor the order of blocks matters.
 *   gb_frame_write_back(const u64 *frame, u64 *host, u64 words, const u64 *now, const u64 *then,
 *                       const u32 *cancelled, u32 epoch, u64 *written_bytes)
 *     nothing when *cancelled == epoch or when now[0..1] equals then[0..1]; else copies frame to host
 *     (words a multiple of 2048: 16 KiB) and adds 8 * words to *written_bytes once, by an
 *     ordinary load and store: one launch at a time. Each block looks at the words for itself, so they
 *     must not change while the kernel runs. frame, host and bytes are aligned to 16 bytes.
 *
 * Both: 256 threads to a block, any number of blocks (grid stride).
 */
#ifndef GB_FRAME_KERNELS_H
#define GB_FRAME_KERNELS_H

#define GB_FRAME_HASH_NAME "gb_frame_hash"
#define GB_FRAME_WRITE_BACK_NAME "gb_frame_write_back"
#define GB_FRAME_BLOCK 256

extern const char gb_frame_ptx[];

#endif
