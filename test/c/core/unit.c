/* SPDX-License-Identifier: Apache-2.0 */
/* unit.c: the pure parts of the core: addresses, hash, frames, sizes, predictions. No CUDA, no
 * socket. */
#include <string.h>

#include "check.h"
#include "client.h"
#include "config.h"
#include "hash.h"
#include "va.h"
#include "vectors.h"
#include "victim.h"
#include "wire.h"

/* What the linked parts call and this test does not need. */
void gb_log(enum gb_log_level level, const char *format, ...) {
  (void)level;
  (void)format;
}
struct gb_span *gb_span_next(const struct gb_span *span) {
  (void)span;
  return NULL;
}

/* ---- addresses against a byte map ---- */

#define GRANULES 512u
#define BASE 0x500000000000ull

static void check_addresses(uint64_t seed) {
  static unsigned char used[GRANULES];
  static struct {
    uint64_t address, bytes;
  } live[GRANULES];
  uint32_t live_count = 0;
  struct gb_va va;
  memset(used, 0, sizeof used);
  CHECK(gb_va_create(&va, BASE, GRANULES * GB_GRANULE), "create");
  for (int step = 0; step < 20000; step++) {
    if (check_random(&seed) % 2 == 0) {
      uint64_t bytes = (1 + check_random(&seed) % 40) * GB_GRANULE;
      uint64_t address = gb_va_take(&va, bytes);
      if (address == 0) continue;
      CHECK(address >= BASE && address + bytes <= BASE + GRANULES * GB_GRANULE, "outside");
      for (uint64_t g = 0; g < bytes / GB_GRANULE; g++) {
        unsigned char *granule = &used[(address - BASE) / GB_GRANULE + g];
        CHECK(*granule == 0, "step %d: given out twice", step);
        *granule = 1;
      }
      live[live_count].address = address;
      live[live_count++].bytes = bytes;
    } else if (live_count > 0) {
      uint32_t i = (uint32_t)(check_random(&seed) % live_count);
      memset(&used[(live[i].address - BASE) / GB_GRANULE], 0, live[i].bytes / GB_GRANULE);
      CHECK(gb_va_give(&va, live[i].address, live[i].bytes), "give");
      live[i] = live[--live_count];
    }
    CHECK(gb_va_is_valid(&va), "step %d: list broken", step);
  }
  while (live_count > 0) {
    live_count--;
    gb_va_give(&va, live[live_count].address, live[live_count].bytes);
  }
  CHECK(gb_va_take(&va, GRANULES * GB_GRANULE) == BASE, "everything coalesces again");
  gb_va_destroy(&va);
}

static void check_quarantine(void) {
  struct gb_va va;
  gb_va_create(&va, BASE, 64 * GB_GRANULE);
  uint64_t first = gb_va_take(&va, GB_GRANULE);
  gb_va_give(&va, first, GB_GRANULE);
  CHECK(gb_va_take(&va, GB_GRANULE) != first, "an address just freed is not given out again");
  gb_va_destroy(&va);
}

static void check_withheld(void) {
  struct gb_va va;
  gb_va_create(&va, BASE, 64 * GB_GRANULE);
  CHECK(gb_va_withhold(&va, BASE, 2 * GB_GRANULE), "at the beginning");
  CHECK(gb_va_withhold(&va, BASE + 32 * GB_GRANULE, 2 * GB_GRANULE), "in the middle");
  CHECK(gb_va_withhold(&va, BASE + 62 * GB_GRANULE, 2 * GB_GRANULE), "at the end");
  CHECK(gb_va_is_valid(&va), "list broken");
  CHECK(gb_va_take(&va, 31 * GB_GRANULE) == 0, "no piece is as large");
  CHECK(gb_va_take(&va, 30 * GB_GRANULE) == BASE + 2 * GB_GRANULE, "the first piece");
  CHECK(gb_va_take(&va, 28 * GB_GRANULE) == BASE + 34 * GB_GRANULE, "the second");
  CHECK(gb_va_take(&va, GB_GRANULE) == 0, "nothing else is given out");
  gb_va_destroy(&va);
}

/* ---- hash ---- */

static void check_hash(void) {
  unsigned char input[64];
  struct gb_hash_key key;
  unsigned char key_bytes[16];
  for (int i = 0; i < 64; i++) input[i] = (unsigned char)i;
  for (int i = 0; i < 16; i++) key_bytes[i] = (unsigned char)i;
  memcpy(&key, key_bytes, sizeof key);
  for (unsigned length = 0; length < SIP_VECTORS; length++) {
    struct gb_digest digest = gb_hash(&key, input, length);
    CHECK(memcmp(&digest, sip_vectors[length], 16) == 0, "SipHash-2-4-128 of %u bytes", length);
  }
}

/* ---- frames ---- */

struct seen {
  uint32_t count;
  uint64_t last_id;
  uint32_t last_bytes;
};

static bool on_frame(void *owner, const struct gb_frame *frame, const void *payload) {
  struct seen *seen = owner;
  (void)payload;
  seen->count++;
  seen->last_id = frame->request_id;
  seen->last_bytes = frame->payload_bytes;
  return true;
}

static void check_frames(uint64_t seed) {
  unsigned char stream[3 * (sizeof(struct gb_frame) + 64)];
  const uint32_t sizes[3] = {64, 0, 24};
  size_t length = 0;
  for (uint32_t i = 0; i < 3; i++) {
    struct gb_frame frame = {.payload_bytes = sizes[i], .type = GB_MSG_DROP, .request_id = i + 1};
    memcpy(stream + length, &frame, sizeof frame);
    memset(stream + length + sizeof frame, (int)i, sizes[i]);
    length += sizeof frame + sizes[i];
  }
  for (int round = 0; round < 200; round++) {
    struct gb_wire wire = {.have = 0};
    struct seen seen = {0};
    for (size_t at = 0; at < length;) {
      size_t part = 1 + check_random(&seed) % 30;
      if (part > length - at) part = length - at;
      CHECK(gb_wire_feed(&wire, stream + at, part, on_frame, &seen), "good frames are taken");
      at += part;
    }
    CHECK(seen.count == 3 && seen.last_id == 3 && seen.last_bytes == 24,
          "three frames, however they were cut");
  }
  struct gb_frame huge = {.payload_bytes = GB_ABI_PAYLOAD_BYTES_MAX + 1};
  struct gb_wire wire = {.have = 0};
  struct seen seen = {0};
  CHECK(!gb_wire_feed(&wire, &huge, sizeof huge, on_frame, &seen) && seen.count == 0,
        "oversized is refused");
}

/* ---- sizes, predictions ---- */

static void check_sizes(void) {
  static const struct {
    const char *text;
    bool good;
    uint64_t bytes;
  } rows[] = {{"4GiB", true, 4ull << 30},
              {"1.5GiB", true, 3ull << 29},
              {"512MiB", true, 512ull << 20},
              {"4096", true, 4096},
              {"0", true, 0},
              {"", false, 0},
              {"-1", false, 0},
              {"4GX", false, 0},
              {"GiB", false, 0},
              {"nan", false, 0},
              {"1e30GiB", false, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint64_t bytes = 0;
    bool good = gb_parse_size(rows[i].text, &bytes);
    CHECK(good == rows[i].good && (!good || bytes == rows[i].bytes), "'%s'", rows[i].text);
  }
}

/* Ten spans used in a cycle: the one used last is needed last. */
static void check_prediction(void) {
  static struct gb_span spans[10];
  for (uint64_t tick = 1; tick <= 40; tick++) gb_used_at(&spans[tick % 10], tick);
  for (int i = 0; i < 10; i++) {
    uint64_t now = 40;
    uint64_t next = gb_predict(&spans[i], now);
    uint64_t truth = 41;
    while (truth % 10 != (uint64_t)i) truth++;
    CHECK(next == truth, "span %d: predicted %llu, is %llu", i, (unsigned long long)next,
          (unsigned long long)truth);
  }
}

int main(void) {
  for (uint64_t seed = 1; seed <= 5; seed++) check_addresses(seed * 7919);
  check_quarantine();
  check_withheld();
  check_hash();
  check_frames(42);
  check_sizes();
  check_prediction();
  return CHECK_RESULT();
}
