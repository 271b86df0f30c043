/* window.h - a sliding view of a file, read in large chunks into private memory.
 *
 * The file is read, not mapped: truncating a mapped file raises SIGBUS. Bytes between cursor and
 * end stay in place until window_fill moves them to the front. So records are handed over in
 * place and never split.
 */
#ifndef SONDE_FILE_WINDOW_H
#define SONDE_FILE_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct window {
  int fd;
  int read_errno;        /* set by a failed read; the bytes before it are valid */
  bool at_end;           /* the file has no bytes after end */
  uint8_t *memory;       /* WINDOW_BYTES */
  const uint8_t *cursor; /* the next byte to parse */
  const uint8_t *end;    /* past the last byte read */
  uint64_t end_offset;   /* file offset of `end` */
};

/* Fits the L2 cache, and holds a few of the largest records. */
enum { WINDOW_BYTES = 1 << 20, WINDOW_RECORD_MAX = WINDOW_BYTES / 2 };

int window_open(struct window *window, int fd); /* 0 or -1 with errno */
void window_close(struct window *window);

/* Reads more bytes after the unparsed ones. Returns whether any were added. */
bool window_fill(struct window *window);

static inline size_t window_left(const struct window *window) {
  return (size_t)(window->end - window->cursor);
}

static inline uint64_t window_offset(const struct window *window) {
  return window->end_offset - window_left(window);
}

#endif
