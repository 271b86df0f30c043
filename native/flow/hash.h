/* hash.h - the keyed hash of a flow key.
 *
 * Senders choose addresses and ports, so with an unkeyed hash they could put every flow into one
 * bucket. Each 16 bytes of key are XORed with secret words and folded by a 64x64→128-bit
 * multiplication. Each table has a random secret. Two of the three multiplications run in parallel.
 */
#ifndef SONDE_FLOW_HASH_H
#define SONDE_FLOW_HASH_H

#include <string.h>

#include "host/hash_fold.h"
#include "packet.h"

struct sonde_hash_secret {
  uint64_t word[6];
};

static inline uint64_t sonde_key_hash(const struct sonde_key *key,
                                      const struct sonde_hash_secret *secret) {
  uint64_t k[6];
  _Static_assert(sizeof *key == sizeof k, "a key is six words");
  memcpy(k, key, sizeof k);
  const uint64_t *s = secret->word;
  uint64_t addresses =
      sonde_hash_fold(k[0] ^ s[0], k[1] ^ s[1]) + sonde_hash_fold(k[2] ^ s[2], k[3] ^ s[3]);
  return sonde_hash_fold(addresses ^ k[4] ^ s[4], k[5] ^ s[5] ^ (addresses >> 32));
}

static inline int sonde_key_equal(const struct sonde_key *a, const struct sonde_key *b) {
  uint64_t x[6], y[6];
  memcpy(x, a, sizeof x);
  memcpy(y, b, sizeof y);
  return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]) |
          (x[5] ^ y[5])) == 0;
}

#endif
