/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h: the parts of the delay link. A packet is what a TUN device hands out: a virtio_net_hdr, then IP. With
 * segmentation left to the "card" one packet may stand for many on the wire; rate, loss and queue count those.
 */
#ifndef GB_TEST_NET_LINK_H
#define GB_TEST_NET_LINK_H

#include <linux/virtio_net.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define VNET_BYTES sizeof(struct virtio_net_hdr)
#define PACKET_BYTES_MAX (VNET_BYTES + 65535)
/* What Ethernet puts around a packet: preamble, addresses, type, check, gap. */
#define FRAME_BYTES 38
/* Bounds of what is under way in one direction. */
#define FLIGHT_PACKETS_MAX (1u << 17)
#define FLIGHT_BYTES_MAX (512ull << 20)

struct packet {
  uint64_t due;   /* ns, CLOCK_MONOTONIC */
  uint64_t order; /* among those of one due time */
  uint32_t bytes;
  uint8_t data[];
};

/* ---- segment.c ---- */

/* returns: a packet with room for `bytes`, or NULL. owns: the caller frees it. */
struct packet *packet_new(size_t bytes);
/* returns: how many packets on the wire this one stands for, at least 1. */
unsigned packet_segments(const struct packet *packet);
/* returns: bytes on the wire of all its packets, frames included. */
uint64_t packet_wire_bytes(const struct packet *packet);
/*
 * Cuts the first `segments` packets off. pre: 0 < segments < packet_segments(packet). owns: both are new and the
 * caller's, `packet` stays as it is. returns: false without memory.
 */
bool packet_split(const struct packet *packet, unsigned segments, struct packet **first, struct packet **rest);

/* ---- tun.c ---- */

/* Opens a TUN device `name` in the network namespace of process `pid` and brings it up. returns: its descriptor,
 * non-blocking; ends the program with a message when that cannot be. */
int tun_open(pid_t pid, const char *name, unsigned mtu);

/* ---- wire.c ---- */

struct settings {
  uint64_t rate;  /* bits per second of the line, frames included; 0: no bound */
  uint64_t delay; /* ns */
  uint64_t jitter; /* ns: up to so much more, drawn anew every JITTER_HOLD_NS, or for each packet when they may pass */
  bool reorder;   /* packets may pass one another */
  double loss;    /* of packets on the wire, 0 to 1 */
  uint64_t queue; /* bytes that may wait for the line; 0: 10 ms of it, at least 256 KiB */
  uint64_t spin;  /* ns: sleeps shorter than this are not slept */
  bool cut;
};

#define JITTER_HOLD_NS 20000000ull

struct counters {
  atomic_ullong packets, bytes; /* delivered, of the wire */
  atomic_ullong lost, queue_dropped, cut_dropped, overflowed, write_failed;
  atomic_ullong queue_peak; /* bytes */
};

struct direction {
  const char *name;
  int from, to, wake; /* TUN devices; an eventfd */
  uint64_t seed;
  pthread_mutex_t lock; /* of `wanted` */
  struct settings wanted;
  struct counters counters;
  pthread_t thread;
};

/* Starts moving packets. pre: from, to, name, seed and wanted are set. */
void direction_start(struct direction *direction);
/* Replaces the settings; in force before it returns to a reader of the thread's next packet. */
void direction_set(struct direction *direction, const struct settings *settings);

uint64_t now_ns(void);
/* Ends the program. */
void fatal(const char *what) __attribute__((noreturn));

#endif
