/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_run.h: what a program's shim may have an executor do (docs/adr/0013-dispatch.md): batches of commands, each the
 * body of one CALL of a lane (driver/lane/lane.h) to region 0 of the attachment. Little-endian, no implicit padding,
 * every command begins at a multiple of 8.
 *
 *   CALL body   = gb_run_batch, then its commands: gb_run_command, the structure of its type, its data, zeroes up to 8
 *   RESULT body = gb_run_result, then `bytes` of what the last command answers
 *
 * Batches are numbered from 1 on, without gaps, for as long as the executor lives, whatever lane brings them; they are
 * executed in that order on one stream, those that come early wait. A batch is answered when it has been accepted,
 * or, when its last command is one that answers (IMAGE, COLLECT, READ, SYNC), when that has been done; such a
 * command is always the last. The first failure stays: nothing after it is executed, and every result says so. Only
 * what IMAGE, IMAGE_PART and FUNCTION fail with is of their own batch: its other commands are not executed, its answer
 * says so (behind a FUNCTION the shim puts a SYNC), and it is forgotten.
 *
 * A batch whose answer was lost with its lane may be sent again, with its own number: it is executed once, and
 * answered again as long as its answer is among the last that were given (GB_RUN_ANSWERS_KEPT), otherwise with
 * GB_RUN_LIMIT if it asked for one. A batch that is not taken (GB_RUN_LIMIT, or GB_RUN_INVALID when not even its head
 * makes sense) leaves no trace. After a fault of the GPU, and after GB_RUN_TIME, whoever waits is answered, and then
 * the executor ends.
 *
 * Offsets are from the arena's base. What comes from outside is checked before it is believed: counts, sizes, that
 * ranges are allocated, that functions are known.
 */
#ifndef GB_RUN_H
#define GB_RUN_H

#include <stddef.h>
#include <stdint.h>

#define GB_RUN_VERSION 2u

/* Every limit. */
enum {
  GB_RUN_BATCH_BYTES_MAX = 1 << 20,     /* body of a CALL, and of a RESULT */
  GB_RUN_BATCHES_AHEAD_MAX = 64,        /* that wait for one before them */
  GB_RUN_QUEUE_BYTES_MAX = 64 << 20,    /* accepted and not executed; more waits for its answer */
  GB_RUN_PARAM_BYTES_MAX = 32764,       /* CUDA's own limit */
  GB_RUN_NAME_BYTES_MAX = 4096,
  GB_RUN_ATTRIBUTES_MAX = 16,           /* of a launch, of a function */
  GB_RUN_FUNCTIONS_MAX = 65536,
  GB_RUN_IMAGES_MAX = 8192,
  GB_RUN_IMAGE_BYTES_MAX = 1 << 30,
  GB_RUN_IMAGES_BYTES_MAX_MIB = 4096,   /* of all images of one executor */
  GB_RUN_RANGES_MAX = 4096,             /* of one COLLECT; tracked in all */
  GB_RUN_ANSWERS_KEPT = 64,             /* answers of batches that may be sent again */
  GB_RUN_ANSWERS_KEPT_BYTES = 16 << 20,
};
#define GB_RUN_BLOCK_BYTES 4096u        /* as driver/blocks/blocks.h */
#define GB_RUN_IMAGE_BLOCK_BYTES (1u << 20)
#define GB_RUN_DIGEST_BYTES 32u

enum gb_run_type {
  GB_RUN_IMAGE = 1,      /* gb_run_image, SHA-256 of each of its blocks; answers gb_run_bitmap of blocks that are
                          * missing */
  GB_RUN_IMAGE_PART = 2, /* gb_run_image_part, bytes */
  GB_RUN_FUNCTION = 3,   /* gb_run_function, gb_run_attribute each, name without NUL */
  GB_RUN_SYMBOL = 4,     /* gb_run_symbol, name, zeroes up to 8, bytes: writes to a variable of a module */
  GB_RUN_LAUNCH = 5,     /* gb_run_launch, gb_run_launch_attribute each, parameters as the function's buffer */
  GB_RUN_WRITE = 6,      /* gb_run_range, bytes */
  GB_RUN_COPY = 7,       /* gb_run_copy */
  GB_RUN_FILL = 8,       /* gb_run_fill */
  GB_RUN_TRACK = 9,      /* gb_run_range: replicated from here on; its content is zeroes on both sides (the executor
                          * touches none of it: FILL first what may be otherwise). No two overlap. */
  GB_RUN_UNTRACK = 10,   /* gb_run_range, exactly as tracked */
  GB_RUN_ARRIVED = 11,   /* gb_run_range: bytes of a tracked range that lane writes, or WRITEs before, have put
                          * there: they are agreed on. A WRITE alone is a change of the feeder's. */
  GB_RUN_COLLECT = 12,   /* gb_run_collect, gb_run_range each, of tracked ranges, by address: answers gb_run_blocks
                          * with what has changed */
  GB_RUN_READ = 13,      /* gb_run_range: answers its bytes, at most GB_RUN_BATCH_BYTES_MAX less the result */
  GB_RUN_SYNC = 14,      /* answers nothing, when all before it is done */
  GB_RUN_DISAGREE = 15,  /* gb_run_range of a tracked range: the shim does not hold what is there, nor what was agreed
                          * on: the next COLLECT of these blocks says them */
};

enum gb_run_status {
  GB_RUN_OK = 0,
  GB_RUN_INVALID = 1,     /* a batch that makes no sense, or another version: a bug of the shim */
  GB_RUN_NOT_FOUND = 2,   /* a range that is not allocated, or on a GPU that is no peer of the executor's first one,
                           * which runs everything; a function or an image that is not known */
  GB_RUN_UNSUPPORTED = 3, /* this GPU cannot run the image (cuda_error says why), or the executor has no GPU */
  GB_RUN_FAILED = 4,      /* cuda_error */
  GB_RUN_LIMIT = 5,       /* a limit of this file */
  GB_RUN_TIME = 6,        /* the kernel time limit of the feeder; the executor ends */
};

struct gb_run_batch {
  uint32_t version;
  uint32_t command_count;
  uint64_t sequence;
};

struct gb_run_command {
  uint32_t bytes; /* with this header and the zeroes; a multiple of 8 */
  uint16_t type;  /* enum gb_run_type */
  uint16_t reserved;
};

struct gb_run_result {
  uint32_t status;      /* enum gb_run_status: of the first failure */
  int32_t cuda_error;   /* CUresult, or 0 */
  uint64_t sequence;    /* of the batch that failed first; else of the last one executed */
  uint32_t function;    /* that failed (also a FUNCTION), or 0 */
  uint32_t bytes;       /* that follow */
  uint64_t launches;    /* made so far */
  uint64_t busy_ns;     /* from the first command to the last since the executor had been idle, summed */
};

struct gb_run_range {
  uint64_t offset;
  uint64_t length;
};

struct gb_run_image {
  uint8_t digest[GB_RUN_DIGEST_BYTES]; /* SHA-256 of the whole */
  uint64_t bytes;
  uint32_t block_count; /* of GB_RUN_IMAGE_BLOCK_BYTES, the last filled up with zeroes for its digest */
  uint32_t reserved;
};

/* Bit i % 8 of byte i / 8: block i has to be sent. All 0: the image is there. */
struct gb_run_bitmap {
  uint32_t bit_count;
  uint32_t reserved;
};

struct gb_run_image_part {
  uint8_t digest[GB_RUN_DIGEST_BYTES];
  uint64_t offset; /* in the image; within one block */
  uint64_t length;
};

/* A kernel of an image, by its name. The image may be loaded by any call (library or module); attributes are set
 * once: when they change, the kernel gets another number. */
struct gb_run_function {
  uint8_t digest[GB_RUN_DIGEST_BYTES];
  uint32_t function; /* the shim's number, 1 to GB_RUN_FUNCTIONS_MAX; a number is never used twice */
  uint32_t attribute_count;
  uint32_t name_bytes;
  uint32_t reserved;
};

struct gb_run_attribute {
  int32_t attribute; /* CUfunction_attribute */
  int32_t value;
};

struct gb_run_symbol {
  uint8_t digest[GB_RUN_DIGEST_BYTES];
  uint64_t offset; /* in the variable */
  uint64_t length;
  uint32_t name_bytes;
  uint32_t reserved;
};

struct gb_run_launch {
  uint32_t function;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  uint32_t param_bytes;
  uint32_t attribute_count;
};

struct gb_run_launch_attribute {
  uint32_t id; /* CUlaunchAttributeID */
  uint32_t reserved;
  uint8_t value[64]; /* CUlaunchAttributeValue */
};

struct gb_run_copy {
  uint64_t to_offset;
  uint64_t from_offset;
  uint64_t length;
};

/* cuMemsetD2D*: `height` rows of `width` elements. */
struct gb_run_fill {
  uint64_t offset;
  uint64_t pitch;
  uint64_t width;
  uint64_t height;
  uint32_t element_bytes; /* 1, 2 or 4 */
  uint32_t value;
};

struct gb_run_collect {
  uint32_t range_count;
  uint32_t inline_bytes_max; /* more than that is only named, and read over the lane */
};

/* Answer of COLLECT: `run_count` gb_run_run, then, if `is_inline`, the bytes of all runs in that order. */
struct gb_run_blocks {
  uint32_t run_count;
  uint32_t is_inline;
  uint64_t bytes; /* of all runs */
};

struct gb_run_run {
  uint64_t offset;
  uint32_t blocks; /* of GB_RUN_BLOCK_BYTES */
  uint32_t hidden; /* 1: a word among them lies in the arena */
};

_Static_assert(sizeof(struct gb_run_batch) == 16, "gb_run_batch");
_Static_assert(sizeof(struct gb_run_command) == 8, "gb_run_command");
_Static_assert(sizeof(struct gb_run_result) == 40, "gb_run_result");
_Static_assert(sizeof(struct gb_run_range) == 16, "gb_run_range");
_Static_assert(sizeof(struct gb_run_image) == 48, "gb_run_image");
_Static_assert(sizeof(struct gb_run_bitmap) == 8, "gb_run_bitmap");
_Static_assert(sizeof(struct gb_run_image_part) == 48, "gb_run_image_part");
_Static_assert(sizeof(struct gb_run_function) == 48, "gb_run_function");
_Static_assert(sizeof(struct gb_run_attribute) == 8, "gb_run_attribute");
_Static_assert(sizeof(struct gb_run_symbol) == 56, "gb_run_symbol");
_Static_assert(sizeof(struct gb_run_launch) == 40, "gb_run_launch");
_Static_assert(sizeof(struct gb_run_launch_attribute) == 72, "gb_run_launch_attribute");
_Static_assert(sizeof(struct gb_run_copy) == 24, "gb_run_copy");
_Static_assert(sizeof(struct gb_run_fill) == 40, "gb_run_fill");
_Static_assert(sizeof(struct gb_run_collect) == 8, "gb_run_collect");
_Static_assert(sizeof(struct gb_run_blocks) == 16, "gb_run_blocks");
_Static_assert(sizeof(struct gb_run_run) == 16, "gb_run_run");

#endif
