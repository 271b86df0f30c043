/* uniflow.h - one direction of a flow record, as NetFlow and IPFIX know flows.
 *
 * A uniflow's source is the sender of its packets, so the reverse side has addresses,
 * ports, interfaces and direction swapped. Its tcp_flags and counters are its own; times,
 * TOS and TTL are the segment's, which the record does not keep apart.
 */
#ifndef SONDE_NETFLOW_UNIFLOW_H
#define SONDE_NETFLOW_UNIFLOW_H

#include "export.h"

enum { SONDE_UNIFLOW_FORWARD = 0, SONDE_UNIFLOW_REVERSE = 1 };
enum { SONDE_EXPORT_NAME_MAX = 64 };

struct sonde_uniflow {
  const struct sonde_record *record;
  const uint8_t *source_ip;
  const uint8_t *dest_ip;
  const uint8_t *source_mac;
  const uint8_t *dest_mac;
  uint64_t packets;
  uint64_t octets;
  uint64_t l2_octets;
  uint64_t first_ms; /* since the epoch */
  uint64_t last_ms;
  uint64_t segment_id;   /* layer2SegmentId, RFC 7133 §6 */
  uint32_t first_uptime; /* ms since the exporter's base, set by v5.c and sets.c */
  uint32_t last_uptime;
  uint32_t input_ifindex;
  uint32_t output_ifindex;
  uint32_t mpls;       /* label, EXP and S unknown: 24 bits */
  uint32_t flow_label; /* 20 bits */
  uint32_t extensions; /* ipv6ExtensionHeaders, bit 0 the lowest (RFC 9740 §3) */
  uint16_t source_port;
  uint16_t dest_port;  /* ICMP: type · 256 + code */
  uint16_t vlan_outer; /* 0: none */
  uint16_t vlan_inner; /* of a stack of two or more */
  uint8_t tcp_flags;
  uint8_t egress;    /* flowDirection */
  uint8_t initiator; /* biflowDirection: 1 the source began, 2 the destination */
  uint8_t icmp;      /* the record is ICMP or ICMPv6 */
  uint8_t name_bytes;
  const char *name; /* of the interface */
};

/* ifindex, name: of the interface; way: enum of this header. */
void sonde_uniflow_fill(struct sonde_uniflow *uniflow, const struct sonde_record *record, int way,
                        uint32_t ifindex);

#endif
