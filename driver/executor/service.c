/* SPDX-License-Identifier: Apache-2.0 */
/* service.c: see service.h. */
#define _GNU_SOURCE
#include "service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "memory.h"

#define WORKER_COUNT 4
/* Requests waiting for a worker; beyond this the socket is not read, and the daemon waits. */
#define QUEUE_MAX 64
#define INPUT_BYTES (4 * (sizeof(struct gbx_frame) + GBX_PAYLOAD_BYTES_MAX))

struct service {
  int socket;
  bool open; /* INIT succeeded; set before the workers start */
  struct gbx_memory memory;
  pthread_t workers[WORKER_COUNT];

  pthread_mutex_t lock; /* protects everything below, and the entries of `ranges` except their bytes */
  pthread_cond_t wake_worker;
  pthread_cond_t wake_reader; /* room in the queue */
  pthread_cond_t unpinned;
  struct gbx_request queue[QUEUE_MAX];
  unsigned queue_head;
  unsigned queue_count;
  bool ending;
  struct gbx_ranges ranges;
  struct gbx_stat stat;

  pthread_mutex_t send_lock; /* one frame at a time */
};

/* ---- replies ---- */

static void send_reply(struct service *service, const struct gbx_request *request, const void *payload, size_t bytes) {
  uint8_t message[sizeof(struct gbx_frame) + sizeof(struct gbx_stat)];
  struct gbx_frame frame = {(uint32_t)bytes, request->type, GBX_FRAME_REPLY, request->id};
  memcpy(message, &frame, sizeof(frame));
  memcpy(message + sizeof(frame), payload, bytes);
  size_t length = sizeof(frame) + bytes;
  pthread_mutex_lock(&service->send_lock);
  for (size_t sent = 0; sent < length;) {
    ssize_t count = send(service->socket, message + sent, length - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      break; /* The daemon is gone; the reader sees that too. */
    sent += (size_t)count;
  }
  pthread_mutex_unlock(&service->send_lock);
}

static void send_status(struct service *service, const struct gbx_request *request, struct gbx_result result,
                        uint64_t bytes) {
  struct gbx_status status = {result.status, result.detail, bytes};
  send_reply(service, request, &status, sizeof(status));
}

static void refuse(struct service *service, const struct gbx_request *request, enum gbx_status_code code) {
  if (request->type == GBX_MSG_INIT) {
    struct gbx_init_reply reply = {.status = code, .staging_fd = -1};
    send_reply(service, request, &reply, sizeof(reply));
  } else if (request->type == GBX_MSG_STAT) {
    struct gbx_stat stat = {.status = code};
    send_reply(service, request, &stat, sizeof(stat));
  } else {
    send_status(service, request, (struct gbx_result){code, 0}, 0);
  }
}

/* A fault of the context ends this process, and with it this attachment alone. */
static void end_if_fatal(struct gbx_result result) {
  if (!gbx_result_is_fatal(result))
    return;
  fprintf(stderr, "gb-executor: the GPU context has failed with CUresult %d; ending\n", result.detail);
  _exit(3);
}

/* ---- work ---- */

static void account(struct service *service, const struct gbx_entry *entry, int sign) {
  uint64_t length = entry->range.length;
  uint64_t *used = entry->range.device_kind == GBX_DEVICE_RAM ? &service->stat.ram_bytes
                                                              : &service->stat.vram_bytes[entry->range.device_index];
  *used += (uint64_t)sign * length;
  service->stat.ram_locked_bytes += (uint64_t)sign * entry->locked_bytes;
}

static void do_allocate(struct service *service, struct gbx_lane *lane, const struct gbx_request *request) {
  struct gbx_entry *entry = NULL;
  pthread_mutex_lock(&service->lock);
  enum gbx_status_code claimed = gbx_ranges_claim(&service->ranges, &request->payload.range, &entry);
  pthread_mutex_unlock(&service->lock);
  if (claimed != GBX_OK)
    return refuse(service, request, claimed);

  struct gbx_result result = gbx_memory_map(&service->memory, lane, entry);
  uint64_t locked = entry->locked_bytes;
  pthread_mutex_lock(&service->lock);
  if (result.status == GBX_OK) {
    entry->state = GBX_RANGE_READY;
    account(service, entry, 1);
  } else {
    gbx_ranges_remove(&service->ranges, entry);
  }
  pthread_mutex_unlock(&service->lock);
  send_status(service, request, result, result.status == GBX_OK ? locked : 0);
  end_if_fatal(result);
}

static void do_free(struct service *service, struct gbx_lane *lane, const struct gbx_request *request) {
  pthread_mutex_lock(&service->lock);
  struct gbx_entry *entry = gbx_ranges_find(&service->ranges, &request->payload.range);
  if (!entry) {
    pthread_mutex_unlock(&service->lock);
    return refuse(service, request, GBX_NOT_FOUND);
  }
  entry->state = GBX_RANGE_LEAVING;
  while (entry->pins > 0)
    pthread_cond_wait(&service->unpinned, &service->lock);
  account(service, entry, -1);
  pthread_mutex_unlock(&service->lock);

  struct gbx_result result = gbx_memory_unmap(&service->memory, lane, entry);
  pthread_mutex_lock(&service->lock);
  gbx_ranges_remove(&service->ranges, entry);
  pthread_mutex_unlock(&service->lock);
  send_status(service, request, result, 0);
  end_if_fatal(result);
}

/* Copies every piece of the span. pre: the entries are pinned. */
static struct gbx_result copy_span(struct service *service, struct gbx_lane *lane, struct gbx_entry **entries,
                                   size_t count, const struct gbx_transfer *transfer, bool to_staging) {
  uint64_t done = 0;
  for (size_t index = 0; index < count; index++) {
    uint64_t inner = transfer->offset + done - entries[index]->range.offset;
    uint64_t piece = entries[index]->range.length - inner;
    if (piece > transfer->length - done)
      piece = transfer->length - done;
    struct gbx_result result = gbx_memory_copy(&service->memory, lane, entries[index], inner,
                                               transfer->staging_offset + done, piece, to_staging);
    if (result.status != GBX_OK)
      return result;
    done += piece;
  }
  return (struct gbx_result){GBX_OK, 0};
}

static bool staging_holds(const struct gbx_memory *memory, const struct gbx_transfer *transfer) {
  return transfer->length <= memory->staging_bytes &&
         transfer->staging_offset <= memory->staging_bytes - transfer->length;
}

/* Pins what the span touches. owns: on GBX_OK the caller frees *entries after unpinning. */
static enum gbx_status_code pin_span(struct service *service, const struct gbx_transfer *transfer,
                                     struct gbx_entry ***entries, size_t *count) {
  size_t first = 0;
  enum gbx_status_code code = gbx_ranges_cover(&service->ranges, transfer->offset, transfer->length, &first, count);
  if (code != GBX_OK)
    return code;
  *entries = malloc(*count * sizeof(**entries));
  if (!*entries)
    return GBX_CAPACITY;
  memcpy(*entries, &service->ranges.entries[first], *count * sizeof(**entries));
  for (size_t index = 0; index < *count; index++)
    (*entries)[index]->pins++;
  return GBX_OK;
}

static void do_transfer(struct service *service, struct gbx_lane *lane, const struct gbx_request *request) {
  const struct gbx_transfer *transfer = &request->payload.transfer;
  bool to_staging = request->type == GBX_MSG_READ;
  if (!staging_holds(&service->memory, transfer))
    return refuse(service, request, GBX_INVALID);
  struct gbx_entry **entries = NULL;
  size_t count = 0;
  pthread_mutex_lock(&service->lock);
  enum gbx_status_code pinned = pin_span(service, transfer, &entries, &count);
  pthread_mutex_unlock(&service->lock);
  if (pinned != GBX_OK)
    return refuse(service, request, pinned);

  struct gbx_result result = copy_span(service, lane, entries, count, transfer, to_staging);
  pthread_mutex_lock(&service->lock);
  for (size_t index = 0; index < count; index++)
    entries[index]->pins--;
  if (result.status == GBX_OK && to_staging)
    service->stat.read_bytes += transfer->length;
  if (result.status == GBX_OK && !to_staging)
    service->stat.write_bytes += transfer->length;
  pthread_cond_broadcast(&service->unpinned);
  pthread_mutex_unlock(&service->lock);
  free(entries);
  send_status(service, request, result, result.status == GBX_OK ? transfer->length : 0);
  end_if_fatal(result);
}

static void do_request(struct service *service, struct gbx_lane *lane, const struct gbx_request *request) {
  switch (request->type) {
  case GBX_MSG_ALLOCATE:
    return do_allocate(service, lane, request);
  case GBX_MSG_FREE:
    return do_free(service, lane, request);
  default:
    return do_transfer(service, lane, request);
  }
}

static void *worker_main(void *argument) {
  struct service *service = argument;
  struct gbx_lane lane;
  memset(&lane, 0, sizeof(lane));
  struct gbx_result opened = gbx_lane_open(&service->memory, &lane);
  for (;;) {
    pthread_mutex_lock(&service->lock);
    while (service->queue_count == 0 && !service->ending)
      pthread_cond_wait(&service->wake_worker, &service->lock);
    if (service->ending) {
      pthread_mutex_unlock(&service->lock);
      return NULL;
    }
    struct gbx_request request = service->queue[service->queue_head];
    service->queue_head = (service->queue_head + 1) % QUEUE_MAX;
    service->queue_count--;
    pthread_cond_signal(&service->wake_reader);
    pthread_mutex_unlock(&service->lock);
    if (opened.status == GBX_OK)
      do_request(service, &lane, &request);
    else
      send_status(service, &request, opened, 0);
  }
}

/* ---- the reader ---- */

static void do_init(struct service *service, const struct gbx_request *request) {
  const struct gbx_init *init = &request->payload.init;
  if (service->open)
    return refuse(service, request, GBX_INVALID);
  if (init->version != GBX_VERSION)
    return refuse(service, request, GBX_VERSION_MISMATCH);
  struct gbx_result result = gbx_memory_open(&service->memory, init);
  struct gbx_init_reply reply = {.status = result.status, .detail = result.detail, .staging_fd = -1};
  if (result.status == GBX_OK) {
    service->open = true;
    service->ranges.arena_bytes = init->arena_bytes;
    service->ranges.gpu_count = init->gpu_count;
    for (unsigned index = 0; index < WORKER_COUNT; index++) {
      if (pthread_create(&service->workers[index], NULL, worker_main, service) != 0) {
        fprintf(stderr, "gb-executor: cannot start a thread\n");
        _exit(1);
      }
    }
    reply.staging_fd = service->memory.staging_fd;
    reply.ram_is_host_numa = init->gpu_count > 0 && service->memory.host_numa;
    reply.arena_base = service->memory.arena_base;
  }
  send_reply(service, request, &reply, sizeof(reply));
}

static void do_stat(struct service *service, const struct gbx_request *request) {
  pthread_mutex_lock(&service->lock);
  struct gbx_stat stat = service->stat;
  stat.range_count = service->ranges.count;
  pthread_mutex_unlock(&service->lock);
  send_reply(service, request, &stat, sizeof(stat));
}

static void enqueue(struct service *service, const struct gbx_request *request) {
  pthread_mutex_lock(&service->lock);
  while (service->queue_count == QUEUE_MAX)
    pthread_cond_wait(&service->wake_reader, &service->lock);
  service->queue[(service->queue_head + service->queue_count) % QUEUE_MAX] = *request;
  service->queue_count++;
  pthread_cond_signal(&service->wake_worker);
  pthread_mutex_unlock(&service->lock);
}

static void dispatch(struct service *service, const struct gbx_request *request) {
  if (!request->valid)
    return refuse(service, request, GBX_INVALID);
  if (request->type == GBX_MSG_INIT)
    return do_init(service, request);
  if (!service->open)
    return refuse(service, request, GBX_INVALID);
  if (request->type == GBX_MSG_STAT)
    return do_stat(service, request);
  enqueue(service, request);
}

/* Takes whole requests out of `input`. returns: bytes used, or -1 when the stream is broken. */
static ssize_t consume(struct service *service, const uint8_t *input, size_t length) {
  size_t used = 0;
  for (;;) {
    struct gbx_request request;
    size_t bytes = 0;
    switch (gbx_parse(input + used, length - used, &request, &bytes)) {
    case GBX_PARSE_INCOMPLETE:
      return (ssize_t)used;
    case GBX_PARSE_BROKEN:
      return -1;
    case GBX_PARSE_REQUEST:
      used += bytes;
      dispatch(service, &request);
    }
  }
}

static int read_requests(struct service *service) {
  static uint8_t input[INPUT_BYTES];
  size_t filled = 0;
  for (;;) {
    ssize_t count = recv(service->socket, input + filled, sizeof(input) - filled, 0);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return count == 0 || errno == ECONNRESET ? 0 : 1;
    filled += (size_t)count;
    ssize_t used = consume(service, input, filled);
    if (used < 0) {
      fprintf(stderr, "gb-executor: the daemon sent a broken frame; ending\n");
      return 1;
    }
    filled -= (size_t)used;
    memmove(input, input + used, filled);
  }
}

/* Zeroes device memory before the process gives it up: unlike RAM, nobody promises that the next owner finds zeroes. */
static void scrub_vram(struct service *service) {
  struct gbx_lane lane;
  memset(&lane, 0, sizeof(lane));
  if (service->memory.gpu_count == 0 || gbx_lane_open(&service->memory, &lane).status != GBX_OK)
    return;
  for (size_t index = 0; index < service->ranges.count; index++) {
    struct gbx_entry *entry = service->ranges.entries[index];
    if (entry->state == GBX_RANGE_READY && entry->range.device_kind == GBX_DEVICE_GPU)
      gbx_memory_unmap(&service->memory, &lane, entry);
  }
}

int gbx_serve(int socket_fd) {
  static struct service service;
  service.socket = socket_fd;
  pthread_mutex_init(&service.lock, NULL);
  pthread_mutex_init(&service.send_lock, NULL);
  pthread_cond_init(&service.wake_worker, NULL);
  pthread_cond_init(&service.wake_reader, NULL);
  pthread_cond_init(&service.unpinned, NULL);
  int result = read_requests(&service);
  if (service.open) {
    pthread_mutex_lock(&service.lock);
    service.ending = true;
    pthread_cond_broadcast(&service.wake_worker);
    pthread_mutex_unlock(&service.lock);
    for (unsigned index = 0; index < WORKER_COUNT; index++)
      pthread_join(service.workers[index], NULL);
    scrub_vram(&service);
  }
  return result;
}
