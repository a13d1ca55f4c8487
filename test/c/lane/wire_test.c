/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire_test.c: keys, opening frames and heads without a socket: fixed values computed by another implementation
 * (Python's hashlib), every field flipped, replay, reorder, oversize, and the ciphers of all providers against each
 * other.
 */
#include <string.h>

#include "harness.h"

static const uint8_t ticket_id[16] = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
                                      0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
static uint8_t secret[32];

static void make_secret(void) {
  for (uint8_t i = 0; i < 32; i++) secret[i] = i;
}

static void keys_are_those_of_another_implementation(void) {
  static const uint8_t wanted_mac[16] = {0x5b, 0xd6, 0x84, 0x2a, 0x2d, 0xcb, 0x29, 0x50,
                                         0xff, 0x82, 0x68, 0xa6, 0x06, 0x12, 0x49, 0x28};
  static const uint8_t wanted_iv[12] = {0xcc, 0xd5, 0x51, 0xe3, 0x96, 0x05, 0x84, 0xe2, 0x47, 0xe7, 0xb9, 0x19};
  static const uint8_t wanted_next[12] = {0x87, 0xab, 0x1a, 0x31, 0x30, 0xd0, 0x86, 0xe7, 0x67, 0x74, 0x7f, 0xd4};
  static const uint8_t nothing[80];
  uint8_t mac[32], opening[LANE_OPENING_BYTES], answer[LANE_OPENING_BYTES];
  struct lane_key key = {0};
  memset(opening, 1, sizeof opening);
  memset(answer, 2, sizeof answer);
  REQUIRE(lane_open_mac(secret, true, ticket_id, nothing, sizeof nothing, mac));
  CHECK(memcmp(mac, wanted_mac, sizeof wanted_mac) == 0);
  REQUIRE(lane_key_first(&key, lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, 0), true, true, secret, opening, answer));
  CHECK(memcmp(key.iv, wanted_iv, sizeof wanted_iv) == 0);
  REQUIRE(lane_key_next(&key));
  CHECK(memcmp(key.iv, wanted_next, sizeof wanted_next) == 0);
  lane_key_end(&key);
}

static void seal_in_slices(const struct lane_aead *aead, const uint8_t *key, const uint8_t *in, uint8_t *out,
                           size_t bytes, uint64_t *random, uint8_t *tag) {
  static const uint8_t nonce[12] = {9};
  void *context = aead->create(key, true);
  REQUIRE(context != NULL && aead->begin(context, nonce));
  for (size_t at = 0; at < bytes;) {
    size_t slice = 64 * (1 + random_next(random) % 200);
    if (slice > bytes - at) slice = bytes - at;
    CHECK(aead->update(context, in + at, out + at, slice));
    at += slice;
  }
  CHECK(aead->tag(context, tag));
  aead->destroy(context);
}

static void providers_agree_for_all_sizes(void) {
  static uint8_t plain[70000], first[70000], other[70000];
  uint8_t tag[16], other_tag[16];
  uint64_t random = 1;
  const struct lane_aead *reference = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, GB_LANE_PROVIDER_OPENSSL);
  REQUIRE(reference != NULL);
  fill_pattern(plain, 3, 0, sizeof plain);
  for (int round = 0; round < 200; round++) {
    size_t bytes = 1 + random_next(&random) % sizeof plain;
    seal_in_slices(reference, secret, plain, first, bytes, &random, tag);
    for (uint32_t i = 0; lane_crypt_at(i) != NULL; i++) {
      if (lane_crypt_at(i)->cipher != reference->cipher) continue;
      seal_in_slices(lane_crypt_at(i), secret, plain, other, bytes, &random, other_tag);
      REQUIRE(memcmp(first, other, bytes) == 0 && memcmp(tag, other_tag, sizeof tag) == 0);
    }
  }
}

/* Two ends of one direction. */
static void make_keys(struct lane_key *seal, struct lane_key *open, uint32_t cipher, uint32_t provider) {
  uint8_t opening[LANE_OPENING_BYTES] = {1}, answer[LANE_OPENING_BYTES] = {2};
  *seal = *open = (struct lane_key){0};
  REQUIRE(lane_key_first(seal, lane_crypt_find(cipher, provider), true, true, secret, opening, answer));
  REQUIRE(lane_key_first(open, lane_crypt_find(cipher, 0), false, true, secret, opening, answer));
}

static const struct lane_head read_head = {.type = LANE_READ,
                                           .priority = 2,
                                           .request = 0x1122334455667788,
                                           .offset = 0x99aabbccddeeff01,
                                           .region = 0xdeadbeef,
                                           .length = 65536,
                                           .deadline_ms = 77};

static void every_flipped_bit_of_a_sealed_head_is_found(void) {
  for (uint32_t bit = 0; bit < 8 * LANE_SEALED_HEAD_BYTES; bit++) {
    uint8_t sealed[LANE_SEALED_HEAD_BYTES];
    struct lane_key seal, open;
    struct lane_head head;
    make_keys(&seal, &open, 0, 0);
    REQUIRE(lane_head_seal(&seal, &read_head, sealed));
    sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    CHECK_EQUAL(lane_head_open(&open, sealed, &head, MIB, true), GB_LANE_FORGED);
    lane_key_end(&seal);
    lane_key_end(&open);
  }
}

static void heads_come_once_and_in_order(void) {
  uint8_t sealed[3][LANE_SEALED_HEAD_BYTES];
  struct lane_key seal, open;
  struct lane_head head;
  for (uint32_t cipher = GB_LANE_CIPHER_AES_256_GCM; cipher <= GB_LANE_CIPHER_CHACHA20_POLY1305; cipher++) {
    for (int what = 0; what < 4; what++) {
      make_keys(&seal, &open, cipher, GB_LANE_PROVIDER_OPENSSL);
      for (int i = 0; i < 3; i++) REQUIRE(lane_head_seal(&seal, &read_head, sealed[i]));
      CHECK_EQUAL(lane_head_open(&open, sealed[0], &head, MIB, true), GB_LANE_OK);
      CHECK_EQUAL(head.request, read_head.request);
      CHECK_EQUAL(head.offset, read_head.offset);
      CHECK_EQUAL(head.region, read_head.region);
      CHECK_EQUAL(head.length, read_head.length);
      CHECK_EQUAL(head.deadline_ms, read_head.deadline_ms);
      /* In order, repeated, one left out, after an unexpected change of key. */
      if (what == 3) REQUIRE(lane_key_next(&open));
      int wanted = what == 0 ? GB_LANE_OK : GB_LANE_FORGED;
      CHECK_EQUAL(lane_head_open(&open, sealed[what == 1 ? 0 : what == 2 ? 2 : 1], &head, MIB, true), wanted);
      lane_key_end(&seal);
      lane_key_end(&open);
    }
  }
}

static void heads_that_make_no_sense_are_refused(void) {
  static const struct {
    struct lane_head head;
    bool from_client;
  } wrong[] = {
      {{.type = 0}, true},
      {{.type = 12, .request = 1}, true},
      {{.type = 255, .request = 1}, true},
      {{.type = LANE_READ, .length = 1}, true},                                    /* no request */
      {{.type = LANE_READ, .request = 1}, true},                                   /* no length */
      {{.type = LANE_READ, .request = 1, .length = MIB + 1}, true},                /* oversize */
      {{.type = LANE_READ, .request = 1, .length = UINT32_MAX}, true},             /* oversize */
      {{.type = LANE_READ, .request = 1, .length = 1, .priority = 3}, true},       /* no such priority */
      {{.type = LANE_READ, .request = 1, .length = 1, .status = 1}, true},         /* not zero */
      {{.type = LANE_READ, .request = 1, .length = 1, .body_bytes = 1}, true},     /* a body */
      {{.type = LANE_READ, .request = 1, .length = 1, .value = 1}, true},          /* not zero */
      {{.type = LANE_READ, .request = 1, .length = 1}, false},                     /* from a server */
      {{.type = LANE_WRITE, .request = 1, .length = 1}, true},                     /* no body */
      {{.type = LANE_WRITE, .request = 1, .length = 2, .body_bytes = 1}, true},    /* two sizes */
      {{.type = LANE_WRITE, .request = 1, .length = MIB + 1, .body_bytes = MIB + 1}, true},
      {{.type = LANE_DATA, .request = 1, .body_bytes = 1}, true},                  /* from a client */
      {{.type = LANE_DATA, .request = 1}, false},                                  /* no body */
      {{.type = LANE_DATA, .request = 1, .body_bytes = MIB + 1}, false},           /* oversize */
      {{.type = LANE_DATA, .request = 1, .body_bytes = 1, .offset = 1}, false},    /* not zero */
      {{.type = LANE_ACK, .request = 1}, true},
      {{.type = LANE_ACK, .request = 1, .body_bytes = 1}, false},
      {{.type = LANE_ERROR, .request = 1}, false},                                 /* no status */
      {{.type = LANE_ERROR, .request = 1, .status = 22}, false},                   /* no such status */
      {{.type = LANE_CREDIT}, false},                                              /* nothing */
      {{.type = LANE_CREDIT, .value = 65}, false},                                 /* too much */
      {{.type = LANE_CREDIT, .value = 1}, true},
      {{.type = LANE_REKEY, .value = 1}, true},
      {{.type = LANE_REKEY, .request = 1}, true},
      {{.type = LANE_PING, .request = 1, .value = 1}, true},
      {{.type = LANE_GOODBYE}, true},                                              /* no reason */
      {{.type = LANE_CANCEL}, true},
      {{.type = LANE_CANCEL, .request = 1, .deadline_ms = 1}, true},
      {{.type = LANE_CALL, .length = 1, .body_bytes = 1}, true},                   /* no request */
      {{.type = LANE_CALL, .request = 1}, true},                                   /* no body */
      {{.type = LANE_CALL, .request = 1, .length = 2, .body_bytes = 1}, true},     /* two sizes */
      {{.type = LANE_CALL, .request = 1, .length = MIB + 1, .body_bytes = MIB + 1}, true},
      {{.type = LANE_CALL, .request = 1, .length = 1, .body_bytes = 1, .offset = 1}, true},
      {{.type = LANE_CALL, .request = 1, .length = 1, .body_bytes = 1, .value = 1}, true},
      {{.type = LANE_CALL, .request = 1, .length = 1, .body_bytes = 1, .status = 1}, true},
      {{.type = LANE_CALL, .request = 1, .length = 1, .body_bytes = 1, .priority = 3}, true},
      {{.type = LANE_CALL, .request = 1, .length = 1, .body_bytes = 1}, false},    /* from a server */
      {{.type = LANE_RESULT}, false},                                              /* no request */
      {{.type = LANE_RESULT, .request = 1, .body_bytes = MIB + 1}, false},         /* oversize */
      {{.type = LANE_RESULT, .request = 1, .body_bytes = UINT32_MAX}, false},
      {{.type = LANE_RESULT, .request = 1, .status = 1}, false},                   /* ERROR's */
      {{.type = LANE_RESULT, .request = 1, .region = 1}, false},
      {{.type = LANE_RESULT, .request = 1, .length = 1, .body_bytes = 1}, false},
      {{.type = LANE_RESULT, .request = 1, .priority = 1}, false},
      {{.type = LANE_RESULT, .request = 1, .body_bytes = 1}, true},                /* from a client */
      {{.type = LANE_RESULT + 1, .request = 1}, true},
      {{.type = LANE_RESULT + 1, .request = 1}, false},
  };
  static const struct {
    struct lane_head head;
    bool from_client;
  } right[] = {
      {{.type = LANE_CALL, .priority = 2, .request = 1, .region = 9, .length = 1, .body_bytes = 1}, true},
      {{.type = LANE_CALL, .request = 1, .length = MIB, .body_bytes = MIB, .deadline_ms = 5}, true},
      {{.type = LANE_RESULT, .request = 1}, false},
      {{.type = LANE_RESULT, .request = 1, .body_bytes = MIB}, false},
  };
  uint8_t bytes[LANE_HEAD_BYTES];
  struct lane_head head;
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    lane_head_write(bytes, &wrong[i].head);
    if (lane_head_read(bytes, &head, MIB, wrong[i].from_client)) fprintf(stderr, "head %zu was taken\n", i);
    CHECK(!lane_head_read(bytes, &head, MIB, wrong[i].from_client));
  }
  for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
    lane_head_write(bytes, &right[i].head);
    CHECK(lane_head_read(bytes, &head, MIB, right[i].from_client));
  }
  lane_head_write(bytes, &read_head);
  CHECK(lane_head_read(bytes, &head, MIB, true));
  for (int i = 36; i < 40; i++) { /* reserved */
    bytes[i] = 1;
    CHECK(!lane_head_read(bytes, &head, MIB, true));
    bytes[i] = 0;
  }
}

static struct lane_opening an_opening(void) {
  struct lane_opening opening = {.major = 1,
                                 .ciphers = 1u << GB_LANE_CIPHER_AES_256_GCM,
                                 .record_bytes = GB_LANE_RECORD_BYTES,
                                 .heartbeat_ms = 500};
  memcpy(opening.ticket, ticket_id, sizeof opening.ticket);
  return opening;
}

static void every_flipped_bit_of_an_opening_is_found(void) {
  uint8_t frame[LANE_OPENING_BYTES];
  struct lane_opening opening = an_opening(), got;
  REQUIRE(lane_opening_write(frame, &opening, secret));
  CHECK_EQUAL(lane_opening_read(frame, &got), 0);
  CHECK(lane_opening_proven(frame, secret));
  for (uint32_t bit = 0; bit < 8 * LANE_OPENING_BYTES; bit++) {
    frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    CHECK(!lane_opening_proven(frame, secret));
    frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
  }
  opening.major = 2;
  REQUIRE(lane_opening_write(frame, &opening, secret));
  CHECK_EQUAL(lane_opening_read(frame, &got), GB_LANE_REFUSED_VERSION);
  opening = an_opening();
  opening.required = LANE_FEATURES;
  REQUIRE(lane_opening_write(frame, &opening, secret));
  CHECK_EQUAL(lane_opening_read(frame, &got), 0);
  opening.required = LANE_FEATURES + 1; /* one more than we know */
  REQUIRE(lane_opening_write(frame, &opening, secret));
  CHECK_EQUAL(lane_opening_read(frame, &got), GB_LANE_REFUSED_VERSION);
  opening = an_opening();
  opening.features = 0xffffffff; /* offered and unknown: ignored */
  REQUIRE(lane_opening_write(frame, &opening, secret));
  CHECK_EQUAL(lane_opening_read(frame, &got), 0);
  opening = an_opening();
  opening.index = 9;
  REQUIRE(lane_opening_write(frame, &opening, secret));
  CHECK_EQUAL(lane_opening_read(frame, &got), GB_LANE_REFUSED_FORMAT);
}

static void every_flipped_bit_of_an_answer_is_found(void) {
  uint8_t frame[LANE_OPENING_BYTES], reply[LANE_OPENING_BYTES];
  struct lane_opening opening = an_opening();
  struct lane_answer answer = {.major = 1, .cipher = 1, .record_bytes = 65536, .window = 8}, got;
  memcpy(answer.ticket, ticket_id, sizeof answer.ticket);
  REQUIRE(lane_opening_write(frame, &opening, secret));
  REQUIRE(lane_answer_write(reply, &answer, frame, secret));
  CHECK_EQUAL(lane_answer_read(reply, &got, frame, secret), GB_LANE_OK);
  for (uint32_t bit = 0; bit < 8 * LANE_OPENING_BYTES; bit++) {
    reply[bit / 8] ^= (uint8_t)(1u << bit % 8);
    CHECK_EQUAL(lane_answer_read(reply, &got, frame, secret), GB_LANE_FORGED);
    reply[bit / 8] ^= (uint8_t)(1u << bit % 8);
    frame[bit / 8] ^= (uint8_t)(1u << bit % 8); /* an answer to another opening */
    CHECK_EQUAL(lane_answer_read(reply, &got, frame, secret), GB_LANE_FORGED);
    frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
  }
  /* Proven, and no answer to what was offered. */
  answer.cipher = 2;
  REQUIRE(lane_answer_write(reply, &answer, frame, secret));
  CHECK_EQUAL(lane_answer_read(reply, &got, frame, secret), GB_LANE_PROTOCOL);
  answer.cipher = 1;
  answer.record_bytes = 2 * MIB;
  REQUIRE(lane_answer_write(reply, &answer, frame, secret));
  CHECK_EQUAL(lane_answer_read(reply, &got, frame, secret), GB_LANE_PROTOCOL);
}

static void a_worn_out_key_is_not_used(void) {
  struct lane_key seal, open;
  make_keys(&seal, &open, 0, 0);
  open.bytes = LANE_KEY_BYTES_MAX - 10;
  CHECK(lane_key_begin(&open, 10));
  CHECK(!lane_key_begin(&open, 1));
  seal.counter = UINT64_MAX;
  CHECK(!lane_key_begin(&seal, 1));
  lane_key_end(&seal);
  lane_key_end(&open);
}

static void every_status_has_a_name(void) {
  for (int i = 0; i <= GB_LANE_PENDING; i++) CHECK(gb_lane_status_name(i)[0] != 0);
  CHECK(strcmp(gb_lane_status_name(-1), "UNKNOWN_STATUS") == 0);
  CHECK(strcmp(gb_lane_status_name(GB_LANE_PENDING + 1), "UNKNOWN_STATUS") == 0);
  CHECK(strcmp(gb_lane_refusal_name(GB_LANE_REFUSED_MAC), "MAC") == 0);
  CHECK(strcmp(gb_lane_refusal_name(GB_LANE_REFUSALS), "UNKNOWN_REFUSAL") == 0);
}

int main(void) {
  struct gb_lane_cipher_info infos[4];
  uint32_t count = gb_lane_ciphers(infos, 4);
  for (uint32_t i = 0; i < count; i++)
    fprintf(stderr, "%s, %u MB/s%s\n", infos[i].name, infos[i].megabytes_per_second,
            infos[i].chosen ? ", chosen" : "");
  make_secret();
  RUN(keys_are_those_of_another_implementation);
  RUN(providers_agree_for_all_sizes);
  RUN(every_flipped_bit_of_a_sealed_head_is_found);
  RUN(heads_come_once_and_in_order);
  RUN(heads_that_make_no_sense_are_refused);
  RUN(every_flipped_bit_of_an_opening_is_found);
  RUN(every_flipped_bit_of_an_answer_is_found);
  RUN(a_worn_out_key_is_not_used);
  RUN(every_status_has_a_name);
  return check_done();
}
