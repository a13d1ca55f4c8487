/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h: cuts the agent's byte stream into frames. Pure: no socket, no allocation; every length is
 * checked against GB_ABI_PAYLOAD_BYTES_MAX before a byte of the payload is kept.
 */
#ifndef GB_WIRE_H
#define GB_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gb_abi.h"

struct gb_wire {
  struct gb_frame frame;
  size_t have; /* bytes of header and payload so far */
  _Alignas(8) unsigned char payload[GB_ABI_PAYLOAD_BYTES_MAX];
};

/* A whole frame; payload is valid during the call. returns: false on a protocol error: parsing
 * stops. */
typedef bool (*gb_wire_sink)(void *owner, const struct gb_frame *frame, const void *payload);

/* Feeds bytes as they came. returns: false when the peer broke the protocol; the stream is of no
 * use then. */
bool gb_wire_feed(struct gb_wire *wire, const void *bytes, size_t length, gb_wire_sink sink,
                  void *owner);

/* Copies a payload of a known type: longer ones (a newer peer) are cut, shorter ones refused. */
bool gb_wire_read(const struct gb_frame *frame, const void *payload, void *out, size_t bytes);

#endif
