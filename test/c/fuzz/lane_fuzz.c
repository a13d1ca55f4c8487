/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane_fuzz.c: everything a lane reads from a socket. The first byte chooses: an opening frame or an answer as a
 * stranger may send it; heads as an authenticated peer may send them; or the records of a peer that holds the keys, cut
 * anywhere, through the real receiving side of a connection, to a server's or a client's owner that checks what it is
 * told. The last kind is sealed here, so that what the fuzzer writes is what comes out of the cipher.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RECORD_BYTES GB_LANE_RECORD_BYTES_MIN

static const uint8_t secret[GB_LANE_SECRET_BYTES] = {1, 2, 3};
static uint8_t place[RECORD_BYTES];
static uint32_t expected_at, expected_bytes;

static void require(bool condition) {
  if (!condition) abort();
}

/* ---- an owner that checks ---- */

static bool next(void *owner, struct lane_head *head, const void **body, bool small) {
  (void)owner, (void)head, (void)body, (void)small;
  return false;
}
static void sealed(void *owner, const struct lane_head *head) {
  (void)owner, (void)head;
}
static int on_head(void *owner, const struct lane_head *head) {
  const bool *is_client = owner;
  bool from_server = head->type == LANE_DATA || head->type == LANE_ACK || head->type == LANE_ERROR ||
                     head->type == LANE_CREDIT || head->type == LANE_HAVE || head->type == LANE_RESULT;
  bool from_client = head->type == LANE_READ || head->type == LANE_WRITE || head->type == LANE_CANCEL ||
                     head->type == LANE_OFFER || head->type == LANE_CALL;
  bool has_body = head->type == LANE_DATA || head->type == LANE_WRITE || head->type == LANE_OFFER ||
                  head->type == LANE_HAVE || head->type == LANE_CALL;
  require(*is_client ? from_server : from_client);
  require(head->body_bytes <= RECORD_BYTES && head->length <= RECORD_BYTES && head->priority <= GB_LANE_BACKGROUND);
  require(head->type == LANE_RESULT || (head->body_bytes > 0) == has_body);
  if (head->type == LANE_CALL) require(head->length == head->body_bytes && head->offset == 0 && head->value == 0);
  if (head->type == LANE_RESULT) require(head->length == 0 && head->status == 0 && head->region == 0);
  if (head->type == LANE_OFFER)
    require(head->length == head->body_bytes && head->length % GB_LANE_DIGEST_BYTES == 0 &&
            head->length / GB_LANE_DIGEST_BYTES <= GB_LANE_OFFER_BLOCKS_MAX &&
            head->value * (head->length / GB_LANE_DIGEST_BYTES) <= 1ull << 40);
  expected_at = 0;
  expected_bytes = head->body_bytes;
  return GB_LANE_OK;
}
static void *on_place(void *owner, uint32_t at, uint32_t bytes) {
  (void)owner;
  require(at == expected_at && bytes > 0 && bytes <= expected_bytes - at);
  expected_at += bytes;
  return at % 3 == 0 ? place + at : NULL;
}
static void placed(void *owner) {
  (void)owner;
}
static int on_body(void *owner) {
  (void)owner;
  require(expected_at == expected_bytes);
  return GB_LANE_OK;
}
static uint64_t turn(void *owner, uint64_t now_ns) {
  (void)owner;
  return now_ns + 1000000;
}
static const struct lane_link_ops ops = {next, sealed, on_head, on_place, placed, on_body, turn};

/* ---- the three kinds ---- */

static void try_frames(const uint8_t *data, size_t size) {
  uint8_t frame[LANE_OPENING_BYTES] = {0}, first[LANE_OPENING_BYTES];
  struct lane_opening opening;
  struct lane_answer answer;
  memcpy(frame, data, size < sizeof frame ? size : sizeof frame);
  int refusal = lane_opening_read(frame, &opening);
  require(refusal >= 0 && refusal < GB_LANE_REFUSALS);
  if (refusal == 0) require(opening.major == 1 && opening.index <= GB_LANE_CONNECTIONS_MAX);
  require(!lane_opening_proven(frame, secret)); /* 2^-256 */
  struct lane_opening mine = {.major = 1, .ciphers = 2, .record_bytes = RECORD_BYTES};
  require(lane_opening_write(first, &mine, secret));
  require(lane_answer_read(frame, &answer, first, secret) == GB_LANE_FORGED);
}

static void try_head(const uint8_t *data, size_t size) {
  uint8_t bytes[LANE_HEAD_BYTES] = {0}, again[LANE_HEAD_BYTES];
  struct lane_head head;
  memcpy(bytes, data, size < sizeof bytes ? size : sizeof bytes);
  for (int from_client = 0; from_client < 2; from_client++) {
    if (!lane_head_read(bytes, &head, RECORD_BYTES, from_client)) continue;
    lane_head_write(again, &head);
    require(memcmp(bytes, again, sizeof bytes) == 0);
  }
}

/* Seals data as records: each begins with a head; where the head announces a body that is in bounds, it follows. */
static void send_records(int fd, struct lane_key *seal, const uint8_t *data, size_t size, bool from_client) {
  uint8_t out[LANE_SEALED_HEAD_BYTES + LANE_HEAD_BYTES], body[4096 + LANE_TAG_BYTES];
  struct lane_head head;
  while (size >= LANE_HEAD_BYTES) {
    bool sound = lane_head_read(data, &head, RECORD_BYTES, from_client);
    require(lane_key_begin(seal, LANE_HEAD_BYTES));
    require(seal->aead->update(seal->context, data, out, LANE_HEAD_BYTES));
    require(seal->aead->tag(seal->context, out + LANE_HEAD_BYTES));
    if (send(fd, out, LANE_SEALED_HEAD_BYTES, MSG_NOSIGNAL | MSG_DONTWAIT) <= 0) return;
    data += LANE_HEAD_BYTES;
    size -= LANE_HEAD_BYTES;
    if (sound && head.type == LANE_REKEY) require(lane_key_next(seal));
    if (!sound || head.body_bytes == 0) continue;
    size_t bytes = head.body_bytes < size ? head.body_bytes : size;
    if (bytes > sizeof body - LANE_TAG_BYTES) bytes = sizeof body - LANE_TAG_BYTES;
    require(lane_key_begin(seal, bytes));
    require(seal->aead->update(seal->context, data, body, bytes) &&
            seal->aead->tag(seal->context, body + bytes));
    if (send(fd, body, bytes + LANE_TAG_BYTES, MSG_NOSIGNAL | MSG_DONTWAIT) <= 0) return;
    data += bytes;
    size -= bytes;
  }
  if (size > 0) send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT); /* not sealed: a forger */
}

static void try_records(const uint8_t *data, size_t size, bool is_client) {
  uint8_t opening[LANE_OPENING_BYTES] = {1}, answer[LANE_OPENING_BYTES] = {2};
  struct lane_link link = {0};
  struct lane_key seal = {0};
  int pair[2];
  require(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  struct gb_lane_tuning tuning = lane_tuning_of(&(struct gb_lane_tuning){.silence_ms = 50});
  const struct lane_aead *aead = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, GB_LANE_PROVIDER_OPENSSL);
  const struct lane_link_start start = {pair[0], is_client, aead,  secret, opening,
                                        answer,  RECORD_BYTES, &tuning, &ops, &is_client};
  require(lane_link_init(&link, &start) == GB_LANE_OK);
  require(lane_key_first(&seal, aead, true, !is_client, secret, opening, answer));
  send_records(pair[1], &seal, data, size, !is_client);
  shutdown(pair[1], SHUT_WR);
  int status = lane_link_run(&link);
  require(status > GB_LANE_OK && status < GB_LANE_PENDING);
  lane_link_last_words(&link);
  lane_link_free(&link);
  lane_key_end(&seal);
  close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || !lane_crypt_ready()) return 0;
  switch (data[0] % 4) {
    case 0: try_frames(data + 1, size - 1); break;
    case 1: try_head(data + 1, size - 1); break;
    default: try_records(data + 1, size - 1, data[0] % 4 == 2);
  }
  return 0;
}
