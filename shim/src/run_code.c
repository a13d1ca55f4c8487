/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_code.c: code on its way to an executor: images in blocks, those it has already not; functions, which get a number
 * there; launches of them.
 */
#include "run_part.h"

#include <stdlib.h>
#include <string.h>

#include "lock.h"

/* What is known of a function there; the number above. */
enum { NOT_SENT = 0, READY = 1, REFUSED = 2, STATE_BITS = 2 };
#define PART_BYTES (32u << 10)

/* ---- launches ---- */

/* What a launch may ask for. `sent`: what it is about matters there. An overlap with the kernel before it, priorities
 * and domains are permissions that one stream by itself does not need. */
static bool is_taken(const CUlaunchAttribute *attribute, bool *sent) {
  *sent = false;
  switch (attribute->id) {
  case CU_LAUNCH_ATTRIBUTE_IGNORE:
  case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
  case CU_LAUNCH_ATTRIBUTE_PRIORITY:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN: return true;
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE: return attribute->value.cooperative == 0;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
  case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *sent = true; return true;
  default: return false;
  }
}

/* How many of its attributes travel; UINT32_MAX: one is not taken. */
static uint32_t attributes_sent(const struct gb_run_request *launch) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < launch->attribute_count; i++) {
    bool sent = false;
    if (!is_taken(&launch->attributes[i], &sent)) return UINT32_MAX;
    count += sent;
  }
  return count <= GB_RUN_ATTRIBUTES_MAX ? count : UINT32_MAX;
}

/* The buffer of the `extra` form, at least as long as the parameters. returns: NULL when it is not that. */
static const void *buffer_of(void **extra, uint32_t param_bytes) {
  const void *buffer = NULL;
  size_t bytes = 0;
  for (int i = 0; i < 3 && extra[0] != CU_LAUNCH_PARAM_END; i++, extra += 2) {
    if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER)
      buffer = extra[1];
    else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE && extra[1] != NULL)
      memcpy(&bytes, extra[1], sizeof bytes);
    else
      return NULL;
  }
  return bytes >= param_bytes ? buffer : NULL;
}

static bool is_extra(const struct gb_run_request *launch) {
  return launch->extra != NULL && launch->extra[0] != CU_LAUNCH_PARAM_END;
}

/* Every parameter is there. */
static bool has_params(const struct gb_run_request *launch, const struct gb_code *code) {
  if (code->param_count == 0) return true;
  if (is_extra(launch)) return buffer_of(launch->extra, code->param_bytes) != NULL;
  for (uint32_t i = 0; i < code->param_count; i++) {
    if (launch->params == NULL || launch->params[i] == NULL) return false;
  }
  return true;
}

static void pack_params(uint8_t *to, const struct gb_run_request *launch, const struct gb_code *code) {
  if (code->param_count == 0) return;
  if (is_extra(launch)) {
    memcpy(to, buffer_of(launch->extra, code->param_bytes), code->param_bytes);
    return;
  }
  memset(to, 0, code->param_bytes);
  for (uint32_t i = 0; i < code->param_count; i++)
    memcpy(to + code->params[i].offset, launch->params[i], code->params[i].bytes);
}

bool gb_run_params(const struct gb_run_request *launch, const struct gb_code *code, uint8_t *to) {
  bool known = has_params(launch, code);
  if (known) pack_params(to, launch, code);
  return known;
}

static uint8_t *pack_attributes(uint8_t *to, const struct gb_run_request *launch) {
  for (uint32_t i = 0; i < launch->attribute_count; i++) {
    struct gb_run_launch_attribute packed = {.id = (uint32_t)launch->attributes[i].id};
    bool sent = false;
    if (!is_taken(&launch->attributes[i], &sent) || !sent) continue;
    memcpy(packed.value, &launch->attributes[i].value, sizeof packed.value);
    memcpy(to, &packed, sizeof packed);
    to += sizeof packed;
  }
  return to;
}

uint32_t gb_run_function_there(const struct gb_run_queue *queue, const struct gb_code *code) {
  uint64_t known = queue->functions[code->number];
  return (known & ((1u << STATE_BITS) - 1)) == READY ? (uint32_t)known >> STATE_BITS : 0;
}

CUresult gb_run_launch(uint32_t lane, const struct gb_run_request *launch) {
  const struct gb_code *code = gb_code_of(launch->function);
  uint32_t count = attributes_sent(launch);
  struct gb_run_queue *queue = code != NULL && count != UINT32_MAX ? gb_run_queue_lock(lane) : NULL;
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  struct gb_run_launch head = {.function = gb_run_function_there(queue, code),
                               .shared_bytes = launch->shared_bytes,
                               .param_bytes = code->param_bytes,
                               .attribute_count = count};
  memcpy(head.grid, launch->grid, sizeof head.grid);
  memcpy(head.block, launch->block, sizeof head.block);
  uint64_t bytes = sizeof head + count * sizeof(struct gb_run_launch_attribute) + code->param_bytes;
  uint8_t *to = head.function != 0 ? gb_run_batch_add(queue, GB_RUN_LAUNCH, bytes) : NULL;
  if (to != NULL) {
    memcpy(to, &head, sizeof head);
    pack_params(pack_attributes(to + sizeof head, launch), launch, code);
    gb_run_batch_launched(queue);
  }
  CUresult result = head.function != 0 ? queue->error : CUDA_ERROR_NOT_SUPPORTED;
  gb_run_queue_unlock(queue);
  return result;
}

/* ---- images ---- */

static struct gb_run_known *known_of(struct gb_run_queue *queue, const struct gb_image *image) {
  struct gb_run_known *known = queue->images;
  while (known != NULL && known->image != image) known = known->next;
  return known;
}

void gb_run_code_free(struct gb_run_queue *queue) {
  while (queue->images != NULL) {
    struct gb_run_known *known = queue->images;
    queue->images = known->next;
    free(known);
  }
}

/* SHA-256 of each block, the last one filled up. owns: free. returns: NULL without memory. */
static uint8_t *digests_of(const struct gb_image *image, uint32_t count) {
  uint8_t *digests = malloc((size_t)count * GB_RUN_DIGEST_BYTES);
  uint8_t *last = calloc(1, GB_RUN_IMAGE_BLOCK_BYTES);
  uint64_t whole = image->bytes / GB_RUN_IMAGE_BLOCK_BYTES;
  uint64_t rest = image->bytes - whole * GB_RUN_IMAGE_BLOCK_BYTES;
  int status = GB_LANE_NO_MEMORY;
  if (digests != NULL && last != NULL) {
    memcpy(last, image->content + whole * GB_RUN_IMAGE_BLOCK_BYTES, rest);
    status = gb_lane_digests(image->content, GB_RUN_IMAGE_BLOCK_BYTES, (uint32_t)whole, digests, 0);
    if (status == GB_LANE_OK && rest > 0)
      status = gb_lane_digest(last, GB_RUN_IMAGE_BLOCK_BYTES, digests + whole * GB_RUN_DIGEST_BYTES);
  }
  free(last);
  if (status == GB_LANE_OK) return digests;
  free(digests);
  return NULL;
}

/* Asks which blocks are missing. pre: lock. returns: the queue's error; the answer's own failure is in it. */
static CUresult offer(struct gb_run_queue *queue, const struct gb_image *image, const uint8_t *digests, uint32_t count,
                      struct gb_run_answer *answer) {
  struct gb_run_image head = {.bytes = image->bytes, .block_count = count};
  uint64_t bytes = (uint64_t)count * GB_RUN_DIGEST_BYTES;
  memcpy(head.digest, image->digest, sizeof head.digest);
  uint8_t *to = gb_run_batch_add(queue, GB_RUN_IMAGE, sizeof head + bytes);
  if (to == NULL) return queue->error != CUDA_SUCCESS ? queue->error : CUDA_ERROR_NOT_SUPPORTED;
  memcpy(to, &head, sizeof head);
  memcpy(to + sizeof head, digests, bytes);
  return gb_run_batch_ask(queue, answer);
}

/* pre: lock. */
static CUresult send_block(struct gb_run_queue *queue, const struct gb_image *image, uint32_t block) {
  uint64_t at = (uint64_t)block * GB_RUN_IMAGE_BLOCK_BYTES;
  uint64_t end = at + GB_RUN_IMAGE_BLOCK_BYTES;
  if (end > image->bytes) end = image->bytes;
  for (; at < end; at += PART_BYTES) {
    struct gb_run_image_part head = {.offset = at, .length = end - at < PART_BYTES ? end - at : PART_BYTES};
    memcpy(head.digest, image->digest, sizeof head.digest);
    uint8_t *to = gb_run_batch_add(queue, GB_RUN_IMAGE_PART, sizeof head + head.length);
    if (to == NULL) return queue->error != CUDA_SUCCESS ? queue->error : CUDA_ERROR_NOT_SUPPORTED;
    memcpy(to, &head, sizeof head);
    memcpy(to + sizeof head, image->content + at, head.length);
  }
  return CUDA_SUCCESS;
}

/* What the executor says of an image or a function that it does not take. */
static CUresult refused(const struct gb_run_queue *queue, const struct gb_run_result *result, const char *what) {
  gb_log(GB_LOG_WARN, "feeder %s does not take %s: status %u, error %d: it runs here", queue->feeder, what,
         result->status, result->cuda_error);
  return CUDA_ERROR_NOT_SUPPORTED;
}

/* pre: lock. */
static CUresult send_missing(struct gb_run_queue *queue, const struct gb_image *image, uint32_t count,
                             const struct gb_run_answer *answer) {
  struct gb_run_result result;
  struct gb_run_bitmap bitmap = {0};
  const uint8_t *bits = answer->memory + sizeof result + sizeof bitmap;
  memcpy(&result, answer->memory, sizeof result);
  if (result.status != GB_RUN_OK) return refused(queue, &result, "an image");
  if (result.bytes >= sizeof bitmap) memcpy(&bitmap, answer->memory + sizeof result, sizeof bitmap);
  if (bitmap.bit_count != count || result.bytes < sizeof bitmap + (count + 7) / 8) {
    gb_run_queue_die(queue, "its answer makes no sense");
    return queue->error;
  }
  CUresult sent = CUDA_SUCCESS;
  for (uint32_t i = 0; i < count && sent == CUDA_SUCCESS; i++) {
    if ((bits[i / 8] >> i % 8 & 1) != 0) sent = send_block(queue, image, i);
  }
  return sent;
}

/* pre: code_lock, not lock. */
static CUresult send_image(struct gb_run_queue *queue, const struct gb_image *image) {
  uint32_t count = (uint32_t)((image->bytes + GB_RUN_IMAGE_BLOCK_BYTES - 1) / GB_RUN_IMAGE_BLOCK_BYTES);
  uint8_t *digests = digests_of(image, count);
  uint64_t room = sizeof(struct gb_run_result) + sizeof(struct gb_run_bitmap) + (count + 7) / 8 + 8;
  struct gb_run_answer answer = {.memory = malloc(room), .room = room, .own = true};
  CUresult sent = CUDA_ERROR_NOT_SUPPORTED;
  if (digests != NULL && answer.memory != NULL) {
    pthread_mutex_lock(&queue->lock);
    sent = offer(queue, image, digests, count, &answer);
    if (sent == CUDA_SUCCESS) sent = send_missing(queue, image, count, &answer);
    pthread_mutex_unlock(&queue->lock);
  }
  free(answer.memory);
  free(digests);
  return sent;
}

/* pre: code_lock, not lock. */
static CUresult image_there(struct gb_run_queue *queue, const struct gb_image *image) {
  struct gb_run_known *known = known_of(queue, image);
  if (known != NULL) return known->refused ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
  CUresult sent = send_image(queue, image);
  if (sent != CUDA_SUCCESS && sent != CUDA_ERROR_NOT_SUPPORTED) return sent;
  known = calloc(1, sizeof *known);
  if (known == NULL) return CUDA_ERROR_NOT_SUPPORTED;
  *known = (struct gb_run_known){.image = image, .refused = sent != CUDA_SUCCESS, .next = queue->images};
  queue->images = known;
  return sent;
}

/* The queue, its code_lock held. returns: NULL: there is none. */
static struct gb_run_queue *lock_code(uint32_t lane) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return NULL;
  queue->users++; /* it stays while we wait for the other lock */
  gb_run_queue_unlock(queue);
  pthread_mutex_lock(&queue->code_lock);
  return queue;
}

static void unlock_code(struct gb_run_queue *queue) {
  pthread_mutex_unlock(&queue->code_lock);
  pthread_mutex_lock(&queue->lock);
  gb_run_queue_leave(queue);
  pthread_mutex_unlock(&queue->lock);
}

CUresult gb_run_image(uint32_t lane, const struct gb_image *image) {
  struct gb_run_queue *queue = lock_code(lane);
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  CUresult result = image_there(queue, image);
  unlock_code(queue);
  return result;
}

/* ---- functions ---- */

/* FUNCTION, and SYNC, whose answer says how that went. pre: lock. */
static CUresult send_function(struct gb_run_queue *queue, const struct gb_code *code, uint32_t number,
                              uint32_t *version, struct gb_run_result *result) {
  struct gb_code_attribute attributes[GB_CODE_ATTRIBUTES_MAX];
  struct gb_run_answer answer = {.memory = (uint8_t *)result, .room = sizeof *result, .own = true};
  uint32_t count = gb_code_attributes(code, attributes, version);
  size_t name_bytes = strlen(code->name);
  struct gb_run_function head = {
      .function = number, .attribute_count = count, .name_bytes = (uint32_t)name_bytes};
  memcpy(head.digest, code->image->digest, sizeof head.digest);
  uint64_t bytes = sizeof head + count * sizeof *attributes + name_bytes;
  /* Both in one batch: an own failure is forgotten with it. */
  if (!gb_run_batch_reserve(queue, bytes + sizeof(struct gb_run_command) + 8)) return queue->error;
  uint8_t *to = gb_run_batch_add(queue, GB_RUN_FUNCTION, bytes);
  if (to == NULL) return queue->error;
  memcpy(to, &head, sizeof head);
  memcpy(to + sizeof head, attributes, count * sizeof *attributes);
  memcpy(to + sizeof head + count * sizeof *attributes, code->name, name_bytes);
  if (gb_run_batch_add(queue, GB_RUN_SYNC, 0) == NULL) return queue->error;
  return gb_run_batch_ask(queue, &answer);
}

static void note_function(struct gb_run_queue *queue, const struct gb_code *code, uint32_t version, uint32_t number,
                          uint32_t state) {
  queue->functions[code->number] = (uint64_t)version << 32 | number << STATE_BITS | state;
}

/* pre: code_lock, the image is there. */
static CUresult function_there(struct gb_run_queue *queue, const struct gb_code *code) {
  struct gb_run_result result = {0};
  uint32_t version = 0;
  pthread_mutex_lock(&queue->lock);
  CUresult sent = queue->function_count < GB_RUN_FUNCTIONS_MAX ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
  uint32_t number = queue->function_count + 1;
  if (sent == CUDA_SUCCESS) {
    queue->function_count = number;
    queue->names[number] = code;
    sent = send_function(queue, code, number, &version, &result);
  }
  if (sent == CUDA_SUCCESS && result.status != GB_RUN_OK) sent = refused(queue, &result, code->name);
  if (sent == CUDA_SUCCESS) note_function(queue, code, version, number, READY);
  if (sent == CUDA_ERROR_NOT_SUPPORTED) note_function(queue, code, version, 0, REFUSED);
  pthread_mutex_unlock(&queue->lock);
  return sent;
}

/* What is known of it without asking. pre: lock. */
static uint32_t state_of(const struct gb_run_queue *queue, const struct gb_code *code) {
  uint64_t known = queue->functions[code->number];
  uint32_t version = atomic_load_explicit(&((struct gb_code *)code)->attributes_version, memory_order_acquire);
  return known >> 32 == version ? (uint32_t)known & ((1u << STATE_BITS) - 1) : NOT_SENT;
}

CUresult gb_run_prepare(uint32_t lane, const struct gb_run_request *launch) {
  const struct gb_code *code = gb_code_of(launch->function);
  if (code == NULL || attributes_sent(launch) == UINT32_MAX || !has_params(launch, code))
    return CUDA_ERROR_NOT_SUPPORTED;
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  uint32_t state = state_of(queue, code);
  CUresult result = queue->error;
  gb_run_queue_unlock(queue);
  if (result != CUDA_SUCCESS) return result;
  if (state != NOT_SENT) return state == READY ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
  queue = lock_code(lane);
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  result = image_there(queue, code->image);
  if (result == CUDA_SUCCESS) {
    pthread_mutex_lock(&queue->lock);
    state = state_of(queue, code); /* another thread may have sent it meanwhile */
    pthread_mutex_unlock(&queue->lock);
    if (state == NOT_SENT) result = function_there(queue, code);
    if (state == REFUSED) result = CUDA_ERROR_NOT_SUPPORTED;
  }
  unlock_code(queue);
  return result;
}
