/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c: see blocks.h. Engines, tracked ranges, and what is agreed about them. */
#include <stdlib.h>
#include <string.h>

#include "blocks_part.h"

#define DIGEST_BYTES 16u
#define ARENA_END_MAX (1ull << 63)

_Static_assert(GB_BLOCKS_AREA_BYTES == 3968u << 10, "blocks.h names 3.875 MiB, and 15.5 GiB: 4096 times as much");

/* ---- engines ---- */

static CUresult engine_fill(struct gb_blocks *engine) {
  const struct gb_blocks_driver *driver = &engine->options.driver;
  CUresult result = driver->cuModuleLoadData(&engine->module, gb_blocks_ptx);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuModuleGetFunction(&engine->hash, engine->module, GB_BLOCKS_HASH_NAME);
  if (result != CUDA_SUCCESS) return result;
  result = driver->cuModuleGetFunction(&engine->copy, engine->module, GB_BLOCKS_COPY_NAME);
  if (result != CUDA_SUCCESS) return result;
  void *pinned = NULL;
  result = driver->cuMemHostAlloc(&pinned, GB_BLOCKS_WORK_BYTES, 0);
  if (result != CUDA_SUCCESS) return result;
  engine->pinned = pinned;
  return engine->options.allocate(engine->options.context, &engine->work, GB_BLOCKS_WORK_BYTES);
}

CUresult gb_blocks_open(const struct gb_blocks_options *options, struct gb_blocks **engine) {
  *engine = NULL;
  /* No word of the arena has all ones in its upper half: the kernel takes those for a word that is not there. */
  if (options->arena_base > ARENA_END_MAX || options->arena_bytes > ARENA_END_MAX - options->arena_base)
    return CUDA_ERROR_INVALID_VALUE;
  struct gb_blocks *made = calloc(1, sizeof *made);
  if (made == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  made->options = *options;
  made->pass_blocks = GB_BLOCKS_AREA_BYTES;
  memcpy(made->seed, options->key, sizeof made->seed);
  const CUresult result = engine_fill(made);
  if (result == CUDA_SUCCESS) *engine = made;
  else gb_blocks_close(made);
  return result;
}

static void range_free(struct gb_blocks *engine, struct gb_blocks_range *range) {
  engine->options.release(engine->options.context, range->digests, (size_t)range->blocks * DIGEST_BYTES);
  free(range);
}

void gb_blocks_close(struct gb_blocks *engine) {
  if (engine == NULL) return;
  for (uint32_t i = 0; i < engine->range_count; i++) range_free(engine, engine->ranges[i]);
  free(engine->ranges);
  if (engine->work != 0) engine->options.release(engine->options.context, engine->work, GB_BLOCKS_WORK_BYTES);
  if (engine->pinned != NULL) engine->options.driver.cuMemFreeHost(engine->pinned);
  if (engine->module != NULL) engine->options.driver.cuModuleUnload(engine->module);
  free(engine);
}

/* ---- ranges ---- */

bool gb_blocks_tracks(const struct gb_blocks *engine) {
  return engine->range_count > 0;
}

static uint64_t range_end(const struct gb_blocks_range *range) {
  return range->address + (uint64_t)range->blocks * GB_BLOCK_BYTES;
}

/* The number of ranges that begin at or before the address. */
static uint32_t ranges_to(const struct gb_blocks *engine, uint64_t address) {
  uint32_t from = 0, to = engine->range_count;
  while (from < to) {
    const uint32_t middle = from + (to - from) / 2;
    if (engine->ranges[middle]->address <= address) from = middle + 1;
    else to = middle;
  }
  return from;
}

/* The range that holds the run, or NULL. */
static struct gb_blocks_range *range_of(const struct gb_blocks *engine, const struct gb_blocks_run *run) {
  const uint32_t count = ranges_to(engine, run->address);
  if (count == 0 || run->address % GB_BLOCK_BYTES != 0) return NULL;
  struct gb_blocks_range *range = engine->ranges[count - 1];
  if (run->address >= range_end(range)) return NULL;
  return run->blocks <= (range_end(range) - run->address) / GB_BLOCK_BYTES ? range : NULL;
}

static bool ranges_grow(struct gb_blocks *engine) {
  if (engine->range_count < engine->range_capacity) return true;
  const uint32_t capacity = engine->range_capacity == 0 ? 64 : 2 * engine->range_capacity;
  struct gb_blocks_range **ranges = realloc(engine->ranges, capacity * sizeof *ranges);
  if (ranges == NULL) return false;
  engine->ranges = ranges;
  engine->range_capacity = capacity;
  return true;
}

/* Whether a range may be made, and at *at of the list. */
static CUresult place_of(const struct gb_blocks *engine, uint64_t address, uint64_t bytes, uint32_t *at) {
  if (address % GB_BLOCK_BYTES != 0 || bytes % GB_BLOCK_BYTES != 0 || bytes == 0 ||
      bytes > GB_BLOCKS_RANGE_BYTES_MAX || address > UINT64_MAX - bytes)
    return CUDA_ERROR_INVALID_VALUE;
  if (engine->range_count == GB_BLOCKS_RANGES_MAX || bytes > GB_BLOCKS_BYTES_MAX - engine->bytes)
    return CUDA_ERROR_INVALID_VALUE;
  *at = ranges_to(engine, address);
  if (*at > 0 && range_end(engine->ranges[*at - 1]) > address) return CUDA_ERROR_ALREADY_MAPPED;
  if (*at < engine->range_count && engine->ranges[*at]->address < address + bytes) return CUDA_ERROR_ALREADY_MAPPED;
  return CUDA_SUCCESS;
}

static CUresult digests_make(struct gb_blocks *engine, struct gb_blocks_range *range) {
  const struct gb_blocks_driver *driver = &engine->options.driver;
  const size_t bytes = (size_t)range->blocks * DIGEST_BYTES;
  CUresult result = engine->options.allocate(engine->options.context, &range->digests, bytes);
  if (result != CUDA_SUCCESS) return result;
  /* The digest of zeroes is 0. */
  result = driver->cuMemsetD8Async(range->digests, 0, bytes, engine->options.stream);
  const CUresult waited = driver->cuStreamSynchronize(engine->options.stream);
  if (result == CUDA_SUCCESS) result = waited;
  if (result != CUDA_SUCCESS) engine->options.release(engine->options.context, range->digests, bytes);
  return result;
}

CUresult gb_blocks_track(struct gb_blocks *engine, CUdeviceptr address, uint64_t bytes,
                         struct gb_blocks_range **range) {
  *range = NULL;
  uint32_t at = 0;
  CUresult result = place_of(engine, address, bytes, &at);
  if (result != CUDA_SUCCESS) return result;
  struct gb_blocks_range *made = calloc(1, sizeof *made);
  if (made == NULL || !ranges_grow(engine)) {
    free(made);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  made->address = address;
  made->blocks = (uint32_t)(bytes / GB_BLOCK_BYTES);
  result = digests_make(engine, made);
  if (result != CUDA_SUCCESS) {
    free(made);
    return result;
  }
  memmove(engine->ranges + at + 1, engine->ranges + at, (engine->range_count - at) * sizeof *engine->ranges);
  engine->ranges[at] = made;
  engine->range_count++;
  engine->bytes += bytes;
  *range = made;
  return CUDA_SUCCESS;
}

void gb_blocks_untrack(struct gb_blocks *engine, struct gb_blocks_range *range) {
  if (range == NULL) return;
  const uint32_t at = ranges_to(engine, range->address) - 1;
  engine->range_count--;
  engine->bytes -= (uint64_t)range->blocks * GB_BLOCK_BYTES;
  memmove(engine->ranges + at, engine->ranges + at + 1, (engine->range_count - at) * sizeof *engine->ranges);
  range_free(engine, range);
}

/* ---- hashing ---- */

static CUresult hash_submit(struct gb_blocks *engine, struct gb_blocks_pass *pass, bool with_flags) {
  CUresult result = gb_blocks_table_send(engine, pass);
  if (result != CUDA_SUCCESS) return result;
  CUdeviceptr flags = engine->work + GB_BLOCKS_TABLE_BYTES;
  void *params[] = {&engine->work,
                    &pass->pieces,
                    &pass->blocks,
                    &engine->seed[0],
                    &engine->seed[1],
                    &engine->options.arena_base,
                    &engine->options.arena_bytes,
                    &flags};
  result = gb_blocks_launch(engine, engine->hash, pass, params);
  if (result != CUDA_SUCCESS || !with_flags) return result;
  return engine->options.driver.cuMemcpyDtoHAsync_v2(engine->pinned + GB_BLOCKS_TABLE_BYTES, flags, pass->blocks,
                                                     engine->options.stream);
}

/* Hashes the pass's pieces. with_flags: what the kernel says is in the pinned area then. */
static CUresult hash_pass(struct gb_blocks *engine, struct gb_blocks_pass *pass, bool with_flags) {
  if (pass->blocks == 0) return CUDA_SUCCESS;
  return gb_blocks_finish(engine, hash_submit(engine, pass, with_flags));
}

/* ---- what has changed ---- */

struct run_list {
  struct gb_blocks_run *runs;
  uint32_t count;
  uint64_t capacity;
};

/* joins: the block before belongs to the same range. */
static bool run_add(struct run_list *list, uint64_t address, bool hidden, bool joins) {
  struct gb_blocks_run *last = list->count == 0 ? NULL : &list->runs[list->count - 1];
  if (joins && last != NULL && last->address + (uint64_t)last->blocks * GB_BLOCK_BYTES == address) {
    last->blocks++;
    last->hidden |= hidden;
    return true;
  }
  if (list->count == list->capacity) {
    const uint64_t capacity = list->capacity == 0 ? 64 : 2 * list->capacity;
    struct gb_blocks_run *runs = realloc(list->runs, capacity * sizeof *runs);
    if (runs == NULL) return false;
    list->runs = runs;
    list->capacity = capacity;
  }
  list->runs[list->count++] = (struct gb_blocks_run){.address = address, .blocks = 1, .hidden = hidden};
  return true;
}

/* The changed blocks of one piece, by its bytes of flags. */
static bool runs_of_piece(struct run_list *list, const struct gb_blocks_piece *piece, const unsigned char *flags) {
  for (uint32_t i = 0; i < piece->blocks;) {
    uint64_t eight = 1;
    if (piece->blocks - i >= sizeof eight) memcpy(&eight, flags + i, sizeof eight);
    if (eight == 0) {
      i += (uint32_t)sizeof eight;
      continue;
    }
    const bool joins = i > 0 || (piece->flags & GB_BLOCKS_PIECE_BEFORE);
    if ((flags[i] & GB_BLOCKS_FLAG_CHANGED) &&
        !run_add(list, piece->address + (uint64_t)i * GB_BLOCK_BYTES, flags[i] & GB_BLOCKS_FLAG_HIDDEN, joins))
      return false;
    i++;
  }
  return true;
}

/* The rest of a part from block `done` of it on, as a piece. */
static struct gb_blocks_piece piece_of(const struct gb_blocks_range *range, const struct gb_blocks_run *part,
                                       uint32_t done, uint32_t room) {
  const uint64_t first = (part->address - range->address) / GB_BLOCK_BYTES + done;
  struct gb_blocks_piece piece = {.address = range->address + first * GB_BLOCK_BYTES,
                                  .digests = range->digests + first * DIGEST_BYTES,
                                  .blocks = part->blocks - done};
  if (first > 0) piece.flags |= GB_BLOCKS_PIECE_BEFORE;
  if (piece.blocks > room || first + piece.blocks < range->blocks) piece.flags |= GB_BLOCKS_PIECE_AFTER;
  if (range->doubtful) piece.flags |= GB_BLOCKS_PIECE_CHANGED;
  return piece;
}

static CUresult collect_pass(struct gb_blocks *engine, struct gb_blocks_pass *pass, struct run_list *list) {
  const CUresult result = hash_pass(engine, pass, true);
  if (result != CUDA_SUCCESS) return result;
  const unsigned char *flags = engine->pinned + GB_BLOCKS_TABLE_BYTES;
  for (uint32_t i = 0; i < pass->pieces; i++) {
    const struct gb_blocks_piece *piece = &gb_blocks_table(engine)[i];
    if (!runs_of_piece(list, piece, flags + piece->first)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *pass = (struct gb_blocks_pass){0};
  return CUDA_SUCCESS;
}

static CUresult collect_all(struct gb_blocks *engine, const struct gb_blocks_run *parts, uint32_t count,
                            struct run_list *list) {
  struct gb_blocks_pass pass = {0};
  for (uint32_t i = 0, done = 0; i < count;) {
    const struct gb_blocks_piece piece =
        piece_of(range_of(engine, &parts[i]), &parts[i], done, engine->pass_blocks - pass.blocks);
    const uint32_t taken = gb_blocks_pass_add(engine, &pass, engine->pass_blocks, piece);
    done += taken;
    if (taken == 0) {
      const CUresult result = collect_pass(engine, &pass, list);
      if (result != CUDA_SUCCESS) return result;
    } else if (done == parts[i].blocks) {
      i++;
      done = 0;
    }
  }
  return collect_pass(engine, &pass, list);
}

/* Each in one range, and none of a range twice, or before another. */
static bool parts_fit(struct gb_blocks *engine, const struct gb_blocks_run *parts, uint32_t count) {
  engine->collects++;
  for (uint32_t i = 0; i < count; i++) {
    struct gb_blocks_range *range = range_of(engine, &parts[i]);
    if (range == NULL || parts[i].blocks == 0) return false;
    if (range->seen == engine->collects && parts[i].address < range->seen_to) return false;
    range->seen = engine->collects;
    range->seen_to = parts[i].address + (uint64_t)parts[i].blocks * GB_BLOCK_BYTES;
  }
  return true;
}

CUresult gb_blocks_collect(struct gb_blocks *engine, const struct gb_blocks_run *parts, uint32_t count,
                           struct gb_blocks_run **runs, uint32_t *run_count) {
  *runs = NULL;
  *run_count = 0;
  if (!parts_fit(engine, parts, count)) return CUDA_ERROR_INVALID_VALUE;
  struct run_list list = {0};
  const CUresult result = collect_all(engine, parts, count, &list);
  for (uint32_t i = 0; i < count; i++) {
    struct gb_blocks_range *range = range_of(engine, &parts[i]);
    if (result != CUDA_SUCCESS) range->doubtful = true;
    else if (parts[i].blocks == range->blocks) range->doubtful = false;
  }
  if (result != CUDA_SUCCESS) {
    free(list.runs);
    return result;
  }
  *runs = list.runs;
  *run_count = list.count;
  return CUDA_SUCCESS;
}

/* ---- what is agreed, and what is not ---- */

/* Makes the digests of these runs what the memory holds, or, with GB_BLOCKS_PIECE_DISAGREE in flags, of nothing. */
static CUresult update(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count, uint32_t flags) {
  struct gb_blocks_pass pass = {0};
  for (uint32_t i = 0, done = 0; i < run_count;) {
    const struct gb_blocks_range *range = range_of(engine, &runs[i]);
    if (range == NULL || done == runs[i].blocks) {
      i++;
      done = 0;
      continue;
    }
    const uint64_t block = (runs[i].address - range->address) / GB_BLOCK_BYTES + done;
    const struct gb_blocks_piece piece = {.address = range->address + block * GB_BLOCK_BYTES,
                                          .digests = range->digests + block * DIGEST_BYTES,
                                          .blocks = runs[i].blocks - done,
                                          .flags = flags};
    const uint32_t taken = gb_blocks_pass_add(engine, &pass, engine->pass_blocks, piece);
    done += taken;
    if (taken != 0) continue;
    const CUresult result = hash_pass(engine, &pass, false);
    if (result != CUDA_SUCCESS) return result;
    pass = (struct gb_blocks_pass){0};
  }
  return hash_pass(engine, &pass, false);
}

/* As update; when it fails, all of these ranges has changed. */
static CUresult update_or_doubt(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                                uint32_t flags) {
  const CUresult result = update(engine, runs, run_count, flags);
  for (uint32_t i = 0; result != CUDA_SUCCESS && i < run_count; i++) {
    struct gb_blocks_range *range = range_of(engine, &runs[i]);
    if (range != NULL) range->doubtful = true;
  }
  return result;
}

CUresult gb_blocks_arrived(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count) {
  for (uint32_t i = 0; i < run_count; i++)
    if (range_of(engine, &runs[i]) == NULL) return CUDA_ERROR_INVALID_VALUE;
  return update_or_doubt(engine, runs, run_count, 0);
}

void gb_blocks_disagree(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count) {
  update_or_doubt(engine, runs, run_count, GB_BLOCKS_PIECE_DISAGREE);
}
