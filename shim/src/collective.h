/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collective.h: kernels of NCCL, known by their names. They wait for other devices while they run
 * and hand them addresses of their operands, so what they touch is pinned.
 */
#ifndef GB_COLLECTIVE_H
#define GB_COLLECTIVE_H

#include "core.h"

/* True for a kernel of a collective. Any thread; a table look-up after the first time. */
bool gb_collective(CUfunction function);
/* Pins what a launch names. Not inside a bracket (it may wait for what is under way). */
void gb_collective_pin(CUfunction function, void **params, void **extra);
/* Function handles may be used again. */
void gb_collective_forget(void);

#endif
