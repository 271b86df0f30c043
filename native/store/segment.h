/* segment.h - the segment file: a header, frames, a final frame. See docs/segment.md. The
 * structs are its layout, little endian.
 *
 * Each file has its own key. A frame's nonce is its number and a final flag. Its associated
 * data are the headers of file and frame. So frames cannot be moved, removed or appended.
 */
#ifndef SONDE_STORE_SEGMENT_H
#define SONDE_STORE_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "chunk.h"
#include "seal.h"
#include "sealkey.h"

enum {
  SONDE_SEGMENT_VERSION = 2,
  SONDE_SEGMENT_VERSION_UNNAMED = 1, /* its packets have no interface names; read only */
  SONDE_SUITE_CLEAR = 0, /* the tag is the first half of SHA-256(header, frame, payload) */
  SONDE_SUITE_AES_256_GCM = 1,
  SONDE_FRAME_MAGIC = 0x4d524653, /* "SFRM" */
  SONDE_FRAME_FINAL = 1,
  SONDE_FRAME_PAYLOAD_MAX = SONDE_CHUNK_BYTES,
};

struct sonde_segment_header {
  char magic[8]; /* "SONDESEG" */
  uint16_t version;
  uint16_t suite;
  uint32_t workers;  /* in the session */
  uint8_t key_id[8]; /* zero if unencrypted */
  uint8_t salt[32];  /* derives this file's key */
  uint64_t created_ns;
  uint8_t session[16]; /* random, one per session */
  uint64_t number;     /* the file's number in its directory */
  uint64_t reserved;
};
_Static_assert(sizeof(struct sonde_segment_header) == 96, "docs/segment.md");

struct sonde_segment_frame {
  uint32_t magic;
  uint32_t flags;
  uint64_t counter; /* 0, 1, … */
  uint32_t payload_bytes;
  uint32_t packets;
  uint64_t first_ns;
  uint64_t last_ns;
  uint64_t first_packet; /* its number, per worker */
  uint32_t worker;
  uint32_t name_bytes; /* names at the payload's end, see names.h */
  uint32_t reserved[2];
};
_Static_assert(sizeof(struct sonde_segment_frame) == 64, "docs/segment.md");

static inline uint32_t sonde_frame_bytes(uint32_t payload_bytes) {
  return (uint32_t)sizeof(struct sonde_segment_frame) + payload_bytes + SONDE_TAG_BYTES;
}
enum { SONDE_FRAME_BYTES_MAX = 64 + SONDE_FRAME_PAYLOAD_MAX + SONDE_TAG_BYTES };

/* Writes the frame's header, payload and tag to `into`. key: from sonde_segment_key; NULL for
 * an unencrypted file. Returns 0 or SYSTEM. */
int sonde_frame_seal(const struct sonde_segment_header *header, const uint8_t *key,
                     const struct sonde_segment_frame *frame, const uint8_t *payload,
                     uint8_t *into);
/* sealed: payload and tag. Returns 0, DAMAGED or SYSTEM. On errors `into` is not to be used. */
int sonde_frame_open(const struct sonde_segment_header *header, const uint8_t *key,
                     const struct sonde_segment_frame *frame, const uint8_t *sealed, uint8_t *into);
int sonde_segment_key(const struct sonde_segment_header *header, const uint8_t *master,
                      uint8_t key[SONDE_KEY_BYTES]);

/* ---- reading a file, frame by frame ------------------------------------------------------ */

struct sonde_segment_reader {
  int fd; /* owned by the caller */
  uint64_t offset;
  uint64_t counter; /* the next frame's */
  struct sonde_segment_header header;
  uint8_t *key;    /* in locked memory; NULL if unencrypted */
  uint8_t *sealed; /* one frame, as stored */
  bool ended;
};

/* Without `master` only an unencrypted file can be opened; `header` is still read. Errors:
 * FORMAT, TRUNCATED, CIPHER_UNKNOWN, KEY_WRONG, NO_MEMORY, SYSTEM. */
int sonde_segment_reader_open(struct sonde_segment_reader *reader, int fd, const uint8_t *master);
void sonde_segment_reader_close(struct sonde_segment_reader *reader);
/* Reads the next frame's header, which is not yet authenticated. END after a valid final frame
 * at the end of the file. Errors: TRUNCATED, REORDERED, DAMAGED, SYSTEM. */
int sonde_segment_reader_next(struct sonde_segment_reader *reader,
                              struct sonde_segment_frame *frame);
/* Moves past the frame that `next` returned. load writes its plaintext to `into`. */
int sonde_segment_reader_load(struct sonde_segment_reader *reader,
                              const struct sonde_segment_frame *frame, uint8_t *into);
void sonde_segment_reader_skip(struct sonde_segment_reader *reader,
                               const struct sonde_segment_frame *frame);

#endif
