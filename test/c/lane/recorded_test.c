/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recorded_test.c: what lanes of version 1 say, recorded by another implementation (test/vectors/lane-v1.txt), is read
 * and written the same for ever after: openings, answers, every type of record, both ciphers, every provider.
 */
#include <inttypes.h>
#include <string.h>

#include "harness.h"

#define BODY_BYTES_MAX 1024u
#define WIRE_BYTES_MAX (BODY_BYTES_MAX + LANE_SEALED_HEAD_BYTES + LANE_TAG_BYTES)
#define LINE_MAX_CHARACTERS 8192

static int lanes_read, records_read;

/* returns: how many bytes, 0 for "-". */
static size_t from_hex(const char *text, uint8_t *out, size_t room) {
  size_t count = 0;
  unsigned byte;
  for (; count < room && sscanf(text + 2 * count, "%2x", &byte) == 1; count++) out[count] = (uint8_t)byte;
  return count;
}

struct ends {
  struct lane_key seal[2], open[2]; /* of the client's direction, of the server's */
};

static void begin(struct ends *ends, const char *line, uint32_t provider) {
  unsigned cipher;
  char ticket_hex[40], secret_hex[80], opening_hex[240], answer_hex[240];
  uint8_t ticket[16], secret[32], opening[LANE_OPENING_BYTES], answer[LANE_OPENING_BYTES];
  struct lane_opening said;
  struct lane_answer answered;
  REQUIRE(sscanf(line, "lane %u %39s %79s %239s %239s", &cipher, ticket_hex, secret_hex, opening_hex, answer_hex) == 5);
  REQUIRE(from_hex(ticket_hex, ticket, 16) == 16 && from_hex(secret_hex, secret, 32) == 32);
  REQUIRE(from_hex(opening_hex, opening, sizeof opening) == sizeof opening);
  REQUIRE(from_hex(answer_hex, answer, sizeof answer) == sizeof answer);
  CHECK_EQUAL(lane_opening_read(opening, &said), 0);
  CHECK(lane_opening_proven(opening, secret));
  CHECK_EQUAL(lane_answer_read(answer, &answered, opening, secret), GB_LANE_OK);
  CHECK_EQUAL(answered.cipher, cipher);
  uint8_t frame[LANE_OPENING_BYTES];
  CHECK(lane_opening_write(frame, &said, secret) && memcmp(frame, opening, sizeof frame) == 0);
  CHECK(lane_answer_write(frame, &answered, opening, secret) && memcmp(frame, answer, sizeof frame) == 0);
  CHECK_EQUAL(said.index, 1);
  CHECK_EQUAL(said.flags, LANE_FLAG_EXPRESS);
  CHECK_EQUAL(answered.window, 8);
  const struct lane_aead *aead = lane_crypt_find(cipher, provider);
  if (aead == NULL) aead = lane_crypt_find(cipher, 0);
  for (int server = 0; server < 2; server++) {
    lane_key_end(&ends->seal[server]);
    lane_key_end(&ends->open[server]);
    REQUIRE(lane_key_first(&ends->seal[server], aead, true, server == 0, secret, opening, answer));
    REQUIRE(lane_key_first(&ends->open[server], aead, false, server == 0, secret, opening, answer));
  }
  lanes_read++;
}

/* The bytes of a body under the next nonce of `key`, and its tag. */
static bool seal_body(struct lane_key *key, const uint8_t *body, uint32_t bytes, uint8_t *out) {
  return lane_key_begin(key, bytes) && key->aead->update(key->context, body, out, bytes) &&
         key->aead->tag(key->context, out + bytes);
}

static bool open_body(struct lane_key *key, const uint8_t *in, uint32_t bytes, uint8_t *out) {
  return lane_key_begin(key, bytes) && key->aead->update(key->context, in, out, bytes) &&
         key->aead->verify(key->context, in + bytes);
}

static void follow(struct ends *ends, const char *line) {
  static char body_hex[2 * BODY_BYTES_MAX + 1], wire_hex[2 * WIRE_BYTES_MAX + 1];
  uint8_t body[BODY_BYTES_MAX], wire[WIRE_BYTES_MAX], out[WIRE_BYTES_MAX];
  struct lane_head head, got;
  memset(&head, 0, sizeof head);
  memset(&got, 0, sizeof got);
  char from;
  REQUIRE(sscanf(line,
                 "record %c %" SCNu8 " %" SCNu8 " %" SCNu16 " %" SCNu32 " %" SCNu64 " %" SCNu64 " %" SCNu32 " %" SCNu32
                 " %" SCNu32 " %" SCNu64 " %2048s %2208s",
                 &from, &head.type, &head.priority, &head.status, &head.body_bytes, &head.request, &head.offset,
                 &head.region, &head.length, &head.deadline_ms, &head.value, body_hex, wire_hex) == 13);
  size_t bytes = from_hex(body_hex, body, sizeof body), length = from_hex(wire_hex, wire, sizeof wire);
  REQUIRE(bytes == head.body_bytes);
  REQUIRE(length == LANE_SEALED_HEAD_BYTES + (bytes > 0 ? bytes + LANE_TAG_BYTES : 0));
  int server = from == 's';
  REQUIRE(lane_head_seal(&ends->seal[server], &head, out));
  if (bytes > 0) REQUIRE(seal_body(&ends->seal[server], body, head.body_bytes, out + LANE_SEALED_HEAD_BYTES));
  CHECK(memcmp(out, wire, length) == 0);
  CHECK_EQUAL(lane_head_open(&ends->open[server], wire, &got, MIB, !server), GB_LANE_OK);
  CHECK(got.type == head.type && got.priority == head.priority && got.status == head.status);
  CHECK(got.body_bytes == head.body_bytes && got.request == head.request && got.offset == head.offset);
  CHECK(got.region == head.region && got.length == head.length && got.deadline_ms == head.deadline_ms);
  CHECK(got.value == head.value);
  if (bytes > 0) {
    REQUIRE(open_body(&ends->open[server], wire + LANE_SEALED_HEAD_BYTES, head.body_bytes, out));
    CHECK(memcmp(out, body, bytes) == 0);
  }
  if (head.type == LANE_REKEY) CHECK(lane_key_next(&ends->seal[server]) && lane_key_next(&ends->open[server]));
  records_read++;
}

static void read_all(uint32_t provider) {
  static char line[LINE_MAX_CHARACTERS];
  struct ends ends;
  memset(&ends, 0, sizeof ends);
  FILE *file = fopen("test/vectors/lane-v1.txt", "r");
  REQUIRE(file != NULL);
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, "lane ", 5) == 0) begin(&ends, line, provider);
    else if (strncmp(line, "record ", 7) == 0) follow(&ends, line);
  }
  fclose(file);
  for (int server = 0; server < 2; server++) {
    lane_key_end(&ends.seal[server]);
    lane_key_end(&ends.open[server]);
  }
}

static void version_1_is_read_and_written_by_openssl(void) {
  lanes_read = records_read = 0;
  read_all(GB_LANE_PROVIDER_OPENSSL);
  CHECK_EQUAL(lanes_read, 2);
  CHECK_EQUAL(records_read, 34);
}

static void version_1_is_read_and_written_by_the_fastest(void) {
  lanes_read = records_read = 0;
  read_all(GB_LANE_PROVIDER_ANY);
  CHECK_EQUAL(records_read, 34);
}

int main(void) {
  if (!lane_crypt_ready()) return 3;
  RUN(version_1_is_read_and_written_by_openssl);
  RUN(version_1_is_read_and_written_by_the_fastest);
  return check_done();
}
