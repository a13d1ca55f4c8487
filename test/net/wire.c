/* SPDX-License-Identifier: Apache-2.0 */
/* wire.c: one direction of the link: what its thread reads is lost, queued for the line, delayed, delivered. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "link.h"

#define SECOND 1000000000ull
/* Reads before the due ones are looked at again. */
#define BATCH 64
/* Packets that stand for many are sent in pieces of so much time of the line. */
#define PIECE_NS 250000ull
#define QUEUE_NS 10000000ull
#define QUEUE_BYTES_MIN (256u << 10)

struct wire {
  struct direction *direction;
  struct settings settings;
  struct packet *heap[FLIGHT_PACKETS_MAX];
  size_t count;
  uint64_t flight_bytes, order, line_free, due_last, jitter_now, jitter_until, random, until_loss;
  uint8_t buffer[PACKET_BYTES_MAX];
};

uint64_t now_ns(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (uint64_t)at.tv_sec * SECOND + (uint64_t)at.tv_nsec;
}

static double random_unit(struct wire *wire) {
  uint64_t value = wire->random += 0x9E3779B97F4A7C15ull;
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ value >> 27) * 0x94D049BB133111EBull;
  return (double)((value ^ value >> 31) >> 11) * 0x1p-53;
}

static void count(atomic_ullong *counter, uint64_t value) {
  atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

/* ---- what is under way, soonest first ---- */

static bool sooner(const struct packet *a, const struct packet *b) {
  return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void heap_add(struct wire *wire, struct packet *packet) {
  size_t at = wire->count++;
  for (; at > 0 && sooner(packet, wire->heap[(at - 1) / 2]); at = (at - 1) / 2)
    wire->heap[at] = wire->heap[(at - 1) / 2];
  wire->heap[at] = packet;
  wire->flight_bytes += packet->bytes;
}

static struct packet *heap_take(struct wire *wire) {
  struct packet *first = wire->heap[0], *last = wire->heap[--wire->count];
  size_t at = 0;
  for (size_t child; (child = 2 * at + 1) < wire->count; at = child) {
    if (child + 1 < wire->count && sooner(wire->heap[child + 1], wire->heap[child])) child++;
    if (!sooner(wire->heap[child], last)) break;
    wire->heap[at] = wire->heap[child];
  }
  wire->heap[at] = last;
  wire->flight_bytes -= first->bytes;
  return first;
}

/* ---- what happens to a packet ---- */

static uint64_t line_ns(const struct wire *wire, uint64_t bytes) {
  return wire->settings.rate == 0 ? 0 : (uint64_t)((double)bytes * 8e9 / (double)wire->settings.rate);
}

static uint64_t jitter(struct wire *wire, uint64_t now) {
  if (wire->settings.jitter == 0) return 0;
  if (wire->settings.reorder || now >= wire->jitter_until) {
    wire->jitter_now = (uint64_t)(random_unit(wire) * (double)wire->settings.jitter);
    wire->jitter_until = now + JITTER_HOLD_NS;
  }
  return wire->jitter_now;
}

static void drop(struct wire *wire, struct packet *packet, atomic_ullong *counter) {
  (void)wire;
  count(counter, packet_segments(packet));
  free(packet);
}

/* Puts a packet on the line and into flight. owns: takes it. */
static void send_on(struct wire *wire, struct packet *packet, uint64_t now) {
  struct counters *counters = &wire->direction->counters;
  if (wire->count == FLIGHT_PACKETS_MAX || wire->flight_bytes + packet->bytes > FLIGHT_BYTES_MAX) {
    drop(wire, packet, &counters->overflowed);
    return;
  }
  if (wire->line_free < now) wire->line_free = now;
  wire->line_free += line_ns(wire, packet_wire_bytes(packet));
  packet->due = wire->line_free + wire->settings.delay + jitter(wire, now);
  if (!wire->settings.reorder && packet->due < wire->due_last) packet->due = wire->due_last;
  wire->due_last = packet->due;
  packet->order = wire->order++;
  heap_add(wire, packet);
}

/* Hands `packet` on in pieces that the queue of the line has room for; the rest is dropped. owns: takes it. */
static void queue_on(struct wire *wire, struct packet *packet, uint64_t now) {
  struct counters *counters = &wire->direction->counters;
  const double bytes_per_ns = (double)wire->settings.rate / 8e9;
  const uint64_t own = (uint64_t)(bytes_per_ns * (double)QUEUE_NS);
  const uint64_t chosen = own < QUEUE_BYTES_MIN ? QUEUE_BYTES_MIN : own;
  const uint64_t limit = wire->settings.queue != 0 ? wire->settings.queue : chosen;
  while (packet != NULL) {
    const unsigned segments = packet_segments(packet);
    const uint64_t each = packet_wire_bytes(packet) / segments;
    const uint64_t waiting = wire->settings.rate == 0 || wire->line_free <= now
                                 ? 0
                                 : (uint64_t)((double)(wire->line_free - now) * bytes_per_ns);
    if (waiting > atomic_load_explicit(&counters->queue_peak, memory_order_relaxed))
      atomic_store_explicit(&counters->queue_peak, waiting, memory_order_relaxed);
    uint64_t fit = wire->settings.rate == 0 ? segments : waiting + each > limit ? 0 : (limit - waiting) / each;
    if (fit == 0) {
      drop(wire, packet, &counters->queue_dropped);
      return;
    }
    const uint64_t piece = (uint64_t)(bytes_per_ns * (double)PIECE_NS) / each;
    if (wire->settings.rate != 0 && fit > piece) fit = piece == 0 ? 1 : piece;
    if (fit >= segments) {
      send_on(wire, packet, now);
      return;
    }
    struct packet *first, *rest;
    if (!packet_split(packet, (unsigned)fit, &first, &rest)) fatal("memory for packets");
    free(packet);
    send_on(wire, first, now);
    packet = rest;
  }
}

/* returns: how many packets pass before the next one is lost. */
static uint64_t loss_distance(struct wire *wire) {
  if (wire->settings.loss <= 0) return UINT64_MAX;
  if (wire->settings.loss >= 1) return 0;
  return (uint64_t)(log(1 - random_unit(wire)) / log(1 - wire->settings.loss));
}

/* Loses what chance loses, queues the others. owns: takes `packet`. */
static void admit(struct wire *wire, struct packet *packet, uint64_t now) {
  struct counters *counters = &wire->direction->counters;
  if (wire->settings.cut) {
    drop(wire, packet, &counters->cut_dropped);
    return;
  }
  while (packet != NULL) {
    const unsigned segments = packet_segments(packet);
    struct packet *first, *rest = NULL;
    if (wire->until_loss >= segments) {
      if (wire->until_loss != UINT64_MAX) wire->until_loss -= segments;
      queue_on(wire, packet, now);
      return;
    }
    if (wire->until_loss > 0) {
      if (!packet_split(packet, (unsigned)wire->until_loss, &first, &rest)) fatal("memory for packets");
      free(packet);
      queue_on(wire, first, now);
      packet = rest;
      rest = NULL;
    }
    wire->until_loss = loss_distance(wire);
    if (packet_segments(packet) > 1) {
      if (!packet_split(packet, 1, &first, &rest)) fatal("memory for packets");
      free(packet);
      packet = first;
    }
    drop(wire, packet, &counters->lost);
    packet = rest;
  }
}

static void deliver(struct wire *wire, struct packet *packet) {
  struct counters *counters = &wire->direction->counters;
  if (write(wire->direction->to, packet->data, packet->bytes) < 0) {
    drop(wire, packet, &counters->write_failed);
    return;
  }
  count(&counters->packets, packet_segments(packet));
  count(&counters->bytes, packet_wire_bytes(packet));
  free(packet);
}

/* ---- the thread ---- */

static void settings_take(struct wire *wire) {
  struct direction *direction = wire->direction;
  pthread_mutex_lock(&direction->lock);
  const bool loss_new = wire->settings.loss != direction->wanted.loss;
  wire->settings = direction->wanted;
  pthread_mutex_unlock(&direction->lock);
  if (loss_new) wire->until_loss = loss_distance(wire);
  /* What was in flight when the line was cut does not arrive. */
  while (wire->settings.cut && wire->count > 0) drop(wire, heap_take(wire), &direction->counters.cut_dropped);
}

static bool read_batch(struct wire *wire) {
  for (int i = 0; i < BATCH; i++) {
    const ssize_t bytes = read(wire->direction->from, wire->buffer, sizeof wire->buffer);
    if (bytes < 0 && errno != EAGAIN && errno != EINTR) fatal("read from the TUN device");
    if (bytes < (ssize_t)VNET_BYTES + 20) return i > 0;
    struct packet *packet = packet_new((size_t)bytes);
    if (packet == NULL) fatal("memory for packets");
    memcpy(packet->data, wire->buffer, (size_t)bytes);
    admit(wire, packet, now_ns());
  }
  return true;
}

static void rest(struct wire *wire) {
  const uint64_t now = now_ns(), due = wire->count > 0 ? wire->heap[0]->due : UINT64_MAX;
  if (due <= now + wire->settings.spin) return;
  const uint64_t sleep = due == UINT64_MAX ? SECOND : due - now - wire->settings.spin;
  const struct timespec timeout = {.tv_sec = (time_t)(sleep / SECOND), .tv_nsec = (long)(sleep % SECOND)};
  struct pollfd wait[] = {{.fd = wire->direction->from, .events = POLLIN},
                          {.fd = wire->direction->wake, .events = POLLIN}};
  if (ppoll(wait, 2, &timeout, NULL) < 0 && errno != EINTR) fatal("poll");
  uint64_t woken;
  if ((wait[1].revents & POLLIN) != 0 && read(wire->direction->wake, &woken, sizeof woken) < 0) fatal("wake");
}

static void *direction_run(void *argument) {
  struct wire *wire = argument;
  prctl(PR_SET_TIMERSLACK, 1ul);
  for (;;) {
    settings_take(wire);
    while (wire->count > 0 && wire->heap[0]->due <= now_ns()) deliver(wire, heap_take(wire));
    if (!read_batch(wire)) rest(wire);
  }
  return NULL;
}

void direction_start(struct direction *direction) {
  struct wire *wire = calloc(1, sizeof *wire);
  direction->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wire == NULL || direction->wake < 0) fatal("memory for the link");
  wire->direction = direction;
  wire->random = direction->seed;
  wire->until_loss = UINT64_MAX;
  pthread_mutex_init(&direction->lock, NULL);
  if (pthread_create(&direction->thread, NULL, direction_run, wire) != 0) fatal("a thread for the link");
}

void direction_set(struct direction *direction, const struct settings *settings) {
  const uint64_t one = 1;
  pthread_mutex_lock(&direction->lock);
  direction->wanted = *settings;
  pthread_mutex_unlock(&direction->lock);
  if (write(direction->wake, &one, sizeof one) < 0 && errno != EAGAIN) fatal("wake");
}
