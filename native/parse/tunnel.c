/* tunnel.c - finds the packet inside a tunnel packet.
 *
 * A port is only a hint: a tunnel over UDP must also have a valid header, and an IP header must be
 * inside. An ICMP error is not a tunnel, because the packet that it quotes was not captured here.
 */
#include "layers.h"

enum {
  GRE_CHECKSUM = 0x8000,
  GRE_ROUTING = 0x4000,
  GRE_KEY = 0x2000,
  GRE_SEQUENCE = 0x1000,
  GRE_ACKNOWLEDGMENT = 0x0080, /* version 1 only, RFC 2637 §4.1 */
  GRE_VERSION = 0x0007,
  GRE_ERSPAN = 0x88be, /* types I and II */
  GRE_ERSPAN_III = 0x22eb,

  GTPU_EXTENSIONS_MAX = 16,
};

struct inside {
  struct sonde_frame packet; /* ends with the outer IP packet */
  const uint16_t *vxlan_ports;
  struct sonde_place *place;
  struct sonde_tags *tags;
  struct sonde_tunnel *tunnel;
};

static bool walk(const struct inside *in, uint32_t offset, uint16_t ethertype) {
  *in->place = (struct sonde_place){.offset = offset, .ethertype = ethertype};
  if (ethertype < SONDE_ETHERTYPE_MIN)
    return false;
  return sonde_link_walk(&in->packet, in->place, in->tags) == SONDE_LAYER_IP;
}

static bool find_ip(const struct inside *in, uint32_t offset) {
  in->place->offset = offset;
  return sonde_link_ip(&in->packet, in->place) == SONDE_LAYER_IP;
}

/* at: the end of the GRE header. Type I has no ERSPAN header. Its protocol number is that of
 * type II, which always has a GRE sequence number. */
static bool enter_erspan(const struct inside *in, uint32_t at, uint16_t protocol, bool sequence) {
  in->tunnel->type = SONDE_TUNNEL_ERSPAN;
  if (protocol == GRE_ERSPAN && !sequence)
    return walk(in, at, SONDE_ETHERTYPE_BRIDGED);
  uint32_t bytes = protocol == GRE_ERSPAN ? 8 : 12;
  if (!frame_has(&in->packet, at, bytes))
    return false;
  const uint8_t *header = in->packet.data + at;
  if (header[0] >> 4 != (bytes == 8 ? 1 : 2))
    return false;
  in->tunnel->id = load_u16(header + 2) & 0x03ff;
  if (bytes == 8)
    return walk(in, at + 8, SONDE_ETHERTYPE_BRIDGED);
  uint16_t last = load_u16(header + 10); /* P, frame type, hardware, D, granularity, O */
  if (last & 1)
    bytes += 8; /* platform specific subheader */
  switch (last >> 10 & 0x1f) {
  case 0:
    return walk(in, at + bytes, SONDE_ETHERTYPE_BRIDGED);
  case 2:
    return find_ip(in, at + bytes);
  default:
    return false;
  }
}

static bool enter_gre(const struct inside *in, uint32_t at) {
  if (!frame_has(&in->packet, at, 4))
    return false;
  uint16_t flags = load_u16(in->packet.data + at);
  uint16_t protocol = load_u16(in->packet.data + at + 2);
  uint32_t version = flags & GRE_VERSION;
  uint32_t key_at = at + 4 + (flags & GRE_CHECKSUM ? 4 : 0);
  uint32_t end = key_at + (flags & GRE_KEY ? 4 : 0) + (flags & GRE_SEQUENCE ? 4 : 0);
  if (version > 1 || flags & GRE_ROUTING || !frame_has(&in->packet, at, end - at))
    return false;
  in->tunnel->type = SONDE_TUNNEL_GRE;
  if (version == 1) { /* PPTP: the key is payload length and call id; data has a sequence */
    if (protocol != SONDE_ETHERTYPE_PPP ||
        (flags & (GRE_KEY | GRE_SEQUENCE)) != (GRE_KEY | GRE_SEQUENCE))
      return false;
    in->tunnel->id = load_u16(in->packet.data + key_at + 2);
    return walk(in, end + (flags & GRE_ACKNOWLEDGMENT ? 4 : 0), SONDE_ETHERTYPE_PPP);
  }
  if (flags & GRE_KEY)
    in->tunnel->id = load_u32(in->packet.data + key_at);
  if (protocol == GRE_ERSPAN || protocol == GRE_ERSPAN_III)
    return enter_erspan(in, end, protocol, flags & GRE_SEQUENCE);
  return walk(in, end, protocol);
}

static bool enter_vxlan(const struct inside *in, uint32_t at) {
  if (!frame_has(&in->packet, at, 8) || !(in->packet.data[at] & 0x08)) /* VNI is valid */
    return false;
  in->tunnel->type = SONDE_TUNNEL_VXLAN;
  in->tunnel->id = load_u32(in->packet.data + at + 4) >> 8;
  return walk(in, at + 8, SONDE_ETHERTYPE_BRIDGED);
}

/* draft-ietf-nvo3-vxlan-gpe-13 §3: with the P bit, the fourth byte names what follows. */
static bool enter_vxlan_gpe(const struct inside *in, uint32_t at) {
  static const uint16_t ethertypes[] = {[1] = SONDE_ETHERTYPE_IPV4,
                                        [2] = SONDE_ETHERTYPE_IPV6,
                                        [3] = SONDE_ETHERTYPE_BRIDGED,
                                        [4] = SONDE_ETHERTYPE_NSH,
                                        [5] = SONDE_ETHERTYPE_MPLS};
  if (!frame_has(&in->packet, at, 8))
    return false;
  const uint8_t *header = in->packet.data + at;
  if (!(header[0] & 0x04))
    return enter_vxlan(in, at);
  if (header[0] & 0x31 || header[3] >= sizeof ethertypes / sizeof ethertypes[0])
    return false; /* another version, or OAM */
  in->tunnel->type = SONDE_TUNNEL_VXLAN;
  in->tunnel->id = header[0] & 0x08 ? load_u32(header + 4) >> 8 : 0;
  return walk(in, at + 8, ethertypes[header[3]]);
}

static bool enter_geneve(const struct inside *in, uint32_t at) {
  if (!frame_has(&in->packet, at, 8) || in->packet.data[at] >> 6 != 0)
    return false;
  const uint8_t *header = in->packet.data + at;
  in->tunnel->type = SONDE_TUNNEL_GENEVE;
  in->tunnel->id = load_u32(header + 4) >> 8;
  return walk(in, at + 8 + (header[0] & 0x3fu) * 4, load_u16(header + 2));
}

/* 3GPP TS 29.281 §5.1: any flag means that all three optional fields are present. */
static bool enter_gtpu(const struct inside *in, uint32_t at) {
  const struct sonde_frame *packet = &in->packet;
  if (!frame_has(packet, at, 8))
    return false;
  const uint8_t *header = packet->data + at;
  if ((header[0] & 0xf0) != 0x30 || header[1] != 0xff) /* version 1, GTP, G-PDU */
    return false;
  in->tunnel->type = SONDE_TUNNEL_GTPU;
  in->tunnel->id = load_u32(header + 4);
  at += 8;
  if ((header[0] & 0x07) == 0)
    return find_ip(in, at);
  if (!frame_has(packet, at, 4))
    return false;
  uint8_t next = header[0] & 0x04 ? packet->data[at + 3] : 0;
  at += 4;
  for (int count = 0; next != 0; count++) {
    if (count == GTPU_EXTENSIONS_MAX || !frame_has(packet, at, 1))
      return false;
    uint32_t bytes = packet->data[at] * 4u;
    if (bytes == 0 || !frame_has(packet, at, bytes))
      return false;
    next = packet->data[at + bytes - 1];
    at += bytes;
  }
  return find_ip(in, at);
}

/* RFC 4380 §5.1.1. Teredo has no magic number, so the IPv6 length must fit too. */
static bool enter_teredo(const struct inside *in, uint32_t at) {
  const struct sonde_frame *packet = &in->packet;
  in->tunnel->type = SONDE_TUNNEL_TEREDO;
  if (frame_has(packet, at, 4) && load_u16(packet->data + at) == 0x0001)
    at += 13u + packet->data[at + 2] + packet->data[at + 3]; /* authentication */
  if (frame_has(packet, at, 2) && load_u16(packet->data + at) == 0x0000)
    at += 8; /* origin indication */
  if (!frame_has(packet, at, 40) || packet->data[at] >> 4 != 6 ||
      40u + load_u16(packet->data + at + 4) > packet->wirelen - at)
    return false;
  return find_ip(in, at);
}

static bool enter_udp(const struct inside *in, uint32_t at) {
  if (!frame_has(&in->packet, at, 8))
    return false;
  uint16_t ports[2] = {load_u16(in->packet.data + at + 2), load_u16(in->packet.data + at)};
  for (int side = 0; side < 2; side++) {
    switch (ports[side]) {
    case SONDE_PORT_VXLAN_GPE:
      return enter_vxlan_gpe(in, at + 8);
    case SONDE_PORT_GENEVE:
      return enter_geneve(in, at + 8);
    case SONDE_PORT_GTPU:
      return enter_gtpu(in, at + 8);
    case SONDE_PORT_TEREDO:
      return enter_teredo(in, at + 8);
    default:
      if (is_vxlan_port(in->vxlan_ports, ports[side]))
        return enter_vxlan(in, at + 8);
    }
  }
  return false;
}

bool sonde_tunnel_enter(const struct sonde_frame *frame, const uint16_t *vxlan_ports,
                        const struct sonde_network *network, struct sonde_place *place,
                        struct sonde_tags *tags, struct sonde_tunnel *tunnel) {
  struct inside in = {frame_until(frame, network->end), vxlan_ports, place, tags, tunnel};
  if (network->later)
    return false;
  *tunnel = (struct sonde_tunnel){
      .source_ip = network->source,
      .dest_ip = network->dest,
      .ip_version = network->version,
      .type = SONDE_TUNNEL_IPIP,
  };
  switch (network->protocol) {
  case SONDE_IP_IPV4:
    return walk(&in, network->payload, SONDE_ETHERTYPE_IPV4);
  case SONDE_IP_IPV6:
    return walk(&in, network->payload, SONDE_ETHERTYPE_IPV6);
  case SONDE_IP_GRE:
    return enter_gre(&in, network->payload);
  case SONDE_IP_UDP:
    return enter_udp(&in, network->payload);
  default:
    return false;
  }
}
