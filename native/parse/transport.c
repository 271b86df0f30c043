/* transport.c - ports, the ICMP pairing, and the direction-free key.
 *
 * Never reads past the end of the IP packet, because only padding follows.
 */
#include "key.h"
#include "layers.h"

enum { TCP_BYTES = 20, TCP_BYTES_SEEN = 14, UDP_BYTES = 8 };

/* Returns the transport header, or NULL if fewer than `bytes` of it were captured. */
static const uint8_t *transport_header(const struct sonde_frame *frame,
                                       const struct sonde_network *network, uint32_t bytes) {
  struct sonde_frame packet = frame_until(frame, network->end);
  return frame_has(&packet, network->payload, bytes) ? packet.data + network->payload : NULL;
}

void sonde_transport_ports(const struct sonde_frame *frame, const struct sonde_network *network,
                           struct sonde_ports *ports) {
  const uint8_t *header;
  *ports = (struct sonde_ports){.protocol = network->protocol};
  switch (network->protocol) {
  case SONDE_IP_TCP:
  case SONDE_IP_UDP:
  case SONDE_IP_DCCP:
  case SONDE_IP_SCTP:
  case SONDE_IP_UDPLITE:
    header = transport_header(frame, network, 4);
    if (header != NULL) {
      ports->source = load_u16(header);
      ports->dest = load_u16(header + 2);
    }
    break;
  case SONDE_IP_ICMP:
  case SONDE_IP_ICMPV6:
    header = transport_header(frame, network, 2);
    if (header != NULL) {
      int counterpart = sonde_icmp_counterpart(network->protocol, header[0]);
      ports->source = header[0];
      ports->one_way = counterpart < 0;
      ports->dest = ports->one_way ? header[1] : (uint16_t)counterpart;
    }
    break;
  default:
    break;
  }
}

static uint32_t tcp_header_bytes(const uint8_t *header) {
  uint32_t bytes = (header[12] >> 4) * 4u;
  return bytes < TCP_BYTES ? TCP_BYTES : bytes;
}

void sonde_transport_details(const struct sonde_frame *frame, const struct sonde_network *network,
                             struct sonde_decoded *out) {
  const uint8_t *header;
  if (network->later)
    return;
  if (network->protocol == SONDE_IP_TCP) {
    header = transport_header(frame, network, TCP_BYTES_SEEN);
    if (header == NULL)
      return;
    uint32_t segment_bytes = network->end - network->payload;
    uint32_t header_bytes = tcp_header_bytes(header);
    out->flags |= SONDE_DECODED_TCP;
    out->tcp_seq = load_u32(header + 4);
    out->tcp_flags = header[13];
    out->tcp_payload = segment_bytes > header_bytes ? segment_bytes - header_bytes : 0;
  } else if (sonde_ip_is_icmp(network->protocol)) {
    header = transport_header(frame, network, 2);
    if (header == NULL)
      return;
    out->flags |= SONDE_DECODED_ICMP;
    out->icmp_type = header[0];
    out->icmp_code = header[1];
  }
}

uint32_t sonde_transport_end(const struct sonde_frame *frame, const struct sonde_network *network) {
  if (network->later)
    return 0;
  if (network->protocol == SONDE_IP_UDP)
    return network->payload + UDP_BYTES;
  if (network->protocol != SONDE_IP_TCP)
    return 0;
  const uint8_t *header = transport_header(frame, network, TCP_BYTES_SEEN);
  return network->payload + (header != NULL ? tcp_header_bytes(header) : TCP_BYTES);
}

void sonde_transport_payload(const struct sonde_frame *frame, const struct sonde_network *network,
                             struct sonde_payload *payload) {
  uint32_t start = sonde_transport_end(frame, network);
  uint32_t end = network->end < frame->caplen ? network->end : frame->caplen;
  payload->bytes = start && start < end ? end - start : 0;
  payload->data = frame->data + (payload->bytes ? start : 0);
}

void sonde_transport_key(const struct sonde_network *network, const struct sonde_ports *ports,
                         const struct sonde_tags *tags, struct sonde_decoded *out) {
  struct sonde_key *key = &out->key;
  bool reversed =
      network->version == 4
          ? key_order_ipv4(key, network->source, network->dest, ports->source, ports->dest)
          : key_order_ipv6(key, network->source, network->dest, ports->source, ports->dest);
  key->ip_version = network->version;
  key->protocol = ports->protocol;
  /* (type, code) is not a pair of ports. Without one_way, type 3 code 3 from A to B would match
   * the reverse of the same message from B to A. */
  key->one_way = (uint8_t)(ports->one_way ? 1 + reversed : 0) & 3;
  key->vlan_depth = tags->vlan_depth;
  memcpy(key->vlan, tags->vlan, sizeof(key->vlan));
  if (reversed)
    out->flags |= SONDE_DECODED_REVERSED;
}
