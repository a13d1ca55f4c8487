/* SPDX-License-Identifier: Apache-2.0 */
/*
 * owners.h: which machine should hold which range (docs/adr/0013): launches are watched until a step of the program
 * repeats; then, with the gate closed, the agent is told the step and says what should lie elsewhere, and it is moved
 * before the program goes on. The agent decides, here it is carried out; what cannot be moved stays where it is.
 *
 *   watching --a step repeats--> found --gate closed, all idle--> planned, moved --another step repeats--> found
 */
#ifndef GB_OWNERS_H
#define GB_OWNERS_H

#include "scan.h"

/* Steps that ranges are moved for, in the life of the process; a program that never settles is not moved for ever. */
#define GB_OWNERS_STEPS_MAX 16u
/* The agent is asked so often about one step: after what it asked for has moved, what is left. */
#define GB_OWNERS_ROUNDS_MAX 4u
/* Launches that find the GPU busy before a step is given up. */
#define GB_OWNERS_TRIES_MAX 64u

/* Once, when launches are dispatched. */
void gb_owners_start(void);
/* A launch is about to be made, wherever. May move ranges, and then takes as long as that. Any thread, no lock, outside
 * the gate. */
void gb_owners_launch(const struct gb_touch *touch);
/* In a forked child. */
void gb_owners_forked(void);

#endif
