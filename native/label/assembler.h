/* assembler.h - puts the pieces of a byte stream in order, in a buffer of fixed size.
 *
 * Pieces may overlap and come in any order; the first copy of a byte wins. Bytes beyond the buffer
 * are left out.
 */
#ifndef SONDE_LABEL_ASSEMBLER_H
#define SONDE_LABEL_ASSEMBLER_H

#include <stdint.h>
#include <string.h>

enum { SONDE_ASSEMBLER_BYTES = 16384 };

struct sonde_assembler {
  uint32_t contiguous;                          /* bytes at the start without a gap */
  uint32_t highest;                             /* end of the last byte */
  uint64_t present[SONDE_ASSEMBLER_BYTES / 64]; /* a bit for each byte of data */
  uint8_t data[SONDE_ASSEMBLER_BYTES];
};

static inline void assembler_clear(struct sonde_assembler *assembler) {
  assembler->contiguous = assembler->highest = 0;
  memset(assembler->present, 0, sizeof assembler->present);
}

static inline int assembler_has(const struct sonde_assembler *assembler, uint32_t at) {
  return assembler->present[at / 64] >> (at % 64) & 1;
}

static inline void assembler_mark(struct sonde_assembler *assembler, uint32_t from, uint32_t to) {
  for (uint32_t at = from; at < to;) {
    uint32_t shift = at % 64, bits = to - at < 64 - shift ? to - at : 64 - shift;
    uint64_t ones = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
    assembler->present[at / 64] |= ones << shift;
    at += bits;
  }
}

static inline void assembler_add(struct sonde_assembler *assembler, uint64_t offset,
                                 const uint8_t *from, uint32_t bytes) {
  if (offset >= SONDE_ASSEMBLER_BYTES)
    return;
  if (bytes > SONDE_ASSEMBLER_BYTES - offset)
    bytes = SONDE_ASSEMBLER_BYTES - (uint32_t)offset;
  uint32_t end = (uint32_t)offset + bytes;
  if (offset >= assembler->highest) { /* nothing to compare with */
    memcpy(assembler->data + offset, from, bytes);
    assembler_mark(assembler, (uint32_t)offset, end);
  } else {
    for (uint32_t at = (uint32_t)offset; at < end; at++) {
      if (assembler_has(assembler, at))
        continue;
      assembler->data[at] = from[at - offset];
      assembler_mark(assembler, at, at + 1);
    }
  }
  if (offset == assembler->contiguous)
    assembler->contiguous = end;
  if (end > assembler->highest)
    assembler->highest = end;
  while (assembler->contiguous < assembler->highest &&
         assembler_has(assembler, assembler->contiguous))
    assembler->contiguous++;
}

#endif
