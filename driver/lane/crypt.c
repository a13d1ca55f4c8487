/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crypt.c: which of the libraries computes a cipher: those that give known answers, the fastest first.
 */
#include "crypt.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "lane.h"

#define TRIAL_BYTES 65536u
#define TRIALS 5
#define AEADS_MAX 3u

static struct {
  pthread_once_t once;
  bool ready;
  uint32_t count;
  struct lane_aead aeads[AEADS_MAX]; /* fastest first */
} crypt = {.once = PTHREAD_ONCE_INIT};

static const uint8_t zero[LANE_KEY_BYTES];

/* Sixteen zero bytes under a zero key and nonce: test case 14 of the GCM specification, and RFC 8439 computed. */
static const struct {
  uint8_t text[16];
  uint8_t tag[LANE_TAG_BYTES];
} answers[] = {
    [GB_LANE_CIPHER_AES_256_GCM] = {{0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3,
                                     0xba, 0xf3, 0x9d, 0x18},
                                    {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5,
                                     0xd4, 0x8a, 0xb9, 0x19}},
    [GB_LANE_CIPHER_CHACHA20_POLY1305] = {{0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97,
                                           0x7c, 0x73, 0x2d, 0x08, 0x0d},
                                          {0xc3, 0x4a, 0x88, 0x04, 0x73, 0x20, 0xf5, 0x2a, 0xa2, 0xc6, 0x68,
                                           0x3e, 0xf8, 0x08, 0x4d, 0x2f}},
};

static bool answers_right(const struct lane_aead *aead) {
  uint8_t got[16] = {0}, tag[LANE_TAG_BYTES];
  void *seal = aead->create(zero, true);
  void *open = aead->create(zero, false);
  bool right = seal != NULL && open != NULL && aead->begin(seal, zero) &&
               aead->update(seal, got, got, sizeof got) && aead->tag(seal, tag) &&
               memcmp(got, answers[aead->cipher].text, sizeof got) == 0 &&
               memcmp(tag, answers[aead->cipher].tag, sizeof tag) == 0 && aead->begin(open, zero) &&
               aead->update(open, got, got, sizeof got) && aead->verify(open, tag) &&
               memcmp(got, zero, sizeof got) == 0;
  tag[0] ^= 1;
  right = right && aead->begin(open, zero) && aead->update(open, answers[aead->cipher].text, got, sizeof got) &&
          !aead->verify(open, tag);
  aead->destroy(seal);
  aead->destroy(open);
  return right;
}

/* RFC 5869, test case 1; HMAC by HKDF's own first step; and SHA-256 of "abc" (FIPS 180-4). */
static bool derives_right(void) {
  static const uint8_t salt[13] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  static const uint8_t info[10] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9};
  static const uint8_t prk[8] = {0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf};
  static const uint8_t okm[42] = {0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36,
                                  0x2f, 0x2a, 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56,
                                  0xec, 0xc4, 0xc5, 0xbf, 0x34, 0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65};
  static const uint8_t abc[8] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea};
  uint8_t secret[22], out[sizeof okm], mac[32], digest[32];
  memset(secret, 0x0b, sizeof secret);
  return lane_hkdf(secret, sizeof secret, salt, sizeof salt, info, sizeof info, out, sizeof out) &&
         memcmp(out, okm, sizeof okm) == 0 && lane_hmac(salt, sizeof salt, secret, sizeof secret, mac) &&
         memcmp(mac, prk, sizeof prk) == 0 && lane_sha256("abc", 3, digest) &&
         memcmp(digest, abc, sizeof abc) == 0 && lane_equal(salt, salt, sizeof salt) &&
         !lane_equal(salt, secret, sizeof salt);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* The best of a few: the others were interrupted. */
static uint32_t rate_of(const struct lane_aead *aead, uint8_t *memory) {
  uint8_t tag[LANE_TAG_BYTES];
  uint64_t best = UINT64_MAX;
  void *context = aead->create(zero, true);
  if (context == NULL) return 0;
  for (int i = 0; i <= TRIALS; i++) {
    uint64_t start = now_ns();
    aead->begin(context, zero);
    aead->update(context, memory, memory, TRIAL_BYTES);
    aead->tag(context, tag);
    uint64_t took = now_ns() - start;
    if (took < best) best = took;
  }
  aead->destroy(context);
  return (uint32_t)(TRIAL_BYTES * 1000ull / (best != 0 ? best : 1));
}

static void consider(const struct lane_aead *aead, uint8_t *memory) {
  if (!answers_right(aead)) return;
  struct lane_aead timed = *aead;
  timed.megabytes_per_second = rate_of(aead, memory);
  uint32_t at = crypt.count++;
  while (at > 0 && crypt.aeads[at - 1].megabytes_per_second < timed.megabytes_per_second) {
    crypt.aeads[at] = crypt.aeads[at - 1];
    at--;
  }
  crypt.aeads[at] = timed;
}

static void load(void) {
  struct lane_aead aead;
  if (!lane_ssl_load() || !derives_right()) return;
  uint8_t *memory = calloc(1, TRIAL_BYTES);
  if (memory == NULL) return;
  lane_ssl_aead(&aead, GB_LANE_CIPHER_AES_256_GCM);
  consider(&aead, memory);
  lane_ssl_aead(&aead, GB_LANE_CIPHER_CHACHA20_POLY1305);
  consider(&aead, memory);
  if (lane_ipsec_load(&aead)) consider(&aead, memory);
  free(memory);
  crypt.ready = crypt.count > 0;
}

bool lane_crypt_ready(void) {
  pthread_once(&crypt.once, load);
  return crypt.ready;
}

const struct lane_aead *lane_crypt_at(uint32_t index) {
  return lane_crypt_ready() && index < crypt.count ? &crypt.aeads[index] : NULL;
}

const struct lane_aead *lane_crypt_find(uint32_t cipher, uint32_t provider) {
  const struct lane_aead *aead;
  for (uint32_t i = 0; (aead = lane_crypt_at(i)) != NULL; i++) {
    if ((cipher == GB_LANE_CIPHER_ANY || cipher == aead->cipher) &&
        (provider == GB_LANE_PROVIDER_ANY || provider == aead->provider))
      return aead;
  }
  return NULL;
}

bool lane_random(void *out, size_t bytes) {
  ssize_t got;
  do got = getrandom(out, bytes, 0);
  while (got < 0 && errno == EINTR);
  return got == (ssize_t)bytes;
}

uint32_t gb_lane_ciphers(struct gb_lane_cipher_info *infos, uint32_t count) {
  const struct lane_aead *aead;
  uint32_t i;
  for (i = 0; i < count && (aead = lane_crypt_at(i)) != NULL; i++) {
    infos[i] = (struct gb_lane_cipher_info){.cipher = aead->cipher,
                                            .provider = aead->provider,
                                            .megabytes_per_second = aead->megabytes_per_second,
                                            .chosen = i == 0};
    snprintf(infos[i].name, sizeof infos[i].name, "%s by %s",
             aead->cipher == GB_LANE_CIPHER_AES_256_GCM ? "AES-256-GCM" : "ChaCha20-Poly1305", aead->name);
  }
  return i;
}
