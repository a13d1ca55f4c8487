/* SPDX-License-Identifier: Apache-2.0 */
/* feeder.c: memory of lane numbers behind one lane server. */
#include "feeder.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lane.h"

#define LANES_MAX 1024
#define RANGES_MAX 8192
/* Longer than a lane waits for a silent peer. */
#define STOP_US 2600000

struct range {
  uint64_t offset, length;
  unsigned char *bytes;
  unsigned users;
};

#define BLOCK_BYTES (1u << 20)
#define BLOCKS_MAX 128

/* What was written last, by its content. */
struct block {
  uint8_t digest[GB_LANE_DIGEST_BYTES];
  unsigned char bytes[BLOCK_BYTES];
};

struct store {
  uint32_t number;
  bool lost;
  bool ticketed;
  uint8_t ticket[16];
  struct range *ranges[RANGES_MAX];
  uint32_t count;
};

static struct store *stores[LANES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* everything below */
static pthread_cond_t unused = PTHREAD_COND_INITIALIZER;
static struct feeder_faults faults;
static struct feeder_counts counts;
static gb_lane_server *server;
static struct block *blocks[BLOCKS_MAX]; /* a ring */
static unsigned block_next;

/* pre: lock. */
static struct store *store_of(uint32_t lane) {
  for (uint32_t i = 0; i < LANES_MAX; i++) {
    if (stores[i] != NULL && stores[i]->number == lane) return stores[i];
    if (stores[i] != NULL) continue;
    stores[i] = calloc(1, sizeof *stores[i]);
    stores[i]->number = lane;
    return stores[i];
  }
  abort();
}

static struct range *range_at(struct store *store, uint64_t offset, uint64_t bytes) {
  for (uint32_t i = 0; i < store->count; i++) {
    struct range *range = store->ranges[i];
    if (offset >= range->offset && offset + bytes <= range->offset + range->length) return range;
  }
  return NULL;
}

/* ---- what the server asks ---- */

static bool every(unsigned fault, unsigned count) {
  return fault != 0 && count % fault == 0;
}

static void *flipped_copy(const unsigned char *bytes, uint64_t length) {
  unsigned char *copy = malloc(length);
  memcpy(copy, bytes, length);
  copy[length / 2] ^= 1;
  counts.flipped++;
  return copy;
}

static void *revoke_later(void *ticket) {
  gb_lane_grant_revoke(server, ticket);
  free(ticket);
  return NULL;
}

/* Not on the lane's own thread, which revoking waits for. pre: lock. */
static void start_revoking(struct store *store) {
  pthread_t thread;
  uint8_t *ticket = malloc(16);
  memcpy(ticket, store->ticket, 16);
  counts.revoked++;
  store->ticketed = false;
  if (pthread_create(&thread, NULL, revoke_later, ticket) == 0) pthread_detach(thread);
}

static void *acquire(void *context, uint64_t offset, uint64_t bytes, int for_write, uint64_t *token) {
  struct store *store = context;
  void *memory = NULL;
  pthread_mutex_lock(&lock);
  if (for_write)
    counts.writes++;
  else
    counts.reads++;
  unsigned number = counts.reads + counts.writes;
  bool stop = store->number == 1 && every(faults.stop, number);
  if (store->ticketed && every(faults.revoke, number)) start_revoking(store);
  struct range *range = range_at(store, offset, bytes);
  if (range != NULL) {
    memory = range->bytes + (offset - range->offset);
    range->users++;
    *token = (uint64_t)(uintptr_t)range;
    if (!for_write && store->number == 1 && every(faults.flip, counts.reads)) memory = flipped_copy(memory, bytes);
  }
  if (stop) counts.stopped++;
  pthread_mutex_unlock(&lock);
  if (stop) usleep(STOP_US);
  return memory;
}

/* pre: lock. */
static void keep_block(const unsigned char *bytes) {
  struct block **place = &blocks[block_next++ % BLOCKS_MAX];
  if (*place == NULL) *place = malloc(sizeof **place);
  memcpy((*place)->bytes, bytes, BLOCK_BYTES);
  if (gb_lane_digest(bytes, BLOCK_BYTES, (*place)->digest) != GB_LANE_OK) abort();
}

/* pre: lock. */
static const struct block *known_block(const uint8_t *digest) {
  for (uint32_t i = 0; i < BLOCKS_MAX; i++) {
    if (blocks[i] != NULL && memcmp(blocks[i]->digest, digest, GB_LANE_DIGEST_BYTES) == 0) return blocks[i];
  }
  return NULL;
}

static void offer(void *context, uint64_t offset, uint64_t block_bytes, const uint8_t *digests, uint32_t count,
                  uint8_t *have) {
  pthread_mutex_lock(&lock);
  for (uint32_t i = 0; i < count && block_bytes == BLOCK_BYTES && faults.offers != 0; i++) {
    const struct block *known = known_block(digests + i * GB_LANE_DIGEST_BYTES);
    struct range *range = range_at(context, offset + i * BLOCK_BYTES, BLOCK_BYTES);
    counts.offered++;
    if (known == NULL || range == NULL) continue;
    memcpy(range->bytes + (offset + i * BLOCK_BYTES - range->offset), known->bytes, BLOCK_BYTES);
    have[i / 8] |= (uint8_t)(1u << i % 8);
    counts.known++;
  }
  pthread_mutex_unlock(&lock);
}

static int release(void *context, uint64_t token, void *memory, uint64_t offset, uint64_t bytes, int commit) {
  struct range *range = (struct range *)(uintptr_t)token;
  (void)context;
  pthread_mutex_lock(&lock);
  if (commit && faults.offers != 0 && bytes == BLOCK_BYTES && offset % BLOCK_BYTES == 0)
    keep_block(memory);
  if (memory != range->bytes + (offset - range->offset)) free(memory);
  range->users--;
  pthread_cond_broadcast(&unused);
  pthread_mutex_unlock(&lock);
  return 0;
}

static const struct gb_lane_backing backing = {.acquire = acquire, .release = release, .offer = offer};

/* ---- memory ---- */

bool feeder_place(uint32_t lane, uint64_t offset, uint64_t length) {
  pthread_mutex_lock(&lock);
  struct store *store = store_of(lane);
  bool room = store->count < RANGES_MAX && !store->lost;
  for (uint32_t i = 0; i < store->count && room; i++) {
    const struct range *range = store->ranges[i];
    room = offset + length <= range->offset || range->offset + range->length <= offset;
  }
  if (room) {
    struct range *range = calloc(1, sizeof *range);
    *range = (struct range){.offset = offset, .length = length, .bytes = calloc(1, length)};
    store->ranges[store->count++] = range;
  }
  pthread_mutex_unlock(&lock);
  return room;
}

uint64_t feeder_free(uint32_t lane, uint64_t offset, uint64_t length) {
  uint64_t freed = 0;
  pthread_mutex_lock(&lock);
  struct store *store = store_of(lane);
  for (uint32_t i = 0; i < store->count;) {
    struct range *range = store->ranges[i];
    bool inside = range->offset >= offset && range->offset + range->length <= offset + length;
    if (!inside) {
      i++;
      continue;
    }
    store->ranges[i] = store->ranges[--store->count];
    while (range->users > 0) pthread_cond_wait(&unused, &lock);
    freed += range->length;
    free(range->bytes);
    free(range);
    i = 0; /* the wait let others in */
  }
  pthread_mutex_unlock(&lock);
  return freed;
}

bool feeder_pull(uint32_t from, uint32_t to, uint64_t offset, uint64_t length) {
  pthread_mutex_lock(&lock);
  struct range *source = range_at(store_of(from), offset, length);
  struct range *target = range_at(store_of(to), offset, length);
  if (source != NULL && target != NULL)
    memcpy(target->bytes + (offset - target->offset), source->bytes + (offset - source->offset), length);
  pthread_mutex_unlock(&lock);
  return source != NULL && target != NULL;
}

/* ---- lanes ---- */

bool feeder_ticket(uint32_t lane, struct gb_ticket_reply *reply) {
  struct gb_lane_grant grant = {.size = sizeof grant, .connections = 1};
  pthread_mutex_lock(&lock);
  struct store *store = store_of(lane);
  bool lost = store->lost;
  if (!lost && getrandom(&grant.ticket, sizeof grant.ticket, 0) != sizeof grant.ticket) abort();
  memcpy(store->ticket, grant.ticket.id, sizeof store->ticket);
  store->ticketed = !lost;
  pthread_mutex_unlock(&lock);
  if (lost) return false;
  struct gb_lane_region region = {.size = sizeof region,
                                  .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE,
                                  .bytes = UINT64_MAX / 2,
                                  .backing = &backing,
                                  .context = store};
  if (gb_lane_grant_add(server, &grant) != GB_LANE_OK ||
      gb_lane_export(server, grant.ticket.id, &region) != GB_LANE_OK)
    return false;
  memcpy(reply->ticket_id, grant.ticket.id, sizeof reply->ticket_id);
  memcpy(reply->secret, grant.ticket.secret, sizeof reply->secret);
  snprintf(reply->address, sizeof reply->address, "127.0.0.1");
  snprintf(reply->feeder, sizeof reply->feeder, "feeder-%s", lane % 2 == 1 ? "one" : "two");
  reply->port = (uint32_t)gb_lane_server_port(server);
  reply->lane = lane;
  reply->connections = 1;
  reply->features = faults.offers != 0 ? (uint64_t)GB_LANE_FEATURE_OFFER : 0;
  return true;
}

void feeder_lose(uint32_t lane) {
  uint8_t ticket[16];
  pthread_mutex_lock(&lock);
  struct store *store = store_of(lane);
  bool open = store->ticketed;
  memcpy(ticket, store->ticket, sizeof ticket);
  store->lost = true;
  store->ticketed = false;
  pthread_mutex_unlock(&lock);
  if (open) gb_lane_grant_revoke(server, ticket);
}

bool feeder_is_lost(uint32_t lane) {
  pthread_mutex_lock(&lock);
  bool lost = store_of(lane)->lost;
  pthread_mutex_unlock(&lock);
  return lost;
}

struct feeder_counts feeder_count(void) {
  pthread_mutex_lock(&lock);
  struct feeder_counts now = counts;
  pthread_mutex_unlock(&lock);
  return now;
}

bool feeder_start(const struct feeder_faults *wanted) {
  struct gb_lane_server_options options = {.size = sizeof options, .fd = -1, .address = "127.0.0.1"};
  faults = *wanted;
  int status = gb_lane_server_open(&options, &server);
  if (status != GB_LANE_OK) fprintf(stderr, "no lane server: %s\n", gb_lane_status_name(status));
  return status == GB_LANE_OK;
}

void feeder_stop(void) {
  gb_lane_server_close(server);
  for (uint32_t i = 0; i < BLOCKS_MAX; i++) free(blocks[i]);
  for (uint32_t i = 0; i < LANES_MAX && stores[i] != NULL; i++) {
    for (uint32_t k = 0; k < stores[i]->count; k++) {
      free(stores[i]->ranges[k]->bytes);
      free(stores[i]->ranges[k]);
    }
    free(stores[i]);
  }
}
