/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grant.c: tickets and the memory behind them. Memory leaves only when nobody has it pinned; a peer that is slow or
 * gone never keeps it pinned.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve.h"

struct lane_grant *lane_grant_find(struct gb_lane_server *server, const uint8_t *ticket_id) {
  struct lane_grant *grant = server->grants;
  while (grant != NULL && (grant->revoked || memcmp(grant->is.ticket.id, ticket_id, GB_LANE_TICKET_ID_BYTES) != 0))
    grant = grant->next;
  return grant;
}

static void unchain(struct gb_lane_server *server, struct lane_grant *grant) {
  struct lane_grant **at = &server->grants;
  while (*at != grant) at = &(*at)->next;
  *at = grant->next;
  server->grant_count--;
}

void lane_grant_unuse(struct gb_lane_server *server, struct lane_grant *grant) {
  if (--grant->users > 0 || !grant->revoked) return;
  unchain(server, grant);
  explicit_bzero(&grant->is, sizeof grant->is);
  free(grant->regions);
  pthread_mutex_destroy(&grant->lock);
  pthread_cond_destroy(&grant->unpinned);
  free(grant);
}

void lane_grant_wake(struct lane_grant *grant) {
  for (uint32_t i = 0; i < LANE_GRANT_CONNS_MAX; i++) {
    if (grant->conns[i] != NULL) lane_link_wake(&grant->conns[i]->link);
  }
}

/* ---- regions; the grant's lock is held in the helpers ---- */

/* The place of an id: where it is, or would be. */
static uint32_t place_of(const struct lane_grant *grant, uint32_t id) {
  uint32_t low = 0, high = grant->region_count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (grant->regions[middle]->is.id < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

static struct lane_region *region_at(const struct lane_grant *grant, uint32_t at, uint32_t id) {
  return at < grant->region_count && grant->regions[at]->is.id == id ? grant->regions[at] : NULL;
}

/* Frees a region that is no longer in the table, once nobody has it pinned. */
static void wait_and_free(struct lane_grant *grant, struct lane_region *region) {
  region->removed = true;
  while (region->pins > 0) pthread_cond_wait(&grant->unpinned, &grant->lock);
  free(region);
}

int lane_region_pin(struct lane_grant *grant, uint32_t id, uint64_t offset, uint64_t bytes, uint32_t right,
                    struct lane_region **region) {
  int status = GB_LANE_OK;
  pthread_mutex_lock(&grant->lock);
  struct lane_region *found = region_at(grant, place_of(grant, id), id);
  if (found == NULL) status = GB_LANE_NOT_FOUND;
  else if ((found->is.rights & right) == 0) status = GB_LANE_DENIED;
  else if (offset > found->is.bytes || bytes > found->is.bytes - offset) status = GB_LANE_RANGE;
  if (status == GB_LANE_OK) found->pins++;
  *region = status == GB_LANE_OK ? found : NULL;
  pthread_mutex_unlock(&grant->lock);
  return status;
}

bool lane_region_is_there(struct lane_grant *grant, uint32_t id, uint64_t serial) {
  pthread_mutex_lock(&grant->lock);
  const struct lane_region *found = region_at(grant, place_of(grant, id), id);
  bool there = found != NULL && found->serial == serial;
  pthread_mutex_unlock(&grant->lock);
  return there;
}

void lane_region_unpin(struct lane_grant *grant, struct lane_region *region) {
  pthread_mutex_lock(&grant->lock);
  if (--region->pins == 0 && region->removed) pthread_cond_broadcast(&grant->unpinned);
  pthread_mutex_unlock(&grant->lock);
}

void lane_grant_strip(struct lane_grant *grant) {
  pthread_mutex_lock(&grant->lock);
  while (grant->region_count > 0) {
    struct lane_region *region = grant->regions[--grant->region_count];
    grant->region_changes++;
    wait_and_free(grant, region);
  }
  pthread_mutex_unlock(&grant->lock);
}

/* Puts a region in its place. *before: the one of the same id that was there, no longer in the table. */
static int insert(struct lane_grant *grant, struct lane_region *region, struct lane_region **before) {
  uint32_t at = place_of(grant, region->is.id);
  *before = region_at(grant, at, region->is.id);
  region->serial = ++grant->region_serial;
  if (*before != NULL) {
    grant->regions[at] = region;
    grant->region_changes++;
    (*before)->removed = true;
    return GB_LANE_OK;
  }
  if (grant->region_count == GB_LANE_REGIONS_MAX) return GB_LANE_LIMIT;
  if (grant->region_count == grant->region_room) {
    uint32_t room = grant->region_room == 0 ? 16 : grant->region_room * 2;
    struct lane_region **grown = realloc(grant->regions, room * sizeof *grown);
    if (grown == NULL) return GB_LANE_NO_MEMORY;
    grant->regions = grown;
    grant->region_room = room;
  }
  memmove(grant->regions + at + 1, grant->regions + at, (grant->region_count - at) * sizeof *grant->regions);
  grant->regions[at] = region;
  grant->region_count++;
  return GB_LANE_OK;
}

/* ---- entry points ---- */

static bool is_ours(const gb_lane_server *server, const void *argument) {
  return server != NULL && argument != NULL;
}

/* Finds a grant and keeps it. */
static struct lane_grant *use(gb_lane_server *server, const uint8_t *ticket_id) {
  pthread_mutex_lock(&server->lock);
  struct lane_grant *grant = lane_grant_find(server, ticket_id);
  if (grant != NULL) grant->users++;
  pthread_mutex_unlock(&server->lock);
  return grant;
}

static void unuse(gb_lane_server *server, struct lane_grant *grant) {
  pthread_mutex_lock(&server->lock);
  lane_grant_unuse(server, grant);
  pthread_mutex_unlock(&server->lock);
}

/* Waits for a region that has left the table; who waits for a slow peer with it pinned is told to let go. */
static void retire(gb_lane_server *server, struct lane_grant *grant, struct lane_region *region) {
  pthread_mutex_lock(&server->lock);
  lane_grant_wake(grant);
  pthread_mutex_unlock(&server->lock);
  pthread_mutex_lock(&grant->lock);
  wait_and_free(grant, region);
  pthread_mutex_unlock(&grant->lock);
}

void lane_grant_sweep(struct gb_lane_server *server) {
  uint64_t now = lane_boot_ms();
  for (struct lane_grant *grant = server->grants, *next; grant != NULL; grant = next) {
    next = grant->next;
    if (grant->revoked || grant->opened || now < grant->expires_ms + GB_LANE_TICKET_MS) continue;
    /* Never used and long over: it is kept a while so that a late comer's refusal names the reason. */
    if (grant->users > 0 || grant->region_count > 0) continue; /* its regions are the caller's to take back */
    grant->revoked = true;
    grant->users++;
    lane_grant_unuse(server, grant);
  }
}

int gb_lane_grant_add(gb_lane_server *server, const struct gb_lane_grant *wanted) {
  struct gb_lane_grant is = {0};
  if (!is_ours(server, wanted) || wanted->size > sizeof is) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  memcpy(&is, wanted, wanted->size);
  if (is.connections > GB_LANE_CONNECTIONS_MAX || is.window > GB_LANE_WINDOW_MAX) return GB_LANE_INVALID;
  if (is.connections == 0) is.connections = 1;
  if (is.ttl_ms == 0) is.ttl_ms = GB_LANE_TICKET_MS;
  if (is.window == 0) is.window = GB_LANE_WINDOW_MAX;
  struct lane_grant *grant = calloc(1, sizeof *grant);
  if (grant == NULL) return GB_LANE_NO_MEMORY;
  grant->is = is;
  grant->window = is.window;
  grant->expires_ms = lane_boot_ms() + is.ttl_ms;
  grant->state = GB_LANE_PENDING;
  pthread_mutex_init(&grant->lock, NULL);
  pthread_cond_init(&grant->unpinned, NULL);
  lane_rate_set(grant, is.bytes_per_second);
  pthread_mutex_lock(&server->lock);
  lane_grant_sweep(server);
  int status = lane_grant_find(server, is.ticket.id) != NULL ? GB_LANE_INVALID
               : server->grant_count == GB_LANE_GRANTS_MAX   ? GB_LANE_LIMIT
                                                             : GB_LANE_OK;
  if (status == GB_LANE_OK) {
    grant->next = server->grants;
    server->grants = grant;
    server->grant_count++;
  }
  pthread_mutex_unlock(&server->lock);
  explicit_bzero(&is, sizeof is);
  if (status != GB_LANE_OK) {
    explicit_bzero(grant, sizeof *grant);
    free(grant);
  }
  return status;
}

int gb_lane_grant_revoke(gb_lane_server *server, const uint8_t *ticket_id) {
  if (!is_ours(server, ticket_id)) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&server->lock);
  struct lane_grant *grant = lane_grant_find(server, ticket_id);
  if (grant != NULL) {
    grant->users++;
    grant->revoked = true;
    for (uint32_t i = 0; i < LANE_GRANT_CONNS_MAX; i++) {
      if (grant->conns[i] != NULL) lane_link_goodbye(&grant->conns[i]->link, GB_LANE_REVOKED);
    }
  }
  pthread_mutex_unlock(&server->lock);
  if (grant == NULL) return GB_LANE_NOT_FOUND;
  lane_grant_strip(grant);
  unuse(server, grant);
  return GB_LANE_OK;
}

/* Its bytes are somewhere: in memory or behind a backing. One that is only for calls may have none. */
static bool is_sound_region(const struct gb_lane_region *is) {
  bool acquires = is->backing != NULL && is->backing->acquire != NULL;
  bool releases = is->backing != NULL && is->backing->release != NULL;
  bool somewhere = (is->base == NULL) == acquires || (is->base == NULL && is->rights == GB_LANE_MAY_CALL);
  uint32_t known = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE | GB_LANE_MAY_CALL;
  return is->bytes > 0 && somewhere && acquires == releases && is->rights != 0 && (is->rights & ~known) == 0 &&
         (is->base == NULL || is->bytes <= UINTPTR_MAX - (uintptr_t)is->base);
}

int gb_lane_export(gb_lane_server *server, const uint8_t *ticket_id, const struct gb_lane_region *region) {
  struct gb_lane_region is = {0};
  if (!is_ours(server, ticket_id) || region == NULL || region->size > sizeof is) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  memcpy(&is, region, region->size);
  if (!is_sound_region(&is)) return GB_LANE_INVALID;
  struct lane_region *made = calloc(1, sizeof *made);
  if (made == NULL) return GB_LANE_NO_MEMORY;
  made->is = is;
  struct lane_grant *grant = use(server, ticket_id);
  struct lane_region *before = NULL;
  int status = GB_LANE_NOT_FOUND;
  if (grant != NULL) {
    pthread_mutex_lock(&grant->lock);
    status = insert(grant, made, &before);
    pthread_mutex_unlock(&grant->lock);
    if (before != NULL) retire(server, grant, before);
    unuse(server, grant);
  }
  if (status != GB_LANE_OK) free(made);
  return status;
}

int gb_lane_unexport(gb_lane_server *server, const uint8_t *ticket_id, uint32_t region_id) {
  if (!is_ours(server, ticket_id)) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  struct lane_grant *grant = use(server, ticket_id);
  if (grant == NULL) return GB_LANE_NOT_FOUND;
  pthread_mutex_lock(&grant->lock);
  uint32_t at = place_of(grant, region_id);
  struct lane_region *region = region_at(grant, at, region_id);
  if (region != NULL) {
    grant->region_count--;
    memmove(grant->regions + at, grant->regions + at + 1, (grant->region_count - at) * sizeof *grant->regions);
    grant->region_changes++;
    region->removed = true;
  }
  pthread_mutex_unlock(&grant->lock);
  if (region != NULL) retire(server, grant, region);
  unuse(server, grant);
  return region != NULL ? GB_LANE_OK : GB_LANE_NOT_FOUND;
}

int gb_lane_grant_window(gb_lane_server *server, const uint8_t *ticket_id, uint32_t window) {
  if (!is_ours(server, ticket_id) || window == 0) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  struct lane_grant *grant = use(server, ticket_id);
  if (grant == NULL) return GB_LANE_NOT_FOUND;
  grant->window = window < grant->is.window ? window : grant->is.window;
  pthread_mutex_lock(&server->lock);
  lane_grant_wake(grant);
  lane_grant_unuse(server, grant);
  pthread_mutex_unlock(&server->lock);
  return GB_LANE_OK;
}

int gb_lane_grant_rate(gb_lane_server *server, const uint8_t *ticket_id, uint64_t bytes_per_second) {
  if (!is_ours(server, ticket_id)) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  struct lane_grant *grant = use(server, ticket_id);
  if (grant == NULL) return GB_LANE_NOT_FOUND;
  lane_rate_set(grant, bytes_per_second);
  pthread_mutex_lock(&server->lock);
  lane_grant_wake(grant);
  lane_grant_unuse(server, grant);
  pthread_mutex_unlock(&server->lock);
  return GB_LANE_OK;
}

int gb_lane_grant_counters(gb_lane_server *server, const uint8_t *ticket_id, struct gb_lane_counters *counters) {
  if (!is_ours(server, ticket_id) || counters == NULL) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  uint64_t now = lane_now_ns();
  pthread_mutex_lock(&server->lock);
  struct lane_grant *grant = lane_grant_find(server, ticket_id);
  if (grant != NULL) {
    *counters = grant->past;
    for (uint32_t i = 0; i < LANE_GRANT_CONNS_MAX; i++) {
      if (grant->conns[i] != NULL) lane_link_count(&grant->conns[i]->link, counters, now);
    }
    counters->requests = grant->requests;
    counters->requests_failed = grant->requests_failed;
    counters->requests_canceled = grant->requests_canceled;
    counters->state = (uint32_t)grant->state;
    counters->record_bytes = grant->record_bytes;
    if (grant->aead != NULL) lane_describe(grant->aead, -1, counters);
    memcpy(counters->congestion, grant->congestion, sizeof counters->congestion);
  }
  pthread_mutex_unlock(&server->lock);
  return grant != NULL ? GB_LANE_OK : GB_LANE_NOT_FOUND;
}
