/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.c: opening frames and heads, written and read. A head is read only after its tag has proven it; what it says is
 * still checked, since a peer may be wrong.
 */
#include "wire.h"

#include <string.h>

static const char CLIENT_MAGIC[8] = "GBLANE-C";
static const char SERVER_MAGIC[8] = "GBLANE-S";
#define MAC_AT 80u

static void put16(uint8_t *at, uint16_t value) {
  at[0] = (uint8_t)value;
  at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value) {
  put16(at, (uint16_t)value);
  put16(at + 2, (uint16_t)(value >> 16));
}

static void put64(uint8_t *at, uint64_t value) {
  put32(at, (uint32_t)value);
  put32(at + 4, (uint32_t)(value >> 32));
}

static uint16_t get16(const uint8_t *at) {
  return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t get32(const uint8_t *at) {
  return get16(at) | (uint32_t)get16(at + 2) << 16;
}

static uint64_t get64(const uint8_t *at) {
  return get32(at) | (uint64_t)get32(at + 4) << 32;
}

/* ---- opening ---- */

bool lane_opening_write(uint8_t *frame, const struct lane_opening *opening, const uint8_t *secret) {
  memset(frame, 0, LANE_OPENING_BYTES);
  memcpy(frame, CLIENT_MAGIC, sizeof CLIENT_MAGIC);
  put16(frame + 8, opening->major);
  put16(frame + 10, opening->minor);
  frame[12] = opening->index;
  frame[13] = opening->flags;
  frame[14] = opening->ciphers;
  memcpy(frame + 16, opening->ticket, sizeof opening->ticket);
  memcpy(frame + 32, opening->random, sizeof opening->random);
  put32(frame + 64, opening->record_bytes);
  put32(frame + 68, opening->heartbeat_ms);
  put32(frame + 72, opening->features);
  put32(frame + 76, opening->required);
  return lane_open_mac(secret, true, opening->ticket, frame, MAC_AT, frame + MAC_AT);
}

bool lane_opening_is_one(const uint8_t *frame) {
  return memcmp(frame, CLIENT_MAGIC, sizeof CLIENT_MAGIC) == 0;
}

uint32_t lane_opening_version(const uint8_t *frame) {
  return (uint32_t)get16(frame + 8) << 16 | get16(frame + 10);
}

int lane_opening_read(const uint8_t *frame, struct lane_opening *opening) {
  if (!lane_opening_is_one(frame)) return GB_LANE_REFUSED_FORMAT;
  opening->major = get16(frame + 8);
  opening->minor = get16(frame + 10);
  opening->index = frame[12];
  opening->flags = frame[13];
  opening->ciphers = frame[14];
  memcpy(opening->ticket, frame + 16, sizeof opening->ticket);
  memcpy(opening->random, frame + 32, sizeof opening->random);
  opening->record_bytes = get32(frame + 64);
  opening->heartbeat_ms = get32(frame + 68);
  opening->features = get32(frame + 72);
  opening->required = get32(frame + 76);
  if (opening->major != GB_LANE_VERSION_MAJOR) return GB_LANE_REFUSED_VERSION;
  if ((opening->required & ~LANE_FEATURES) != 0) return GB_LANE_REFUSED_VERSION;
  if (frame[15] != 0 || opening->index > GB_LANE_CONNECTIONS_MAX) return GB_LANE_REFUSED_FORMAT;
  if (opening->record_bytes < GB_LANE_RECORD_BYTES_MIN) return GB_LANE_REFUSED_FORMAT;
  return 0;
}

bool lane_opening_proven(const uint8_t *frame, const uint8_t *secret) {
  uint8_t mac[32];
  return lane_open_mac(secret, true, frame + 16, frame, MAC_AT, mac) &&
         lane_equal(mac, frame + MAC_AT, sizeof mac);
}

static bool answer_mac(const uint8_t *frame, const uint8_t *opening, const uint8_t *secret, uint8_t *mac) {
  uint8_t both[LANE_OPENING_BYTES + MAC_AT];
  memcpy(both, opening, LANE_OPENING_BYTES);
  memcpy(both + LANE_OPENING_BYTES, frame, MAC_AT);
  return lane_open_mac(secret, false, opening + 16, both, sizeof both, mac);
}

bool lane_answer_write(uint8_t *frame, const struct lane_answer *answer, const uint8_t *opening,
                       const uint8_t *secret) {
  memset(frame, 0, LANE_OPENING_BYTES);
  memcpy(frame, SERVER_MAGIC, sizeof SERVER_MAGIC);
  put16(frame + 8, answer->major);
  put16(frame + 10, answer->minor);
  frame[12] = answer->index;
  frame[14] = answer->cipher;
  memcpy(frame + 16, answer->ticket, sizeof answer->ticket);
  memcpy(frame + 32, answer->random, sizeof answer->random);
  put32(frame + 64, answer->record_bytes);
  put32(frame + 68, answer->window);
  put32(frame + 72, answer->features);
  return answer_mac(frame, opening, secret, frame + MAC_AT);
}

int lane_answer_read(const uint8_t *frame, struct lane_answer *answer, const uint8_t *opening,
                     const uint8_t *secret) {
  uint8_t mac[32];
  if (!answer_mac(frame, opening, secret, mac) || !lane_equal(mac, frame + MAC_AT, sizeof mac))
    return GB_LANE_FORGED;
  answer->major = get16(frame + 8);
  answer->minor = get16(frame + 10);
  answer->index = frame[12];
  answer->cipher = frame[14];
  memcpy(answer->ticket, frame + 16, sizeof answer->ticket);
  memcpy(answer->random, frame + 32, sizeof answer->random);
  answer->record_bytes = get32(frame + 64);
  answer->window = get32(frame + 68);
  answer->features = get32(frame + 72);
  bool offered = answer->cipher >= GB_LANE_CIPHER_AES_256_GCM &&
                 answer->cipher <= GB_LANE_CIPHER_CHACHA20_POLY1305 &&
                 (opening[14] & 1u << answer->cipher) != 0;
  bool sound = memcmp(frame, SERVER_MAGIC, sizeof SERVER_MAGIC) == 0 &&
               answer->major == GB_LANE_VERSION_MAJOR && answer->index == opening[12] && frame[13] == 0 &&
               frame[15] == 0 && memcmp(answer->ticket, opening + 16, sizeof answer->ticket) == 0 && offered &&
               answer->record_bytes >= GB_LANE_RECORD_BYTES_MIN &&
               answer->record_bytes <= get32(opening + 64) && answer->window >= 1 &&
               answer->window <= GB_LANE_WINDOW_MAX && (answer->features & ~get32(opening + 72)) == 0 &&
               get32(frame + 76) == 0;
  return sound ? GB_LANE_OK : GB_LANE_PROTOCOL;
}

/* ---- heads ---- */

void lane_head_write(uint8_t *bytes, const struct lane_head *head) {
  memset(bytes, 0, LANE_HEAD_BYTES);
  bytes[0] = head->type;
  bytes[1] = head->priority;
  put16(bytes + 2, head->status);
  put32(bytes + 4, head->body_bytes);
  put64(bytes + 8, head->request);
  put64(bytes + 16, head->offset);
  put32(bytes + 24, head->region);
  put32(bytes + 28, head->length);
  put32(bytes + 32, head->deadline_ms);
  put64(bytes + 40, head->value);
}

/* Which fields of a type may differ from zero; request is one of them for all that answer or ask. */
enum {
  F_PRIORITY = 1,
  F_STATUS = 2,
  F_BODY = 4,
  F_REQUEST = 8,
  F_PLACE = 16,
  F_DEADLINE = 32,
  F_VALUE = 64,
  F_MAY_BODY = 128, /* a body, or none */
};
enum { CLIENT = 1, SERVER = 2 };
static const struct {
  uint8_t from;
  uint8_t fields;
} kinds[] = {
    [LANE_READ] = {CLIENT, F_PRIORITY | F_REQUEST | F_PLACE | F_DEADLINE},
    [LANE_DATA] = {SERVER, F_BODY | F_REQUEST},
    [LANE_WRITE] = {CLIENT, F_PRIORITY | F_BODY | F_REQUEST | F_PLACE | F_DEADLINE},
    [LANE_ACK] = {SERVER, F_REQUEST},
    [LANE_ERROR] = {SERVER, F_STATUS | F_REQUEST},
    [LANE_CANCEL] = {CLIENT, F_REQUEST},
    [LANE_CREDIT] = {SERVER, F_VALUE},
    [LANE_PING] = {CLIENT | SERVER, F_VALUE},
    [LANE_PONG] = {CLIENT | SERVER, F_VALUE},
    [LANE_REKEY] = {CLIENT | SERVER, 0},
    [LANE_GOODBYE] = {CLIENT | SERVER, F_STATUS},
    [LANE_OFFER] = {CLIENT, F_PRIORITY | F_BODY | F_REQUEST | F_PLACE | F_DEADLINE | F_VALUE},
    [LANE_HAVE] = {SERVER, F_BODY | F_REQUEST},
    [LANE_CALL] = {CLIENT, F_PRIORITY | F_BODY | F_REQUEST | F_PLACE | F_DEADLINE},
    [LANE_RESULT] = {SERVER, F_MAY_BODY | F_REQUEST},
};

static bool is_sound_offer(const struct lane_head *head) {
  return head->length == head->body_bytes && head->length % GB_LANE_DIGEST_BYTES == 0 &&
         head->length / GB_LANE_DIGEST_BYTES <= GB_LANE_OFFER_BLOCKS_MAX && head->value >= GB_LANE_BLOCK_BYTES_MIN &&
         head->value <= GB_LANE_BLOCK_BYTES_MAX;
}

/* Each field is zero where it means nothing, and in its bounds where it means something. */
static bool is_sound(const struct lane_head *head, uint32_t record_bytes, bool from_client) {
  if (head->type == 0 || head->type >= sizeof kinds / sizeof kinds[0]) return false;
  uint8_t fields = kinds[head->type].fields;
  if ((kinds[head->type].from & (from_client ? CLIENT : SERVER)) == 0) return false;
  if (head->priority > ((fields & F_PRIORITY) != 0 ? GB_LANE_BACKGROUND : 0)) return false;
  if ((fields & F_STATUS) != 0 ? head->status == GB_LANE_OK || head->status >= GB_LANE_PENDING : head->status != 0)
    return false;
  if (head->body_bytes == 0 ? (fields & F_BODY) != 0 : (fields & (F_BODY | F_MAY_BODY)) == 0) return false;
  if (head->body_bytes > record_bytes) return false;
  if (((fields & F_REQUEST) != 0) != (head->request != 0)) return false;
  if ((fields & F_PLACE) == 0 && (head->offset != 0 || head->region != 0 || head->length != 0)) return false;
  if ((fields & F_PLACE) != 0 && (head->length == 0 || head->length > record_bytes)) return false;
  if ((head->type == LANE_WRITE || head->type == LANE_CALL) && head->length != head->body_bytes) return false;
  if (head->type == LANE_CALL && head->offset != 0) return false;
  if (head->type == LANE_OFFER && !is_sound_offer(head)) return false;
  if (head->type == LANE_HAVE && head->body_bytes > GB_LANE_OFFER_BLOCKS_MAX / 8) return false;
  if ((fields & F_DEADLINE) == 0 && head->deadline_ms != 0) return false;
  if ((fields & F_VALUE) == 0 && head->value != 0) return false;
  return head->type != LANE_CREDIT || (head->value >= 1 && head->value <= GB_LANE_WINDOW_MAX);
}

bool lane_head_read(const uint8_t *bytes, struct lane_head *head, uint32_t record_bytes, bool from_client) {
  head->type = bytes[0];
  head->priority = bytes[1];
  head->status = get16(bytes + 2);
  head->body_bytes = get32(bytes + 4);
  head->request = get64(bytes + 8);
  head->offset = get64(bytes + 16);
  head->region = get32(bytes + 24);
  head->length = get32(bytes + 28);
  head->deadline_ms = get32(bytes + 32);
  head->value = get64(bytes + 40);
  return get32(bytes + 36) == 0 && is_sound(head, record_bytes, from_client);
}

bool lane_head_seal(struct lane_key *key, const struct lane_head *head, uint8_t *out) {
  uint8_t plain[LANE_HEAD_BYTES];
  lane_head_write(plain, head);
  return lane_key_begin(key, sizeof plain) && key->aead->update(key->context, plain, out, sizeof plain) &&
         key->aead->tag(key->context, out + sizeof plain);
}

int lane_head_open(struct lane_key *key, const uint8_t *in, struct lane_head *head, uint32_t record_bytes,
                   bool from_client) {
  uint8_t plain[LANE_HEAD_BYTES];
  if (!lane_key_begin(key, sizeof plain)) return GB_LANE_PROTOCOL;
  if (!key->aead->update(key->context, in, plain, sizeof plain) ||
      !key->aead->verify(key->context, in + sizeof plain))
    return GB_LANE_FORGED;
  return lane_head_read(plain, head, record_bytes, from_client) ? GB_LANE_OK : GB_LANE_PROTOCOL;
}
