/* frame.h - a frame's bytes and the functions that read them.
 *
 * Every layer calls frame_has before it loads. The packet had wirelen bytes, caplen of them were
 * captured; caplen ≤ wirelen. A header that ends past wirelen is malformed. One that ends past
 * caplen only is truncated.
 */
#ifndef SONDE_PARSE_FRAME_H
#define SONDE_PARSE_FRAME_H

#include <stdbool.h>
#include <string.h>

#include "packet.h"

struct sonde_frame {
  const uint8_t *data;
  uint32_t caplen;
  uint32_t wirelen;
};

static inline bool frame_has(const struct sonde_frame *frame, uint32_t offset, uint32_t bytes) {
  return offset <= frame->caplen && bytes <= frame->caplen - offset;
}

/* Returns the cause to report after frame_has returned false. */
static inline int frame_cause(const struct sonde_frame *frame, uint32_t offset, uint32_t bytes) {
  return (uint64_t)offset + bytes > frame->wirelen ? SONDE_NON_FLOW_MALFORMED
                                                   : SONDE_NON_FLOW_TRUNCATED;
}

/* Returns the part of the frame before `end`. */
static inline struct sonde_frame frame_until(const struct sonde_frame *frame, uint32_t end) {
  struct sonde_frame part = *frame;
  if (end < part.wirelen)
    part.wirelen = end;
  if (end < part.caplen)
    part.caplen = end;
  return part;
}

static inline uint16_t load_u16(const uint8_t *bytes) {
  return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static inline uint32_t load_u32(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static inline uint64_t load_u64(const uint8_t *bytes) {
  return (uint64_t)load_u32(bytes) << 32 | load_u32(bytes + 4);
}

#endif
