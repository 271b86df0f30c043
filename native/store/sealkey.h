/* sealkey.h - encryption keys in locked memory, excluded from core dumps; key derivation.
 *
 * struct sonde_sealkey holds the caller's key, and a chunk key derived from it with a random
 * salt. Reference-counted; the last release zeroises it.
 *
 *   chunk or file key = HKDF-SHA256(ikm = key, salt = salt, info = "netsonde chunk v1" or
 *                       "netsonde segment v1")
 *   key id = the first 8 bytes of SHA-256(HKDF-SHA256(ikm = key, no salt,
 *            info = "netsonde key id v1"))
 */
#ifndef SONDE_STORE_SEALKEY_H
#define SONDE_STORE_SEALKEY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

enum { SONDE_KEY_BYTES = 32, SONDE_KEY_ID_BYTES = 8, SONDE_SALT_BYTES = 32 };

struct sonde_sealkey {
  _Atomic uint32_t references;
  _Atomic uint64_t next_nonce;
  uint8_t id[SONDE_KEY_ID_BYTES];
  uint8_t master[SONDE_KEY_BYTES];
  uint8_t chunk[SONDE_KEY_BYTES];
};

/* Errors: SYSTEM (locked memory, random bytes or libcrypto). */
int sonde_sealkey_create(const uint8_t master[SONDE_KEY_BYTES], struct sonde_sealkey **key,
                         struct sonde_error *error);
struct sonde_sealkey *sonde_sealkey_hold(struct sonde_sealkey *key);
void sonde_sealkey_release(struct sonde_sealkey *key); /* NULL is allowed */

int sonde_sealkey_id(const uint8_t master[SONDE_KEY_BYTES], uint8_t id[SONDE_KEY_ID_BYTES]);
int sonde_sealkey_derive(const uint8_t master[SONDE_KEY_BYTES], const uint8_t *salt,
                         uint32_t salt_bytes, const char *info, uint8_t derived[SONDE_KEY_BYTES]);

/* Zeroed memory for secrets: locked if `locked` (else NULL), never dumped. */
void *sonde_secret_map(size_t bytes, int locked);
void sonde_secret_unmap(void *memory, size_t bytes); /* zeroises; NULL is allowed */

#endif
