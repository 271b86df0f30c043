/* segment.c - see segment.h. Every field of a file is checked before use. */
#include "segment.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "status.h"

struct associated {
  struct sonde_segment_header header;
  struct sonde_segment_frame frame;
};

int sonde_segment_key(const struct sonde_segment_header *header, const uint8_t *master,
                      uint8_t key[SONDE_KEY_BYTES]) {
  return sonde_sealkey_derive(master, header->salt, sizeof header->salt, "netsonde segment v1",
                              key);
}

static int digest(const struct associated *aad, const uint8_t *payload, uint32_t bytes,
                  uint8_t tag[SONDE_TAG_BYTES]) {
  uint8_t whole[EVP_MAX_MD_SIZE];
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  int made = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(context, aad, sizeof *aad) == 1 &&
             EVP_DigestUpdate(context, payload, bytes) == 1 &&
             EVP_DigestFinal_ex(context, whole, NULL) == 1;
  EVP_MD_CTX_free(context);
  if (made)
    memcpy(tag, whole, SONDE_TAG_BYTES);
  return made ? SONDE_OK : SONDE_SYSTEM;
}

int sonde_frame_seal(const struct sonde_segment_header *header, const uint8_t *key,
                     const struct sonde_segment_frame *frame, const uint8_t *payload,
                     uint8_t *into) {
  struct associated aad = {*header, *frame};
  uint8_t *sealed = into + sizeof *frame;
  uint8_t *tag = sealed + frame->payload_bytes;
  memcpy(into, frame, sizeof *frame);
  if (!key) {
    if (frame->payload_bytes)
      memcpy(sealed, payload, frame->payload_bytes);
    return digest(&aad, sealed, frame->payload_bytes, tag);
  }
  uint8_t nonce[SONDE_NONCE_BYTES];
  struct sonde_seal_text text = {&aad, sizeof aad, frame->payload_bytes, payload, sealed};
  sonde_nonce(frame->counter, frame->flags & SONDE_FRAME_FINAL, nonce);
  return sonde_seal(key, nonce, &text, tag);
}

int sonde_frame_open(const struct sonde_segment_header *header, const uint8_t *key,
                     const struct sonde_segment_frame *frame, const uint8_t *sealed,
                     uint8_t *into) {
  struct associated aad = {*header, *frame};
  const uint8_t *tag = sealed + frame->payload_bytes;
  if (!key) {
    uint8_t expected[SONDE_TAG_BYTES];
    int status = digest(&aad, sealed, frame->payload_bytes, expected);
    if (status == SONDE_OK && CRYPTO_memcmp(tag, expected, sizeof expected) != 0)
      status = SONDE_DAMAGED;
    if (status == SONDE_OK && frame->payload_bytes)
      memcpy(into, sealed, frame->payload_bytes);
    return status;
  }
  uint8_t nonce[SONDE_NONCE_BYTES];
  struct sonde_seal_text text = {&aad, sizeof aad, frame->payload_bytes, sealed, into};
  sonde_nonce(frame->counter, frame->flags & SONDE_FRAME_FINAL, nonce);
  return sonde_unseal(key, nonce, &text, tag);
}

/* Returns 0, TRUNCATED or SYSTEM. */
static int read_fully(int fd, void *into, uint32_t bytes, uint64_t offset) {
  uint32_t done = 0;
  while (done < bytes) {
    ssize_t got = pread(fd, (uint8_t *)into + done, bytes - done, (off_t)(offset + done));
    if (got < 0 && errno != EINTR)
      return SONDE_SYSTEM;
    if (got == 0)
      return SONDE_TRUNCATED;
    done += got > 0 ? (uint32_t)got : 0;
  }
  return SONDE_OK;
}

static int check_header(const struct sonde_segment_header *header, const uint8_t *master) {
  uint8_t id[SONDE_KEY_ID_BYTES];
  if (memcmp(header->magic, "SONDESEG", sizeof header->magic) != 0 ||
      (header->version != SONDE_SEGMENT_VERSION &&
       header->version != SONDE_SEGMENT_VERSION_UNNAMED))
    return SONDE_FORMAT;
  if (header->suite == SONDE_SUITE_CLEAR)
    return SONDE_OK;
  if (header->suite != SONDE_SUITE_AES_256_GCM)
    return SONDE_CIPHER_UNKNOWN;
  if (!master)
    return SONDE_KEY_WRONG;
  if (sonde_sealkey_id(master, id) < 0)
    return SONDE_SYSTEM;
  return memcmp(id, header->key_id, sizeof id) == 0 ? SONDE_OK : SONDE_KEY_WRONG;
}

int sonde_segment_reader_open(struct sonde_segment_reader *reader, int fd, const uint8_t *master) {
  *reader = (struct sonde_segment_reader){.fd = fd, .offset = sizeof reader->header};
  int status = read_fully(fd, &reader->header, sizeof reader->header, 0);
  if (status == SONDE_OK)
    status = check_header(&reader->header, master);
  if (status < 0)
    return status;
  reader->sealed = malloc(SONDE_FRAME_BYTES_MAX);
  if (!reader->sealed)
    return SONDE_NO_MEMORY;
  if (reader->header.suite == SONDE_SUITE_CLEAR)
    return SONDE_OK;
  reader->key = sonde_secret_map(SONDE_KEY_BYTES, 1);
  if (!reader->key)
    return SONDE_SYSTEM;
  return sonde_segment_key(&reader->header, master, reader->key);
}

void sonde_segment_reader_close(struct sonde_segment_reader *reader) {
  sonde_secret_unmap(reader->key, SONDE_KEY_BYTES);
  free(reader->sealed);
  *reader = (struct sonde_segment_reader){.fd = -1};
}

/* The final frame is empty, and nothing follows it. */
static int check_end(struct sonde_segment_reader *reader, const struct sonde_segment_frame *frame) {
  uint8_t byte;
  int status = sonde_segment_reader_load(reader, frame, NULL);
  if (status < 0)
    return status;
  status = read_fully(reader->fd, &byte, 1, reader->offset);
  reader->ended = status == SONDE_TRUNCATED;
  return status == SONDE_OK ? SONDE_DAMAGED : reader->ended ? SONDE_END : status;
}

int sonde_segment_reader_next(struct sonde_segment_reader *reader,
                              struct sonde_segment_frame *frame) {
  if (reader->ended)
    return SONDE_END;
  int status = read_fully(reader->fd, frame, sizeof *frame, reader->offset);
  if (status < 0)
    return status;
  bool final = frame->flags & SONDE_FRAME_FINAL;
  if (frame->magic != SONDE_FRAME_MAGIC || frame->flags & ~(uint32_t)SONDE_FRAME_FINAL ||
      frame->payload_bytes > SONDE_FRAME_PAYLOAD_MAX || frame->name_bytes > frame->payload_bytes ||
      (final && frame->payload_bytes))
    return SONDE_DAMAGED;
  if (frame->counter != reader->counter)
    return SONDE_REORDERED;
  return final ? check_end(reader, frame) : SONDE_OK;
}

void sonde_segment_reader_skip(struct sonde_segment_reader *reader,
                               const struct sonde_segment_frame *frame) {
  reader->offset += sonde_frame_bytes(frame->payload_bytes);
  reader->counter++;
}

int sonde_segment_reader_load(struct sonde_segment_reader *reader,
                              const struct sonde_segment_frame *frame, uint8_t *into) {
  int status = read_fully(reader->fd, reader->sealed, frame->payload_bytes + SONDE_TAG_BYTES,
                          reader->offset + sizeof *frame);
  if (status == SONDE_OK)
    status = sonde_frame_open(&reader->header, reader->key, frame, reader->sealed, into);
  if (status == SONDE_OK)
    sonde_segment_reader_skip(reader, frame);
  return status;
}
