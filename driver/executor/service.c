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
#include "lanes.h"
#include "pull.h"

/* Threads of a pool. Scrubbing takes long: FREE has a pool of its own, and nobody else waits for it. */
#define WORKERS 4
/* Requests waiting for a worker of a pool; beyond this the socket is not read, and the daemon waits. */
#define QUEUE_MAX 64
#define INPUT_BYTES (4 * (sizeof(struct gbx_frame) + GBX_PAYLOAD_BYTES_MAX))
/* The largest payload that is sent. */
#define REPLY_BYTES_MAX sizeof(struct gbx_lane_stat)
_Static_assert(sizeof(struct gbx_stat) <= REPLY_BYTES_MAX, "replies");
_Static_assert(sizeof(struct gbx_lane_event) <= REPLY_BYTES_MAX, "notices");

struct service;

struct pool {
  struct service *service;
  pthread_t workers[WORKERS];
  pthread_mutex_t lock; /* protects everything below */
  pthread_cond_t wake_worker;
  pthread_cond_t wake_reader; /* room in the queue */
  struct gbx_request queue[QUEUE_MAX];
  unsigned head;
  unsigned count;
  bool ending;
};

struct service {
  int socket;
  int door;
  bool open; /* INIT succeeded; set before the workers start */
  struct gbx_store store;
  struct gbx_block_cache cache;
  struct gbx_streams cache_streams; /* the cache's own thread's */
  struct gbx_lanes lanes;
  struct gbx_pulls pulls;
  struct gbx_run run;
  struct pool work;
  struct pool scrub;

  pthread_mutex_t send_lock; /* one frame at a time */
};

/* ---- replies ---- */

static void send_frame(struct service *service, uint16_t type, uint64_t request_id, const void *payload, size_t bytes) {
  uint8_t message[sizeof(struct gbx_frame) + REPLY_BYTES_MAX];
  struct gbx_frame frame = {(uint32_t)bytes, type, GBX_FRAME_REPLY, request_id};
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

static void send_reply(struct service *service, const struct gbx_request *request, const void *payload, size_t bytes) {
  send_frame(service, request->type, request->id, payload, bytes);
}

static void send_lane_event(void *context, const struct gbx_lane_event *event) {
  send_frame(context, GBX_MSG_LANE_EVENT, 0, event, sizeof(*event));
}

static void send_status(struct service *service, const struct gbx_request *request, struct gbx_result result,
                        uint64_t bytes) {
  struct gbx_status status = {result.status, result.detail, bytes};
  send_reply(service, request, &status, sizeof(status));
}

static void send_pulled(void *context, uint64_t request_id, struct gbx_result result, uint64_t bytes) {
  struct gbx_status status = {result.status, result.detail, bytes};
  send_frame(context, GBX_MSG_PULL, request_id, &status, sizeof(status));
}

static void refuse(struct service *service, const struct gbx_request *request, enum gbx_status_code code) {
  if (request->type == GBX_MSG_INIT) {
    struct gbx_init_reply reply = {.status = code};
    send_reply(service, request, &reply, sizeof(reply));
  } else if (request->type == GBX_MSG_STAT) {
    struct gbx_stat stat = {.status = code};
    send_reply(service, request, &stat, sizeof(stat));
  } else if (request->type == GBX_MSG_LANE) {
    struct gbx_lane_stat stat = {.status = code};
    send_reply(service, request, &stat, sizeof(stat));
  } else {
    send_status(service, request, (struct gbx_result){code, 0}, 0);
  }
}

/* ---- work ---- */

static void do_allocate(struct service *service, struct gbx_streams *streams, const struct gbx_request *request) {
  uint64_t locked = 0;
  struct gbx_result result = gbx_store_allocate(&service->store, streams, &request->payload.range, &locked);
  send_status(service, request, result, locked);
  gbx_end_if_fatal(result);
}

static void do_free(struct service *service, struct gbx_streams *streams, const struct gbx_request *request) {
  struct gbx_result result = gbx_store_free(&service->store, streams, &request->payload.range);
  send_status(service, request, result, 0);
  gbx_end_if_fatal(result);
}

/* Copies a part of the arena; the block cache's. */
static bool copy_out(void *context, uint64_t offset, uint8_t *to, uint64_t bytes) {
  struct service *service = context;
  struct gbx_span span;
  if (gbx_store_pin(&service->store, offset, bytes, &span) != GBX_OK)
    return false;
  struct gbx_result started = gbx_span_copy(&service->store, &span, &service->cache_streams, to, true);
  struct gbx_result ended = gbx_memory_wait(&service->store.memory, &service->cache_streams);
  gbx_store_unpin(&service->store, &span, 0, 0);
  gbx_end_if_fatal(started);
  gbx_end_if_fatal(ended);
  return started.status == GBX_OK && ended.status == GBX_OK;
}

static void do_cache(struct service *service, const struct gbx_request *request) {
  const struct gbx_cache *cache = &request->payload.cache;
  int error = memchr(cache->path, '\0', sizeof(cache->path)) == NULL
                  ? ENAMETOOLONG
                  : gbx_cache_open(&service->cache, cache->path, cache->key, cache->budget_bytes);
  bool invalid = error == ENAMETOOLONG || error == EINVAL || error == EEXIST;
  struct gbx_result result = {error == 0 ? GBX_OK : invalid ? GBX_INVALID : GBX_SYSTEM, error};
  send_status(service, request, result, 0);
}

static void do_request(struct service *service, struct gbx_streams *streams, const struct gbx_request *request) {
  switch (request->type) {
  case GBX_MSG_ALLOCATE:
    return do_allocate(service, streams, request);
  case GBX_MSG_FREE:
    return do_free(service, streams, request);
  case GBX_MSG_GRANT:
    return send_status(service, request, gbx_lanes_grant(&service->lanes, &request->payload.grant), 0);
  case GBX_MSG_REVOKE:
    return send_status(service, request, gbx_lanes_revoke(&service->lanes, request->payload.ticket.ticket_id), 0);
  case GBX_MSG_CACHE:
    return do_cache(service, request);
  default: /* the reader answers the others */
    return refuse(service, request, GBX_INVALID);
  }
}

/* ---- pools ---- */

static void *worker_main(void *argument) {
  struct pool *pool = argument;
  struct gbx_streams streams = {0};
  for (;;) {
    pthread_mutex_lock(&pool->lock);
    while (pool->count == 0 && !pool->ending)
      pthread_cond_wait(&pool->wake_worker, &pool->lock);
    if (pool->ending) {
      pthread_mutex_unlock(&pool->lock);
      return NULL;
    }
    struct gbx_request request = pool->queue[pool->head];
    explicit_bzero(&pool->queue[pool->head], sizeof(request));
    pool->head = (pool->head + 1) % QUEUE_MAX;
    pool->count--;
    pthread_cond_signal(&pool->wake_reader);
    pthread_mutex_unlock(&pool->lock);
    do_request(pool->service, &streams, &request);
    explicit_bzero(&request, sizeof(request)); /* it may have held a secret */
  }
}

static void start_pool(struct service *service, struct pool *pool) {
  pool->service = service;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake_worker, NULL);
  pthread_cond_init(&pool->wake_reader, NULL);
  for (unsigned index = 0; index < WORKERS; index++) {
    if (pthread_create(&pool->workers[index], NULL, worker_main, pool) != 0) {
      fprintf(stderr, "gb-executor: cannot start a thread\n");
      _exit(1);
    }
  }
}

/* Lets the workers end what they have begun. */
static void end_pool(struct pool *pool) {
  pthread_mutex_lock(&pool->lock);
  pool->ending = true;
  pthread_cond_broadcast(&pool->wake_worker);
  pthread_mutex_unlock(&pool->lock);
  for (unsigned index = 0; index < WORKERS; index++)
    pthread_join(pool->workers[index], NULL);
}

static void enqueue(struct pool *pool, const struct gbx_request *request) {
  pthread_mutex_lock(&pool->lock);
  while (pool->count == QUEUE_MAX)
    pthread_cond_wait(&pool->wake_reader, &pool->lock);
  pool->queue[(pool->head + pool->count) % QUEUE_MAX] = *request;
  pool->count++;
  pthread_cond_signal(&pool->wake_worker);
  pthread_mutex_unlock(&pool->lock);
}

/* ---- the reader ---- */

static bool let_go(void *context, const struct gbx_range *range, bool by_force) {
  struct service *service = context;
  gbx_pulls_let_go(&service->pulls, range);
  gbx_lanes_let_go(&service->lanes, range, by_force);
  return gbx_run_let_go(&service->run, range, by_force);
}

static void do_init(struct service *service, const struct gbx_request *request) {
  const struct gbx_init *init = &request->payload.init;
  if (service->open)
    return refuse(service, request, GBX_INVALID);
  if (init->version != GBX_VERSION)
    return refuse(service, request, GBX_VERSION_MISMATCH);
  struct gbx_result result = gbx_store_open(&service->store, init);
  struct gbx_init_reply reply = {.status = result.status, .detail = result.detail};
  if (result.status == GBX_OK) {
    service->open = true;
    service->store.let_go = let_go;
    service->store.let_go_context = service;
    gbx_pulls_open(&service->pulls, &service->store, send_pulled, service);
    gbx_cache_init(&service->cache, copy_out, service);
    gbx_run_open(&service->run, &service->store, &service->cache);
    gbx_lanes_open(&service->lanes, &service->store, &service->cache, &service->run, service->door, send_lane_event,
                   service);
    start_pool(service, &service->work);
    start_pool(service, &service->scrub);
    reply.ram_is_host_numa = init->gpu_count > 0 && service->store.memory.host_numa;
    reply.arena_base = service->store.memory.arena_base;
  }
  send_reply(service, request, &reply, sizeof(reply));
}

static void do_stat(struct service *service, const struct gbx_request *request) {
  struct gbx_stat stat = gbx_store_stat(&service->store);
  send_reply(service, request, &stat, sizeof(stat));
}

static void do_limit(struct service *service, const struct gbx_request *request) {
  send_status(service, request, gbx_lanes_limit(&service->lanes, &request->payload.limit), 0);
}

static void do_run_limit(struct service *service, const struct gbx_request *request) {
  const struct gbx_run_limit *limit = &request->payload.run_limit;
  bool good = limit->kernel_ms >= GBX_RUN_LIMIT_MS_MIN && limit->reserved == 0;
  if (good)
    gbx_run_limit(&service->run, limit->kernel_ms);
  send_status(service, request, (struct gbx_result){good ? GBX_OK : GBX_INVALID, 0}, 0);
}

static void do_pull(struct service *service, const struct gbx_request *request) {
  const struct gbx_pull_ref *ref = &request->payload.pull_ref;
  struct gbx_result result;
  uint64_t bytes = 0;
  if (request->type == GBX_MSG_PULL)
    result = gbx_pulls_begin(&service->pulls, request->id, &request->payload.pull);
  else if (request->type == GBX_MSG_PULL_STAT)
    result = gbx_pulls_progress(&service->pulls, ref->request_id, &bytes);
  else
    result = gbx_pulls_cancel(&service->pulls, ref->request_id);
  if (request->type != GBX_MSG_PULL || result.status != GBX_OK)
    send_status(service, request, result, bytes);
}

static void do_lane(struct service *service, const struct gbx_request *request) {
  struct gbx_lane_stat stat = gbx_lanes_stat(&service->lanes, request->payload.ticket.ticket_id);
  send_reply(service, request, &stat, sizeof(stat));
}

static void dispatch(struct service *service, const struct gbx_request *request) {
  if (!request->valid)
    return refuse(service, request, GBX_INVALID);
  if (request->type == GBX_MSG_INIT)
    return do_init(service, request);
  if (!service->open)
    return refuse(service, request, GBX_INVALID);
  switch (request->type) { /* what waits for nothing */
  case GBX_MSG_STAT:
    return do_stat(service, request);
  case GBX_MSG_LANE:
    return do_lane(service, request);
  case GBX_MSG_LIMIT:
    return do_limit(service, request);
  case GBX_MSG_RUN_LIMIT:
    return do_run_limit(service, request);
  case GBX_MSG_PULL:
  case GBX_MSG_PULL_STAT:
  case GBX_MSG_PULL_CANCEL:
    return do_pull(service, request);
  case GBX_MSG_FREE:
    return enqueue(&service->scrub, request);
  default:
    return enqueue(&service->work, request);
  }
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
      explicit_bzero(&request, sizeof(request));
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
    memmove(input, input + used, filled - (size_t)used);
    explicit_bzero(input + filled - (size_t)used, (size_t)used); /* nothing secret stays behind */
    filled -= (size_t)used;
  }
}

int gbx_serve(int socket_fd, int door_fd) {
  static struct service service;
  service.socket = socket_fd;
  service.door = door_fd;
  pthread_mutex_init(&service.send_lock, NULL);
  int result = read_requests(&service);
  if (service.open) {
    atomic_store(&service.store.memory.ram.hurry, true);
    end_pool(&service.work);
    end_pool(&service.scrub);
    gbx_pulls_close(&service.pulls);
    gbx_run_close(&service.run);
    gbx_cache_close(&service.cache);
    gbx_lanes_close(&service.lanes);
    gbx_store_close(&service.store);
  }
  return result;
}
