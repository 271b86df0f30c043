/* seal.h - AES-256-GCM by libcrypto, one whole message per call.
 *
 * The caller must never use a nonce twice with a key. libcrypto is called through a table,
 * so that tests can make it fail.
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
extern _Atomic(const struct sonde_libcrypto *) sonde_libcrypto; /* tests replace it */

/* Returns 0, or SYSTEM: then discard `into`. */
int sonde_seal(const uint8_t *key, const uint8_t *nonce, const struct sonde_seal_text *text,
               uint8_t tag[SONDE_TAG_BYTES]);
/* Returns 0, DAMAGED (wrong tag) or SYSTEM. On errors `into` is zero. */
int sonde_unseal(const uint8_t *key, const uint8_t *nonce, const struct sonde_seal_text *text,
                 const uint8_t tag[SONDE_TAG_BYTES]);

/* Three zero bytes, the counter in network order, 1 for the last message (else 0). */
void sonde_nonce(uint64_t counter, int last, uint8_t nonce[SONDE_NONCE_BYTES]);

#endif
