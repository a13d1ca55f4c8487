/* SPDX-License-Identifier: Apache-2.0 */
/* run_batch.c: see run_batch.h. */
#include "run_batch.h"

#include <string.h>

/* What is left of a command while its parts are taken off. */
struct rest {
  const uint8_t *at;
  uint64_t bytes;
};

/* The next part, or NULL when it is not there. */
static const void *take(struct rest *rest, uint64_t bytes) {
  if (bytes > rest->bytes)
    return NULL;
  const uint8_t *part = rest->at;
  rest->at += bytes;
  rest->bytes -= bytes;
  return part;
}

static uint64_t fixed_bytes(uint16_t type) {
  switch (type) {
  case GB_RUN_IMAGE:
    return sizeof(struct gb_run_image);
  case GB_RUN_IMAGE_PART:
    return sizeof(struct gb_run_image_part);
  case GB_RUN_FUNCTION:
    return sizeof(struct gb_run_function);
  case GB_RUN_SYMBOL:
    return sizeof(struct gb_run_symbol);
  case GB_RUN_LAUNCH:
    return sizeof(struct gb_run_launch);
  case GB_RUN_WRITE:
  case GB_RUN_TRACK:
  case GB_RUN_UNTRACK:
  case GB_RUN_ARRIVED:
  case GB_RUN_DISAGREE:
  case GB_RUN_READ:
    return sizeof(struct gb_run_range);
  case GB_RUN_COPY:
    return sizeof(struct gb_run_copy);
  case GB_RUN_FILL:
    return sizeof(struct gb_run_fill);
  case GB_RUN_COLLECT:
    return sizeof(struct gb_run_collect);
  default:
    return 0; /* SYNC has none; other types are refused before */
  }
}

static enum gb_run_status take_items(struct gbx_command *command, struct rest *rest, uint32_t count, uint32_t most,
                                     uint64_t bytes) {
  if (count > most)
    return GB_RUN_LIMIT;
  command->has.items = take(rest, count * bytes);
  command->item_count = count;
  return command->has.items ? GB_RUN_OK : GB_RUN_INVALID;
}

static enum gb_run_status take_name(struct gbx_command *command, struct rest *rest, uint32_t bytes) {
  if (bytes > GB_RUN_NAME_BYTES_MAX)
    return GB_RUN_LIMIT;
  command->name = take(rest, bytes);
  command->name_bytes = bytes;
  return command->name && bytes > 0 && !memchr(command->name, '\0', bytes) ? GB_RUN_OK : GB_RUN_INVALID;
}

static enum gb_run_status take_data(struct gbx_command *command, struct rest *rest, uint64_t bytes) {
  command->data = take(rest, bytes);
  command->data_bytes = bytes;
  return command->data ? GB_RUN_OK : GB_RUN_INVALID;
}

static enum gb_run_status take_image(struct gbx_command *command, struct rest *rest) {
  const struct gb_run_image *image = command->is.image;
  if (image->bytes > GB_RUN_IMAGE_BYTES_MAX)
    return GB_RUN_LIMIT;
  uint64_t blocks = (image->bytes + GB_RUN_IMAGE_BLOCK_BYTES - 1) / GB_RUN_IMAGE_BLOCK_BYTES;
  if (image->bytes == 0 || image->block_count != blocks)
    return GB_RUN_INVALID;
  return take_items(command, rest, image->block_count, image->block_count, GB_RUN_DIGEST_BYTES);
}

static enum gb_run_status take_part(struct gbx_command *command, struct rest *rest) {
  const struct gb_run_image_part *part = command->is.part;
  uint64_t in_block = part->offset % GB_RUN_IMAGE_BLOCK_BYTES;
  if (part->length == 0 || part->length > GB_RUN_IMAGE_BLOCK_BYTES - in_block)
    return GB_RUN_INVALID;
  return take_data(command, rest, part->length);
}

static enum gb_run_status take_function(struct gbx_command *command, struct rest *rest) {
  const struct gb_run_function *function = command->is.function;
  if (function->function > GB_RUN_FUNCTIONS_MAX)
    return GB_RUN_LIMIT;
  if (function->function == 0)
    return GB_RUN_INVALID;
  enum gb_run_status status = take_items(command, rest, function->attribute_count, GB_RUN_ATTRIBUTES_MAX,
                                         sizeof(struct gb_run_attribute));
  return status == GB_RUN_OK ? take_name(command, rest, function->name_bytes) : status;
}

static enum gb_run_status take_symbol(struct gbx_command *command, struct rest *rest) {
  const struct gb_run_symbol *symbol = command->is.symbol;
  enum gb_run_status status = take_name(command, rest, symbol->name_bytes);
  if (status == GB_RUN_OK && !take(rest, -(uint64_t)symbol->name_bytes % 8))
    status = GB_RUN_INVALID;
  return status == GB_RUN_OK ? take_data(command, rest, symbol->length) : status;
}

static enum gb_run_status take_launch(struct gbx_command *command, struct rest *rest) {
  const struct gb_run_launch *launch = command->is.launch;
  if (launch->param_bytes > GB_RUN_PARAM_BYTES_MAX)
    return GB_RUN_LIMIT;
  enum gb_run_status status = take_items(command, rest, launch->attribute_count, GB_RUN_ATTRIBUTES_MAX,
                                         sizeof(struct gb_run_launch_attribute));
  return status == GB_RUN_OK ? take_data(command, rest, launch->param_bytes) : status;
}

static enum gb_run_status take_collect(struct gbx_command *command, struct rest *rest) {
  return take_items(command, rest, command->is.collect->range_count, GB_RUN_RANGES_MAX, sizeof(struct gb_run_range));
}

/* What follows the structure of a command. */
static enum gb_run_status take_parts(struct gbx_command *command, struct rest *rest) {
  switch (command->type) {
  case GB_RUN_IMAGE:
    return take_image(command, rest);
  case GB_RUN_IMAGE_PART:
    return take_part(command, rest);
  case GB_RUN_FUNCTION:
    return take_function(command, rest);
  case GB_RUN_SYMBOL:
    return take_symbol(command, rest);
  case GB_RUN_LAUNCH:
    return take_launch(command, rest);
  case GB_RUN_WRITE:
    return take_data(command, rest, command->is.range->length);
  case GB_RUN_COLLECT:
    return take_collect(command, rest);
  default:
    return GB_RUN_OK;
  }
}

/* Reads the command at `at`. *used: its bytes. */
static enum gb_run_status parse(const uint8_t *body, uint64_t bytes, uint64_t at, struct gbx_command *command,
                                uint64_t *used) {
  struct rest rest = {body + at, bytes - at};
  const struct gb_run_command *header = take(&rest, sizeof(*header));
  if (!header || header->bytes < sizeof(*header) || header->bytes % 8 != 0 ||
      header->bytes - sizeof(*header) > rest.bytes || header->reserved != 0 || header->type < GB_RUN_IMAGE ||
      header->type > GB_RUN_DISAGREE)
    return GB_RUN_INVALID;
  rest.bytes = header->bytes - sizeof(*header);
  *used = header->bytes;
  memset(command, 0, sizeof(*command));
  command->type = header->type;
  command->is.fixed = take(&rest, fixed_bytes(header->type));
  if (!command->is.fixed)
    return GB_RUN_INVALID;
  enum gb_run_status status = take_parts(command, &rest);
  return status == GB_RUN_OK && rest.bytes >= 8 ? GB_RUN_INVALID : status;
}

static bool answers(enum gb_run_type type) {
  return type == GB_RUN_IMAGE || type == GB_RUN_COLLECT || type == GB_RUN_READ || type == GB_RUN_SYNC;
}

bool gbx_batch_read(const uint8_t *body, uint64_t bytes, struct gbx_batch_head *head) {
  struct gb_run_batch batch;
  if (bytes < sizeof(batch) || bytes > GB_RUN_BATCH_BYTES_MAX)
    return false;
  memcpy(&batch, body, sizeof(batch));
  if (batch.version != GB_RUN_VERSION || batch.sequence == 0)
    return false;
  *head = (struct gbx_batch_head){.sequence = batch.sequence, .status = GB_RUN_OK};
  uint64_t at = sizeof(batch);
  bool last_answers = false;
  for (uint32_t index = 0; index < batch.command_count && head->status == GB_RUN_OK; index++) {
    struct gbx_command command;
    uint64_t used = 0;
    head->status = last_answers ? GB_RUN_INVALID : parse(body, bytes, at, &command, &used);
    if (head->status != GB_RUN_OK)
      return true;
    last_answers = answers(command.type);
    at += used;
  }
  if (at != bytes)
    head->status = GB_RUN_INVALID;
  head->answers = last_answers && head->status == GB_RUN_OK;
  return true;
}

bool gbx_batch_next(const uint8_t *body, uint64_t bytes, uint64_t *at, struct gbx_command *command) {
  uint64_t used = 0;
  if (*at == 0)
    *at = sizeof(struct gb_run_batch);
  if (*at >= bytes || parse(body, bytes, *at, command, &used) != GB_RUN_OK)
    return false;
  *at += used;
  return true;
}

/* ---- what a batch names ---- */

/* More than any arena has. */
#define ARENA_BYTES_MAX (1ull << 48)

uint64_t gbx_fill_bytes(const struct gb_run_fill *fill, uint64_t arena_bytes) {
  uint64_t element = fill->element_bytes;
  if ((element != 1 && element != 2 && element != 4) || fill->offset % element != 0)
    return UINT64_MAX;
  if (fill->width == 0 || fill->height == 0)
    return 0;
  if (fill->width > arena_bytes / element)
    return UINT64_MAX;
  uint64_t row = fill->width * element;
  if (fill->height == 1)
    return row;
  if (fill->pitch < row || fill->pitch % element != 0 || fill->pitch > arena_bytes ||
      fill->height - 1 > (arena_bytes - row) / fill->pitch)
    return UINT64_MAX;
  return (fill->height - 1) * fill->pitch + row;
}

static bool meets(uint64_t offset, uint64_t length, const struct gbx_range *range) {
  return offset < range->offset + range->length && range->offset < offset + length;
}

/* Whether a word of the parameters is an address in the range. */
static bool points_into(const struct gbx_command *command, uint64_t from, uint64_t length) {
  for (uint64_t at = 0; at + sizeof(uint64_t) <= command->data_bytes; at += 4) {
    uint64_t word;
    memcpy(&word, command->data + at, sizeof(word));
    if (word - from < length)
      return true;
  }
  return false;
}

static bool touches(const struct gbx_command *command, uint64_t base, const struct gbx_range *range) {
  switch (command->type) {
  case GB_RUN_LAUNCH:
    return points_into(command, base + range->offset, range->length);
  case GB_RUN_WRITE:
  case GB_RUN_TRACK:
  case GB_RUN_ARRIVED:
  case GB_RUN_DISAGREE:
  case GB_RUN_READ:
    return meets(command->is.range->offset, command->is.range->length, range);
  case GB_RUN_COPY:
    return meets(command->is.copy->to_offset, command->is.copy->length, range) ||
           meets(command->is.copy->from_offset, command->is.copy->length, range);
  case GB_RUN_FILL:
    return meets(command->is.fill->offset, gbx_fill_bytes(command->is.fill, ARENA_BYTES_MAX), range);
  case GB_RUN_COLLECT:
    for (uint32_t index = 0; index < command->item_count; index++) {
      if (meets(command->has.ranges[index].offset, command->has.ranges[index].length, range))
        return true;
    }
    return false;
  default:
    return false;
  }
}

bool gbx_batch_touches(const uint8_t *body, uint64_t bytes, uint64_t base, const struct gbx_range *range) {
  struct gbx_command command;
  for (uint64_t at = 0; gbx_batch_next(body, bytes, &at, &command);) {
    if (touches(&command, base, range))
      return true;
  }
  return false;
}
