/* packet.h - the two structures that pass through the pipeline.
 *
 * A backend hands over struct sonde_packet. The decoder turns it into struct sonde_decoded, the
 * flow table's input. Both are in arrays of one batch that the session loop owns. Pointers in
 * them are valid until the next receive.
 */
#ifndef SONDE_PACKET_H
#define SONDE_PACKET_H

#include <stdint.h>

#include "record.h"

/* LINKTYPE_ values, https://www.tcpdump.org/linktypes.html */
enum sonde_linktype {
  SONDE_LINKTYPE_NULL = 0, /* 4-byte family in the capturing host's byte order */
  SONDE_LINKTYPE_ETHERNET = 1,
  SONDE_LINKTYPE_TOKEN_RING = 6,
  SONDE_LINKTYPE_PPP = 9,
  SONDE_LINKTYPE_FDDI = 10,
  SONDE_LINKTYPE_RAW_BSD = 12, /* a DLT of some systems, in files and in PPI */
  SONDE_LINKTYPE_RAW_OPENBSD = 14,
  SONDE_LINKTYPE_PPP_HDLC = 50,
  SONDE_LINKTYPE_PPPOE = 51,
  SONDE_LINKTYPE_ATM_LLC = 100,
  SONDE_LINKTYPE_RAW = 101,
  SONDE_LINKTYPE_C_HDLC = 104,
  SONDE_LINKTYPE_WLAN = 105, /* IEEE 802.11 */
  SONDE_LINKTYPE_FRAME_RELAY = 107,
  SONDE_LINKTYPE_LOOP = 108, /* 4-byte family in network byte order */
  SONDE_LINKTYPE_ENC = 109,  /* OpenBSD IPsec */
  SONDE_LINKTYPE_SLL = 113,
  SONDE_LINKTYPE_PFLOG = 117,
  SONDE_LINKTYPE_PRISM = 119,
  SONDE_LINKTYPE_RADIOTAP = 127,
  SONDE_LINKTYPE_FIREWIRE = 138,
  SONDE_LINKTYPE_AVS = 163,
  SONDE_LINKTYPE_PPI = 192,
  SONDE_LINKTYPE_PPP_DIRECTION = 204,
  SONDE_LINKTYPE_C_HDLC_DIRECTION = 205,
  SONDE_LINKTYPE_FRAME_RELAY_DIRECTION = 206,
  SONDE_LINKTYPE_IPV4 = 228,
  SONDE_LINKTYPE_IPV6 = 229,
  SONDE_LINKTYPE_NFLOG = 239,
  SONDE_LINKTYPE_IPOIB = 242,
  SONDE_LINKTYPE_SLL2 = 276,
  /* Not a frame: data points to one struct sonde_delta, or, with caplen 0, marks that all packets
   * up to time_ns have been handed over. Only from aggregating backends (backend.h). */
  SONDE_LINKTYPE_DELTA = 0xffff,
};

enum { SONDE_SOURCES_MAX = 64 };

struct sonde_packet {
  const uint8_t *data; /* the frame, VLAN tags in line where the wire had them */
  uint64_t time_ns;    /* since the epoch */
  uint32_t caplen;     /* bytes at data */
  uint32_t wirelen;    /* bytes of the frame (of the super-packet, with gso_size) without FCS */
  uint16_t linktype;   /* enum sonde_linktype */
  uint16_t gso_size;   /* payload bytes per wire packet of a GRO/GSO super-packet; else 0 */
  uint16_t source;     /* the session's interface: its slot, 0…SONDE_SOURCES_MAX - 1 */
  uint8_t direction;   /* enum sonde_direction */
  uint8_t reserved;
};

/* Direction-free flow identity: `lo` is the smaller (address, port) pair, compared as
 * network-order bytes. Every byte is set, so keys compare and hash as six words. */
struct sonde_key {
  uint8_t lo_ip[16]; /* IPv4 in the first four bytes, the rest zero */
  uint8_t hi_ip[16];
  uint16_t lo_port; /* host byte order */
  uint16_t hi_port;
  uint8_t ip_version;
  uint8_t protocol;
  uint8_t vlan_depth;
  uint8_t one_way : 2;                 /* unpaired ICMP type: 1 sent by lo, 2 by hi; else 0 */
  uint8_t source : 6;                  /* the packets' interface, as in struct sonde_packet */
  uint16_t vlan[SONDE_VLAN_DEPTH_MAX]; /* outer to inner, 0 beyond vlan_depth */
};

/* The sums of a flow's packets since the backend's last delta, for packets that only have to be
 * counted. Packets that open or end a TCP connection, fragments and the like are not included.
 * Two-element arrays: [0] sent by the key's lo side, [1] by its hi side. The backend's programs
 * in the kernel write it, so there is no implicit padding. */
struct sonde_delta {
  struct sonde_key key;
  uint64_t last_ns[2]; /* since the epoch; undefined for a side without packets */
  uint64_t packets[2]; /* wire packets */
  uint64_t ip_bytes[2];
  uint64_t l2_bytes[2];
  uint32_t frames; /* super-packets count once */
  uint8_t ttl_min;
  uint8_t ttl_max;
  uint8_t tcp_flags[2];
  uint32_t tcp_next[2]; /* expected after the last one */
  uint32_t retransmissions[2];
  uint32_t out_of_order[2];
  uint32_t tcp_seq[2];    /* the side's first packet: sequence … */
  uint32_t tcp_length[2]; /* … and length in sequence space */
  uint64_t first_ns[2];
  uint8_t tcp_gap[2];  /* 1: bytes are missing before tcp_next */
  uint8_t tos[2];      /* from the side's first packet */
  uint8_t dest_mac[6]; /* from the first packet */
  uint8_t source_mac[6];
  uint8_t has_mac;
  uint8_t first_side; /* sender of the first packet: 0 or 1 */
  uint8_t direction;  /* enum sonde_direction, of the first packet */
  uint8_t reserved[5];
};

/* Why a packet is in no flow (packets_non_flow, by cause). X(NAME, "name in status") */
#define SONDE_NON_FLOW_LIST(X)                                                                     \
  X(ARP, "arp")                                                                                    \
  X(LLDP, "lldp")                                                                                  \
  X(STP, "stp")                                                                                    \
  X(PPPOE_CONTROL, "pppoe_control")     /* discovery, LCP, IPCP, … */                              \
  X(OTHER_ETHERTYPE, "other_ethertype") /* a known frame with no IP inside */                      \
  X(OTHER_LLC, "other_llc")                                                                        \
  X(OTHER_LINKTYPE, "other_linktype")                                                              \
  X(WLAN_CONTROL, "wlan_control") /* 802.11 management and control frames */                       \
  X(ENCRYPTED, "encrypted")       /* 802.11 or MACsec data that only a key opens */                \
  X(MALFORMED, "malformed")       /* the headers contradict themselves */                          \
  X(TRUNCATED, "truncated")       /* the capture was cut before the IP header's end */             \
  X(OWN, "own")                   /* sent or received by this process, see own_endpoint.h */

enum sonde_non_flow {
#define SONDE_NON_FLOW_ENUM(name, text) SONDE_NON_FLOW_##name,
  SONDE_NON_FLOW_LIST(SONDE_NON_FLOW_ENUM)
#undef SONDE_NON_FLOW_ENUM
      SONDE_NON_FLOW_COUNT
};

enum sonde_decoded_flag {
  SONDE_DECODED_REVERSED = 1 << 0, /* the sender is the key's hi side */
  SONDE_DECODED_FRAGMENT = 1 << 1, /* has a fragment header (atomic fragments do not) */
  SONDE_DECODED_TCP = 1 << 2,      /* tcp_* are set: first 14 bytes of the TCP header seen */
  SONDE_DECODED_ICMP = 1 << 3,     /* icmp_* are set */
  SONDE_DECODED_CLAMPED = 1 << 4,  /* the IP length claimed more than the wire carried */
  SONDE_DECODED_MAC = 1 << 5,      /* source_mac and dest_mac point at addresses */
};

struct sonde_decoded {
  struct sonde_key key;
  uint64_t time_ns;
  uint64_t ip_bytes; /* over all wire packets */
  uint64_t l2_bytes;
  uint32_t packets; /* wire packets this frame stands for, ≥ 1 */
  uint32_t tcp_seq;
  uint32_t tcp_payload; /* bytes of TCP payload over all wire packets */
  uint32_t mpls_label;  /* UINT32_MAX: none */
  uint16_t flags;       /* enum sonde_decoded_flag */
  uint8_t tcp_flags;    /* FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128 */
  uint8_t tos;
  uint8_t ttl;
  uint8_t icmp_type;
  uint8_t icmp_code;
  uint8_t direction;         /* enum sonde_direction */
  const uint8_t *source_mac; /* 6 bytes each, with SONDE_DECODED_MAC */
  const uint8_t *dest_mac;
  /* Tunnel mode inner only; tunnel_type 0 otherwise. */
  const uint8_t *tunnel_source_ip; /* 4 or 16 bytes by tunnel_ip_version */
  const uint8_t *tunnel_dest_ip;
  uint32_t tunnel_id;
  uint8_t tunnel_type;
  uint8_t tunnel_ip_version;
  uint8_t fragment_flags; /* these four as in struct sonde_record */
  uint8_t vlan_priority;
  uint16_t fragment_offset;
  uint32_t ipv6;
};

/* The captured bytes after a packet's TCP or UDP header. */
struct sonde_payload {
  const uint8_t *data;
  uint32_t bytes;
};

/* The sequence number of a TCP packet's first payload byte. A SYN takes one before it. */
static inline uint32_t sonde_first_sequence(const struct sonde_decoded *packet) {
  return packet->tcp_seq + (packet->tcp_flags >> 1 & 1);
}

#endif
