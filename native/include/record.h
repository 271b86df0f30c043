/* record.h - one flow record, passed from the meter to every renderer.
 *
 * Fixed layout, host byte order, 8-byte aligned, no pointers: a record can be copied,
 * queued and handed to Python as bytes. Two-element arrays are [0] forward (from source)
 * and [1] reverse (from destination). Counters are deltas since the flow's previous
 * record unless their name says total. The JSON names and the IPFIX elements are in
 * docs/flow-record.md.
 */
#ifndef SONDE_RECORD_H
#define SONDE_RECORD_H

#ifndef SONDE_FFI
#include <stdint.h>
#endif

enum sonde_end_reason {                     /* flowEndReason, RFC 5102 §5.11.3 */
                        SONDE_END_NONE = 0, /* a listing of an active flow, not a record */
                        SONDE_END_IDLE = 1,
                        SONDE_END_ACTIVE = 2,
                        SONDE_END_END = 3,
                        SONDE_END_FORCED = 4,
                        SONDE_END_RESOURCES = 5,
};

enum sonde_direction { /* from the host's view; flowDirection is 0 ingress, 1 egress */
                       SONDE_DIRECTION_UNKNOWN = 0,
                       SONDE_DIRECTION_INGRESS = 1,
                       SONDE_DIRECTION_EGRESS = 2,
};

enum sonde_tunnel_type {
  SONDE_TUNNEL_NONE = 0,
  SONDE_TUNNEL_GRE = 1,
  SONDE_TUNNEL_ERSPAN = 2,
  SONDE_TUNNEL_IPIP = 3, /* IP-in-IP, 6in4, 4in6 */
  SONDE_TUNNEL_VXLAN = 4,
  SONDE_TUNNEL_GENEVE = 5,
  SONDE_TUNNEL_GTPU = 6,
  SONDE_TUNNEL_TEREDO = 7,
};

enum { SONDE_VLAN_DEPTH_MAX = 4, SONDE_VXLAN_PORTS_MAX = 8 };

#define SONDE_FLOW_LABEL_MASK UINT32_C(0xfffff)

/* IPv6 extension headers, in sonde_record.ipv6 above the flow label: bits 0…6 of
 * ipv6ExtensionHeaders, then its bits 12…15. */
enum sonde_extension {
  SONDE_EXTENSION_DESTINATION = 1 << 20,
  SONDE_EXTENSION_HOP_BY_HOP = 1 << 21,
  SONDE_EXTENSION_FRAGMENT_FIRST = 1 << 24, /* atomic fragments too */
  SONDE_EXTENSION_ROUTING = 1 << 25,
  SONDE_EXTENSION_FRAGMENT_LATER = 1 << 26,
  SONDE_EXTENSION_MOBILITY = 1 << 27,
  SONDE_EXTENSION_ESP = 1 << 28,
  SONDE_EXTENSION_AUTHENTICATION = 1 << 29,
  SONDE_EXTENSION_COMPRESSION = 1 << 30,
};

struct sonde_record {
  uint64_t flow_id;  /* stable for the flow's life, never 0 */
  uint64_t first_ns; /* this segment's first and last packet, ns since the epoch */
  uint64_t last_ns;
  uint64_t flow_start_ns; /* the flow's first packet, ns since the epoch */
  uint64_t packets[2];
  uint64_t bytes[2];    /* IP octets on the wire */
  uint64_t l2_bytes[2]; /* frames on the wire, without FCS */
  uint64_t total_packets[2];
  uint64_t total_bytes[2];
  uint8_t source_ip[16]; /* IPv4 in the first four bytes, the rest zero */
  uint8_t dest_ip[16];
  uint8_t tunnel_source_ip[16]; /* the tunnel header; only with tunnel_type */
  uint8_t tunnel_dest_ip[16];
  uint32_t tunnel_id;  /* VNI, TEID, GRE key; 0 if the tunnel has none */
  uint32_t mpls_label; /* top label, 0…2^20-1; UINT32_MAX: none */
  uint32_t segment;    /* 0, 1, … */
  uint32_t fragments;  /* packets with a fragment header, this segment */
  uint32_t retransmissions;
  uint32_t out_of_order;
  uint32_t handshake_rtt_us;  /* SYN to the ACK that completes it; UINT32_MAX: not seen */
  uint32_t sampling_interval; /* 1: every packet */
  uint16_t source_port; /* for ICMP the Community ID pairing: type, counterpart type or code */
  uint16_t dest_port;
  uint16_t vlan[4]; /* outer to inner; vlan_depth of them */
  uint8_t vlan_depth;
  uint8_t ip_version;        /* 4 or 6 */
  uint8_t tunnel_ip_version; /* version of tunnel_source_ip; 0 without a tunnel */
  uint8_t protocol;
  uint8_t source_mac[6];
  uint8_t dest_mac[6];
  uint8_t has_mac;   /* 0: the link type carries no Ethernet addresses */
  uint8_t icmp_type; /* forward direction; only for ICMP and ICMPv6 */
  uint8_t icmp_code;
  uint8_t tcp_flags[2]; /* OR over the segment */
  uint8_t tos;          /* IPv4 TOS or IPv6 traffic class of the segment's first packet */
  uint8_t ttl_min;
  uint8_t ttl_max;
  uint8_t end_reason; /* enum sonde_end_reason */
  uint8_t final;      /* 1: the last record of this flow_id */
  uint8_t direction;  /* enum sonde_direction, of the flow's first packet */
  uint8_t tunnel_type;
  /* Only the export's full profile sends these. */
  uint32_t ipv6;            /* flow label of the first packet | enum sonde_extension, of all */
  uint16_t fragment_offset; /* in 8 octets; this and the next two: the flow's first packet */
  uint8_t fragment_flags;   /* fragmentFlags: DF 64 (IPv4), MF 32 (both) */
  uint8_t vlan_priority;    /* outer tag, 0…7 */
  uint32_t timestamps_late; /* packets older than first_ns, this segment */
  uint32_t ifindex;         /* the interface's index when the record was made; 0: unknown */
  uint16_t source; /* the interface's slot in the session, see sonde_session_interface_name */
  uint16_t label_generation; /* with `label` */
  uint32_t label;            /* 0: off; else see sonde_session_label */
  uint32_t process;          /* the owner of one local end; 0: owners are off */
  uint32_t peer_process;     /* the owner of the other end if it is local too; else 0 */
  uint8_t process_side;      /* enum sonde_owner_side: the end of `process` */
  uint8_t reserved[3];
};

#endif
