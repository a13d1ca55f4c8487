/* SPDX-License-Identifier: Apache-2.0 */
/* request.c: requests to the agent, their replies, and HELLO. */
#include <stdatomic.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "arena.h"
#include "config.h"
#include "link.h"
#include "lock.h"
#include "remote.h"
#include "tier.h"
#include "wire.h"

/* Requests nobody waits for, unanswered at once. */
#define GB_TELLS_MAX 8

struct timespec gb_link_deadline(uint32_t milliseconds) {
  uint64_t at = gb_now_ns() + milliseconds * GB_MS;
  return (struct timespec){.tv_sec = (time_t)(at / 1000000000ull),
                           .tv_nsec = (long)(at % 1000000000ull)};
}

/* ---- sending ---- */

/* One frame in one send: a partial one would leave the stream useless, so the link is broken then.
 * pre: lock. */
static bool send_frame(uint16_t type, uint64_t request_id, const void *payload, uint32_t bytes) {
  unsigned char message[sizeof(struct gb_frame) + GB_ABI_PAYLOAD_BYTES_MAX];
  struct gb_frame frame = {.payload_bytes = bytes, .type = type, .request_id = request_id};
  if (bytes > sizeof message - sizeof frame) return false;
  memcpy(message, &frame, sizeof frame);
  memcpy(message + sizeof frame, payload, bytes);
  size_t length = sizeof frame + bytes;
  if (send(gb_link.fd, message, length, MSG_NOSIGNAL) == (ssize_t)length) return true;
  shutdown(gb_link.fd, SHUT_RDWR);
  return false;
}

void gb_client_notice(uint16_t type, const void *payload, uint32_t bytes) {
  pthread_mutex_lock(&gb_link.lock);
  if (gb_link.ready) {
    send_frame(type, 0, payload, bytes);
  } else if (type == GB_MSG_EVENT && gb_link.waiting_count < GB_EVENTS_WAITING_MAX) {
    memcpy(&gb_link.waiting[gb_link.waiting_count++], payload, sizeof(struct gb_event));
  }
  pthread_mutex_unlock(&gb_link.lock);
}

void gb_link_flush_events(void) {
  for (uint32_t i = 0; i < gb_link.waiting_count; i++) {
    send_frame(GB_MSG_EVENT, 0, &gb_link.waiting[i], sizeof gb_link.waiting[i]);
  }
  gb_link.waiting_count = 0;
}

/* pre: lock. returns: a free place in the table, or NULL. */
static struct gb_call **free_place(void) {
  for (int i = 0; i < (int)GB_ABI_REQUESTS_MAX; i++) {
    if (gb_link.calls[i] == NULL) return &gb_link.calls[i];
  }
  return NULL;
}

/* pre: lock, and the link is ready. returns: false when the link broke. */
static bool enter_and_send(struct gb_call *call, struct gb_call **place, const void *payload,
                           uint32_t bytes) {
  call->request_id = ++gb_link.next_request_id;
  if (!send_frame(call->type, call->request_id, payload, bytes)) return false;
  call->done = false;
  call->sent = true;
  *place = call;
  return true;
}

void gb_client_send(struct gb_call *call, uint16_t type, const void *payload, uint32_t bytes) {
  call->status = GB_STATUS_UNREACHABLE;
  call->done = true;
  call->sent = false;
  call->type = type;
  struct timespec until = gb_link_deadline(5000);
  pthread_mutex_lock(&gb_link.lock);
  struct gb_call **place = NULL;
  while (gb_link.ready && (place = free_place()) == NULL) {
    if (pthread_cond_timedwait(&gb_link.changed, &gb_link.lock, &until) != 0) break;
  }
  if (gb_link.ready && place != NULL) enter_and_send(call, place, payload, bytes);
  pthread_mutex_unlock(&gb_link.lock);
}

void gb_client_tell(uint16_t type, const void *payload, uint32_t bytes, uint32_t reply_bytes) {
  static struct gb_call calls[GB_TELLS_MAX]; /* under the lock; done when free */
  static bool prepared;
  pthread_mutex_lock(&gb_link.lock);
  for (int i = 0; i < GB_TELLS_MAX && !prepared; i++) calls[i].done = true;
  prepared = true;
  struct gb_call **place = gb_link.ready ? free_place() : NULL;
  for (int i = 0; i < GB_TELLS_MAX && place != NULL; i++) {
    if (!calls[i].done) continue;
    calls[i] = (struct gb_call){.type = type, .reply_bytes = reply_bytes, .done = true};
    enter_and_send(&calls[i], place, payload, bytes);
    break;
  }
  pthread_mutex_unlock(&gb_link.lock);
}

/* pre: lock. */
static void forget(const struct gb_call *call) {
  for (int i = 0; i < (int)GB_ABI_REQUESTS_MAX; i++) {
    if (gb_link.calls[i] == call) gb_link.calls[i] = NULL;
  }
}

enum gb_status gb_client_wait(struct gb_call *call, uint32_t timeout_ms) {
  struct timespec until = gb_link_deadline(timeout_ms);
  pthread_mutex_lock(&gb_link.lock);
  while (!call->done) {
    if (pthread_cond_timedwait(&gb_link.changed, &gb_link.lock, &until) == 0) continue;
    if (call->done) break;
    /* The agent may still act on it later: its account and ours agree again at the next HELLO. */
    forget(call);
    call->done = true;
    if (gb_link.fd >= 0) shutdown(gb_link.fd, SHUT_RDWR);
    gb_link.ready = false;
    break;
  }
  uint32_t status = call->status;
  pthread_mutex_unlock(&gb_link.lock);
  return (enum gb_status)status;
}

bool gb_client_wait_a_while(struct gb_call *call, uint32_t milliseconds) {
  struct timespec until = gb_link_deadline(milliseconds);
  pthread_mutex_lock(&gb_link.lock);
  while (!call->done) {
    if (pthread_cond_timedwait(&gb_link.changed, &gb_link.lock, &until) != 0) break;
  }
  bool done = call->done;
  pthread_mutex_unlock(&gb_link.lock);
  return done;
}

bool gb_link_reply(const struct gb_frame *frame, const void *payload) {
  bool known = false;
  pthread_mutex_lock(&gb_link.lock);
  for (int i = 0; i < (int)GB_ABI_REQUESTS_MAX; i++) {
    struct gb_call *call = gb_link.calls[i];
    if (call == NULL || call->request_id != frame->request_id || call->type != frame->type)
      continue;
    if (frame->payload_bytes < call->reply_bytes) break;
    if (call->reply != NULL) gb_wire_read(frame, payload, call->reply, call->reply_bytes);
    memcpy(&call->status, payload, sizeof call->status);
    call->done = true;
    gb_link.calls[i] = NULL;
    known = true;
    pthread_cond_broadcast(&gb_link.changed);
    break;
  }
  pthread_mutex_unlock(&gb_link.lock);
  return known;
}

static enum gb_status request(uint16_t type, const void *payload, uint32_t bytes, void *reply,
                              uint32_t reply_bytes, uint32_t timeout_ms) {
  struct gb_call call = {.reply = reply, .reply_bytes = reply_bytes};
  memset(reply, 0, reply_bytes);
  gb_client_send(&call, type, payload, bytes);
  return gb_client_wait(&call, timeout_ms);
}

enum gb_status gb_client_budget(uint16_t type, const struct gb_budget *budget,
                                struct gb_budget_reply *reply, uint32_t timeout_ms) {
  enum gb_status status = request(type, budget, sizeof *budget, reply, sizeof *reply, timeout_ms);
  if (status == GB_STATUS_OK && budget->tier < GB_TIER_COUNT) {
    atomic_store_explicit(&gb_link.limits[budget->tier], reply->limit_bytes, memory_order_relaxed);
  }
  return status;
}

enum gb_status gb_client_drop(const struct gb_range *range, uint32_t timeout_ms) {
  struct gb_status_reply reply;
  return request(GB_MSG_DROP, range, sizeof *range, &reply, sizeof reply, timeout_ms);
}

enum gb_status gb_client_step(const struct gb_step *part, struct gb_step_reply *reply, uint32_t timeout_ms) {
  return request(GB_MSG_STEP, part, sizeof *part, reply, sizeof *reply, timeout_ms);
}

enum gb_status gb_client_place(const struct gb_place_request *place, struct gb_place_reply *reply,
                               uint32_t timeout_ms) {
  enum gb_status status =
      request(GB_MSG_PLACE, place, sizeof *place, reply, sizeof *reply, timeout_ms);
  reply->feeder[sizeof reply->feeder - 1] = '\0';
  return status;
}

enum gb_status gb_client_lane(const struct gb_ticket_request *lane, struct gb_ticket_reply *reply,
                              uint32_t timeout_ms) {
  enum gb_status status =
      request(GB_MSG_LANE, lane, sizeof *lane, reply, sizeof *reply, timeout_ms);
  reply->feeder[sizeof reply->feeder - 1] = '\0';
  reply->address[sizeof reply->address - 1] = '\0';
  return status;
}

enum gb_status gb_client_room(const struct gb_room_request *room, uint32_t timeout_ms) {
  struct gb_status_reply reply;
  return request(GB_MSG_ROOM, room, sizeof *room, &reply, sizeof reply, timeout_ms);
}

enum gb_status gb_client_device(const struct gb_device_request *device, struct gb_device_reply *reply,
                                uint32_t timeout_ms) {
  enum gb_status status = request(GB_MSG_DEVICE, device, sizeof *device, reply, sizeof *reply, timeout_ms);
  reply->feeder[sizeof reply->feeder - 1] = '\0';
  reply->name[sizeof reply->name - 1] = '\0';
  return status;
}

/* ---- state ---- */

bool gb_client_ready(void) {
  return gb_link.ready;
}

uint64_t gb_client_features(void) {
  pthread_mutex_lock(&gb_link.lock);
  uint64_t features = gb_link.ready ? gb_link.features : 0;
  pthread_mutex_unlock(&gb_link.lock);
  return features;
}

bool gb_client_limit(enum gb_tier tier, uint64_t *bytes) {
  if (!atomic_load_explicit(&gb_link.limits_known, memory_order_acquire)) return false;
  *bytes = atomic_load_explicit(&gb_link.limits[tier], memory_order_relaxed);
  return true;
}

/* ---- opening and closing ---- */

void gb_link_prepare_hello(void) {
  struct gb_hello *hello = &gb_link.hello;
  hello->magic = GB_ABI_MAGIC;
  hello->abi_major = GB_ABI_MAJOR;
  hello->abi_minor = GB_ABI_MINOR;
  if (gb_config()->gated && gb_arena_size_bytes != 0) {
    hello->features = GB_FEATURE_GATED;
    if (gb_config()->replicas) hello->features |= GB_FEATURE_REPLICAS;
    if (gb_config()->merged && !gb_config()->replicas) hello->features |= GB_FEATURE_DISPATCH;
  }
  if (gb_config()->devices && gb_arena_size_bytes != 0) hello->features |= GB_FEATURE_DEVICES;
  hello->arena_base = gb_arena_base_address;
  hello->arena_bytes = gb_arena_reserved_bytes();
  hello->vram_budget_bytes = gb_config()->vram_budget;
  hello->ram_budget_bytes = gb_config()->ram_budget;
  hello->pid = (uint32_t)getpid();
  if (getrandom(hello->attachment_id, sizeof hello->attachment_id, 0) !=
      sizeof hello->attachment_id) {
    memcpy(hello->attachment_id, &hello->pid, sizeof hello->pid);
  }
  CUuuid uuid = {{0}};
  size_t total = 0;
  if (gb_arena_device_count() > 0) {
    CUdevice device = gb_arena_device(0);
    gb_real.cuDeviceGetName(hello->device_name, (int)sizeof hello->device_name, device);
    gb_real.cuDeviceTotalMem_v2(&total, device);
    if (gb_real.cuDeviceGetUuid_v2 != NULL)
      gb_real.cuDeviceGetUuid_v2(&uuid, device);
    else if (gb_real.cuDeviceGetUuid != NULL)
      gb_real.cuDeviceGetUuid(&uuid, device);
  }
  hello->device_name[sizeof hello->device_name - 1] = '\0';
  hello->device_total_bytes = total;
  memcpy(hello->device_uuid, uuid.bytes, sizeof hello->device_uuid);
  int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t length = fd >= 0 ? read(fd, hello->command, sizeof hello->command - 1) : 0;
  if (fd >= 0) close(fd);
  for (ssize_t i = 0; i + 1 < length; i++) {
    if (hello->command[i] == '\0') hello->command[i] = ' ';
  }
}

void gb_link_open(int fd) {
  pthread_mutex_lock(&gb_link.lock);
  gb_link.fd = fd;
  gb_link.generation++;
  struct gb_hello hello = gb_link.hello;
  hello.held_bytes[GB_TIER_T2] = gb_t2_held();
  hello.held_bytes[GB_TIER_T2R] = gb_remote_held();
  gb_link.hello_id = ++gb_link.next_request_id;
  send_frame(GB_MSG_HELLO, gb_link.hello_id, &hello, sizeof hello);
  pthread_mutex_unlock(&gb_link.lock);
}

void gb_link_close(void) {
  pthread_mutex_lock(&gb_link.lock);
  gb_link.ready = false;
  for (int i = 0; i < (int)GB_ABI_REQUESTS_MAX; i++) {
    if (gb_link.calls[i] == NULL) continue;
    gb_link.calls[i]->status = GB_STATUS_UNREACHABLE;
    gb_link.calls[i]->done = true;
    gb_link.calls[i] = NULL;
  }
  if (gb_link.fd >= 0) close(gb_link.fd);
  gb_link.fd = -1;
  pthread_cond_broadcast(&gb_link.changed);
  pthread_mutex_unlock(&gb_link.lock);
}
