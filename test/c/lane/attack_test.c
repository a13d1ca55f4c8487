/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attack_test.c: what somebody on the wire, or a peer that does not keep to the protocol, can do: nothing but end the
 * lane. A relay edits real streams; a hand-made peer says what a client never would.
 */
#include <string.h>
#include <unistd.h>

#include "harness.h"

static struct host host;
static const struct gb_lane_tuning small_records = {.record_bytes = 65536, .silence_ms = 4000, .rekey_bytes = 300000};

/* ---- openings ---- */

/* Sends `count` bytes as an opening. returns: how many came back. */
static size_t knock(const uint8_t *frame, size_t count) {
  uint8_t reply[LANE_OPENING_BYTES];
  int fd = dial(host.port);
  send_whole(fd, frame, count);
  size_t got = receive_whole(fd, reply, sizeof reply);
  close(fd);
  return got;
}

static void make_opening(uint8_t *frame, const struct gb_lane_ticket *ticket, uint8_t index) {
  struct lane_opening opening = {.major = 1,
                                 .index = index,
                                 .ciphers = 1u << GB_LANE_CIPHER_AES_256_GCM,
                                 .record_bytes = GB_LANE_RECORD_BYTES};
  memcpy(opening.ticket, ticket->id, sizeof opening.ticket);
  lane_random(opening.random, sizeof opening.random);
  lane_opening_write(frame, &opening, ticket->secret);
}

static uint64_t refused(int reason) {
  return host_server_counters(&host).refused[reason];
}

static void wrong_openings_hear_nothing_and_spoil_nothing(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, GB_LANE_MAY_READ);
  uint8_t frame[LANE_OPENING_BYTES];
  make_opening(frame, &ticket, 0);
  static const int flips[] = {0, 7, 8, 12, 13, 14, 15, 16, 31, 32, 63, 64, 68, 72, 76, 80, 111};
  uint64_t before = refused(GB_LANE_REFUSED_MAC);
  for (size_t i = 0; i < sizeof flips / sizeof flips[0]; i++) {
    frame[flips[i]] ^= 0x40;
    CHECK_EQUAL(knock(frame, sizeof frame), 0);
    frame[flips[i]] ^= 0x40;
  }
  CHECK(refused(GB_LANE_REFUSED_MAC) >= before + 6);
  struct gb_lane_ticket guess = ticket;
  guess.secret[31] ^= 1;
  make_opening(frame, &guess, 0);
  CHECK_EQUAL(knock(frame, sizeof frame), 0);
  make_opening(frame, &ticket, 1); /* not the first one first */
  CHECK_EQUAL(knock(frame, sizeof frame), 0);
  /* After all this the ticket is as good as new. */
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  uint8_t byte;
  CHECK_EQUAL(gb_lane_read(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

static void a_ticket_opens_one_lane_once(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, GB_LANE_MAY_READ);
  uint8_t frame[LANE_OPENING_BYTES];
  make_opening(frame, &ticket, 0);
  CHECK_EQUAL(knock(frame, sizeof frame), sizeof frame);
  uint64_t before = refused(GB_LANE_REFUSED_USED);
  CHECK_EQUAL(knock(frame, sizeof frame), 0); /* the same bytes again */
  make_opening(frame, &ticket, 0);
  CHECK_EQUAL(knock(frame, sizeof frame), 0); /* other bytes, the same index */
  CHECK_EQUAL(refused(GB_LANE_REFUSED_USED), before + 2);
  gb_lane *lane = NULL;
  CHECK_EQUAL(gb_lane_open("127.0.0.1", host.port, &ticket, NULL, &lane), GB_LANE_REFUSED);
}

static void a_ticket_expires_and_can_be_taken_back(void) {
  struct gb_lane_ticket late = host_grant(&host, 1, 50, 0, GB_LANE_MAY_READ);
  struct gb_lane_ticket gone = host_grant(&host, 1, 0, 0, GB_LANE_MAY_READ);
  gb_lane *lane = NULL;
  uint64_t expired = refused(GB_LANE_REFUSED_EXPIRED), unknown = refused(GB_LANE_REFUSED_UNKNOWN);
  sleep_ms(80);
  CHECK_EQUAL(gb_lane_open("127.0.0.1", host.port, &late, NULL, &lane), GB_LANE_REFUSED);
  CHECK_EQUAL(refused(GB_LANE_REFUSED_EXPIRED), expired + 1);
  CHECK_EQUAL(host_revoke(&host, &gone), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_open("127.0.0.1", host.port, &gone, NULL, &lane), GB_LANE_REFUSED);
  CHECK_EQUAL(refused(GB_LANE_REFUSED_UNKNOWN), unknown + 1);
  CHECK_EQUAL(host_revoke(&host, &gone), GB_LANE_NOT_FOUND);
}

static void more_connections_than_granted_are_refused(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, GB_LANE_MAY_READ);
  struct gb_lane_options options = {.size = sizeof options, .connections = 3};
  gb_lane *lane = NULL;
  CHECK_EQUAL(gb_lane_open("127.0.0.1", host.port, &ticket, &options, &lane), GB_LANE_REFUSED);
}

static void strangers_cost_little(void) {
  int idle[80];
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, GB_LANE_MAY_READ);
  for (int i = 0; i < 80; i++) {
    idle[i] = dial(host.port);
    send_whole(idle[i], "GBLANE", 6);
  }
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL); /* the oldest stranger made room */
  CHECK(host_server_counters(&host).strangers <= GB_LANE_STRANGERS_MAX);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  uint64_t until = now_ms() + 4000; /* and after their time all are gone */
  while (host_server_counters(&host).strangers > 0 && now_ms() < until) sleep_ms(20);
  CHECK_EQUAL(host_server_counters(&host).strangers, 0);
  for (int i = 0; i < 80; i++) close(idle[i]);
}

/* ---- streams ---- */

enum deed { FLIP, REPEAT, LEAVE_OUT, SWAP, TRUNCATE, SPLICE };

struct attack {
  enum deed deed;
  int to_server;
  uint64_t at; /* offset in the stream, behind the opening */
  uint32_t count;
  uint8_t kept[65536];
  size_t kept_count;
  bool done;
};

/* Edits connection 0 where told; SPLICE moves bytes of connection 1 into connection 0. */
static size_t attack_edit(void *context, int connection, int to_server, uint64_t offset, uint8_t *bytes,
                          size_t count) {
  struct attack *attack = context;
  if (attack->deed == SPLICE && connection == 1 && to_server == attack->to_server && offset >= LANE_OPENING_BYTES &&
      attack->kept_count == 0 && count >= attack->count) {
    memcpy(attack->kept, bytes, count);
    attack->kept_count = count;
  }
  if (attack->done || connection != 0 || to_server != attack->to_server || offset + count <= attack->at ||
      offset > attack->at)
    return count;
  size_t at = attack->at - offset, rest = count - at;
  if ((attack->deed != FLIP && attack->deed != TRUNCATE && rest < 2 * attack->count) ||
      (attack->deed == SPLICE && attack->kept_count == 0)) {
    attack->at = offset + count; /* the next piece, then */
    return count;
  }
  attack->done = true;
  switch (attack->deed) {
    case FLIP: bytes[at] ^= 0x10; break;
    case TRUNCATE: return at;
    case SPLICE: memcpy(bytes + at, attack->kept, attack->count); break;
    case REPEAT: memcpy(bytes + at + attack->count, bytes + at, attack->count); break;
    case LEAVE_OUT:
      memmove(bytes + at, bytes + at + attack->count, rest - attack->count);
      memset(bytes + count - attack->count, 0, attack->count);
      break;
    case SWAP:
      memcpy(attack->kept, bytes + at, attack->count);
      memcpy(bytes + at, bytes + at + attack->count, attack->count);
      memcpy(bytes + at + attack->count, attack->kept, attack->count);
  }
  return count;
}

/* Reads and writes through an attacked relay: every request ends with an error or with the right bytes, the server's
 * memory holds nothing that was not sent. returns: how the client saw the lane end. */
static int under_attack(struct attack *attack, int *server_saw) {
  static uint8_t got[4 * MIB], sent[MIB];
  uint16_t port;
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, GB_LANE_MAY_READ | GB_LANE_MAY_WRITE);
  struct relay *relay = relay_start(host.port, attack_edit, attack, &port);
  struct gb_lane_options options = {
      .size = sizeof options, .connections = 2, .no_express = 1, .tuning = small_records};
  gb_lane *lane = NULL;
  int status = gb_lane_open("127.0.0.1", port, &ticket, &options, &lane);
  fill_pattern(host.memory, 1, 0, 8 * MIB);
  for (int i = 0; i < 40 && status == GB_LANE_OK; i++) {
    status = gb_lane_read(lane, REGION, i, got, sizeof got, GB_LANE_NORMAL, 0);
    if (status == GB_LANE_OK) CHECK(is_pattern(got, 1, (uint64_t)i, sizeof got));
    if (status != GB_LANE_OK) break;
    fill_pattern(sent, 2, 0, sizeof sent);
    status = gb_lane_write(lane, REGION, 8 * MIB, sent, sizeof sent, GB_LANE_NORMAL, 0);
    if (status == GB_LANE_OK) CHECK(is_pattern(host.memory + 8 * MIB, 2, 0, sizeof sent));
  }
  CHECK(is_pattern(host.memory, 1, 0, 8 * MIB)); /* nothing landed beside */
  if (lane != NULL) gb_lane_close(lane, 100);
  relay_stop(relay);
  CHECK(attack->done);
  *server_saw = host_ended(&host, &ticket);
  CHECK_EQUAL(host_revoke(&host, &ticket), GB_LANE_OK);
  return status;
}

static void one_flipped_bit_ends_the_lane(void) {
  uint64_t random = 5;
  for (int i = 0; i < 12; i++) {
    struct attack attack = {.deed = FLIP,
                            .to_server = i % 2,
                            .at = LANE_OPENING_BYTES + (i < 4 ? (uint64_t)i * 17 : random_next(&random) % 900000)};
    int server_saw, status = under_attack(&attack, &server_saw);
    if (i % 2 == 1) CHECK_EQUAL(server_saw, GB_LANE_FORGED);
    if (i % 2 == 0) CHECK_EQUAL(status, GB_LANE_FORGED);
    CHECK(status == GB_LANE_FORGED || status == GB_LANE_DISCONNECTED);
  }
}

static void edited_streams_are_refused(void) {
  static const enum deed deeds[] = {REPEAT, LEAVE_OUT, SWAP, SPLICE};
  for (size_t i = 0; i < 8; i++) {
    struct attack attack = {.deed = deeds[i / 2],
                            .to_server = (int)(i % 2),
                            .at = LANE_OPENING_BYTES + 64 * 3,
                            .count = LANE_SEALED_HEAD_BYTES};
    int server_saw, status = under_attack(&attack, &server_saw);
    if (attack.to_server) CHECK_EQUAL(server_saw, GB_LANE_FORGED);
    else CHECK_EQUAL(status, GB_LANE_FORGED);
  }
}

static void a_truncated_stream_is_no_end(void) {
  for (int i = 0; i < 6; i++) {
    struct attack attack = {
        .deed = TRUNCATE, .to_server = i % 2, .at = LANE_OPENING_BYTES + 64ull * 7 + (uint64_t)(i / 2) * 7};
    int server_saw, status = under_attack(&attack, &server_saw);
    CHECK_EQUAL(status, GB_LANE_DISCONNECTED);
    CHECK_EQUAL(server_saw, GB_LANE_DISCONNECTED);
  }
}

/* ---- a peer that does not keep to it ---- */

static void a_peer_that_breaks_the_rules_loses_its_lane(void) {
  static const struct lane_head rules[] = {
      {.type = LANE_DATA, .request = 1, .body_bytes = 1},
      {.type = LANE_READ, .request = 0, .length = 1},
      {.type = LANE_READ, .request = 1, .length = GB_LANE_RECORD_BYTES + 1, .region = REGION},
      {.type = LANE_READ, .request = 1, .length = 0, .region = REGION},
      {.type = LANE_CREDIT, .value = 64},
      {.type = LANE_PONG, .value = 1000},
      {.type = 77},
  };
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
    struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 4, GB_LANE_MAY_READ);
    struct peer peer;
    struct lane_head head;
    REQUIRE(peer_open(&peer, host.port, &ticket, 0));
    peer_say(&peer, &rules[i], NULL);
    CHECK(!peer_hear(&peer, &head, NULL));
    CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_PROTOCOL);
    peer_close(&peer);
  }
}

static void a_window_is_a_limit(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 4, 0);
  struct peer peer;
  struct lane_head head, write = {.type = LANE_READ, .region = REGION, .length = 4096};
  REQUIRE(host_export_backed(&host, &ticket, REGION, 50000, 0) == GB_LANE_OK); /* answers slowly */
  REQUIRE(peer_open(&peer, host.port, &ticket, 0));
  CHECK_EQUAL(peer.window, 4);
  static uint8_t body[4096];
  for (uint64_t i = 1; i <= 4; i++) {
    write.request = i;
    CHECK(peer_say(&peer, &write, NULL));
  }
  CHECK(peer_hear(&peer, &head, body));
  CHECK_EQUAL(head.type, LANE_DATA);
  for (uint64_t i = 5; i <= 12; i++) { /* at most 4 more can have been answered meanwhile */
    write.request = i;
    peer_say(&peer, &write, NULL);
  }
  while (peer_hear(&peer, &head, body)) CHECK(head.request <= 8);
  CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_PROTOCOL);
  peer_close(&peer);
}

static void a_request_is_outstanding_once(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 8, 0);
  struct peer peer;
  struct lane_head head, read = {.type = LANE_READ, .request = 9, .region = REGION, .length = 16};
  uint8_t body[16];
  REQUIRE(host_export_backed(&host, &ticket, REGION, 20000, 0) == GB_LANE_OK);
  REQUIRE(peer_open(&peer, host.port, &ticket, 0));
  CHECK(peer_say(&peer, &read, NULL));
  CHECK(peer_hear(&peer, &head, body));
  for (int i = 0; i < 3; i++) peer_say(&peer, &read, NULL);
  while (peer_hear(&peer, &head, body)) continue;
  CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_PROTOCOL);
  peer_close(&peer);
}

static void regions_keep_their_rights_and_bounds(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, 0);
  CHECK_EQUAL(host_export(&host, &ticket, 1, 0, MIB, GB_LANE_MAY_READ), GB_LANE_OK);
  CHECK_EQUAL(host_export(&host, &ticket, 2, MIB, 4096, GB_LANE_MAY_WRITE), GB_LANE_OK);
  static const struct {
    uint32_t region, operation, length;
    uint64_t offset;
    int status;
  } asked[] = {
      {1, GB_LANE_READ, 4096, MIB - 4096, GB_LANE_OK},
      {1, GB_LANE_READ, 4096, MIB - 4095, GB_LANE_RANGE},
      {1, GB_LANE_READ, 1, MIB, GB_LANE_RANGE},
      {1, GB_LANE_READ, 1, UINT64_MAX, GB_LANE_RANGE},
      {1, GB_LANE_READ, 2, UINT64_MAX - 1, GB_LANE_RANGE},
      {1, GB_LANE_WRITE, 1, 0, GB_LANE_DENIED},
      {2, GB_LANE_READ, 1, 0, GB_LANE_DENIED},
      {2, GB_LANE_WRITE, 4096, 0, GB_LANE_OK},
      {2, GB_LANE_WRITE, 4096, 1, GB_LANE_RANGE},
      {2, GB_LANE_WRITE, 4096, UINT64_MAX - 100, GB_LANE_RANGE},
      {3, GB_LANE_READ, 1, 0, GB_LANE_NOT_FOUND},
      {3, GB_LANE_WRITE, 4096, 0, GB_LANE_NOT_FOUND},
  };
  struct peer peer;
  static uint8_t body[4096];
  fill_pattern(host.memory, 1, 0, 2 * MIB);
  memset(body, 0xee, sizeof body);
  REQUIRE(peer_open(&peer, host.port, &ticket, 0));
  for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
    bool writes = asked[i].operation == GB_LANE_WRITE;
    struct lane_head head = {.type = writes ? LANE_WRITE : LANE_READ,
                             .body_bytes = writes ? asked[i].length : 0,
                             .request = i + 1,
                             .region = asked[i].region,
                             .offset = asked[i].offset,
                             .length = asked[i].length};
    REQUIRE(peer_say(&peer, &head, writes ? body : NULL));
    uint8_t got[4096];
    REQUIRE(peer_hear(&peer, &head, got));
    CHECK_EQUAL(head.request, i + 1);
    if (asked[i].status != GB_LANE_OK) CHECK_EQUAL(head.status, asked[i].status);
    else CHECK_EQUAL(head.type, writes ? LANE_ACK : LANE_DATA);
  }
  CHECK(is_pattern(host.memory, 1, 0, MIB)); /* only region 2 has changed */
  CHECK(memcmp(host.memory + MIB, body, sizeof body) == 0);
  CHECK(is_pattern(host.memory + MIB + 4096, 1, MIB + 4096, MIB - 4096));
  peer_close(&peer);
}

/* A forged body spoils nothing but the place of its own write, and that write fails. */
static void a_forged_body_touches_only_its_own_place(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, GB_LANE_MAY_READ | GB_LANE_MAY_WRITE);
  struct peer peer;
  uint8_t sealed[LANE_SEALED_HEAD_BYTES], junk[8192 + LANE_TAG_BYTES];
  struct lane_head head = {
      .type = LANE_WRITE, .request = 1, .region = REGION, .offset = 65536, .length = 8192, .body_bytes = 8192};
  fill_pattern(host.memory, 1, 0, MIB);
  memset(junk, 0x5a, sizeof junk);
  REQUIRE(peer_open(&peer, host.port, &ticket, 0));
  REQUIRE(lane_head_seal(&peer.seal, &head, sealed));
  send_whole(peer.fd, sealed, sizeof sealed);
  send_whole(peer.fd, junk, sizeof junk);
  CHECK(!peer_hear(&peer, &head, NULL));
  CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_FORGED);
  CHECK(is_pattern(host.memory, 1, 0, 65536));
  CHECK(is_pattern(host.memory + 65536 + 8192, 1, 65536 + 8192, MIB - 65536 - 8192));
  peer_close(&peer);
}

static void the_server_ends_in_order(void) {
  host_stop(&host);
}

int main(void) {
  host = host_start("127.0.0.1", 16 * MIB, &small_records);
  RUN(wrong_openings_hear_nothing_and_spoil_nothing);
  RUN(a_ticket_opens_one_lane_once);
  RUN(a_ticket_expires_and_can_be_taken_back);
  RUN(more_connections_than_granted_are_refused);
  RUN(strangers_cost_little);
  RUN(one_flipped_bit_ends_the_lane);
  RUN(edited_streams_are_refused);
  RUN(a_truncated_stream_is_no_end);
  RUN(a_peer_that_breaks_the_rules_loses_its_lane);
  RUN(a_window_is_a_limit);
  RUN(a_request_is_outstanding_once);
  RUN(regions_keep_their_rights_and_bounds);
  RUN(a_forged_body_touches_only_its_own_place);
  RUN(the_server_ends_in_order);
  return check_done();
}
