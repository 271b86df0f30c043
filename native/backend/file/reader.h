/* reader.h - a capture file as a sequence of packets: what pcap and pcapng have in common.
 *
 * The bytes are untrusted: every length is checked against the bytes present. A malformed record
 * ends the reading, with its offset and the reason in `detail`.
 */
#ifndef SONDE_FILE_READER_H
#define SONDE_FILE_READER_H

#include <linux/if_packet.h>
#include <string.h>

#include "packet.h"
#include "window.h"

enum {
  FRAME_MAX = 262144,    /* the largest snaplen of any known writer */
  INTERFACES_MAX = 4096, /* in one pcapng section */
  DETAIL_MAX = 160,
};

struct pcapng_interface {
  int64_t offset_sec;
  uint32_t snaplen;  /* 0: unlimited */
  uint32_t tick_ns;  /* ns a tick, or 0: */
  uint64_t ns_ticks; /* ticks a ns, or 0: */
  uint8_t shift;     /* 2^shift ticks a second */
  uint8_t fcs_bytes;
  uint16_t linktype;
};

struct reader {
  struct window window;
  uint32_t snaplen; /* packets are cut to this length */
  bool pcapng;
  bool swapped; /* the file's byte order is not the host's */
  bool ended;
  char detail[DETAIL_MAX]; /* why it ended early or is refused, "" at a clean end */
  uint64_t last_ns;        /* time of the newest packet, for blocks that carry none */
  /* pcap */
  uint32_t tick_ns;
  uint16_t linktype;
  uint8_t fcs_bytes;
  bool lengths_swapped; /* version 2.2 and before: length on the wire, captured length */
  bool lengths_unsure;  /* version 2.3: either order */
  /* pcapng */
  uint64_t skip_bytes;      /* rest of a block that is skipped */
  uint32_t interface_count; /* in this section */
  struct pcapng_interface *interfaces;
};

/* Reads the file header. The caller keeps the descriptor. Returns 0, or -1 with errno 0 and a
 * detail if the file is empty or not a capture file. A file that ends within its header opens, and
 * reading ends at once with the offset in `detail`. */
int reader_open(struct reader *reader, int fd, uint32_t snaplen);
void reader_close(struct reader *reader);

/* Returns up to `max` packets, fewer only where the window or the file ends; 0 with `ended` at
 * the end. Refills the window only with may_refill, which invalidates earlier packets. */
uint32_t reader_next(struct reader *reader, struct sonde_packet *packets, uint32_t max,
                     bool may_refill);

/* Ends the reading. An empty reason means a clean end. */
__attribute__((format(printf, 2, 3))) void reader_end(struct reader *reader, const char *format,
                                                      ...);
/* Call when the window holds less than a record. True: parse again. False: reading ended. */
bool reader_refill(struct reader *reader, bool may_refill);

/* False: not this format, or with a detail a version of it that is not known. */
bool pcap_open(struct reader *reader);
uint32_t pcap_next(struct reader *reader, struct sonde_packet *packets, uint32_t max);
bool pcapng_open(struct reader *reader);
uint32_t pcapng_next(struct reader *reader, struct sonde_packet *packets, uint32_t max);

static inline uint32_t load32(const struct reader *reader, const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return reader->swapped ? __builtin_bswap32(value) : value;
}

static inline uint16_t load16(const struct reader *reader, const uint8_t *at) {
  uint16_t value;
  memcpy(&value, at, sizeof value);
  return reader->swapped ? __builtin_bswap16(value) : value;
}

/* Some writers store a platform's own DLT for raw IP. A file's link type 65535 must not pass for
 * a struct sonde_delta, which is trusted. */
static inline uint16_t linktype_normal(uint32_t linktype) {
  if (linktype == SONDE_LINKTYPE_DELTA)
    return SONDE_LINKTYPE_DELTA - 1;
  return linktype == 12 || linktype == 14 ? SONDE_LINKTYPE_RAW : (uint16_t)linktype;
}

/* wirelen excludes the FCS, and is at least caplen whatever the file says. */
static inline void packet_set(struct sonde_packet *packet, const uint8_t *data, uint32_t caplen,
                              uint32_t wirelen, uint32_t fcs_bytes, uint32_t snaplen) {
  wirelen = wirelen < caplen ? caplen : wirelen;
  wirelen = wirelen > fcs_bytes ? wirelen - fcs_bytes : 0;
  caplen = caplen > wirelen ? wirelen : caplen;
  *packet = (struct sonde_packet){
      .data = data, .caplen = caplen > snaplen ? snaplen : caplen, .wirelen = wirelen};
}

/* Some headers hold the direction: "cooked" ones as sll_pkttype of packet(7), pflog as 1 (in) or
 * 2 (out), others in their first byte. */
static inline void packet_direct(struct sonde_packet *packet) {
  uint32_t at, egress = PACKET_OUTGOING;
  switch (packet->linktype) {
  case SONDE_LINKTYPE_SLL:
    at = 1;
    break;
  case SONDE_LINKTYPE_SLL2:
    at = 10;
    break;
  case SONDE_LINKTYPE_PFLOG:
    at = 60;
    egress = 2;
    break;
  case SONDE_LINKTYPE_PPP_DIRECTION:
  case SONDE_LINKTYPE_C_HDLC_DIRECTION:
  case SONDE_LINKTYPE_FRAME_RELAY_DIRECTION:
    at = 0;
    egress = 1;
    break;
  default:
    return;
  }
  if (at < packet->caplen) {
    packet->direction =
        packet->data[at] == egress ? SONDE_DIRECTION_EGRESS : SONDE_DIRECTION_INGRESS;
  }
}

#endif
