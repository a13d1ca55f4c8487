/* SPDX-License-Identifier: Apache-2.0 */
/* wire.c: the frame parser of the agent link. */
#include "wire.h"

#include <string.h>

static size_t take(unsigned char *to, size_t have, size_t want, const unsigned char **bytes,
                   size_t *length) {
  size_t part = want - have < *length ? want - have : *length;
  memcpy(to + have, *bytes, part);
  *bytes += part;
  *length -= part;
  return part;
}

bool gb_wire_feed(struct gb_wire *wire, const void *bytes, size_t length, gb_wire_sink sink,
                  void *owner) {
  const unsigned char *p = bytes;
  const size_t header = sizeof wire->frame;
  while (length > 0 || (wire->have >= header && wire->have == header + wire->frame.payload_bytes)) {
    if (wire->have < header) {
      wire->have += take((unsigned char *)&wire->frame, wire->have, header, &p, &length);
      if (wire->have < header) return true;
      if (wire->frame.payload_bytes > GB_ABI_PAYLOAD_BYTES_MAX) return false;
    }
    size_t got = wire->have - header;
    wire->have += take(wire->payload, got, wire->frame.payload_bytes, &p, &length);
    if (wire->have < header + wire->frame.payload_bytes) return true;
    wire->have = 0;
    if (!sink(owner, &wire->frame, wire->payload)) return false;
  }
  return true;
}

bool gb_wire_read(const struct gb_frame *frame, const void *payload, void *out, size_t bytes) {
  if (frame->payload_bytes < bytes) return false;
  memcpy(out, payload, bytes);
  return true;
}
