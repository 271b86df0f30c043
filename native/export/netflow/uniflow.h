/* uniflow.h - one direction of a flow record: a flow of NetFlow and IPFIX.
 *
 * A uniflow's source is the sender of its packets, so the reverse direction has addresses, ports,
 * interfaces and direction swapped. Each direction has separate tcp_flags and counters. Times, TOS
 * and TTL are those of the whole segment.
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
  uint16_t vlan_outer; /* 0: no VLAN */
  uint16_t vlan_inner; /* 0 with fewer than two tags */
  uint8_t tcp_flags;
  uint8_t egress;    /* flowDirection */
  uint8_t initiator; /* biflowDirection: 1 the source began, 2 the destination */
  uint8_t icmp;      /* the record is ICMP or ICMPv6 */
  uint8_t name_bytes;
  const char *name; /* interface name */
};

/* way: SONDE_UNIFLOW_FORWARD or SONDE_UNIFLOW_REVERSE. The caller sets the name. */
void sonde_uniflow_fill(struct sonde_uniflow *uniflow, const struct sonde_record *record, int way,
                        uint32_t ifindex);

#endif
