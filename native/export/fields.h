/* fields.h - the fields of a record that an encoding can leave out, in the record's order.
 *
 * A selection is a set of bits. The writers are inlined once for all fields, where the
 * questions cost nothing, and once for a selection that is known only when they run.
 */
#ifndef SONDE_EXPORT_FIELDS_H
#define SONDE_EXPORT_FIELDS_H

#include <stdint.h>

/* X(enumerator, name on the wire) */
#define SONDE_FIELD_LIST(X)                                                                        \
  X(FLOW_ID, "flow_id")                                                                            \
  X(COMMUNITY_ID, "community_id")                                                                  \
  X(SOURCE_IP, "source_ip")                                                                        \
  X(DEST_IP, "dest_ip")                                                                            \
  X(SOURCE_PORT, "source_port")                                                                    \
  X(DEST_PORT, "dest_port")                                                                        \
  X(PROTOCOL, "protocol")                                                                          \
  X(PROTOCOL_NUMBER, "protocol_number")                                                            \
  X(IP_VERSION, "ip_version")                                                                      \
  X(VLAN, "vlan")                                                                                  \
  X(MPLS_LABEL, "mpls_label")                                                                      \
  X(SOURCE_MAC, "source_mac")                                                                      \
  X(DEST_MAC, "dest_mac")                                                                          \
  X(ICMP_TYPE, "icmp_type")                                                                        \
  X(ICMP_CODE, "icmp_code")                                                                        \
  X(PACKETS, "packets")                                                                            \
  X(BYTES, "bytes")                                                                                \
  X(L2_BYTES, "l2_bytes")                                                                          \
  X(REVERSE_PACKETS, "reverse_packets")                                                            \
  X(REVERSE_BYTES, "reverse_bytes")                                                                \
  X(REVERSE_L2_BYTES, "reverse_l2_bytes")                                                          \
  X(TCP_FLAGS, "tcp_flags")                                                                        \
  X(REVERSE_TCP_FLAGS, "reverse_tcp_flags")                                                        \
  X(TOS, "tos")                                                                                    \
  X(TTL_MIN, "ttl_min")                                                                            \
  X(TTL_MAX, "ttl_max")                                                                            \
  X(FRAGMENTS, "fragments")                                                                        \
  X(RETRANSMISSIONS, "retransmissions")                                                            \
  X(OUT_OF_ORDER, "out_of_order")                                                                  \
  X(HANDSHAKE_RTT_US, "handshake_rtt_us")                                                          \
  X(FIRST_SEEN, "first_seen")                                                                      \
  X(LAST_SEEN, "last_seen")                                                                        \
  X(FLOW_START, "flow_start")                                                                      \
  X(SEGMENT, "segment")                                                                            \
  X(FINAL, "final")                                                                                \
  X(TOTAL_PACKETS, "total_packets")                                                                \
  X(TOTAL_BYTES, "total_bytes")                                                                    \
  X(END_REASON, "end_reason")                                                                      \
  X(INTERFACE, "interface")                                                                        \
  X(DIRECTION, "direction")                                                                        \
  X(TUNNEL, "tunnel")                                                                              \
  X(SAMPLING_INTERVAL, "sampling_interval")

#define SONDE_FIELD_ENUMERATOR(enumerator, name) SONDE_FIELD_##enumerator,
enum sonde_field { SONDE_FIELD_LIST(SONDE_FIELD_ENUMERATOR) SONDE_FIELDS };
#undef SONDE_FIELD_ENUMERATOR

#define SONDE_FIELDS_ALL ((UINT64_C(1) << SONDE_FIELDS) - 1)

/* Is the field in the selection `fields`? */
#define SONDE_FIELDS_HAVE(fields, enumerator) ((fields) >> SONDE_FIELD_##enumerator & 1)

#endif
