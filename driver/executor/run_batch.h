/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_batch.h: takes batches of gb_run.h apart. Pure: no I/O, no allocation, and nothing is read beyond the body,
 * whatever it says. The body is aligned as malloc aligns it.
 */
#ifndef GBX_RUN_BATCH_H
#define GBX_RUN_BATCH_H

#include <stdbool.h>

#include "gb_exec.h"
#include "gb_run.h"

/* One command, with where its parts lie in the body. What a type has not is NULL and 0. */
struct gbx_command {
  enum gb_run_type type;
  union {
    const void *fixed; /* the structure of its type */
    const struct gb_run_image *image;
    const struct gb_run_image_part *part;
    const struct gb_run_function *function;
    const struct gb_run_symbol *symbol;
    const struct gb_run_launch *launch;
    const struct gb_run_range *range;
    const struct gb_run_copy *copy;
    const struct gb_run_fill *fill;
    const struct gb_run_collect *collect;
  } is;
  union {
    const void *items; /* what it counts, behind the structure */
    const uint8_t *digests;
    const struct gb_run_attribute *attributes;
    const struct gb_run_launch_attribute *launch_attributes;
    const struct gb_run_range *ranges;
  } has;
  uint32_t item_count;
  const char *name; /* without NUL */
  uint32_t name_bytes;
  const uint8_t *data; /* bytes, parameters */
  uint64_t data_bytes;
};

struct gbx_batch_head {
  uint64_t sequence;
  uint32_t status; /* enum gb_run_status of its commands: GB_RUN_OK, GB_RUN_INVALID or GB_RUN_LIMIT */
  bool answers;    /* its last command does; false unless the status is GB_RUN_OK */
};

/* Looks at every command. returns: false when not even the head makes sense, so that the batch has no place in the
 * order. */
bool gbx_batch_read(const uint8_t *body, uint64_t bytes, struct gbx_batch_head *head);

/* The command at *at, which begins as 0 and is moved behind it. returns: false at the end. pre: gbx_batch_read has
 * said GB_RUN_OK. */
bool gbx_batch_next(const uint8_t *body, uint64_t bytes, uint64_t *at, struct gbx_command *command);

/* Whether a batch names bytes of a range, as an operand or in the parameters of a launch. pre: as above. */
bool gbx_batch_touches(const uint8_t *body, uint64_t bytes, uint64_t base, const struct gbx_range *range);

/* The bytes that a fill spans, from its first to its last; 0: none; UINT64_MAX: it makes no sense. */
uint64_t gbx_fill_bytes(const struct gb_run_fill *fill, uint64_t arena_bytes);

#endif
