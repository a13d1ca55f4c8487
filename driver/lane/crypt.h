/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crypt.h: what lanes need of cryptography, and nothing of how it is computed: AEAD in slices, HKDF-SHA256,
 * HMAC-SHA256, random bytes. All of it comes from libraries loaded at run time (ADR 0011).
 */
#ifndef GB_LANE_CRYPT_H
#define GB_LANE_CRYPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LANE_KEY_BYTES 32u
#define LANE_NONCE_BYTES 12u
#define LANE_TAG_BYTES 16u

/* One way to compute one cipher. A context serves one key and one direction at a time, one thread at a time. */
struct lane_aead {
  uint32_t cipher;   /* enum gb_lane_cipher */
  uint32_t provider; /* enum gb_lane_provider */
  uint32_t megabytes_per_second;
  char name[24]; /* of the provider */
  /* owns: the result is released by destroy, which wipes the key. NULL: no memory. */
  void *(*create)(const uint8_t *key, bool sealing);
  void (*destroy)(void *context);
  bool (*begin)(void *context, const uint8_t *nonce);
  /* `in` may be `out`. Every slice but the last is a multiple of 64 bytes. */
  bool (*update)(void *context, const void *in, void *out, size_t bytes);
  bool (*tag)(void *context, uint8_t *tag);
  bool (*verify)(void *context, const uint8_t *tag);
};

/* Loads, tries and times everything, once per process. returns: whether there is anything to encrypt with. */
bool lane_crypt_ready(void);

/* The fastest way for `cipher` (GB_LANE_CIPHER_ANY: of all) by `provider` (likewise), or NULL. */
const struct lane_aead *lane_crypt_find(uint32_t cipher, uint32_t provider);

/* The i-th of all, fastest first; NULL beyond the last. */
const struct lane_aead *lane_crypt_at(uint32_t index);

/* Bytes of `info` that lane_hkdf takes. */
#define LANE_HKDF_INFO_MAX 256u

/* RFC 5869, extract and expand. */
bool lane_hkdf(const void *secret, size_t secret_bytes, const void *salt, size_t salt_bytes, const void *info,
               size_t info_bytes, void *out, size_t out_bytes);
bool lane_hmac(const void *key, size_t key_bytes, const void *data, size_t data_bytes, uint8_t *out);
bool lane_sha256(const void *data, size_t data_bytes, uint8_t *out);
bool lane_equal(const void *a, const void *b, size_t bytes); /* in constant time */
bool lane_random(void *out, size_t bytes);

/* Of the providers; used by crypt.c alone. */
bool lane_ssl_load(void);
void lane_ssl_aead(struct lane_aead *aead, uint32_t cipher);
bool lane_ipsec_load(struct lane_aead *aead);

#endif
