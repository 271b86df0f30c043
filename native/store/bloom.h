/* bloom.h - a chunk's filter of addresses and ports.
 *
 * A blocked Bloom filter: an item sets three bits of one word. A random seed keys the hash,
 * so that an attacker cannot fill a filter with a few packets. "No" is certain. Packets with
 * unknown addresses set `anything`, which matches every item.
 */
#ifndef SONDE_STORE_BLOOM_H
#define SONDE_STORE_BLOOM_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { SONDE_BLOOM_WORDS = 2048 };

struct sonde_bloom {
  uint64_t words[SONDE_BLOOM_WORDS];
  bool anything;
};

static inline uint64_t sonde_bloom_fold(uint64_t left, uint64_t right) {
  unsigned __int128 product = (unsigned __int128)left * right;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* seed: three words. address: 16 bytes, IPv4 in the first four, the rest zero. */
static inline uint64_t sonde_bloom_address(const uint64_t *seed, const uint8_t *address) {
  uint64_t words[2];
  memcpy(words, address, sizeof words);
  return sonde_bloom_fold(words[0] ^ seed[0], words[1] ^ seed[1]);
}

static inline uint64_t sonde_bloom_port(const uint64_t *seed, uint16_t port) {
  return sonde_bloom_fold(port ^ seed[2], seed[0]);
}

static inline uint64_t sonde_bloom_bits(uint64_t hash) {
  return 1ull << (hash & 63) | 1ull << (hash >> 6 & 63) | 1ull << (hash >> 12 & 63);
}

static inline void sonde_bloom_add(struct sonde_bloom *bloom, uint64_t hash) {
  bloom->words[hash >> 32 & (SONDE_BLOOM_WORDS - 1)] |= sonde_bloom_bits(hash);
}

static inline bool sonde_bloom_may_hold(const struct sonde_bloom *bloom, uint64_t hash) {
  uint64_t bits = sonde_bloom_bits(hash);
  return bloom->anything || (bloom->words[hash >> 32 & (SONDE_BLOOM_WORDS - 1)] & bits) == bits;
}

#endif
