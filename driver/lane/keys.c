/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.c: from a ticket's secret to the keys of each direction, by HKDF-SHA256 with one label per purpose (ADR 0011).
 */
#include <string.h>

#include "wire.h"

#define INFO_BYTES_MAX 128u

static const char SALT[] = "greenboost lane, version 1";

/* Each field with its length in front, as security/derive.ts does. */
static size_t add_field(uint8_t *info, size_t at, const void *field, size_t bytes) {
  info[at] = (uint8_t)(bytes >> 8);
  info[at + 1] = (uint8_t)bytes;
  memcpy(info + at + 2, field, bytes);
  return at + 2 + bytes;
}

static size_t add_text(uint8_t *info, size_t at, const char *text) {
  return add_field(info, at, text, strlen(text));
}

bool lane_open_mac(const uint8_t *secret, bool client, const uint8_t *ticket, const void *data, size_t bytes,
                   uint8_t *mac) {
  uint8_t info[INFO_BYTES_MAX], key[32];
  size_t length = add_text(info, 0, client ? "open, client to server" : "open, server to client");
  length = add_field(info, length, ticket, GB_LANE_TICKET_ID_BYTES);
  bool right = lane_hkdf(secret, GB_LANE_SECRET_BYTES, SALT, sizeof SALT - 1, info, length, key, sizeof key) &&
               lane_hmac(key, sizeof key, data, bytes, mac);
  explicit_bzero(key, sizeof key);
  return right;
}

/* Key and iv of the secret that lies in *key. */
static bool expand(struct lane_key *key) {
  uint8_t info[INFO_BYTES_MAX], out[LANE_KEY_BYTES + LANE_NONCE_BYTES];
  size_t length = add_text(info, 0, "key");
  if (!lane_hkdf(key->secret, sizeof key->secret, SALT, sizeof SALT - 1, info, length, out, sizeof out))
    return false;
  void *context = key->aead->create(out, key->sealing);
  memcpy(key->iv, out + LANE_KEY_BYTES, sizeof key->iv);
  explicit_bzero(out, sizeof out);
  if (context == NULL) return false;
  key->aead->destroy(key->context);
  key->context = context;
  key->counter = 0;
  key->bytes = 0;
  return true;
}

bool lane_key_first(struct lane_key *key, const struct lane_aead *aead, bool sealing, bool client_to_server,
                    const uint8_t *secret, const uint8_t *opening, const uint8_t *answer) {
  uint8_t info[INFO_BYTES_MAX], salt[2 * LANE_OPENING_BYTES];
  key->aead = aead;
  key->sealing = sealing;
  memcpy(salt, opening, LANE_OPENING_BYTES);
  memcpy(salt + LANE_OPENING_BYTES, answer, LANE_OPENING_BYTES);
  size_t length =
      add_text(info, 0, client_to_server ? "records, client to server" : "records, server to client");
  length = add_text(info, length,
                    aead->cipher == GB_LANE_CIPHER_AES_256_GCM ? "AES-256-GCM" : "ChaCha20-Poly1305");
  return lane_hkdf(secret, GB_LANE_SECRET_BYTES, salt, sizeof salt, info, length, key->secret,
                   sizeof key->secret) &&
         expand(key);
}

bool lane_key_next(struct lane_key *key) {
  uint8_t info[INFO_BYTES_MAX], next[LANE_KEY_BYTES];
  size_t length = add_text(info, 0, "next");
  if (!lane_hkdf(key->secret, sizeof key->secret, SALT, sizeof SALT - 1, info, length, next, sizeof next))
    return false;
  memcpy(key->secret, next, sizeof key->secret);
  explicit_bzero(next, sizeof next);
  return expand(key);
}

void lane_key_end(struct lane_key *key) {
  if (key->aead != NULL) key->aead->destroy(key->context);
  explicit_bzero(key, sizeof *key);
}

bool lane_key_begin(struct lane_key *key, uint64_t bytes) {
  uint8_t nonce[LANE_NONCE_BYTES];
  if (bytes > LANE_KEY_BYTES_MAX - key->bytes || key->counter == UINT64_MAX) return false;
  memcpy(nonce, key->iv, sizeof nonce);
  for (int i = 0; i < 8; i++) nonce[LANE_NONCE_BYTES - 1 - i] ^= (uint8_t)(key->counter >> 8 * i);
  key->counter++;
  key->bytes += bytes;
  return key->aead->begin(key->context, nonce);
}
