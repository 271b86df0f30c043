/* layers.h - the interfaces between the layers of the decoder.
 *
 *   link.c       frame            → offset of the IP header, and the tags before it
 *   network.c    IP header        → addresses, protocol, length, offset of the payload
 *   tunnel.c     payload          → offset of the next IP header, through link.c
 *   transport.c  payload          → ports, then the key
 *   fragments.c  later fragments  → ports of the first one
 *   decode.c     chooses the IP header that makes the key; knows the decoder
 *
 * Functions that look for an IP header return SONDE_LAYER_IP or the enum sonde_non_flow cause.
 */
#ifndef SONDE_PARSE_LAYERS_H
#define SONDE_PARSE_LAYERS_H

#include "frame.h"
#include "ip_protocol.h"

enum { SONDE_LAYER_IP = -1 };

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
  SONDE_ETHERTYPE_TRILL = 0x22f3,
  SONDE_ETHERTYPE_MACSEC = 0x88e5,   /* IEEE 802.1AE */
  SONDE_ETHERTYPE_BACKBONE = 0x88e7, /* IEEE 802.1ah */
  SONDE_ETHERTYPE_FABRICPATH = 0x8903,
  SONDE_ETHERTYPE_METADATA = 0x8909, /* Cisco */
  SONDE_ETHERTYPE_VNTAG = 0x8926,
  SONDE_ETHERTYPE_HSR = 0x892f,  /* IEC 62439-3 */
  SONDE_ETHERTYPE_ETAG = 0x893f, /* IEEE 802.1BR */
  SONDE_ETHERTYPE_NSH = 0x894f,
  SONDE_ETHERTYPE_REDUNDANCY = 0xf1c1, /* IEEE 802.1CB */
  SONDE_ETHERTYPE_QINQ = 0x9100,
  SONDE_ETHERTYPE_QINQ_OLD = 0x9200,
  SONDE_ETHERTYPE_MIN = 0x0600, /* a smaller value is not a type */
  SONDE_LLC_LENGTH_MAX = 1500,  /* a value up to this is the length of an LLC frame */
};

/* The next header: the IP header after SONDE_LAYER_IP was returned. */
struct sonde_place {
  uint32_t offset;
  uint16_t ethertype; /* IPV4 or IPV6 with SONDE_LAYER_IP */
};

/* The tags before the IP header, those of outer frames first. */
struct sonde_tags {
  uint16_t vlan[SONDE_VLAN_DEPTH_MAX];
  uint8_t vlan_depth;
  uint8_t vlan_priority; /* first tag's */
  bool tagged;           /* a tag was seen, perhaps without a VLAN id */
  uint32_t mpls_label;   /* first label; UINT32_MAX if there is no label */
};

struct sonde_network {
  const uint8_t *source; /* 4 or 16 bytes by version, in the frame */
  const uint8_t *dest;
  uint32_t offset;           /* IP header */
  uint32_t payload;          /* first byte after the last header parsed; end if truncated */
  uint32_t end;              /* end of the IP packet, ≤ wirelen */
  uint32_t fragment_id;      /* valid with `fragment` */
  uint32_t ipv6;             /* flow label | enum sonde_extension; 0 for IPv4 */
  uint16_t fragment_offset;  /* in 8 octets */
  uint8_t fragment_flags;    /* DF 64, MF 32 */
  uint8_t fragment_protocol; /* protocol in the fragment header */
  uint8_t version;
  uint8_t protocol; /* after the extension headers */
  uint8_t tos;
  uint8_t ttl;
  bool fragment; /* has a fragment header and is not an atomic fragment */
  bool later;    /* not the first fragment */
  bool clamped;
};

struct sonde_ports {
  uint16_t source;
  uint16_t dest;
  uint8_t protocol; /* after the extension headers */
  bool one_way;     /* ICMP type without counterpart */
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
  SONDE_PORT_VXLAN_GPE = 4790,
  SONDE_PORT_GENEVE = 6081,
};

static inline bool is_vxlan_port(const uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX], uint16_t port) {
  for (int i = 0; i < SONDE_VXLAN_PORTS_MAX && vxlan_ports[i]; i++)
    if (vxlan_ports[i] == port)
      return true;
  return false;
}

static inline bool is_tunnel_port(const uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX],
                                  uint16_t port) {
  return port == SONDE_PORT_VXLAN_GPE || port == SONDE_PORT_GENEVE || port == SONDE_PORT_GTPU ||
         port == SONDE_PORT_TEREDO || is_vxlan_port(vxlan_ports, port);
}

/* linktype.c: walks from the start of the frame to the IP header. */
int sonde_link_enter(const struct sonde_frame *frame, uint16_t linktype, struct sonde_place *place,
                     struct sonde_tags *tags);
/* Walks from place, a known ethertype inside the frame, to the IP header. */
int sonde_link_walk(const struct sonde_frame *frame, struct sonde_place *place,
                    struct sonde_tags *tags);
/* Finds the IP version at place->offset by the header's first nibble. */
int sonde_link_ip(const struct sonde_frame *frame, struct sonde_place *place);

int sonde_network_parse(const struct sonde_frame *frame, const struct sonde_place *place,
                        struct sonde_network *network);

/* Returns true if the packet is a tunnel with an IP header inside. Then `place` is that header,
 * and tags and tunnel are updated; otherwise they are undefined. */
bool sonde_tunnel_enter(const struct sonde_frame *frame, const uint16_t *vxlan_ports,
                        const struct sonde_network *network, struct sonde_place *place,
                        struct sonde_tags *tags, struct sonde_tunnel *tunnel);

/* Sets the ports, or 0 if they were not captured. Not for later fragments. */
void sonde_transport_ports(const struct sonde_frame *frame, const struct sonde_network *network,
                           struct sonde_ports *ports);
/* Sets the tcp_* and icmp_* members of `out` and their flags if the header was captured. */
void sonde_transport_details(const struct sonde_frame *frame, const struct sonde_network *network,
                             struct sonde_decoded *out);
/* Finds the captured bytes after a TCP or UDP header. */
void sonde_transport_payload(const struct sonde_frame *frame, const struct sonde_network *network,
                             struct sonde_payload *payload);
/* Returns the offset of the first byte after a TCP or UDP header, 0 for other protocols. */
uint32_t sonde_transport_end(const struct sonde_frame *frame, const struct sonde_network *network);
/* Sets key and the REVERSED flag. */
void sonde_transport_key(const struct sonde_network *network, const struct sonde_ports *ports,
                         const struct sonde_tags *tags, struct sonde_decoded *out);

#endif
