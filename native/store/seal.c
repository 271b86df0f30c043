/* seal.c - see seal.h. */
#include "seal.h"

#include <openssl/crypto.h>
#include <string.h>

#include "status.h"

const struct sonde_libcrypto sonde_libcrypto_real = {
    .init = EVP_CipherInit_ex,
    .update = EVP_CipherUpdate,
    .final = EVP_CipherFinal_ex,
    .control = EVP_CIPHER_CTX_ctrl,
};
_Atomic(const struct sonde_libcrypto *) sonde_libcrypto = &sonde_libcrypto_real;

void sonde_nonce(uint64_t counter, int last, uint8_t nonce[SONDE_NONCE_BYTES]) {
  memset(nonce, 0, SONDE_NONCE_BYTES);
  for (int i = 0; i < 8; i++)
    nonce[3 + i] = (uint8_t)(counter >> (56 - 8 * i));
  nonce[11] = last != 0;
}

/* Processes the whole text; the caller handles the tag. */
static int run(EVP_CIPHER_CTX *context, const struct sonde_libcrypto *crypto, const uint8_t *key,
               const uint8_t *nonce, const struct sonde_seal_text *text, int encrypt) {
  int bytes = 0;
  if (crypto->init(context, EVP_aes_256_gcm(), NULL, key, nonce, encrypt) != 1)
    return SONDE_SYSTEM;
  if (text->aad_bytes &&
      crypto->update(context, NULL, &bytes, text->aad, (int)text->aad_bytes) != 1)
    return SONDE_SYSTEM;
  if (text->bytes &&
      (crypto->update(context, text->into, &bytes, text->from, (int)text->bytes) != 1 ||
       bytes != (int)text->bytes))
    return SONDE_SYSTEM;
  return SONDE_OK;
}

int sonde_seal(const uint8_t *key, const uint8_t *nonce, const struct sonde_seal_text *text,
               uint8_t tag[SONDE_TAG_BYTES]) {
  const struct sonde_libcrypto *crypto = sonde_libcrypto;
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
  uint8_t rest[SONDE_TAG_BYTES];
  int bytes = 0;
  int status = SONDE_SYSTEM;
  if (context && run(context, crypto, key, nonce, text, 1) == SONDE_OK &&
      crypto->final(context, rest, &bytes) == 1 && bytes == 0 &&
      crypto->control(context, EVP_CTRL_AEAD_GET_TAG, SONDE_TAG_BYTES, tag) == 1)
    status = SONDE_OK;
  EVP_CIPHER_CTX_free(context);
  return status;
}

int sonde_unseal(const uint8_t *key, const uint8_t *nonce, const struct sonde_seal_text *text,
                 const uint8_t tag[SONDE_TAG_BYTES]) {
  const struct sonde_libcrypto *crypto = sonde_libcrypto;
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
  uint8_t rest[SONDE_TAG_BYTES];
  uint8_t expected[SONDE_TAG_BYTES];
  int bytes = 0;
  int status = SONDE_SYSTEM;
  memcpy(expected, tag, sizeof expected);
  if (context && run(context, crypto, key, nonce, text, 0) == SONDE_OK &&
      crypto->control(context, EVP_CTRL_AEAD_SET_TAG, SONDE_TAG_BYTES, expected) == 1)
    status = crypto->final(context, rest, &bytes) == 1 ? SONDE_OK : SONDE_DAMAGED;
  if (status < 0 && text->bytes)
    OPENSSL_cleanse(text->into, text->bytes);
  EVP_CIPHER_CTX_free(context);
  return status;
}
