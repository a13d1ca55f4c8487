/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer.h: an agent and a feeder for the shim in this process: the agent on its socket gives tickets to a real lane
 * server, whose region 0 is memory and takes calls, and an executor by gb_run.h that keeps a book of what it is asked.
 */
#ifndef GB_DISPATCH_PEER_H
#define GB_DISPATCH_PEER_H

#include <stdbool.h>
#include <stdint.h>

#include "gb_run.h"

#define PEER_BYTES (64ull << 20)
#define PEER_ENTRIES_MAX 65536u

/* A command that was executed, in order. */
struct peer_entry {
  uint16_t type;
  uint32_t bytes;     /* of its body */
  uint8_t body[192];  /* its beginning */
  uint64_t sequence;  /* of its batch */
};

struct peer_counts {
  uint32_t calls;      /* batches that arrived */
  uint32_t again;      /* of these, seen before */
  uint32_t invalid;    /* that make no sense */
  uint32_t largest;    /* bytes of a body */
  uint32_t tickets;
  uint32_t image_parts;
};

/* Listens at $GREENBOOST_SOCKET and starts everything; of what the shim asks for the agent agrees to these features.
 * returns: false when it cannot. */
bool peer_start(uint64_t features);
void peer_stop(void);
/* Forgets the book, and all faults. */
void peer_clear(void);
uint32_t peer_entries(void);
struct peer_entry peer_entry(uint32_t index);
struct peer_counts peer_counts(void);
uint8_t *peer_memory(void);
/* Nothing is executed from now on; or again. */
void peer_hold(bool hold);
/* Batches are executed, and the first answer is never sent: its lane ends first. */
void peer_cut_at(uint64_t after_calls);
/* Ends the lane now. */
void peer_cut(void);
/* The agent says that the lane is gone. */
void peer_lose(bool lost);
/* The agent says that the feeder cannot be reached now. */
void peer_away(bool away);
/* The nth launch from now on fails with the error. */
void peer_fail_launch(uint32_t nth, int32_t cuda_error);
/* Functions are refused; images are known. */
void peer_refuse_functions(bool refuse);
void peer_knows_images(bool knows);
/* Another executor: it knows nothing, and batches begin at 1 again. */
void peer_renew(void);
/* What COLLECT answers: these runs, their bytes from the memory. */
void peer_changed(const struct gb_run_run *runs, uint32_t count);

#endif
