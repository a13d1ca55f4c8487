/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h: the bytes of a lane (ADR 0011): opening frames, heads, and the keys of one direction. Pure: no socket, no
 * clock. Little-endian on the wire.
 */
#ifndef GB_LANE_WIRE_H
#define GB_LANE_WIRE_H

#include "crypt.h"
#include "lane.h"

#define LANE_OPENING_BYTES 112u
#define LANE_HEAD_BYTES 48u
#define LANE_SEALED_HEAD_BYTES (LANE_HEAD_BYTES + LANE_TAG_BYTES)
/* A receiver ends the lane after this much under one key: 2^33 blocks of AES. */
#define LANE_KEY_BYTES_MAX (128ull << 30)
#define LANE_FEATURE_OFFERS 1u
#define LANE_FEATURE_CALLS 2u
#define LANE_FEATURES (LANE_FEATURE_OFFERS | LANE_FEATURE_CALLS) /* all that we know */

enum { LANE_FLAG_EXPRESS = 1, LANE_FLAG_AES_IS_SLOW = 2 };

/* What the client's frame says. */
struct lane_opening {
  uint16_t major;
  uint16_t minor;
  uint8_t index;
  uint8_t flags;
  uint8_t ciphers; /* bit 1 << cipher */
  uint8_t ticket[GB_LANE_TICKET_ID_BYTES];
  uint8_t random[32];
  uint32_t record_bytes;
  uint32_t heartbeat_ms;
  uint32_t features;
  uint32_t required;
};

/* What the server's frame says. */
struct lane_answer {
  uint16_t major;
  uint16_t minor;
  uint8_t index;
  uint8_t cipher;
  uint8_t ticket[GB_LANE_TICKET_ID_BYTES];
  uint8_t random[32];
  uint32_t record_bytes;
  uint32_t window;
  uint32_t features;
};

bool lane_opening_write(uint8_t *frame, const struct lane_opening *opening,
                        const uint8_t *secret);
/* Whether a frame begins as an opening does. */
bool lane_opening_is_one(const uint8_t *frame);
/* The version that an opening names, proven or not: major << 16 | minor. pre: its first 12 bytes, and it is one. */
uint32_t lane_opening_version(const uint8_t *frame);
/* Reads a frame without believing it. returns: 0, or an enum gb_lane_refusal. */
int lane_opening_read(const uint8_t *frame, struct lane_opening *opening);
bool lane_opening_proven(const uint8_t *frame, const uint8_t *secret);

bool lane_answer_write(uint8_t *frame, const struct lane_answer *answer,
                       const uint8_t *opening, const uint8_t *secret);
/* returns: GB_LANE_OK; GB_LANE_FORGED; GB_LANE_PROTOCOL when it is proven and makes no sense. */
int lane_answer_read(const uint8_t *frame, struct lane_answer *answer,
                     const uint8_t *opening, const uint8_t *secret);

/* HMAC of `data` under the ticket's opening key of one side. */
bool lane_open_mac(const uint8_t *secret, bool client,
                   const uint8_t *ticket, const void *data, size_t bytes, uint8_t *mac);

/* The key of one direction of one connection. */
struct lane_key {
  const struct lane_aead *aead;
  void *context;
  bool sealing;
  uint8_t secret[LANE_KEY_BYTES];
  uint8_t iv[LANE_NONCE_BYTES];
  uint64_t counter; /* of the next piece */
  uint64_t bytes;   /* under this key so far */
};

/* The first key. pre: *key is zero. owns: released by lane_key_end. */
bool lane_key_first(struct lane_key *key, const struct lane_aead *aead, bool sealing, bool client_to_server,
                    const uint8_t *secret, const uint8_t *opening,
                    const uint8_t *answer);
/* The one after REKEY; the one before is wiped. */
bool lane_key_next(struct lane_key *key);
void lane_key_end(struct lane_key *key);
/* Begins the next piece. false: the key is worn out. */
bool lane_key_begin(struct lane_key *key, uint64_t bytes);

enum lane_type {
  LANE_READ = 1,
  LANE_DATA = 2,
  LANE_WRITE = 3,
  LANE_ACK = 4,
  LANE_ERROR = 5,
  LANE_CANCEL = 6,
  LANE_CREDIT = 7,
  LANE_PING = 8,
  LANE_PONG = 9,
  LANE_REKEY = 10,
  LANE_GOODBYE = 11,
  LANE_OFFER = 12,
  LANE_HAVE = 13,
  LANE_CALL = 14,
  LANE_RESULT = 15,
};

struct lane_head {
  uint8_t type; /* enum lane_type */
  uint8_t priority;
  uint16_t status;
  uint32_t body_bytes;
  uint64_t request;
  uint64_t offset;
  uint32_t region;
  uint32_t length;
  uint32_t deadline_ms;
  uint64_t value;
};

void lane_head_write(uint8_t *bytes, const struct lane_head *head);
/* Reads a proven head. returns: false if a peer that keeps to the protocol cannot have sent it, to a server
 * (`from_client`) or to a client. */
bool lane_head_read(const uint8_t *bytes, struct lane_head *head, uint32_t record_bytes,
                    bool from_client);

/* Seals a head whole: 64 bytes to `out`. */
bool lane_head_seal(struct lane_key *key, const struct lane_head *head, uint8_t *out);
/* Opens one. returns: GB_LANE_OK, GB_LANE_FORGED, GB_LANE_PROTOCOL. */
int lane_head_open(struct lane_key *key, const uint8_t *in, struct lane_head *head,
                   uint32_t record_bytes, bool from_client);

#endif
