/* link.c - walks over the layers between a frame's link type and its IP header.
 *
 * Each step parses the layer that place->ethertype names. A step finds IP, returns the cause why
 * the frame has no IP header, or moves place to the next layer. STEPS_MAX bounds a frame of tags
 * only. Layers without an ethertype have one here: PPP 0x880b, bridged Ethernet 0x6558.
 */
#include "layers.h"

enum {
  STEP_AGAIN = -2, /* neither SONDE_LAYER_IP nor a cause */
  STEPS_MAX = 32,
  MPLS_LABELS_MAX = 16,
  ETHERNET_BYTES = 14,
};

static int step_vlan(const struct sonde_frame *frame, struct sonde_place *place,
                     struct sonde_tags *tags) {
  if (!frame_has(frame, place->offset, 4))
    return frame_cause(frame, place->offset, 4);
  const uint8_t *tag = frame->data + place->offset;
  uint16_t id = load_u16(tag) & 0x0fff;
  if (!tags->tagged)
    tags->vlan_priority = tag[0] >> 5;
  tags->tagged = true;
  if (id != 0 && tags->vlan_depth < SONDE_VLAN_DEPTH_MAX) /* id 0: a priority, no VLAN */
    tags->vlan[tags->vlan_depth++] = id;
  place->ethertype = load_u16(tag + 2);
  place->offset += 4;
  return STEP_AGAIN;
}

/* Steps over a header whose last two bytes are an ethertype. */
static int step_header(const struct sonde_frame *frame, struct sonde_place *place, uint32_t bytes) {
  if (!frame_has(frame, place->offset, bytes))
    return frame_cause(frame, place->offset, bytes);
  place->offset += bytes;
  place->ethertype = load_u16(frame->data + place->offset - 2);
  return STEP_AGAIN;
}

/* Guesses whether an Ethernet frame starts here, because MPLS does not name its payload. */
static bool looks_like_ethernet(const struct sonde_frame *frame, uint32_t offset) {
  if (!frame_has(frame, offset, ETHERNET_BYTES + 1))
    return false;
  const uint8_t *payload = frame->data + offset + ETHERNET_BYTES;
  uint16_t ethertype = load_u16(payload - 2);
  switch (ethertype) {
  case SONDE_ETHERTYPE_IPV4:
    return payload[0] >> 4 == 4;
  case SONDE_ETHERTYPE_IPV6:
    return payload[0] >> 4 == 6;
  case SONDE_ETHERTYPE_ARP:
  case SONDE_ETHERTYPE_VLAN:
  case SONDE_ETHERTYPE_PROVIDER_VLAN:
  case SONDE_ETHERTYPE_QINQ:
  case SONDE_ETHERTYPE_QINQ_OLD:
  case SONDE_ETHERTYPE_MPLS:
  case SONDE_ETHERTYPE_MPLS_MULTICAST:
  case SONDE_ETHERTYPE_PPPOE_DISCOVERY:
  case SONDE_ETHERTYPE_PPPOE_SESSION:
  case SONDE_ETHERTYPE_VNTAG:
  case SONDE_ETHERTYPE_ETAG:
  case SONDE_ETHERTYPE_BACKBONE:
  case SONDE_ETHERTYPE_NSH:
  case SONDE_ETHERTYPE_LLDP:
    return true;
  default: /* LLC of SNAP and spanning tree: both addresses are the same */
    return ethertype <= SONDE_LLC_LENGTH_MAX && (payload[0] == 0xaa || payload[0] == 0x42) &&
           frame_has(frame, offset + ETHERNET_BYTES, 3) && payload[1] == payload[0] &&
           payload[2] == 0x03;
  }
}

/* Source addresses such as 2001:db8:800:4000:: look like an Ethernet header with IPv4. */
static bool fits_ipv6(const struct sonde_frame *frame, uint32_t offset) {
  return frame_has(frame, offset, 40) &&
         40u + load_u16(frame->data + offset + 4) <= frame->wirelen - offset;
}

/* Parses the payload after the bottom of the stack: IP if the first nibble is its version, else a
 * pseudowire. The optional control word of a pseudowire starts with a nibble of 0 (RFC 4385 §3). */
static int step_mpls_payload(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 1))
    return frame_cause(frame, place->offset, 1);
  uint8_t first = frame->data[place->offset];
  bool plain = looks_like_ethernet(frame, place->offset);
  if (first >> 4 == 4 && ((first & 0x0f) >= 5 || !plain)) {
    place->ethertype = SONDE_ETHERTYPE_IPV4;
    return STEP_AGAIN;
  }
  if (first >> 4 == 6 && (!plain || fits_ipv6(frame, place->offset))) {
    place->ethertype = SONDE_ETHERTYPE_IPV6;
    return STEP_AGAIN;
  }
  if (first >> 4 == 0 && looks_like_ethernet(frame, place->offset + 4))
    place->offset += 4;
  else if (!plain)
    return SONDE_NON_FLOW_OTHER_ETHERTYPE;
  place->ethertype = SONDE_ETHERTYPE_BRIDGED;
  return STEP_AGAIN;
}

static int step_mpls(const struct sonde_frame *frame, struct sonde_place *place,
                     struct sonde_tags *tags) {
  for (int labels = 0; labels < MPLS_LABELS_MAX; labels++) {
    if (!frame_has(frame, place->offset, 4))
      return frame_cause(frame, place->offset, 4);
    uint32_t entry = load_u32(frame->data + place->offset);
    place->offset += 4;
    if (tags->mpls_label == UINT32_MAX)
      tags->mpls_label = entry >> 12;
    if (entry & 0x100) /* bottom of stack */
      return step_mpls_payload(frame, place);
  }
  return SONDE_NON_FLOW_MALFORMED;
}

/* RFC 1661 §2, with the one-byte protocol field of §6.5 and the address and control bytes that
 * serial lines and PPTP have (RFC 1662). */
static int step_ppp(const struct sonde_frame *frame, struct sonde_place *place) {
  if (frame_has(frame, place->offset, 2) && load_u16(frame->data + place->offset) == 0xff03)
    place->offset += 2;
  if (!frame_has(frame, place->offset, 1))
    return frame_cause(frame, place->offset, 1);
  uint32_t bytes = frame->data[place->offset] & 1 ? 1 : 2;
  if (!frame_has(frame, place->offset, bytes))
    return frame_cause(frame, place->offset, bytes);
  const uint8_t *field = frame->data + place->offset;
  uint16_t protocol = bytes == 1 ? field[0] : load_u16(field);
  place->offset += bytes;
  switch (protocol) {
  case 0x0021:
    place->ethertype = SONDE_ETHERTYPE_IPV4;
    return STEP_AGAIN;
  case 0x0057:
    place->ethertype = SONDE_ETHERTYPE_IPV6;
    return STEP_AGAIN;
  case 0x0281:
  case 0x0283:
    place->ethertype = SONDE_ETHERTYPE_MPLS;
    return STEP_AGAIN;
  default: /* 8xxx to fxxx are control protocols, lower numbers carry data */
    return protocol >= 0x8000 ? SONDE_NON_FLOW_PPPOE_CONTROL : SONDE_NON_FLOW_OTHER_ETHERTYPE;
  }
}

static int step_pppoe(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 6))
    return frame_cause(frame, place->offset, 6);
  const uint8_t *header = frame->data + place->offset;
  if (header[0] != 0x11)
    return SONDE_NON_FLOW_MALFORMED;
  if (header[1] != 0) /* RFC 2516 §6: session data has code 0 */
    return SONDE_NON_FLOW_PPPOE_CONTROL;
  place->offset += 6;
  place->ethertype = SONDE_ETHERTYPE_PPP;
  return STEP_AGAIN;
}

static int step_llc(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 3))
    return frame_cause(frame, place->offset, 3);
  const uint8_t *llc = frame->data + place->offset;
  if (llc[0] == 0x42 && llc[1] == 0x42)
    return SONDE_NON_FLOW_STP;
  if (llc[0] == 0x06 && llc[1] == 0x06 && llc[2] == 0x03) {
    place->offset += 3;
    place->ethertype = SONDE_ETHERTYPE_IPV4;
    return STEP_AGAIN;
  }
  if (llc[0] != 0xaa || llc[1] != 0xaa || llc[2] != 0x03)
    return SONDE_NON_FLOW_OTHER_LLC;
  if (!frame_has(frame, place->offset, 8))
    return frame_cause(frame, place->offset, 8);
  uint32_t organization = load_u32(llc + 2) & 0x00ffffff;
  uint16_t protocol = load_u16(llc + 6);
  place->offset += 8;
  if (organization == 0x00000c && protocol == 0x010b) /* Cisco's spanning tree per VLAN */
    return SONDE_NON_FLOW_STP;
  /* RFC 1042, and the bridge tunnel encapsulation of 802.1H */
  if ((organization != 0 && organization != 0x0000f8) || protocol < SONDE_ETHERTYPE_MIN)
    return SONDE_NON_FLOW_OTHER_LLC;
  place->ethertype = protocol;
  return STEP_AGAIN;
}

/* Skips a header of `bytes` bytes before a bridged Ethernet frame. */
static int step_bridged(const struct sonde_frame *frame, struct sonde_place *place,
                        uint32_t bytes) {
  if (!frame_has(frame, place->offset, bytes))
    return frame_cause(frame, place->offset, bytes);
  place->offset += bytes;
  place->ethertype = SONDE_ETHERTYPE_BRIDGED;
  return STEP_AGAIN;
}

/* RFC 8300 §2.2. The length is in 4 bytes and includes the metadata of either MD type. */
static int step_nsh(const struct sonde_frame *frame, struct sonde_place *place) {
  static const uint16_t ethertypes[] = {[1] = SONDE_ETHERTYPE_IPV4,
                                        [2] = SONDE_ETHERTYPE_IPV6,
                                        [3] = SONDE_ETHERTYPE_BRIDGED,
                                        [4] = SONDE_ETHERTYPE_NSH,
                                        [5] = SONDE_ETHERTYPE_MPLS};
  if (!frame_has(frame, place->offset, 8))
    return frame_cause(frame, place->offset, 8);
  const uint8_t *header = frame->data + place->offset;
  uint32_t bytes = (header[1] & 0x3fu) * 4;
  uint8_t next = header[3];
  if (header[0] >> 6 != 0 || bytes < 8)
    return SONDE_NON_FLOW_MALFORMED;
  if (next == 0 || next >= sizeof ethertypes / sizeof ethertypes[0])
    return SONDE_NON_FLOW_OTHER_ETHERTYPE;
  if (!frame_has(frame, place->offset, bytes))
    return frame_cause(frame, place->offset, bytes);
  place->offset += bytes;
  place->ethertype = ethertypes[next];
  return STEP_AGAIN;
}

/* Version, length of the options in 4 bytes, options, ethertype. */
static int step_metadata(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 2))
    return frame_cause(frame, place->offset, 2);
  return step_header(frame, place, 2 + frame->data[place->offset + 1] * 4u + 2);
}

/* RFC 6325 §3: the options' length is in 4 bytes, split over the first two bytes. */
static int step_trill(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 6))
    return frame_cause(frame, place->offset, 6);
  uint32_t options = (load_u16(frame->data + place->offset) >> 6 & 0x1fu) * 4;
  return step_bridged(frame, place, 6 + options);
}

/* IEEE 802.1AE: readable only without the E and C bits, which mark encrypted data. */
static int step_macsec(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 6))
    return frame_cause(frame, place->offset, 6);
  uint8_t control = frame->data[place->offset];
  if (control & 0x0c)
    return SONDE_NON_FLOW_ENCRYPTED;
  return step_header(frame, place, (control & 0x20 ? 14 : 6) + 2);
}

/* Headers that few frames have. */
static int step_rare(const struct sonde_frame *frame, struct sonde_place *place) {
  switch (place->ethertype) {
  case SONDE_ETHERTYPE_VNTAG:
  case SONDE_ETHERTYPE_HSR:
  case SONDE_ETHERTYPE_REDUNDANCY:
    return step_header(frame, place, 6);
  case SONDE_ETHERTYPE_ETAG:
    return step_header(frame, place, 8);
  case SONDE_ETHERTYPE_BACKBONE: /* the I-TAG's 4 bytes */
    return step_bridged(frame, place, 4);
  case SONDE_ETHERTYPE_FABRICPATH: /* tree and TTL */
    return step_bridged(frame, place, 2);
  case SONDE_ETHERTYPE_TRILL:
    return step_trill(frame, place);
  case SONDE_ETHERTYPE_NSH:
    return step_nsh(frame, place);
  case SONDE_ETHERTYPE_METADATA:
    return step_metadata(frame, place);
  case SONDE_ETHERTYPE_MACSEC:
    return step_macsec(frame, place);
  case SONDE_ETHERTYPE_ARP:
    return SONDE_NON_FLOW_ARP;
  case SONDE_ETHERTYPE_LLDP:
    return SONDE_NON_FLOW_LLDP;
  case SONDE_ETHERTYPE_PPPOE_DISCOVERY:
    return SONDE_NON_FLOW_PPPOE_CONTROL;
  default:
    return place->ethertype <= SONDE_LLC_LENGTH_MAX ? step_llc(frame, place)
                                                    : SONDE_NON_FLOW_OTHER_ETHERTYPE;
  }
}

static int step(const struct sonde_frame *frame, struct sonde_place *place,
                struct sonde_tags *tags) {
  switch (place->ethertype) {
  case SONDE_ETHERTYPE_IPV4:
  case SONDE_ETHERTYPE_IPV6:
    return SONDE_LAYER_IP;
  case SONDE_ETHERTYPE_VLAN:
  case SONDE_ETHERTYPE_PROVIDER_VLAN:
  case SONDE_ETHERTYPE_QINQ:
  case SONDE_ETHERTYPE_QINQ_OLD:
    return step_vlan(frame, place, tags);
  case SONDE_ETHERTYPE_MPLS:
  case SONDE_ETHERTYPE_MPLS_MULTICAST:
    return step_mpls(frame, place, tags);
  case SONDE_ETHERTYPE_PPPOE_SESSION:
    return step_pppoe(frame, place);
  case SONDE_ETHERTYPE_PPP:
    return step_ppp(frame, place);
  case SONDE_ETHERTYPE_BRIDGED:
    return step_header(frame, place, ETHERNET_BYTES);
  default:
    return step_rare(frame, place);
  }
}

int sonde_link_walk(const struct sonde_frame *frame, struct sonde_place *place,
                    struct sonde_tags *tags) {
  for (int steps = 0; steps < STEPS_MAX; steps++) {
    int result = step(frame, place, tags);
    if (result != STEP_AGAIN)
      return result;
  }
  return SONDE_NON_FLOW_MALFORMED;
}

int sonde_link_ip(const struct sonde_frame *frame, struct sonde_place *place) {
  if (!frame_has(frame, place->offset, 1))
    return frame_cause(frame, place->offset, 1);
  uint8_t version = frame->data[place->offset] >> 4;
  if (version != 4 && version != 6)
    return SONDE_NON_FLOW_MALFORMED;
  place->ethertype = version == 4 ? SONDE_ETHERTYPE_IPV4 : SONDE_ETHERTYPE_IPV6;
  return SONDE_LAYER_IP;
}
