/* sealkey.c - see sealkey.h. */
#include "sealkey.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "failure.h"

void *sonde_secret_map(size_t bytes, int locked) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return NULL;
  if (madvise(memory, bytes, MADV_DONTDUMP) < 0 || (locked && mlock(memory, bytes) < 0)) {
    munmap(memory, bytes);
    return NULL;
  }
  return memory;
}

void sonde_secret_unmap(void *memory, size_t bytes) {
  if (!memory)
    return;
  OPENSSL_cleanse(memory, bytes);
  munmap(memory, bytes);
}

int sonde_sealkey_derive(const uint8_t master[SONDE_KEY_BYTES], const uint8_t *salt,
                         uint32_t salt_bytes, const char *info, uint8_t derived[SONDE_KEY_BYTES]) {
  OSSL_PARAM parameters[5];
  OSSL_PARAM *next = parameters;
  *next++ = OSSL_PARAM_construct_utf8_string("digest", (char[]){"SHA256"}, 0);
  *next++ = OSSL_PARAM_construct_octet_string("key", (void *)(uintptr_t)master, SONDE_KEY_BYTES);
  *next++ = OSSL_PARAM_construct_octet_string("info", (void *)(uintptr_t)info, strlen(info));
  if (salt_bytes)
    *next++ = OSSL_PARAM_construct_octet_string("salt", (void *)(uintptr_t)salt, salt_bytes);
  *next = OSSL_PARAM_construct_end();
  EVP_KDF *hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
  EVP_KDF_CTX *context = hkdf ? EVP_KDF_CTX_new(hkdf) : NULL;
  int derives = context ? EVP_KDF_derive(context, derived, SONDE_KEY_BYTES, parameters) : 0;
  EVP_KDF_CTX_free(context);
  EVP_KDF_free(hkdf);
  return derives == 1 ? SONDE_OK : SONDE_SYSTEM;
}

int sonde_sealkey_id(const uint8_t master[SONDE_KEY_BYTES], uint8_t id[SONDE_KEY_ID_BYTES]) {
  uint8_t derived[SONDE_KEY_BYTES], digest[32];
  int status = sonde_sealkey_derive(master, NULL, 0, "netsonde key id v1", derived);
  if (status == SONDE_OK &&
      EVP_Digest(derived, sizeof derived, digest, NULL, EVP_sha256(), NULL) != 1)
    status = SONDE_SYSTEM;
  if (status == SONDE_OK)
    memcpy(id, digest, SONDE_KEY_ID_BYTES);
  OPENSSL_cleanse(derived, sizeof derived);
  return status;
}

int sonde_sealkey_create(const uint8_t master[SONDE_KEY_BYTES], struct sonde_sealkey **key,
                         struct sonde_error *error) {
  uint8_t salt[SONDE_SALT_BYTES];
  struct sonde_sealkey *made = sonde_secret_map(sizeof *made, 1);
  if (!made)
    return sonde_fail(error, SONDE_SYSTEM, errno, "cannot lock memory for the key: %s",
                      strerror(errno));
  atomic_store(&made->references, 1);
  memcpy(made->master, master, SONDE_KEY_BYTES);
  if (getrandom(salt, sizeof salt, 0) != sizeof salt ||
      sonde_sealkey_id(made->master, made->id) < 0 ||
      sonde_sealkey_derive(made->master, salt, sizeof salt, "netsonde chunk v1", made->chunk) < 0) {
    sonde_sealkey_release(made);
    return sonde_fail(error, SONDE_SYSTEM, 0, "cannot derive a key");
  }
  *key = made;
  return SONDE_OK;
}

struct sonde_sealkey *sonde_sealkey_hold(struct sonde_sealkey *key) {
  if (key)
    atomic_fetch_add(&key->references, 1);
  return key;
}

void sonde_sealkey_release(struct sonde_sealkey *key) {
  if (key && atomic_fetch_sub(&key->references, 1) == 1)
    sonde_secret_unmap(key, sizeof *key);
}
