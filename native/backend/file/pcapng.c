/* pcapng.c - the block-structured capture file: sections, interfaces, packets.
 *
 *   block: type, total length, body, total length again; all multiples of 4 bytes
 *   option: code (2 bytes), length (2 bytes), value padded to 4; code 0 ends the list
 *
 * Each section has its own byte order and interface numbers. Blocks of other types are
 * skipped, whatever their size. draft-ietf-opsawg-pcapng §3, §4.
 */
#include "reader.h"

enum {
  BLOCK_SECTION = 0x0a0d0d0a, /* the same in both byte orders */
  BLOCK_INTERFACE = 1,
  BLOCK_PACKET_OBSOLETE = 2,
  BLOCK_PACKET_SIMPLE = 3,
  BLOCK_PACKET_ENHANCED = 6,
  BYTE_ORDER_MAGIC = 0x1a2b3c4d,
  BLOCK_BYTES_MIN = 12,
  OPTION_END = 0,
  OPTION_PACKET_FLAGS = 2,
  OPTION_TSRESOL = 9,
  OPTION_FCSLEN = 13,
  OPTION_TSOFFSET = 14,
};

struct option {
  uint16_t code;
  uint16_t length;
  const uint8_t *value;
};

static bool block_malformed(struct reader *reader, const char *what) {
  reader_end(reader, "the block at byte %llu %s",
             (unsigned long long)window_offset(&reader->window), what);
  return false;
}

/* Reads the next option of [*at, end). Returns 1, 0 at the end of the list, -1 if it overruns. */
static int read_option(struct reader *reader, const uint8_t **at, const uint8_t *end,
                       struct option *option) {
  size_t left = (size_t)(end - *at);
  if (left < 4)
    return 0;
  option->code = load16(reader, *at);
  option->length = load16(reader, *at + 2);
  option->value = *at + 4;
  if (option->code == OPTION_END)
    return 0;
  size_t padded = 4 + (((size_t)option->length + 3) & ~(size_t)3);
  if (padded > left) {
    block_malformed(reader, "has an option that is longer than the block");
    return -1;
  }
  *at += padded;
  return 1;
}

static void set_resolution(struct pcapng_interface *interface, uint8_t resolution) {
  uint8_t exponent = resolution & 0x7f;
  interface->tick_ns = 0;
  interface->ns_ticks = 0;
  if (resolution & 0x80) {
    interface->shift = exponent;
    return;
  }
  if (exponent <= 9) {
    interface->tick_ns = 1;
    for (uint8_t power = exponent; power < 9; power++)
      interface->tick_ns *= 10;
    return;
  }
  interface->ns_ticks = 1;
  for (uint8_t power = 9; power < exponent; power++) {
    if (__builtin_mul_overflow(interface->ns_ticks, UINT64_C(10), &interface->ns_ticks)) {
      interface->ns_ticks = UINT64_MAX;
      return;
    }
  }
}

static uint64_t tick_time(const struct pcapng_interface *interface, uint64_t ticks) {
  __int128 time_ns;
  if (interface->tick_ns)
    time_ns = (__int128)ticks * interface->tick_ns;
  else if (interface->ns_ticks)
    time_ns = ticks / interface->ns_ticks;
  else
    time_ns = ((__int128)ticks * 1000000000) >> interface->shift;
  time_ns += (__int128)interface->offset_sec * 1000000000;
  if (time_ns < 0)
    return 0;
  return time_ns > (__int128)UINT64_MAX ? UINT64_MAX : (uint64_t)time_ns;
}

static bool section_begin(struct reader *reader, const uint8_t *block, uint32_t length) {
  if (length < 28)
    return block_malformed(reader, "is too short for a section header");
  if (load16(reader, block + 12) != 1)
    return block_malformed(reader, "has an unknown pcapng version");
  reader->interface_count = 0;
  return true;
}

static bool interface_add(struct reader *reader, const uint8_t *block, uint32_t length) {
  if (length < 20)
    return block_malformed(reader, "is too short for an interface description");
  if (reader->interface_count == INTERFACES_MAX)
    return block_malformed(reader, "describes more interfaces than the limit of 4096");
  struct pcapng_interface *interface = &reader->interfaces[reader->interface_count];
  *interface = (struct pcapng_interface){.linktype = linktype_normal(load16(reader, block + 8)),
                                         .snaplen = load32(reader, block + 12)};
  set_resolution(interface, 6);

  const uint8_t *at = block + 16;
  struct option option;
  int more;
  while ((more = read_option(reader, &at, block + length - 4, &option)) > 0) {
    if (option.code == OPTION_TSRESOL && option.length == 1) {
      set_resolution(interface, option.value[0]);
    } else if (option.code == OPTION_FCSLEN && option.length == 1) {
      /* The specification says bits; its example and other writers use bytes. */
      uint8_t fcs = option.value[0];
      interface->fcs_bytes = fcs > 8 ? fcs / 8 : fcs;
    } else if (option.code == OPTION_TSOFFSET && option.length == 8) {
      uint32_t half[2] = {load32(reader, option.value), load32(reader, option.value + 4)};
      bool big = reader->swapped != (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
      interface->offset_sec = (int64_t)((uint64_t)half[!big] << 32 | half[big]);
    }
  }
  reader->interface_count++;
  return more == 0;
}

/* epb_flags: bits 0-1 direction, bits 5-8 bytes of FCS if not 0. */
static bool apply_flags(struct reader *reader, const uint8_t *at, const uint8_t *end,
                        struct sonde_packet *packet, uint32_t *fcs_bytes) {
  struct option option;
  int more;
  while ((more = read_option(reader, &at, end, &option)) > 0) {
    if (option.code == OPTION_PACKET_FLAGS && option.length == 4) {
      uint32_t flags = load32(reader, option.value);
      packet->direction = (flags & 3) == 1   ? SONDE_DIRECTION_INGRESS
                          : (flags & 3) == 2 ? SONDE_DIRECTION_EGRESS
                                             : SONDE_DIRECTION_UNKNOWN;
      *fcs_bytes = (flags >> 5) & 15 ? (flags >> 5) & 15 : *fcs_bytes;
    }
  }
  return more == 0;
}

/* Enhanced and obsolete packet blocks differ only in how the interface is written. */
static bool read_packet(struct reader *reader, const uint8_t *block, uint32_t length, uint32_t id,
                        struct sonde_packet *packet) {
  if (length < 32)
    return block_malformed(reader, "is too short for a packet");
  uint32_t caplen = load32(reader, block + 20);
  if (caplen > FRAME_MAX || caplen > length - 32)
    return block_malformed(reader, "claims more captured bytes than it can hold");
  if (id >= reader->interface_count)
    return block_malformed(reader, "names an interface that its section does not describe");
  const struct pcapng_interface *interface = &reader->interfaces[id];
  uint32_t fcs_bytes = interface->fcs_bytes;
  struct sonde_packet flagged = {.direction = SONDE_DIRECTION_UNKNOWN};
  const uint8_t *options = block + 28 + ((caplen + 3) & ~3u);
  if (options < block + length - 4 &&
      !apply_flags(reader, options, block + length - 4, &flagged, &fcs_bytes)) {
    return false;
  }
  packet_set(packet, block + 28, caplen, load32(reader, block + 24), fcs_bytes, reader->snaplen);
  packet->linktype = interface->linktype;
  packet_direct(packet);
  if (flagged.direction != SONDE_DIRECTION_UNKNOWN)
    packet->direction = flagged.direction;
  packet->time_ns =
      tick_time(interface, (uint64_t)load32(reader, block + 12) << 32 | load32(reader, block + 16));
  return true;
}

/* A simple packet block has no time. It gets the newest one seen, so replay does not jump. */
static bool read_simple(struct reader *reader, const uint8_t *block, uint32_t length,
                        uint64_t time_ns, struct sonde_packet *packet) {
  if (length < 16)
    return block_malformed(reader, "is too short for a packet");
  if (reader->interface_count == 0)
    return block_malformed(reader, "names an interface that its section does not describe");
  const struct pcapng_interface *interface = &reader->interfaces[0];
  uint32_t wirelen = load32(reader, block + 8);
  uint32_t caplen =
      interface->snaplen && interface->snaplen < wirelen ? interface->snaplen : wirelen;
  if (caplen > FRAME_MAX || caplen > length - 16)
    return block_malformed(reader, "claims more captured bytes than it can hold");
  packet_set(packet, block + 12, caplen, wirelen, interface->fcs_bytes, reader->snaplen);
  packet->linktype = interface->linktype;
  packet_direct(packet);
  packet->time_ns = time_ns;
  return true;
}

/* Reads type and length of the block at the cursor. False: refill, or the reading has ended. */
static bool block_head(struct reader *reader, uint32_t *type, uint32_t *length) {
  const uint8_t *block = reader->window.cursor;
  if (window_left(&reader->window) < BLOCK_BYTES_MIN)
    return false;
  *type = load32(reader, block);
  if (*type == BLOCK_SECTION) {
    uint32_t magic;
    memcpy(&magic, block + 8, sizeof magic);
    reader->swapped = magic == __builtin_bswap32(BYTE_ORDER_MAGIC);
    if (load32(reader, block + 8) != BYTE_ORDER_MAGIC)
      return block_malformed(reader, "has no byte-order magic");
  }
  *length = load32(reader, block + 4);
  if (*length < BLOCK_BYTES_MIN || *length % 4)
    return block_malformed(reader, "has an invalid length");
  return true;
}

bool pcapng_open(struct reader *reader) {
  const struct window *window = &reader->window;
  uint32_t word;
  if (window_left(window) < sizeof word)
    return false;
  memcpy(&word, window->cursor, sizeof word);
  if (word != BLOCK_SECTION)
    return false;
  if (window_left(window) < BLOCK_BYTES_MIN) {
    reader_end(reader, "the file header is cut off at byte %zu", window_left(window));
    return true;
  }
  memcpy(&word, window->cursor + 8, sizeof word);
  reader->pcapng = word == BYTE_ORDER_MAGIC || word == __builtin_bswap32(BYTE_ORDER_MAGIC);
  return reader->pcapng;
}

/* Reads a block that is whole in the window. False ends the reading. */
static bool read_block(struct reader *reader, uint32_t type, uint32_t length,
                       struct sonde_packet *packets, uint32_t *count) {
  const uint8_t *block = reader->window.cursor;
  bool good;
  if (load32(reader, block + length - 4) != length)
    return block_malformed(reader, "does not repeat its length at its end");
  switch (type) {
  case BLOCK_SECTION:
    return section_begin(reader, block, length);
  case BLOCK_INTERFACE:
    return interface_add(reader, block, length);
  case BLOCK_PACKET_SIMPLE:
    good = read_simple(reader, block, length,
                       *count ? packets[*count - 1].time_ns : reader->last_ns, &packets[*count]);
    break;
  case BLOCK_PACKET_OBSOLETE:
    good = read_packet(reader, block, length, load16(reader, block + 8), &packets[*count]);
    break;
  default:
    good = read_packet(reader, block, length, load32(reader, block + 8), &packets[*count]);
  }
  *count += good;
  return good;
}

uint32_t pcapng_next(struct reader *reader, struct sonde_packet *packets, uint32_t max) {
  struct window *window = &reader->window;
  uint32_t count = 0;
  uint32_t type;
  uint32_t length;
  while (count < max) {
    size_t passed = window_left(window);
    passed = reader->skip_bytes < passed ? (size_t)reader->skip_bytes : passed;
    window->cursor += passed;
    reader->skip_bytes -= passed;
    if (!block_head(reader, &type, &length))
      break;
    bool known = type == BLOCK_SECTION || type == BLOCK_INTERFACE ||
                 type == BLOCK_PACKET_OBSOLETE || type == BLOCK_PACKET_SIMPLE ||
                 type == BLOCK_PACKET_ENHANCED;
    if (!known) {
      reader->skip_bytes = length;
      continue;
    }
    if (length > WINDOW_RECORD_MAX) {
      block_malformed(reader, "is longer than the limit of 512 KiB");
      break;
    }
    if (window_left(window) < length || !read_block(reader, type, length, packets, &count))
      break;
    window->cursor += length;
  }
  return count;
}
