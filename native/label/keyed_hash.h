/* keyed_hash.h - hashes bytes that a stranger chose, with a secret, so that nobody can aim at one
 * bucket. Folds eight bytes at a time by a 64x64→128-bit multiplication.
 */
#ifndef SONDE_LABEL_KEYED_HASH_H
#define SONDE_LABEL_KEYED_HASH_H

#include <stdint.h>
#include <string.h>

#include "host/hash_fold.h"

static inline uint64_t keyed_hash(const uint64_t secret[2], const void *data, uint32_t bytes) {
  const uint8_t *from = data;
  uint64_t hash = secret[0] ^ bytes;
  for (uint32_t at = 0; at < bytes; at += 8) {
    uint64_t word = 0;
    memcpy(&word, from + at, bytes - at < 8 ? bytes - at : 8);
    hash = sonde_hash_fold(hash ^ word, secret[1] ^ hash) + word;
  }
  return sonde_hash_fold(hash ^ secret[1], secret[0] | 1);
}

#endif
