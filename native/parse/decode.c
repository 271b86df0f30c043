/* decode.c - decodes a frame into the input of the flow table.
 *
 * Nearly all frames are untagged Ethernet with a plain IPv4 header and TCP or UDP: a fast path
 * decodes those. All others are decoded layer by layer. Tests check that both paths give the same
 * result.
 */
#include "decode.h"

#include <stdlib.h>

#include "fragments.h"
#include "key.h"
#include "layers.h"

enum {
  TUNNEL_DEPTH_MAX = 8,
  ETHERNET_BYTES = 14,
  PLAIN_IPV4_BYTES = 20,
  PLAIN_TRANSPORT = ETHERNET_BYTES + PLAIN_IPV4_BYTES,
};

struct sonde_decoder {
  struct sonde_fragments *fragments;
  uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX]; /* 0 ends the list */
  bool inner;
  bool payloads;                /* the caller reads them */
  struct sonde_payload payload; /* the last packet's, unless it is plain */
};

/* One IP header and how it was reached. */
struct layer {
  struct sonde_network network;
  struct sonde_tags tags;
  struct sonde_tunnel tunnel; /* type NONE for the frame's own IP header */
};

struct sonde_decoder *sonde_decoder_create(int inner,
                                           const uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX]) {
  struct sonde_decoder *decoder = calloc(1, sizeof(*decoder));
  if (decoder == NULL)
    return NULL;
  decoder->inner = inner != 0;
  static const uint16_t usual[SONDE_VXLAN_PORTS_MAX] = {4789, 8472}; /* IANA's, Linux's default */
  memcpy(decoder->vxlan_ports, vxlan_ports ? vxlan_ports : usual, sizeof decoder->vxlan_ports);
  decoder->fragments = sonde_fragments_create();
  if (decoder->fragments == NULL) {
    free(decoder);
    return NULL;
  }
  return decoder;
}

void sonde_decoder_payloads_set(struct sonde_decoder *decoder, bool on) {
  decoder->payloads = on;
}

void sonde_decoder_destroy(struct sonde_decoder *decoder) {
  if (decoder == NULL)
    return;
  sonde_fragments_destroy(decoder->fragments);
  free(decoder);
}

static void resolve_ports(struct sonde_decoder *decoder, const struct sonde_frame *frame,
                          const struct sonde_network *network, uint64_t time_ns,
                          struct sonde_ports *ports) {
  if (network->later) {
    sonde_fragments_recall(decoder->fragments, network, time_ns, ports);
    return;
  }
  sonde_transport_ports(frame, network, ports);
  if (network->fragment)
    sonde_fragments_remember(decoder->fragments, network, ports, time_ns);
}

/* Walks through the tunnels to the innermost IP header, which makes the key with `inner`. Returns
 * the end of the innermost TCP or UDP header, or 0 without one. Each wire packet of a super-packet
 * had its own copy of the headers before that offset. */
static uint32_t descend(struct sonde_decoder *decoder, const struct sonde_frame *frame,
                        uint64_t time_ns, struct layer *key) {
  struct layer layer = *key;
  uint32_t headers_end = sonde_transport_end(frame, &layer.network);
  for (int depth = 0; depth < TUNNEL_DEPTH_MAX; depth++) {
    struct sonde_frame packet = frame_until(frame, layer.network.end);
    struct sonde_place place;
    struct layer next = {.tags = layer.tags};
    if (!sonde_tunnel_enter(&packet, decoder->vxlan_ports, &layer.network, &place, &next.tags,
                            &next.tunnel) ||
        sonde_network_parse(&packet, &place, &next.network) != SONDE_LAYER_IP)
      break;
    uint32_t end = sonde_transport_end(&packet, &next.network);
    if (end != 0)
      headers_end = end;
    if (decoder->inner) {
      /* Later fragments of the outer datagram have no inner header. They belong to the outer
       * flow, whose ports are in this packet. */
      struct sonde_ports ports;
      if (layer.network.fragment)
        resolve_ports(decoder, frame, &layer.network, time_ns, &ports);
      *key = next;
    }
    layer = next;
  }
  return headers_end;
}

/* Counts the wire packets of a super-packet. Each had its own headers. */
static void count_segments(const struct sonde_packet *packet, uint32_t headers_end,
                           uint32_t ip_offset, struct sonde_decoded *out) {
  if (headers_end == 0 || packet->wirelen <= headers_end)
    return;
  uint64_t payload = packet->wirelen - headers_end;
  uint64_t segments = (payload + packet->gso_size - 1) / packet->gso_size;
  out->packets = (uint32_t)segments;
  if (headers_end > ip_offset) /* else an outer header was segmented */
    out->ip_bytes += (segments - 1) * (headers_end - ip_offset);
  out->l2_bytes += (segments - 1) * headers_end;
}

static void fill_layer(const struct sonde_packet *packet, const struct layer *layer,
                       struct sonde_decoded *out) {
  const struct sonde_network *network = &layer->network;
  out->ip_bytes = network->end - network->offset;
  out->mpls_label = layer->tags.mpls_label;
  out->flags = 0;
  if (network->fragment)
    out->flags |= SONDE_DECODED_FRAGMENT;
  if (network->clamped)
    out->flags |= SONDE_DECODED_CLAMPED;
  out->tcp_flags = 0;
  out->icmp_type = 0;
  out->icmp_code = 0;
  out->tos = network->tos;
  out->ttl = network->ttl;
  out->direction = packet->direction;
  if (packet->linktype == SONDE_LINKTYPE_ETHERNET) {
    out->flags |= SONDE_DECODED_MAC;
    out->dest_mac = packet->data;
    out->source_mac = packet->data + 6;
  }
  out->tunnel_type = layer->tunnel.type;
  out->tunnel_ip_version = layer->tunnel.ip_version;
  out->tunnel_id = layer->tunnel.id;
  out->tunnel_source_ip = layer->tunnel.source_ip;
  out->tunnel_dest_ip = layer->tunnel.dest_ip;
  out->fragment_flags = network->fragment_flags;
  out->fragment_offset = network->fragment_offset;
  out->ipv6 = network->ipv6;
  out->vlan_priority = layer->tags.vlan_priority;
}

static __attribute__((noinline)) int decode_layers(struct sonde_decoder *decoder,
                                                   const struct sonde_packet *packet,
                                                   struct sonde_decoded *out) {
  struct sonde_frame frame = {packet->data, packet->caplen, packet->wirelen};
  struct sonde_place place;
  struct layer layer = {.tags = {.mpls_label = UINT32_MAX}};
  struct sonde_ports ports;
  uint32_t headers_end = 0;

  if (frame.caplen > frame.wirelen)
    frame.caplen = frame.wirelen;
  out->time_ns = packet->time_ns;
  out->l2_bytes = packet->wirelen;
  out->packets = 1;
  int result = sonde_link_enter(&frame, packet->linktype, &place, &layer.tags);
  if (result == SONDE_LAYER_IP)
    result = sonde_network_parse(&frame, &place, &layer.network);
  if (result != SONDE_LAYER_IP)
    return result;

  if (decoder->inner || packet->gso_size != 0)
    headers_end = descend(decoder, &frame, packet->time_ns, &layer);
  resolve_ports(decoder, &frame, &layer.network, packet->time_ns, &ports);
  fill_layer(packet, &layer, out);
  sonde_transport_key(&layer.network, &ports, &layer.tags, out);
  out->key.source = packet->source & (SONDE_SOURCES_MAX - 1);
  sonde_transport_details(&frame, &layer.network, out);
  if (decoder->payloads)
    sonde_transport_payload(&frame, &layer.network, &decoder->payload);
  if (packet->gso_size != 0)
    count_segments(packet, headers_end, layer.network.offset, out);
  return SONDE_LAYER_IP;
}

static inline bool may_tunnel(const struct sonde_decoder *decoder, const uint8_t *data) {
  return decoder->inner &&
         (is_tunnel_port(decoder->vxlan_ports, load_u16(data + PLAIN_TRANSPORT)) ||
          is_tunnel_port(decoder->vxlan_ports, load_u16(data + PLAIN_TRANSPORT + 2)));
}

/* Checks everything that decode_plain requires, such as the first 14 bytes of TCP. */
static inline bool is_plain(const struct sonde_decoder *decoder,
                            const struct sonde_packet *packet) {
  const uint8_t *data = packet->data;
  if (packet->linktype != SONDE_LINKTYPE_ETHERNET || packet->gso_size != 0 ||
      packet->caplen < PLAIN_TRANSPORT + 14 || packet->wirelen < packet->caplen)
    return false;
  uint32_t octets = load_u16(data + 16);
  return load_u16(data + 12) == SONDE_ETHERTYPE_IPV4 && data[14] == 0x45 &&
         (load_u16(data + 20) & 0x3fff) == 0 && octets >= PLAIN_IPV4_BYTES + 14 &&
         octets <= packet->wirelen - ETHERNET_BYTES &&
         (data[23] == SONDE_IP_TCP || (data[23] == SONDE_IP_UDP && !may_tunnel(decoder, data)));
}

_Static_assert(SONDE_DECODED_REVERSED == 1, "decode_plain sets it from a bool");

static inline void decode_plain(const struct sonde_packet *packet, struct sonde_decoded *out) {
  const uint8_t *data = packet->data;
  bool reversed = key_order_ipv4(&out->key, data + 26, data + 30, load_u16(data + PLAIN_TRANSPORT),
                                 load_u16(data + PLAIN_TRANSPORT + 2));
  out->key.ip_version = 4;
  out->key.protocol = data[23];
  out->key.vlan_depth = 0;
  out->key.one_way = 0;
  out->key.source = packet->source & (SONDE_SOURCES_MAX - 1);
  memset(out->key.vlan, 0, sizeof(out->key.vlan));
  uint32_t octets = load_u16(data + 16);
  uint32_t flags = SONDE_DECODED_MAC | (uint32_t)reversed; /* REVERSED is bit 0 */
  out->time_ns = packet->time_ns;
  out->ip_bytes = octets;
  out->l2_bytes = packet->wirelen;
  out->packets = 1;
  out->mpls_label = UINT32_MAX;
  out->tos = data[15];
  out->ttl = data[22];
  out->direction = packet->direction;
  out->dest_mac = data;
  out->source_mac = data + 6;
  out->tunnel_type = SONDE_TUNNEL_NONE;
  out->tunnel_ip_version = 0;
  out->fragment_flags = data[20] & 0x60;
  out->fragment_offset = 0;
  out->ipv6 = 0;
  out->vlan_priority = 0;
  out->tcp_flags = 0;
  out->icmp_type = 0;
  out->icmp_code = 0;
  if (data[23] == SONDE_IP_TCP) {
    uint32_t header_bytes = (data[PLAIN_TRANSPORT + 12] >> 4) * 4u;
    if (header_bytes < 20)
      header_bytes = 20;
    header_bytes += PLAIN_IPV4_BYTES;
    flags |= SONDE_DECODED_TCP;
    out->tcp_seq = load_u32(data + PLAIN_TRANSPORT + 4);
    out->tcp_flags = data[PLAIN_TRANSPORT + 13];
    out->tcp_payload = octets > header_bytes ? octets - header_bytes : 0;
  }
  out->flags = (uint16_t)flags;
}

int sonde_decode(struct sonde_decoder *decoder, const struct sonde_packet *packet,
                 struct sonde_decoded *out) {
  if (!is_plain(decoder, packet))
    return decode_layers(decoder, packet, out);
  decode_plain(packet, out);
  return SONDE_LAYER_IP;
}

void sonde_decoder_payload(const struct sonde_decoder *decoder, const struct sonde_packet *packet,
                           struct sonde_payload *payload) {
  const uint8_t *data = packet->data;
  if (!is_plain(decoder, packet)) {
    *payload = decoder->payload;
    return;
  }
  struct sonde_frame frame = {data, packet->caplen, packet->wirelen};
  struct sonde_network network = {
      .payload = PLAIN_TRANSPORT,
      .end = ETHERNET_BYTES + load_u16(data + 16),
      .protocol = data[23],
  };
  sonde_transport_payload(&frame, &network, payload);
}
