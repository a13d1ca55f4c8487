/* SPDX-License-Identifier: Apache-2.0 */
/* pull.c: see pull.h. */
#define _GNU_SOURCE
#include "pull.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lane.h"

#define CLOSE_MS 500u
#define TURN_MS 1000
#define REAPED_AT_ONCE 8u

struct gbx_pull_job {
  struct gbx_pull_job *next;
  uint64_t request_id;
  struct gbx_pull is;
  bool running;
  int wake; /* eventfd: `stop` was set */
  _Atomic int stop; /* enum gbx_status_code: GBX_OK, or what it ends with */
  _Atomic uint64_t done;
};

/* A part of it on the way. */
struct piece {
  bool busy;
  struct gbx_span span; /* pinned */
  struct gbx_buffer *buffer; /* NULL: it lands in place */
};

struct run {
  struct gbx_pulls *pulls;
  struct gbx_pull_job *job;
  gb_lane *lane;
  uint64_t next; /* the first byte that nobody has asked for */
  unsigned busy;
  struct piece pieces[GBX_PULL_PIECES];
};

static const struct gbx_result ok = {GBX_OK, 0};

/* ---- one pull ---- */

static struct gbx_result open_lane(struct run *run) {
  const struct gbx_pull *pull = &run->job->is;
  struct gb_lane_ticket ticket;
  const struct gb_lane_options options = {
      .size = sizeof(options), .connections = pull->connections, .no_express = 1, .window = GBX_PULL_PIECES};
  memcpy(ticket.id, pull->ticket_id, sizeof(ticket.id));
  memcpy(ticket.secret, pull->secret, sizeof(ticket.secret));
  int status = gb_lane_open(pull->address, (uint16_t)pull->port, &ticket, &options, &run->lane);
  explicit_bzero(&ticket, sizeof(ticket));
  return status == GB_LANE_OK ? ok : (struct gbx_result){GBX_LANE, status};
}

/* Gives back what a piece holds. */
static void settle(struct run *run, struct piece *piece, uint64_t bytes) {
  gbx_store_unpin(run->pulls->store, &piece->span, 0, bytes);
  if (piece->buffer)
    gbx_buffers_return(&run->pulls->buffers, piece->buffer);
  *piece = (struct piece){0};
  run->busy--;
}

/* Asks for the next piece. */
static struct gbx_result ask(struct run *run, unsigned index) {
  const struct gbx_pull *pull = &run->job->is;
  struct piece *piece = &run->pieces[index];
  uint64_t left = pull->length - run->next;
  uint64_t bytes = left < GBX_SPAN_BYTES_MAX ? left : GBX_SPAN_BYTES_MAX;
  enum gbx_status_code pinned = gbx_store_pin(run->pulls->store, pull->offset + run->next, bytes, &piece->span);
  if (pinned != GBX_OK)
    return (struct gbx_result){pinned, 0};
  piece->busy = true;
  run->busy++;
  void *memory = gbx_span_direct(&piece->span);
  if (!memory && (piece->buffer = gbx_buffers_take(&run->pulls->buffers, 0, GBX_BUFFER_WAIT_MS)) != NULL)
    memory = piece->buffer->memory;
  if (!memory)
    return (struct gbx_result){GBX_CAPACITY, ENOMEM};
  const struct gb_lane_segment segment = {
      .offset = pull->source_offset + run->next, .bytes = bytes, .memory = memory};
  const struct gb_lane_request request = {.size = sizeof(request),
                                          .operation = GB_LANE_READ,
                                          .priority = GB_LANE_BACKGROUND,
                                          .deadline_ms = GBX_PULL_PIECE_MS,
                                          .notify = 1,
                                          .segment_count = 1,
                                          .segments = &segment,
                                          .user = index};
  uint64_t id;
  int status = gb_lane_submit(run->lane, &request, &id);
  run->next += bytes;
  return status == GB_LANE_OK ? ok : (struct gbx_result){GBX_LANE, status};
}

static struct gbx_result ask_for_more(struct run *run) {
  for (unsigned index = 0; index < GBX_PULL_PIECES && run->next < run->job->is.length; index++) {
    struct gbx_result asked = run->pieces[index].busy ? ok : ask(run, index);
    if (asked.status != GBX_OK)
      return asked;
  }
  return ok;
}

/* A piece has arrived, in place or in its buffer. The other ones are on their way meanwhile. */
static struct gbx_result take_in(struct run *run, struct piece *piece) {
  struct gbx_store *store = run->pulls->store;
  struct gbx_result result = ok;
  uint64_t bytes = piece->span.length;
  if (piece->buffer) {
    struct gbx_streams *streams = &piece->buffer->streams;
    result = gbx_span_copy(store, &piece->span, streams, piece->buffer->memory, false);
    struct gbx_result waited = gbx_memory_wait(&store->memory, streams);
    if (result.status == GBX_OK)
      result = waited;
    gbx_end_if_fatal(result);
  }
  settle(run, piece, result.status == GBX_OK ? bytes : 0);
  if (result.status == GBX_OK)
    atomic_fetch_add(&run->job->done, bytes);
  return result;
}

static struct gbx_result reap(struct run *run) {
  struct gb_lane_completion completions[REAPED_AT_ONCE];
  uint32_t count;
  while ((count = gb_lane_reap(run->lane, completions, REAPED_AT_ONCE)) > 0) {
    struct gbx_result worst = ok;
    for (uint32_t index = 0; index < count; index++) {
      struct piece *piece = &run->pieces[completions[index].user];
      struct gbx_result result = {GBX_LANE, (int32_t)completions[index].status};
      if (completions[index].status == GB_LANE_OK)
        result = take_in(run, piece);
      else
        settle(run, piece, 0);
      if (result.status != GBX_OK)
        worst = result;
    }
    if (worst.status != GBX_OK)
      return worst;
  }
  int state = gb_lane_state(run->lane);
  return state == GB_LANE_OK || run->busy == 0 ? ok : (struct gbx_result){GBX_LANE, state};
}

static struct gbx_result fetch_all(struct run *run) {
  struct gbx_pull_job *job = run->job;
  struct gbx_result result = open_lane(run);
  while (result.status == GBX_OK && (run->next < job->is.length || run->busy > 0)) {
    int stop = atomic_load(&job->stop);
    result = stop != GBX_OK ? (struct gbx_result){(enum gbx_status_code)stop, 0} : ask_for_more(run);
    if (result.status != GBX_OK)
      break;
    struct pollfd polled[2] = {{.fd = gb_lane_poll_fd(run->lane), .events = POLLIN},
                               {.fd = job->wake, .events = POLLIN}};
    poll(polled, 2, TURN_MS);
    result = reap(run);
  }
  if (run->lane)
    gb_lane_close(run->lane, CLOSE_MS); /* after this nothing of ours is touched */
  for (unsigned index = 0; index < GBX_PULL_PIECES; index++) {
    if (run->pieces[index].busy)
      settle(run, &run->pieces[index], 0);
  }
  /* Who is told to stop while his lane ends for another reason was told to stop. */
  int stop = atomic_load(&job->stop);
  return stop != GBX_OK && result.status != GBX_OK ? (struct gbx_result){(enum gbx_status_code)stop, 0} : result;
}

/* ---- all of them ---- */

/* Takes a job out of the list. locks: held. */
static void unchain(struct gbx_pulls *pulls, struct gbx_pull_job *job) {
  struct gbx_pull_job **at = &pulls->first;
  while (*at != job)
    at = &(*at)->next;
  *at = job->next;
  pulls->count--;
}

static void end_job(struct gbx_pulls *pulls, struct gbx_pull_job *job, struct gbx_result result) {
  pulls->ended(pulls->context, job->request_id, result, atomic_load(&job->done));
  close(job->wake);
  explicit_bzero(job, sizeof(*job));
  free(job);
}

static void *pull_main(void *argument) {
  struct gbx_pulls *pulls = argument;
  pthread_mutex_lock(&pulls->lock);
  for (;;) {
    struct gbx_pull_job *job = pulls->first;
    while (job && job->running)
      job = job->next;
    if (!job && pulls->closing)
      break;
    if (!job) {
      pthread_cond_wait(&pulls->wake, &pulls->lock);
      continue;
    }
    job->running = true;
    pthread_mutex_unlock(&pulls->lock);
    struct run run = {.pulls = pulls, .job = job};
    int stop = atomic_load(&job->stop);
    struct gbx_result result = stop == GBX_OK ? fetch_all(&run) : (struct gbx_result){(enum gbx_status_code)stop, 0};
    pthread_mutex_lock(&pulls->lock);
    unchain(pulls, job);
    pthread_mutex_unlock(&pulls->lock);
    end_job(pulls, job, result);
    pthread_mutex_lock(&pulls->lock);
  }
  pthread_mutex_unlock(&pulls->lock);
  return NULL;
}

/* Tells a job to end. locks: held. */
static void stop_job(struct gbx_pull_job *job, enum gbx_status_code why) {
  int running = GBX_OK;
  uint64_t one = 1;
  atomic_compare_exchange_strong(&job->stop, &running, (int)why);
  ssize_t written = write(job->wake, &one, sizeof(one));
  (void)written; /* An eventfd takes it. */
}

static struct gbx_pull_job *find(struct gbx_pulls *pulls, uint64_t request_id) {
  struct gbx_pull_job *job = pulls->first;
  while (job && job->request_id != request_id)
    job = job->next;
  return job;
}

void gbx_pulls_open(struct gbx_pulls *pulls, struct gbx_store *store,
                    void (*ended)(void *context, uint64_t request_id, struct gbx_result result, uint64_t bytes),
                    void *context) {
  *pulls = (struct gbx_pulls){.store = store, .ended = ended, .context = context};
  gbx_buffers_open(&pulls->buffers, &store->memory, GBX_SPAN_BYTES_MAX, GBX_PULLS_AT_ONCE * GBX_PULL_PIECES);
  pthread_mutex_init(&pulls->lock, NULL);
  pthread_cond_init(&pulls->wake, NULL);
}

void gbx_pulls_close(struct gbx_pulls *pulls) {
  pthread_mutex_lock(&pulls->lock);
  pulls->closing = true;
  for (struct gbx_pull_job *job = pulls->first; job; job = job->next)
    stop_job(job, GBX_CANCELED);
  pthread_cond_broadcast(&pulls->wake);
  pthread_mutex_unlock(&pulls->lock);
  for (unsigned index = 0; index < pulls->thread_count; index++)
    pthread_join(pulls->threads[index], NULL);
}

static bool is_sane(const struct gbx_pulls *pulls, const struct gbx_pull *pull) {
  uint64_t arena = pulls->store->memory.arena_bytes;
  return pull->length > 0 && pull->length <= arena && pull->offset <= arena - pull->length &&
         pull->source_offset <= UINT64_MAX - pull->length && pull->port > 0 && pull->port <= UINT16_MAX &&
         pull->connections <= GB_LANE_CONNECTIONS_MAX && pull->address[0] != '\0' &&
         memchr(pull->address, '\0', sizeof(pull->address)) != NULL;
}

/* Adds a job and sees that there is a thread for it. locks: held. returns: false when there is none. */
static bool enqueue(struct gbx_pulls *pulls, struct gbx_pull_job *job) {
  struct gbx_pull_job **at = &pulls->first;
  if (pulls->count == GBX_PULLS_MAX || pulls->closing)
    return false;
  if (pulls->thread_count < GBX_PULLS_AT_ONCE && pulls->thread_count <= pulls->count) {
    if (pthread_create(&pulls->threads[pulls->thread_count], NULL, pull_main, pulls) == 0)
      pulls->thread_count++;
    else if (pulls->thread_count == 0)
      return false;
  }
  while (*at)
    at = &(*at)->next;
  *at = job;
  pulls->count++;
  pthread_cond_signal(&pulls->wake);
  return true;
}

struct gbx_result gbx_pulls_begin(struct gbx_pulls *pulls, uint64_t request_id, const struct gbx_pull *pull) {
  if (!is_sane(pulls, pull))
    return (struct gbx_result){GBX_INVALID, 0};
  struct gbx_pull_job *job = calloc(1, sizeof(*job));
  if (!job)
    return (struct gbx_result){GBX_CAPACITY, ENOMEM};
  job->request_id = request_id;
  job->is = *pull;
  job->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_lock(&pulls->lock);
  bool begun = job->wake >= 0 && !find(pulls, request_id) && enqueue(pulls, job);
  pthread_mutex_unlock(&pulls->lock);
  if (begun)
    return ok;
  if (job->wake >= 0)
    close(job->wake);
  explicit_bzero(job, sizeof(*job));
  free(job);
  return (struct gbx_result){GBX_CAPACITY, 0};
}

struct gbx_result gbx_pulls_progress(struct gbx_pulls *pulls, uint64_t request_id, uint64_t *bytes) {
  pthread_mutex_lock(&pulls->lock);
  struct gbx_pull_job *job = find(pulls, request_id);
  *bytes = job ? atomic_load(&job->done) : 0;
  pthread_mutex_unlock(&pulls->lock);
  return (struct gbx_result){job ? GBX_OK : GBX_NOT_FOUND, 0};
}

struct gbx_result gbx_pulls_cancel(struct gbx_pulls *pulls, uint64_t request_id) {
  struct gbx_pull_job *queued = NULL;
  pthread_mutex_lock(&pulls->lock);
  struct gbx_pull_job *job = find(pulls, request_id);
  if (job)
    stop_job(job, GBX_CANCELED);
  if (job && !job->running) {
    queued = job;
    unchain(pulls, queued);
  }
  pthread_mutex_unlock(&pulls->lock);
  struct gbx_result result = {job ? GBX_OK : GBX_NOT_FOUND, 0};
  if (queued)
    end_job(pulls, queued, (struct gbx_result){GBX_CANCELED, 0});
  return result;
}

void gbx_pulls_let_go(struct gbx_pulls *pulls, const struct gbx_range *range) {
  pthread_mutex_lock(&pulls->lock);
  for (struct gbx_pull_job *job = pulls->first; job; job = job->next) {
    const struct gbx_span span = {.offset = job->is.offset, .length = job->is.length};
    if (job->running && gbx_span_touches(&span, range))
      stop_job(job, GBX_NOT_FOUND);
  }
  pthread_mutex_unlock(&pulls->lock);
}
