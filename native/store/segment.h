/* segment.h - the segment file: a header, frames, a final frame. docs/segment.md says it
 * in words; the structs here are its layout, little endian.
 *
 * Each file has a key of its own. A frame's nonce is its number and whether it is the last,
 * its associated data are the file's header and the frame's, so nothing can be moved, left
 * out, or added behind the end.
 */
#ifndef SONDE_STORE_SEGMENT_H
#define SONDE_STORE_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "chunk.h"
#include "seal.h"
#include "sealkey.h"

enum {
  SONDE_SEGMENT_VERSION = 1,
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
  uint32_t workers;  /* of the session */
  uint8_t key_id[8]; /* zero in clear */
  uint8_t salt[32];  /* of this file's key */
  uint64_t created_ns;
  uint8_t session[16]; /* random, one a session */
  uint64_t number;     /* of the file in its directory */
  uint64_t reserved;
};
_Static_assert(sizeof(struct sonde_segment_header) == 96, "the format");

struct sonde_segment_frame {
  uint32_t magic;
  uint32_t flags;
  uint64_t counter; /* 0, 1, … */
  uint32_t payload_bytes;
  uint32_t packets;
  uint64_t first_ns;
  uint64_t last_ns;
  uint64_t first_packet; /* its number among its worker's */
  uint32_t worker;
  uint32_t reserved[3];
};
_Static_assert(sizeof(struct sonde_segment_frame) == 64, "the format");

static inline uint32_t sonde_frame_bytes(uint32_t payload_bytes) {
  return (uint32_t)sizeof(struct sonde_segment_frame) + payload_bytes + SONDE_TAG_BYTES;
}
enum { SONDE_FRAME_BYTES_MAX = 64 + SONDE_FRAME_PAYLOAD_MAX + SONDE_TAG_BYTES };

/* key: NULL for a file in clear; else the file's own, from sonde_segment_key.
 * Writes the frame's header, payload and tag to `into`. 0 or SYSTEM. */
int sonde_frame_seal(const struct sonde_segment_header *header, const uint8_t *key,
                     const struct sonde_segment_frame *frame, const uint8_t *payload,
                     uint8_t *into);
/* sealed: the payload and tag. 0, DAMAGED or SYSTEM; then `into` is zero. */
int sonde_frame_open(const struct sonde_segment_header *header, const uint8_t *key,
                     const struct sonde_segment_frame *frame, const uint8_t *sealed, uint8_t *into);
int sonde_segment_key(const struct sonde_segment_header *header, const uint8_t *master,
                      uint8_t key[SONDE_KEY_BYTES]);

/* ---- reading a file, frame by frame ------------------------------------------------------ */

struct sonde_segment_reader {
  int fd; /* the caller's */
  uint64_t offset;
  uint64_t counter; /* the next frame's */
  struct sonde_segment_header header;
  uint8_t *key;    /* locked; NULL in clear */
  uint8_t *sealed; /* one frame as in the file */
  bool ended;
};

/* master: NULL: the header alone can be read, or a file in clear. Errors: FORMAT, TRUNCATED,
 * CIPHER_UNKNOWN, KEY_WRONG, NO_MEMORY, SYSTEM. */
int sonde_segment_reader_open(struct sonde_segment_reader *reader, int fd, const uint8_t *master);
void sonde_segment_reader_close(struct sonde_segment_reader *reader);
/* The next frame's header, believed by nobody yet. END: the final frame was good and nothing
 * follows. TRUNCATED, REORDERED, DAMAGED, SYSTEM. */
int sonde_segment_reader_next(struct sonde_segment_reader *reader,
                              struct sonde_segment_frame *frame);
/* Goes past the frame of the last next: with its clear payload in `into`, or unread. */
int sonde_segment_reader_load(struct sonde_segment_reader *reader,
                              const struct sonde_segment_frame *frame, uint8_t *into);
void sonde_segment_reader_skip(struct sonde_segment_reader *reader,
                               const struct sonde_segment_frame *frame);

#endif
