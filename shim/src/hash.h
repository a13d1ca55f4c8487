/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hash.h: SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input
 * PRF"), keyed per process. Two contents of one piece with the same digest are the same content:
 * nobody outside the process knows the key, so nobody can make two that collide.
 */
#ifndef GB_HASH_H
#define GB_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gb_digest {
  uint64_t low;
  uint64_t high;
};

struct gb_hash_key {
  uint64_t k0;
  uint64_t k1;
};

/* Digest of bytes[0..length). Thread-safe, no state. */
struct gb_digest gb_hash(const struct gb_hash_key *key, const void *bytes, size_t length);

static inline bool gb_digest_equal(struct gb_digest a, struct gb_digest b) {
  return a.low == b.low && a.high == b.high;
}

#endif
