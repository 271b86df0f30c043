/* pcap.c - the classic capture file: a 24-byte head, then 16-byte record heads.
 *
 *   0 magic  4 version  8 zone, accuracy  16 snaplen  20 FCS length (4 bits), 1 bit
 *   reserved, FCS present (1 bit), 10 bits reserved, link type (16 bits)
 *   record: seconds, fraction, captured length, length on the wire, data
 */
#include "reader.h"

enum {
  HEAD_BYTES = 24,
  RECORD_HEAD_BYTES = 16,
  MAGIC_US = 0xa1b2c3d4,
  MAGIC_NS = 0xa1b23c4d,
  FCS_PRESENT = 0x04000000,
};

bool pcap_open(struct reader *reader) {
  struct window *window = &reader->window;
  uint32_t magic;
  if (window_left(window) < sizeof magic)
    return false;
  memcpy(&magic, window->cursor, sizeof magic);
  reader->swapped = magic == __builtin_bswap32(MAGIC_US) || magic == __builtin_bswap32(MAGIC_NS);
  magic = load32(reader, window->cursor);
  if (magic != (uint32_t)MAGIC_US && magic != (uint32_t)MAGIC_NS)
    return false;
  if (window_left(window) < HEAD_BYTES) {
    reader_end(reader, "the file header is cut off at byte %zu", window_left(window));
    return true;
  }
  uint32_t link = load32(reader, window->cursor + 20);
  uint16_t major = load16(reader, window->cursor + 4), minor = load16(reader, window->cursor + 6);
  if (!(major == 2 && minor <= 4) && !(major == 543 && minor == 0)) { /* 543: an old DG/UX */
    reader_end(reader, "a pcap file of version %u.%u, which is not known", major, minor);
    return false;
  }
  reader->lengths_swapped = minor < 3;
  reader->lengths_unsure = minor == 3;
  reader->tick_ns = magic == (uint32_t)MAGIC_NS ? 1 : 1000;
  reader->linktype = linktype_normal(link & 0xffff);
  reader->fcs_bytes = (uint8_t)(link & FCS_PRESENT ? 2 * (link >> 28) : 0);
  window->cursor += HEAD_BYTES;
  return true;
}

/* Before version 2.3 the length on the wire came first; writers of 2.3 disagree. */
static void read_lengths(const struct reader *reader, const uint8_t *head, uint32_t *caplen,
                         uint32_t *wirelen) {
  *caplen = load32(reader, head + 8);
  *wirelen = load32(reader, head + 12);
  if (reader->lengths_swapped || (reader->lengths_unsure && *caplen > *wirelen)) {
    uint32_t captured = *wirelen;
    *wirelen = *caplen;
    *caplen = captured;
  }
}

uint32_t pcap_next(struct reader *reader, struct sonde_packet *packets, uint32_t max) {
  const uint8_t *cursor = reader->window.cursor;
  const uint8_t *end = reader->window.end;
  uint32_t count = 0;
  while (count < max && (size_t)(end - cursor) >= RECORD_HEAD_BYTES) {
    uint32_t caplen, wirelen;
    read_lengths(reader, cursor, &caplen, &wirelen);
    if (caplen > FRAME_MAX) {
      reader->window.cursor = cursor;
      reader_end(reader, "the packet at byte %llu claims %u captured bytes",
                 (unsigned long long)window_offset(&reader->window), caplen);
      return count;
    }
    if ((size_t)(end - cursor) - RECORD_HEAD_BYTES < caplen)
      break;
    struct sonde_packet *packet = &packets[count++];
    packet_set(packet, cursor + RECORD_HEAD_BYTES, caplen, wirelen, reader->fcs_bytes,
               reader->snaplen);
    packet->linktype = reader->linktype;
    packet_direct(packet);
    packet->time_ns = load32(reader, cursor) * UINT64_C(1000000000) +
                      (uint64_t)load32(reader, cursor + 4) * reader->tick_ns;
    cursor += RECORD_HEAD_BYTES + caplen;
    __builtin_prefetch(cursor + 512);
  }
  reader->window.cursor = cursor;
  return count;
}
