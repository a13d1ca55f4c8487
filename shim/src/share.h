/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.h: gives VRAM back when the agent lowers this process's share of a GPU. A thread of its own:
 * the client's may not take gb_lock, and the program may be idle and never call.
 */
#ifndef GB_SHARE_H
#define GB_SHARE_H

#include <stdbool.h>

/* The agent named new limits. The client's thread. */
void gb_share_changed(void);
/* More is held than the share: calls must pass the gate, so that chunks can be moved. Any thread. */
bool gb_share_shrinking(void);
/* At the end of the process: nothing here calls the driver afterwards. */
void gb_share_stop(void);

#endif
