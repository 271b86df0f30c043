/* reader.h - reads big-endian fields from hostile bytes.
 *
 * A read past the end sets `failed` and returns 0 or an empty part. So a parser reads a group of
 * fields and checks once.
 */
#ifndef SONDE_LABEL_READER_H
#define SONDE_LABEL_READER_H

#include <stdbool.h>
#include <stdint.h>

struct sonde_reader {
  const uint8_t *data;
  uint32_t bytes; /* left to read */
  bool failed;
};

static inline const uint8_t *reader_take(struct sonde_reader *reader, uint32_t bytes) {
  if (reader->failed || bytes > reader->bytes) {
    reader->failed = true;
    reader->bytes = 0;
    return reader->data;
  }
  const uint8_t *taken = reader->data;
  reader->data += bytes;
  reader->bytes -= bytes;
  return taken;
}

/* Reads a number of 1 to 4 octets. */
static inline uint32_t reader_number(struct sonde_reader *reader, uint32_t octets) {
  const uint8_t *taken = reader_take(reader, octets);
  uint32_t number = 0;
  for (uint32_t i = 0; !reader->failed && i < octets; i++)
    number = number << 8 | taken[i];
  return number;
}

/* Reads a length of `octets` octets and then that many bytes. */
static inline struct sonde_reader reader_part(struct sonde_reader *reader, uint32_t octets) {
  uint32_t bytes = reader_number(reader, octets);
  const uint8_t *data = reader_take(reader, bytes);
  return (struct sonde_reader){data, reader->failed ? 0 : bytes, reader->failed};
}

/* The same, but a part that the capture cut is returned as far as it goes. */
static inline struct sonde_reader reader_part_cut(struct sonde_reader *reader, uint32_t octets) {
  uint32_t bytes = reader_number(reader, octets);
  if (reader->failed)
    return (struct sonde_reader){reader->data, 0, true};
  uint32_t got = bytes < reader->bytes ? bytes : reader->bytes;
  const uint8_t *data = reader_take(reader, got);
  return (struct sonde_reader){data, got, false};
}

/* Reads a QUIC variable-length integer, RFC 9000 §16. */
static inline uint64_t reader_varint(struct sonde_reader *reader) {
  uint32_t first = reader_number(reader, 1);
  uint64_t number = first & 0x3f;
  for (uint32_t more = (1u << (first >> 6)) - 1; more > 0; more--)
    number = number << 8 | reader_number(reader, 1);
  return reader->failed ? 0 : number;
}

#endif
