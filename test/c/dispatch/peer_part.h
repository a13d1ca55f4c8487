/* SPDX-License-Identifier: Apache-2.0 */
/* peer_part.h: what peer_agent.c and peer_executor.c share. */
#ifndef GB_DISPATCH_PEER_PART_H
#define GB_DISPATCH_PEER_PART_H

#include <stdbool.h>

#include "gb_abi.h"

bool peer_executor_start(void);
void peer_executor_stop(void);
/* Fills the answer to LANE. returns: false when the feeder has failed. */
bool peer_ticket(struct gb_ticket_reply *reply);

#endif
