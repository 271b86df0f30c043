/* network.c - parses the IPv4 header, and the IPv6 header with its extension headers.
 *
 * Computes the octets that the packet has on the wire, never more than the frame, and the offset
 * of the payload. The walk ends at a truncated extension header. The packet then has the number of
 * that header as its protocol and still belongs to a flow.
 */
#include "layers.h"

enum {
  IPV4_BYTES = 20,
  IPV6_BYTES = 40,
  EXTENSIONS_MAX = 16,

  EXTENSION_HOP_BY_HOP = 0,
  EXTENSION_ROUTING = 43,
  EXTENSION_FRAGMENT = 44,
  EXTENSION_ESP = 50,
  EXTENSION_AUTHENTICATION = 51,
  EXTENSION_NONE = 59,
  EXTENSION_DESTINATION = 60,
  EXTENSION_COMPRESSION = 108,
  EXTENSION_MOBILITY = 135,
};

/* octets: the header's length field. 0 means more than the field can hold (TSO, BIG TCP). */
static void set_end(const struct sonde_frame *frame, uint32_t octets,
                    struct sonde_network *network) {
  uint32_t room = frame->wirelen - network->offset;
  network->clamped = octets > room;
  if (octets == 0 || octets > room)
    octets = room;
  network->end = network->offset + octets;
}

static int parse_ipv4(const struct sonde_frame *frame, struct sonde_network *network) {
  if (!frame_has(frame, network->offset, IPV4_BYTES))
    return frame_cause(frame, network->offset, IPV4_BYTES);
  const uint8_t *header = frame->data + network->offset;
  uint32_t header_bytes = (header[0] & 0x0fu) * 4;
  uint32_t octets = load_u16(header + 2);
  if (header[0] >> 4 != 4 || header_bytes < IPV4_BYTES ||
      header_bytes > frame->wirelen - network->offset || (octets != 0 && octets < header_bytes))
    return SONDE_NON_FLOW_MALFORMED;
  set_end(frame, octets, network);
  uint16_t fragment = load_u16(header + 6);
  network->version = 4;
  network->tos = header[1];
  network->fragment = (fragment & 0x3fff) != 0;
  network->later = (fragment & 0x1fff) != 0;
  network->fragment_id = load_u16(header + 4);
  network->fragment_offset = fragment & 0x1fff;
  network->fragment_flags = header[6] & 0x60;
  network->ttl = header[8];
  network->protocol = header[9];
  network->fragment_protocol = header[9];
  network->source = header + 12;
  network->dest = header + 16;
  network->payload = network->later ? network->end : network->offset + header_bytes;
  return SONDE_LAYER_IP;
}

/* Reads one fragment header (RFC 8200 §4.5). An atomic fragment (RFC 6946) is a whole packet, so
 * it does not count as a fragment. */
static void read_fragment(const uint8_t *header, struct sonde_network *network) {
  uint16_t field = load_u16(header + 2);
  network->ipv6 |= field >> 3 ? SONDE_EXTENSION_FRAGMENT_LATER : SONDE_EXTENSION_FRAGMENT_FIRST;
  if ((field & 0xfff9) == 0)
    return;
  network->fragment = true;
  network->later = field >> 3 != 0;
  network->fragment_id = load_u32(header + 4);
  network->fragment_offset = field >> 3;
  network->fragment_flags = field & 1 ? 0x20 : 0;
  network->fragment_protocol = header[0];
}

/* read_fragment sets the bit of a fragment header. */
static const struct {
  uint32_t bit;
  bool walked; /* has a next header */
} extensions[256] = {
    [EXTENSION_HOP_BY_HOP] = {SONDE_EXTENSION_HOP_BY_HOP, true},
    [EXTENSION_ROUTING] = {SONDE_EXTENSION_ROUTING, true},
    [EXTENSION_FRAGMENT] = {0, true},
    [EXTENSION_ESP] = {SONDE_EXTENSION_ESP, false},
    [EXTENSION_AUTHENTICATION] = {SONDE_EXTENSION_AUTHENTICATION, true},
    [EXTENSION_DESTINATION] = {SONDE_EXTENSION_DESTINATION, true},
    [EXTENSION_COMPRESSION] = {SONDE_EXTENSION_COMPRESSION, false},
    [EXTENSION_MOBILITY] = {SONDE_EXTENSION_MOBILITY, true},
};

static void walk_extensions(const struct sonde_frame *frame, struct sonde_network *network) {
  struct sonde_frame packet = frame_until(frame, network->end);
  for (int count = 0; count < EXTENSIONS_MAX; count++) {
    network->ipv6 |= extensions[network->protocol].bit;
    if (!extensions[network->protocol].walked)
      return;
    if (!frame_has(&packet, network->payload, 8)) /* the minimum of each */
      break;
    const uint8_t *header = packet.data + network->payload;
    uint32_t bytes;
    if (network->protocol == EXTENSION_FRAGMENT) {
      read_fragment(header, network);
      bytes = 8;
    } else if (network->protocol == EXTENSION_AUTHENTICATION) {
      bytes = (header[1] + 2u) * 4;
    } else {
      bytes = (header[1] + 1u) * 8;
    }
    network->protocol = header[0];
    network->payload += bytes;
    if (network->later)
      break;
  }
  network->payload = network->end; /* truncated, too many, or a later fragment */
}

/* Payload length 0 stands for a length over 65,535 (jumbogram, BIG TCP), unless nothing follows
 * the header: next header 59, or fewer bytes than the next header has. */
static bool is_empty(const struct sonde_frame *frame, const struct sonde_network *network,
                     uint8_t next_header) {
  uint32_t room = frame->wirelen - network->offset - IPV6_BYTES;
  uint32_t least = next_header == SONDE_IP_TCP ? 20 : 8;
  return next_header == EXTENSION_NONE || room < least;
}

static int parse_ipv6(const struct sonde_frame *frame, struct sonde_network *network) {
  if (!frame_has(frame, network->offset, IPV6_BYTES))
    return frame_cause(frame, network->offset, IPV6_BYTES);
  const uint8_t *header = frame->data + network->offset;
  if (header[0] >> 4 != 6)
    return SONDE_NON_FLOW_MALFORMED;
  uint32_t payload_bytes = load_u16(header + 4);
  uint32_t octets = IPV6_BYTES + payload_bytes;
  if (payload_bytes == 0 && !is_empty(frame, network, header[6]))
    octets = 0;
  set_end(frame, octets, network);
  network->version = 6;
  network->tos = (uint8_t)(load_u16(header) >> 4);
  network->protocol = header[6];
  network->fragment_protocol = header[6];
  network->ttl = header[7];
  network->source = header + 8;
  network->dest = header + 24;
  network->ipv6 = load_u32(header) & 0xfffff;
  network->payload = network->offset + IPV6_BYTES;
  walk_extensions(frame, network);
  return SONDE_LAYER_IP;
}

int sonde_network_parse(const struct sonde_frame *frame, const struct sonde_place *place,
                        struct sonde_network *network) {
  *network = (struct sonde_network){.offset = place->offset};
  return place->ethertype == SONDE_ETHERTYPE_IPV4 ? parse_ipv4(frame, network)
                                                  : parse_ipv6(frame, network);
}
