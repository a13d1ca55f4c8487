/* SPDX-License-Identifier: Apache-2.0 */
/* hash.c: SipHash-2-4-128, after the paper and its reference vectors (test/c/core/vectors.h). */
#include "hash.h"

#include <string.h>

#define ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

struct sip {
  uint64_t v0, v1, v2, v3;
};

static inline void sip_round(struct sip *s) {
  s->v0 += s->v1;
  s->v1 = ROTATE(s->v1, 13) ^ s->v0;
  s->v0 = ROTATE(s->v0, 32);
  s->v2 += s->v3;
  s->v3 = ROTATE(s->v3, 16) ^ s->v2;
  s->v0 += s->v3;
  s->v3 = ROTATE(s->v3, 21) ^ s->v0;
  s->v2 += s->v1;
  s->v1 = ROTATE(s->v1, 17) ^ s->v2;
  s->v2 = ROTATE(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t word) {
  s->v3 ^= word;
  sip_round(s);
  sip_round(s);
  s->v0 ^= word;
}

static inline void sip_four_rounds(struct sip *s) {
  for (int i = 0; i < 4; i++) sip_round(s);
}

struct gb_digest gb_hash(const struct gb_hash_key *key, const void *bytes, size_t length) {
  const unsigned char *p = bytes;
  struct sip s = {key->k0 ^ 0x736f6d6570736575ull, key->k1 ^ 0x646f72616e646f6dull ^ 0xee,
                  key->k0 ^ 0x6c7967656e657261ull, key->k1 ^ 0x7465646279746573ull};
  uint64_t word = 0;
  for (size_t words = length / 8; words > 0; words--, p += 8) {
    memcpy(&word, p, 8);
    sip_word(&s, word);
  }
  word = 0;
  memcpy(&word, p, length % 8);
  sip_word(&s, word | (uint64_t)length << 56);
  struct gb_digest digest;
  s.v2 ^= 0xee;
  sip_four_rounds(&s);
  digest.low = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
  s.v1 ^= 0xdd;
  sip_four_rounds(&s);
  digest.high = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
  return digest;
}
