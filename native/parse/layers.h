/* layers.h - what the layers of the decoder hand to each other.
 *
 *   link.c       frame            → where the IP header is, and the tags before it
 *   network.c    IP header        → addresses, protocol, length, where its payload is
 *   tunnel.c     payload          → where the next IP header is, through link.c
 *   transport.c  payload          → ports; and the key out of all of it
 *   fragments.c  later fragments  → ports of the first one
 *   decode.c     decides which IP header makes the key; only it knows the decoder
 *
 * Functions that can meet a packet without a usable IP header return SONDE_LAYER_IP or
 * the enum sonde_non_flow cause.
 */
#ifndef SONDE_PARSE_LAYERS_H
#define SONDE_PARSE_LAYERS_H

#include "frame.h"

enum { SONDE_LAYER_IP = -1 };

enum sonde_ip_protocol {
  SONDE_IP_ICMP = 1,
  SONDE_IP_IPV4 = 4,
  SONDE_IP_TCP = 6,
  SONDE_IP_UDP = 17,
  SONDE_IP_DCCP = 33,
  SONDE_IP_IPV6 = 41,
  SONDE_IP_GRE = 47,
  SONDE_IP_ICMPV6 = 58,
  SONDE_IP_SCTP = 132,
  SONDE_IP_UDPLITE = 136,
};

enum sonde_ethertype {
  SONDE_ETHERTYPE_IPV4 = 0x0800,
  SONDE_ETHERTYPE_ARP = 0x0806,
  SONDE_ETHERTYPE_BRIDGED = 0x6558, /* an Ethernet frame follows */
  SONDE_ETHERTYPE_VLAN = 0x8100,
  SONDE_ETHERTYPE_IPV6 = 0x86dd,
  SONDE_ETHERTYPE_PPP = 0x880b,
  SONDE_ETHERTYPE_MPLS = 0x8847,
  SONDE_ETHERTYPE_MPLS_MULTICAST = 0x8848,
  SONDE_ETHERTYPE_PPPOE_DISCOVERY = 0x8863,
  SONDE_ETHERTYPE_PPPOE_SESSION = 0x8864,
  SONDE_ETHERTYPE_PROVIDER_VLAN = 0x88a8,
  SONDE_ETHERTYPE_LLDP = 0x88cc,
  SONDE_ETHERTYPE_VNTAG = 0x8926,
  SONDE_ETHERTYPE_QINQ = 0x9100,
  SONDE_ETHERTYPE_QINQ_OLD = 0x9200,
  SONDE_ETHERTYPE_MIN = 0x0600, /* smaller ones are no types */
  SONDE_LLC_LENGTH_MAX = 1500,  /* a type up to here is the length of an LLC frame */
};

/* Where a layer left off: the IP header's place once SONDE_LAYER_IP is returned. */
struct sonde_place {
  uint32_t offset;
  uint16_t ethertype; /* of what is at offset; IPV4 or IPV6 with SONDE_LAYER_IP */
};

/* What was met on the way to the IP header, tunnels included: the tags of an outer frame
 * come before those of the frame that it carries. */
struct sonde_tags {
  uint16_t vlan[SONDE_VLAN_DEPTH_MAX];
  uint8_t vlan_depth;
  uint8_t vlan_priority; /* of the first tag met */
  uint32_t mpls_label;   /* the first one met; UINT32_MAX: none */
};

struct sonde_network {
  const uint8_t *source; /* 4 or 16 bytes by version, inside the frame */
  const uint8_t *dest;
  uint32_t offset;           /* of the IP header */
  uint32_t payload;          /* of what follows the last header walked; end if cut off */
  uint32_t end;              /* of the IP packet, never past the wire */
  uint32_t fragment_id;      /* with fragment */
  uint32_t ipv6;             /* flow label | enum sonde_extension; 0 for IPv4 */
  uint16_t fragment_offset;  /* in 8 octets */
  uint8_t fragment_flags;    /* DF 64, MF 32 */
  uint8_t fragment_protocol; /* protocol as the fragment header has it */
  uint8_t version;
  uint8_t protocol; /* after the extension headers */
  uint8_t tos;
  uint8_t ttl;
  bool fragment; /* has a fragment header, and is not the whole packet */
  bool later;    /* a fragment, and not the first */
  bool clamped;
};

struct sonde_ports {
  uint16_t source;
  uint16_t dest;
  uint8_t protocol; /* differs from the fragment header's behind extension headers */
  bool one_way;     /* an ICMP type without counterpart */
};

struct sonde_tunnel {
  const uint8_t *source_ip;
  const uint8_t *dest_ip;
  uint32_t id;
  uint8_t type; /* enum sonde_tunnel_type */
  uint8_t ip_version;
};

enum sonde_tunnel_port {
  SONDE_PORT_GTPU = 2152,
  SONDE_PORT_TEREDO = 3544,
  SONDE_PORT_VXLAN = 4789,
  SONDE_PORT_GENEVE = 6081,
};

static inline bool is_tunnel_port(uint16_t port) {
  return port == SONDE_PORT_VXLAN || port == SONDE_PORT_GENEVE || port == SONDE_PORT_GTPU ||
         port == SONDE_PORT_TEREDO;
}

/* link.c: from the frame's start, and from a known ethertype in its middle. */
int sonde_link_enter(const struct sonde_frame *frame, uint16_t linktype, struct sonde_place *place,
                     struct sonde_tags *tags);
int sonde_link_walk(const struct sonde_frame *frame, struct sonde_place *place,
                    struct sonde_tags *tags);
/* The nibble decides: an IP header is said to be at place->offset. */
int sonde_link_ip(const struct sonde_frame *frame, struct sonde_place *place);

int sonde_network_parse(const struct sonde_frame *frame, const struct sonde_place *place,
                        struct sonde_network *network);

/* True: `place` is what the tunnel carries, walked up to an IP header that is not yet
 * parsed; tags and tunnel are updated. False: nothing is said of them. */
bool sonde_tunnel_enter(const struct sonde_frame *frame, const struct sonde_network *network,
                        struct sonde_place *place, struct sonde_tags *tags,
                        struct sonde_tunnel *tunnel);

/* Ports 0 if they cannot be seen. Not for later fragments. */
void sonde_transport_ports(const struct sonde_frame *frame, const struct sonde_network *network,
                           struct sonde_ports *ports);
/* Sets the tcp_* and icmp_* members of `out` and their flags, if the bytes are there. */
void sonde_transport_details(const struct sonde_frame *frame, const struct sonde_network *network,
                             struct sonde_decoded *out);
/* Offset of the first byte after a TCP or UDP header, 0 for other protocols. */
uint32_t sonde_transport_end(const struct sonde_frame *frame, const struct sonde_network *network);
/* Sets key and the REVERSED flag. */
void sonde_transport_key(const struct sonde_network *network, const struct sonde_ports *ports,
                         const struct sonde_tags *tags, struct sonde_decoded *out);

#endif
