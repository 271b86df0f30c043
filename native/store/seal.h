/* seal.h - AES-256-GCM by libcrypto, whole pieces at a time.
 *
 * Every return code is looked at. Nonces are the caller's care: never one twice under a key.
 * The functions of libcrypto are reached through a table, so that tests can make them fail.
 */
#ifndef SONDE_STORE_SEAL_H
#define SONDE_STORE_SEAL_H

#include <openssl/evp.h>
#include <stdint.h>

enum { SONDE_NONCE_BYTES = 12, SONDE_TAG_BYTES = 16 };

struct sonde_seal_text {
  const void *aad;
  uint32_t aad_bytes;
  uint32_t bytes;
  const uint8_t *from;
  uint8_t *into; /* may be `from` */
};

struct sonde_libcrypto {
  int (*init)(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, ENGINE *engine,
              const unsigned char *key, const unsigned char *nonce, int encrypt);
  int (*update)(EVP_CIPHER_CTX *context, unsigned char *out, int *out_bytes,
                const unsigned char *in, int in_bytes);
  int (*final)(EVP_CIPHER_CTX *context, unsigned char *out, int *out_bytes);
  int (*control)(EVP_CIPHER_CTX *context, int type, int number, void *pointer);
};
extern const struct sonde_libcrypto sonde_libcrypto_real;
extern _Atomic(const struct sonde_libcrypto *) sonde_libcrypto; /* the real one, but in tests */

/* 0 or SYSTEM; then `into` may hold anything but is not to be kept. */
int sonde_seal(const uint8_t *key, const uint8_t *nonce, const struct sonde_seal_text *text,
               uint8_t tag[SONDE_TAG_BYTES]);
/* 0, DAMAGED (the tag does not fit) or SYSTEM; unless 0 `into` is zero. */
int sonde_unseal(const uint8_t *key, const uint8_t *nonce, const struct sonde_seal_text *text,
                 const uint8_t tag[SONDE_TAG_BYTES]);

/* zero ×3, counter in network order, 1 for the last. */
void sonde_nonce(uint64_t counter, int last, uint8_t nonce[SONDE_NONCE_BYTES]);

#endif
