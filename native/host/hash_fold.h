/* hash_fold.h - the step of the keyed hashes: a 64x64→128-bit multiplication, folded to 64 bits. */
#ifndef SONDE_HOST_HASH_FOLD_H
#define SONDE_HOST_HASH_FOLD_H

#include <stdint.h>

static inline uint64_t sonde_hash_fold(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

#endif
