/* window.h - a sliding view of a file, read in large chunks into private memory.
 *
 * Read, not mapped: a mapped file that somebody truncates is SIGBUS. Bytes between
 * cursor and end stay where they are until the next window_fill, which moves them to the
 * front; so records are handed over in place and none is ever split.
 */
#ifndef SONDE_FILE_WINDOW_H
#define SONDE_FILE_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct window {
  int fd;
  int read_errno;        /* of the read that failed; the bytes before it are still good */
  bool at_end;           /* nothing lies behind end */
  uint8_t *memory;       /* WINDOW_BYTES */
  const uint8_t *cursor; /* the next byte to parse */
  const uint8_t *end;    /* past the last byte read */
  uint64_t end_offset;   /* of `end` in the file */
};

/* Small enough to stay in the L2 cache while it is parsed, a few times the largest record. */
enum { WINDOW_BYTES = 1 << 20, WINDOW_RECORD_MAX = WINDOW_BYTES / 2 };

int window_open(struct window *window, int fd); /* 0 or -1 with errno */
void window_close(struct window *window);

/* Reads on behind what is left. Returns whether there are more bytes than before. */
bool window_fill(struct window *window);

static inline size_t window_left(const struct window *window) {
  return (size_t)(window->end - window->cursor);
}

static inline uint64_t window_offset(const struct window *window) {
  return window->end_offset - window_left(window);
}

#endif
