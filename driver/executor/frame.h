/* SPDX-License-Identifier: Apache-2.0 */
/* frame.h: takes frames of gb_exec.h out of a byte stream. Pure: no I/O, no allocation. */
#ifndef GBX_FRAME_H
#define GBX_FRAME_H

#include <stdbool.h>

#include "gb_exec.h"

/* One whole request. The payload is valid only if `valid`: its type is known and its length is that type's. */
struct gbx_request {
  uint64_t id;
  uint16_t type;
  bool valid;
  union {
    struct gbx_init init;
    struct gbx_range range;
    struct gbx_grant grant;
    struct gbx_ticket ticket;
    struct gbx_limit limit;
    struct gbx_run_limit run_limit;
    struct gbx_pull pull;
    struct gbx_pull_ref pull_ref;
    struct gbx_cache cache;
  } payload;
};

enum gbx_parse_result {
  GBX_PARSE_INCOMPLETE = 0,
  GBX_PARSE_REQUEST = 1,
  GBX_PARSE_BROKEN = 2, /* the stream cannot be trusted any more: close it */
};

/* Looks at the `length` bytes at `bytes`. returns: GBX_PARSE_REQUEST with *request filled and *consumed > 0;
 * GBX_PARSE_INCOMPLETE when more bytes are needed; GBX_PARSE_BROKEN for a payload beyond GBX_PAYLOAD_BYTES_MAX, a
 * reply, or a request without an id. */
enum gbx_parse_result gbx_parse(const uint8_t *bytes, size_t length, struct gbx_request *request, size_t *consumed);

/* Payload bytes of a request of this type; -1 for an unknown one. */
long gbx_payload_bytes(uint16_t type);

#endif
