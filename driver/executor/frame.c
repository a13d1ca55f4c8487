/* SPDX-License-Identifier: Apache-2.0 */
/* frame.c: see frame.h. */
#include "frame.h"

#include <string.h>

long gbx_payload_bytes(uint16_t type) {
  switch (type) {
  case GBX_MSG_INIT:
    return sizeof(struct gbx_init);
  case GBX_MSG_ALLOCATE:
  case GBX_MSG_FREE:
    return sizeof(struct gbx_range);
  case GBX_MSG_STAT:
    return 0;
  case GBX_MSG_GRANT:
    return sizeof(struct gbx_grant);
  case GBX_MSG_REVOKE:
  case GBX_MSG_LANE:
    return sizeof(struct gbx_ticket);
  case GBX_MSG_LIMIT:
    return sizeof(struct gbx_limit);
  case GBX_MSG_RUN_LIMIT:
    return sizeof(struct gbx_run_limit);
  case GBX_MSG_PULL:
    return sizeof(struct gbx_pull);
  case GBX_MSG_PULL_STAT:
  case GBX_MSG_PULL_CANCEL:
    return sizeof(struct gbx_pull_ref);
  case GBX_MSG_CACHE:
    return sizeof(struct gbx_cache);
  default:
    return -1;
  }
}

enum gbx_parse_result gbx_parse(const uint8_t *bytes, size_t length, struct gbx_request *request, size_t *consumed) {
  struct gbx_frame frame;
  if (length < sizeof(frame))
    return GBX_PARSE_INCOMPLETE;
  memcpy(&frame, bytes, sizeof(frame));
  if (frame.payload_bytes > GBX_PAYLOAD_BYTES_MAX || frame.flags != 0 || frame.request_id == 0)
    return GBX_PARSE_BROKEN;
  if (length - sizeof(frame) < frame.payload_bytes)
    return GBX_PARSE_INCOMPLETE;

  memset(request, 0, sizeof(*request));
  request->id = frame.request_id;
  request->type = frame.type;
  request->valid = gbx_payload_bytes(frame.type) == (long)frame.payload_bytes;
  if (request->valid && frame.payload_bytes > 0)
    memcpy(&request->payload, bytes + sizeof(frame), frame.payload_bytes);
  *consumed = sizeof(frame) + frame.payload_bytes;
  return GBX_PARSE_REQUEST;
}
