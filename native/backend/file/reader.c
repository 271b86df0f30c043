/* reader.c - see reader.h: detects the format and holds what both formats share. */
#include "reader.h"

#include "identify.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int reader_open(struct reader *reader, int fd, uint32_t snaplen) {
  memset(reader, 0, sizeof *reader);
  reader->snaplen = snaplen;
  reader->interfaces = calloc(INTERFACES_MAX, sizeof *reader->interfaces);
  if (!reader->interfaces || window_open(&reader->window, fd)) {
    free(reader->interfaces);
    reader->interfaces = NULL;
    errno = ENOMEM;
    return -1;
  }
  while (window_fill(&reader->window)) {
  }
  if (window_left(&reader->window) && (pcap_open(reader) || pcapng_open(reader)))
    return 0;
  int cause = window_left(&reader->window) ? 0 : reader->window.read_errno;
  if (!reader->detail[0])
    file_identify(reader->window.cursor, window_left(&reader->window), reader->detail,
                  sizeof reader->detail);
  reader_close(reader);
  errno = cause;
  return -1;
}

void reader_close(struct reader *reader) {
  window_close(&reader->window);
  free(reader->interfaces);
  reader->interfaces = NULL;
}

void reader_end(struct reader *reader, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reader->detail, sizeof reader->detail, format, arguments);
  va_end(arguments);
  reader->ended = true;
}

bool reader_refill(struct reader *reader, bool may_refill) {
  struct window *window = &reader->window;
  if (reader->ended || !may_refill)
    return false;
  if (window_fill(window))
    return true;
  if (window->read_errno) {
    reader_end(reader, "reading failed at byte %llu: %s", (unsigned long long)window->end_offset,
               strerror(window->read_errno));
  } else if (window_left(window) || reader->skip_bytes) {
    reader_end(reader, "the last packet is cut off at byte %llu",
               (unsigned long long)window->end_offset);
  } else {
    reader_end(reader, "%s", "");
  }
  return false;
}

uint32_t reader_next(struct reader *reader, struct sonde_packet *packets, uint32_t max,
                     bool may_refill) {
  if (reader->ended || max == 0)
    return 0;
  uint32_t count;
  do {
    count = reader->pcapng ? pcapng_next(reader, packets, max) : pcap_next(reader, packets, max);
  } while (count == 0 && reader_refill(reader, may_refill));
  if (count)
    reader->last_ns = packets[count - 1].time_ns;
  return count;
}
