/* index.c - adds addresses and ports to a chunk's filter that the flow key does not hold.
 *
 * Guarantee for selection.c: if BPF's `host A` or `port N` can match a frame, A or N is in
 * the filter, or `anything` is set. BPF reads only ARP, RARP, and the outermost IP header
 * behind an untagged Ethernet header.
 */
#include "appender.h"

enum {
  ETHERNET_BYTES = 14,
  ETHERTYPE_IPV4 = 0x0800,
  ETHERTYPE_IPV6 = 0x86dd,
  ETHERTYPE_ARP = 0x0806,
  ETHERTYPE_RARP = 0x8035,
  ARP_BYTES = ETHERNET_BYTES + 28,
  IP_TCP = 6,
  IP_UDP = 17,
  IP_SCTP = 132,
};

static uint16_t load_u16(const uint8_t *bytes) {
  return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void add_address(struct sonde_appender *appender, const uint8_t *bytes, uint32_t length) {
  uint8_t address[16] = {0};
  memcpy(address, bytes, length);
  sonde_bloom_add(appender->bloom, sonde_bloom_address(appender->seed, address));
}

static bool has_ports(uint8_t protocol) {
  return protocol == IP_TCP || protocol == IP_UDP || protocol == IP_SCTP;
}

static void add_ports(struct sonde_appender *appender, const struct sonde_packet *packet,
                      uint32_t at, uint8_t protocol) {
  if (!has_ports(protocol))
    return;
  if (at + 4 > packet->caplen) {
    appender->bloom->anything = true;
    return;
  }
  for (uint32_t i = 0; i < 4; i += 2)
    sonde_bloom_add(appender->bloom,
                    sonde_bloom_port(appender->seed, load_u16(packet->data + at + i)));
}

void sonde_appender_note_non_flow(struct sonde_appender *appender,
                                  const struct sonde_packet *packet) {
  uint16_t ethertype = 0;
  if (packet->linktype == SONDE_LINKTYPE_ETHERNET && packet->caplen >= ETHERNET_BYTES)
    ethertype = load_u16(packet->data + 12);
  if ((ethertype == ETHERTYPE_ARP || ethertype == ETHERTYPE_RARP) && packet->caplen >= ARP_BYTES) {
    add_address(appender, packet->data + 28, 4);
    add_address(appender, packet->data + 38, 4);
  } else if (ethertype == 0 || ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6 ||
             ethertype == ETHERTYPE_ARP || ethertype == ETHERTYPE_RARP) {
    appender->bloom->anything = true;
  }
}

/* Reads the same bytes as BPF, which ignores the IP packet's length. */
static void add_outermost(struct sonde_appender *appender, const struct sonde_packet *packet) {
  const uint8_t *data = packet->data + ETHERNET_BYTES;
  if (packet->linktype != SONDE_LINKTYPE_ETHERNET || packet->caplen < ETHERNET_BYTES) {
    appender->bloom->anything = true;
    return;
  }
  uint16_t ethertype = load_u16(packet->data + 12);
  if (ethertype == ETHERTYPE_IPV4 && packet->caplen >= ETHERNET_BYTES + 20) {
    add_address(appender, data + 12, 4);
    add_address(appender, data + 16, 4);
    add_ports(appender, packet, ETHERNET_BYTES + (data[0] & 15u) * 4, data[9]);
  } else if (ethertype == ETHERTYPE_IPV6 && packet->caplen >= ETHERNET_BYTES + 40) {
    add_address(appender, data + 8, 16);
    add_address(appender, data + 24, 16);
    add_ports(appender, packet, ETHERNET_BYTES + 40, data[6]);
  } else if (ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6) {
    appender->bloom->anything = true;
  }
}

/* The flow key holds the innermost packet's addresses; this adds the tunnel's and the outermost. */
void sonde_appender_note_tunnel(struct sonde_appender *appender, const struct sonde_packet *packet,
                                const struct sonde_decoded *decoded) {
  uint32_t address_bytes = decoded->tunnel_ip_version == 4 ? 4 : 16;
  add_address(appender, decoded->tunnel_source_ip, address_bytes);
  add_address(appender, decoded->tunnel_dest_ip, address_bytes);
  add_outermost(appender, packet);
}

void sonde_appender_note_portless(struct sonde_appender *appender,
                                  const struct sonde_packet *packet,
                                  const struct sonde_decoded *decoded) {
  if (has_ports(decoded->key.protocol))
    add_outermost(appender, packet);
}
