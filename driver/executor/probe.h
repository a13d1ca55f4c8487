/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h: what this machine's memory can do, measured in well under two seconds with at most 192 MiB of RAM and
 * 128 MiB of VRAM, in a process of its own so that a driver's trouble stays in it.
 *
 * Prints one JSON object on standard output:
 *   schema_version           1
 *   ram                      total_bytes, available_bytes, memlock_bytes (-1: no limit), copy_bytes_per_second,
 *                            latency_nanos (one dependent load from 64 MiB)
 *   driver_version           12040 for CUDA 12.4; null without a driver
 *   gpu_count                0 without a driver
 *   gpus                     of each GPU looked at: index, name, uuid, total_bytes, free_bytes, compute_capability
 *                            (90), vmm, host_numa_vmm (booleans, tried, not only asked), vram_copy_bytes_per_second,
 *                            h2d_bytes_per_second, d2h_bytes_per_second (pinned), host_numa_read_bytes_per_second (a
 *                            copy by the GPU out of host memory it sees in place), copy_latency_micros (8 bytes to it),
 *                            error (null, or what failed)
 *   error                    null, or why there is no driver
 * Figures that could not be measured are null.
 */
#ifndef GBX_PROBE_H
#define GBX_PROBE_H

/* gpu: a CUDA ordinal, or -1 for RAM alone: then no driver is loaded. returns: 0; 1 when `gpu` cannot be used (the
 * object is printed all the same). */
int gbx_probe(int gpu);

#endif
