/* linktype.c - walks over the header that a link type puts before the first ethertype.
 *
 * Covers frames of a link (Ethernet, PPP, Cisco HDLC, frame relay, FDDI, token ring, 802.11) and
 * headers that a capturing host adds: cooked, NFLOG, pflog, radiotap, PPI. link.c walks over the
 * rest. docs/flow-record.md lists all link types.
 */
#include "layers.h"

static int need(const struct sonde_frame *frame, uint32_t offset, uint32_t bytes) {
  return frame_has(frame, offset, bytes) ? SONDE_LAYER_IP : frame_cause(frame, offset, bytes);
}

static uint32_t load_u32_little(const uint8_t *bytes) {
  return __builtin_bswap32(load_u32(bytes));
}

static int walk_from(const struct sonde_frame *frame, struct sonde_place *place,
                     struct sonde_tags *tags, uint16_t ethertype) {
  place->ethertype = ethertype;
  return sonde_link_walk(frame, place, tags);
}

static int walk_llc(const struct sonde_frame *frame, struct sonde_place *place,
                    struct sonde_tags *tags) {
  return walk_from(frame, place, tags, 0); /* a length: LLC follows */
}

/* An address family of any system. */
static int enter_family(uint32_t family, struct sonde_place *place) {
  switch (family) {
  case 2:
    place->ethertype = SONDE_ETHERTYPE_IPV4;
    return SONDE_LAYER_IP;
  case 10: /* AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, Darwin */
  case 24:
  case 28:
  case 30:
    place->ethertype = SONDE_ETHERTYPE_IPV6;
    return SONDE_LAYER_IP;
  default:
    return SONDE_NON_FLOW_OTHER_ETHERTYPE;
  }
}

/* A header of `bytes` bytes that begins with the family. The family has the byte order of the
 * capturing host, which the file does not name. */
static int enter_null(const struct sonde_frame *frame, struct sonde_place *place, bool swapped,
                      uint32_t bytes) {
  int cause = need(frame, place->offset, bytes);
  if (cause != SONDE_LAYER_IP)
    return cause;
  uint32_t family = load_u32(frame->data + place->offset);
  if (swapped && family > 0xffff)
    family = __builtin_bswap32(family);
  place->offset += bytes;
  return enter_family(family, place);
}

/* A header of `bytes` bytes with the protocol at offset `at`. */
static int enter_cooked(const struct sonde_frame *frame, uint32_t bytes, uint32_t at,
                        struct sonde_place *place, struct sonde_tags *tags) {
  int cause = need(frame, place->offset, bytes);
  if (cause != SONDE_LAYER_IP)
    return cause;
  uint16_t ethertype = load_u16(frame->data + place->offset + at);
  place->offset += bytes;
  if (ethertype == 4) /* ETH_P_802_2: LLC follows */
    return walk_llc(frame, place, tags);
  if (ethertype == 1) /* ETH_P_802_3: raw IPX without LLC */
    return SONDE_NON_FLOW_OTHER_LLC;
  if (ethertype < SONDE_ETHERTYPE_MIN)
    return SONDE_NON_FLOW_OTHER_ETHERTYPE;
  return walk_from(frame, place, tags, ethertype);
}

/* PPP, or Cisco HDLC: address, 0, ethertype. PPP assigns no protocol to those addresses. */
static int enter_serial(const struct sonde_frame *frame, struct sonde_place *place,
                        struct sonde_tags *tags) {
  const uint8_t *header = frame->data + place->offset;
  if (frame_has(frame, place->offset, 4) && (header[0] == 0x0f || header[0] == 0x8f) &&
      header[1] == 0)
    return enter_cooked(frame, 4, 2, place, tags);
  return walk_from(frame, place, tags, SONDE_ETHERTYPE_PPP);
}

/* RFC 2427 §3 after a Q.922 address, or Cisco's form: the ethertype follows the address. */
static int enter_frame_relay(const struct sonde_frame *frame, struct sonde_place *place,
                             struct sonde_tags *tags) {
  uint32_t address = 1;
  do {
    if (!frame_has(frame, place->offset, address + 3))
      return frame_cause(frame, place->offset, address + 3);
  } while (address < 4 && !(frame->data[place->offset + address++] & 1));
  const uint8_t *header = frame->data + place->offset + address;
  if (header[0] != 0x03)
    return enter_cooked(frame, address + 2, address, place, tags);
  place->offset += address + 1;
  if (header[1] == 0) /* padding */
    place->offset++;
  int cause = need(frame, place->offset, 1);
  if (cause != SONDE_LAYER_IP)
    return cause;
  switch (frame->data[place->offset++]) {
  case 0xcc:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_IPV4);
  case 0x8e:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_IPV6);
  case 0xcf:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_PPP);
  case 0x80:
    break;
  default:
    return SONDE_NON_FLOW_OTHER_ETHERTYPE;
  }
  if ((cause = need(frame, place->offset, 5)) != SONDE_LAYER_IP)
    return cause;
  uint32_t organization = load_u32(frame->data + place->offset) >> 8;
  if (organization == 0)
    return enter_cooked(frame, 5, 3, place, tags);
  place->offset += 5;
  return organization == 0x0080c2 ? walk_from(frame, place, tags, SONDE_ETHERTYPE_BRIDGED)
                                  : SONDE_NON_FLOW_OTHER_LLC;
}

/* Frame control and two addresses. Only asynchronous LLC frames carry data. */
static int enter_fddi(const struct sonde_frame *frame, struct sonde_place *place,
                      struct sonde_tags *tags) {
  int cause = need(frame, place->offset, 13);
  if (cause != SONDE_LAYER_IP)
    return cause;
  uint8_t control = frame->data[place->offset];
  place->offset += 13;
  return (control & 0xf0) == 0x50 ? walk_llc(frame, place, tags) : SONDE_NON_FLOW_OTHER_LLC;
}

/* Access control, frame control, two addresses, and a source route if its bit is set. */
static int enter_token_ring(const struct sonde_frame *frame, struct sonde_place *place,
                            struct sonde_tags *tags) {
  int cause = need(frame, place->offset, 15);
  if (cause != SONDE_LAYER_IP)
    return cause;
  const uint8_t *header = frame->data + place->offset;
  place->offset += 14 + (header[8] & 0x80 ? header[14] & 0x1fu : 0);
  return (header[1] & 0xc0) == 0x40 ? walk_llc(frame, place, tags) : SONDE_NON_FLOW_OTHER_LLC;
}

/* IEEE 802.11 §9.2.4. padded: the header is filled up to 4 bytes, as some drivers do. */
static int enter_wlan(const struct sonde_frame *frame, struct sonde_place *place,
                      struct sonde_tags *tags, bool padded) {
  int cause = need(frame, place->offset, 2);
  if (cause != SONDE_LAYER_IP)
    return cause;
  const uint8_t *header = frame->data + place->offset;
  uint8_t type = header[0] >> 2 & 3, subtype = header[0] >> 4, flags = header[1];
  if (header[0] & 3)
    return SONDE_NON_FLOW_MALFORMED;
  if (type != 2 || subtype & 4) /* management, control, or a data frame without data */
    return SONDE_NON_FLOW_WLAN_CONTROL;
  uint32_t bytes = (flags & 3) == 3 ? 30 : 24;
  uint32_t qos = bytes;
  if (subtype & 8)
    bytes += flags & 0x80 ? 6 : 2; /* QoS control, HT control */
  if ((cause = need(frame, place->offset, bytes)) != SONDE_LAYER_IP)
    return cause;
  if (flags & 0x40)
    return SONDE_NON_FLOW_ENCRYPTED;
  if (header[22] & 0x0f) /* a later fragment */
    return SONDE_NON_FLOW_OTHER_LLC;
  bool aggregate = subtype & 8 && header[qos] & 0x80;
  place->offset += padded ? (bytes + 3) & ~3u : bytes;
  if (aggregate) /* A-MSDU: the first subframe's addresses and length */
    place->offset += 14;
  return walk_llc(frame, place, tags);
}

/* https://www.radiotap.org: 8 bytes, more presence words, TSFT aligned to 8 bytes, flags. */
static int enter_radiotap(const struct sonde_frame *frame, struct sonde_place *place,
                          struct sonde_tags *tags) {
  int cause = need(frame, place->offset, 8);
  if (cause != SONDE_LAYER_IP)
    return cause;
  const uint8_t *header = frame->data + place->offset;
  uint32_t bytes = (uint32_t)header[3] << 8 | header[2];
  uint32_t present = load_u32_little(header + 4);
  if (header[0] != 0 || bytes < 8)
    return SONDE_NON_FLOW_MALFORMED;
  if ((cause = need(frame, place->offset, bytes)) != SONDE_LAYER_IP)
    return cause;
  uint32_t at = 8;
  for (uint32_t word = present; word >> 31 && at + 4 <= bytes; at += 4)
    word = load_u32_little(header + at);
  if (present & 1)
    at = ((at + 7) & ~7u) + 8;
  bool padded = present & 2 && at < bytes && header[at] & 0x20;
  place->offset += bytes;
  return enter_wlan(frame, place, tags, padded);
}

/* The AVS header, which has a magic number, or Prism's with the length in either byte order. */
static int enter_prism(const struct sonde_frame *frame, struct sonde_place *place,
                       struct sonde_tags *tags) {
  int cause = need(frame, place->offset, 8);
  if (cause != SONDE_LAYER_IP)
    return cause;
  const uint8_t *header = frame->data + place->offset;
  uint32_t bytes = load_u32(header + 4);
  if (bytes > 0xffff)
    bytes = __builtin_bswap32(bytes);
  if (bytes < 8 || bytes > 0xffff)
    return SONDE_NON_FLOW_MALFORMED;
  place->offset += bytes;
  return enter_wlan(frame, place, tags, false);
}

/* OpenBSD's pf log: length, family, … The header ends at a multiple of 4 bytes. */
static int enter_pflog(const struct sonde_frame *frame, struct sonde_place *place) {
  int cause = need(frame, place->offset, 2);
  if (cause != SONDE_LAYER_IP)
    return cause;
  const uint8_t *header = frame->data + place->offset;
  if (header[0] < 28)
    return SONDE_NON_FLOW_MALFORMED;
  place->offset += (header[0] + 3u) & ~3u;
  return enter_family(header[1], place);
}

/* Linux netfilter log: family, version, resource id, then values: length, type, both in the byte
 * order of the capturing host. No type exceeds 255, so the type shows the order. */
static int enter_nflog(const struct sonde_frame *frame, struct sonde_place *place,
                       struct sonde_tags *tags) {
  enum { PACKET_HEADER = 1, PAYLOAD = 9, VALUES_MAX = 64 };
  int cause = need(frame, place->offset, 4);
  if (cause != SONDE_LAYER_IP)
    return cause;
  uint8_t family = frame->data[place->offset];
  uint16_t protocol = 0;
  if (frame->data[place->offset + 1] != 0)
    return SONDE_NON_FLOW_MALFORMED;
  uint32_t at = place->offset + 4;
  for (int values = 0; values < VALUES_MAX; values++) {
    if ((cause = need(frame, at, 4)) != SONDE_LAYER_IP)
      return cause;
    const uint8_t *value = frame->data + at;
    bool little = value[3] == 0;
    uint32_t type = little ? value[2] : value[3];
    uint32_t bytes = little ? (uint32_t)value[1] << 8 | value[0] : load_u16(value);
    if (bytes < 4)
      return SONDE_NON_FLOW_MALFORMED;
    if (type == PAYLOAD) {
      place->offset = at + 4;
      int result = enter_family(family, place);
      return result == SONDE_LAYER_IP || protocol < SONDE_ETHERTYPE_MIN
                 ? result
                 : walk_from(frame, place, tags, protocol);
    }
    if (type == PACKET_HEADER && bytes >= 6 && frame_has(frame, at, 6))
      protocol = load_u16(value + 4);
    at += (bytes + 3) & ~3u;
  }
  return SONDE_NON_FLOW_MALFORMED;
}

static int enter(const struct sonde_frame *frame, uint32_t linktype, struct sonde_place *place,
                 struct sonde_tags *tags);

/* Per-packet information: version, flags, length, link type of the frame; little-endian. */
static int enter_ppi(const struct sonde_frame *frame, struct sonde_place *place,
                     struct sonde_tags *tags) {
  int cause = need(frame, place->offset, 8);
  if (cause != SONDE_LAYER_IP)
    return cause;
  const uint8_t *header = frame->data + place->offset;
  uint32_t bytes = (uint32_t)header[3] << 8 | header[2];
  uint32_t linktype = load_u32_little(header + 4);
  if (header[0] != 0 || bytes < 8)
    return SONDE_NON_FLOW_MALFORMED;
  if (linktype == SONDE_LINKTYPE_PPI)
    return SONDE_NON_FLOW_OTHER_LINKTYPE;
  place->offset += bytes;
  return enter(frame, linktype, place, tags);
}

/* Link types of frames, and of headers with nothing but an ethertype. */
static int enter_plain(const struct sonde_frame *frame, uint32_t linktype,
                       struct sonde_place *place, struct sonde_tags *tags) {
  switch (linktype) {
  case SONDE_LINKTYPE_RAW:
  case SONDE_LINKTYPE_RAW_BSD:
  case SONDE_LINKTYPE_RAW_OPENBSD:
    return sonde_link_ip(frame, place);
  case SONDE_LINKTYPE_IPV4:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_IPV4);
  case SONDE_LINKTYPE_IPV6:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_IPV6);
  case SONDE_LINKTYPE_NULL:
    return enter_null(frame, place, true, 4);
  case SONDE_LINKTYPE_LOOP:
    return enter_null(frame, place, false, 4);
  case SONDE_LINKTYPE_ENC:
    return enter_null(frame, place, true, 12);
  case SONDE_LINKTYPE_SLL:
    return enter_cooked(frame, 16, 14, place, tags);
  case SONDE_LINKTYPE_SLL2:
    return enter_cooked(frame, 20, 0, place, tags);
  case SONDE_LINKTYPE_IPOIB:
    return enter_cooked(frame, 4, 0, place, tags);
  case SONDE_LINKTYPE_FIREWIRE:
    return enter_cooked(frame, 18, 16, place, tags);
  case SONDE_LINKTYPE_C_HDLC:
    return enter_cooked(frame, 4, 2, place, tags);
  case SONDE_LINKTYPE_PPPOE:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_PPPOE_SESSION);
  case SONDE_LINKTYPE_ATM_LLC:
    return walk_llc(frame, place, tags);
  case SONDE_LINKTYPE_PPP:
  case SONDE_LINKTYPE_PPP_HDLC:
    return enter_serial(frame, place, tags);
  default:
    return SONDE_NON_FLOW_OTHER_LINKTYPE;
  }
}

static int enter(const struct sonde_frame *frame, uint32_t linktype, struct sonde_place *place,
                 struct sonde_tags *tags) {
  switch (linktype) {
  case SONDE_LINKTYPE_ETHERNET:
    return walk_from(frame, place, tags, SONDE_ETHERTYPE_BRIDGED);
  case SONDE_LINKTYPE_FDDI:
    return enter_fddi(frame, place, tags);
  case SONDE_LINKTYPE_TOKEN_RING:
    return enter_token_ring(frame, place, tags);
  case SONDE_LINKTYPE_WLAN:
    return enter_wlan(frame, place, tags, false);
  case SONDE_LINKTYPE_RADIOTAP:
    return enter_radiotap(frame, place, tags);
  case SONDE_LINKTYPE_PRISM:
  case SONDE_LINKTYPE_AVS:
    return enter_prism(frame, place, tags);
  case SONDE_LINKTYPE_PFLOG:
    return enter_pflog(frame, place);
  case SONDE_LINKTYPE_NFLOG:
    return enter_nflog(frame, place, tags);
  case SONDE_LINKTYPE_PPI:
    return enter_ppi(frame, place, tags);
  case SONDE_LINKTYPE_PPP_DIRECTION: /* one byte: which way */
    place->offset++;
    return enter_serial(frame, place, tags);
  case SONDE_LINKTYPE_C_HDLC_DIRECTION:
    place->offset++;
    return enter_cooked(frame, 4, 2, place, tags);
  case SONDE_LINKTYPE_FRAME_RELAY_DIRECTION:
    place->offset++;
    return enter_frame_relay(frame, place, tags);
  case SONDE_LINKTYPE_FRAME_RELAY:
    return enter_frame_relay(frame, place, tags);
  default:
    return enter_plain(frame, linktype, place, tags);
  }
}

int sonde_link_enter(const struct sonde_frame *frame, uint16_t linktype, struct sonde_place *place,
                     struct sonde_tags *tags) {
  *place = (struct sonde_place){0};
  return enter(frame, linktype, place, tags);
}
