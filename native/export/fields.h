/* fields.h - the table of a record's fields: one line per field, in the record's order.
 *
 * The table gives the field numbers and names, the JSON and MessagePack encoders, and the
 * fields that the compat profile of IPFIX holds. A new field is a line here and a member of
 * struct sonde_record.
 */
#ifndef SONDE_EXPORT_FIELDS_H
#define SONDE_EXPORT_FIELDS_H

#include <stdint.h>

/* X(name, kind, smallest IPFIX profile with the field, arguments...)
 * An encoder writes the value with put_<kind>(p, arguments). */
#define SONDE_FIELD_LIST(X)                                                                        \
  X(flow_id, hex64, FULL, record->flow_id)                                                         \
  X(community_id, community_id, FULL, record, rendering)                                           \
  X(source_ip, address, COMPAT, record->ip_version, record->source_ip)                             \
  X(dest_ip, address, COMPAT, record->ip_version, record->dest_ip)                                 \
  X(source_port, number, COMPAT, record->source_port)                                              \
  X(dest_port, number, COMPAT, record->dest_port)                                                  \
  X(protocol, protocol, COMPAT, record->protocol)                                                  \
  X(protocol_number, number, COMPAT, record->protocol)                                             \
  X(ip_version, number, COMPAT, record->ip_version)                                                \
  X(vlan, vlan, FULL, record)                                                                      \
  X(mpls_label, number_or_null, FULL, record->mpls_label)                                          \
  X(source_mac, mac_or_null, FULL, record->has_mac, record->source_mac)                            \
  X(dest_mac, mac_or_null, FULL, record->has_mac, record->dest_mac)                                \
  X(icmp_type, icmp, COMPAT, record->protocol, record->icmp_type)                                  \
  X(icmp_code, icmp, COMPAT, record->protocol, record->icmp_code)                                  \
  X(packets, number, COMPAT, record->packets[0] + record->packets[1])                              \
  X(bytes, number, COMPAT, record->bytes[0] + record->bytes[1])                                    \
  X(l2_bytes, number, FULL, record->l2_bytes[0] + record->l2_bytes[1])                             \
  X(reverse_packets, number, COMPAT, record->packets[1])                                           \
  X(reverse_bytes, number, COMPAT, record->bytes[1])                                               \
  X(reverse_l2_bytes, number, FULL, record->l2_bytes[1])                                           \
  X(tcp_flags, number, COMPAT, record->tcp_flags[0])                                               \
  X(reverse_tcp_flags, number, COMPAT, record->tcp_flags[1])                                       \
  X(tos, number, COMPAT, record->tos)                                                              \
  X(ttl_min, number, FULL, record->ttl_min)                                                        \
  X(ttl_max, number, FULL, record->ttl_max)                                                        \
  X(fragments, number, FULL, record->fragments)                                                    \
  X(retransmissions, number, FULL, record->retransmissions)                                        \
  X(out_of_order, number, FULL, record->out_of_order)                                              \
  X(handshake_rtt_us, number_or_null, FULL, record->handshake_rtt_us)                              \
  X(first_seen, time, COMPAT, record->first_ns, rendering)                                         \
  X(last_seen, time, COMPAT, record->last_ns, rendering)                                           \
  X(flow_start, time, FULL, record->flow_start_ns, rendering)                                      \
  X(segment, number, FULL, record->segment)                                                        \
  X(final, boolean, FULL, record->final)                                                           \
  X(total_packets, number, FULL, record->total_packets[0] + record->total_packets[1])              \
  X(total_bytes, number, FULL, record->total_bytes[0] + record->total_bytes[1])                    \
  X(end_reason, label, COMPAT, sonde_end_reason_label(record->end_reason))                         \
  X(interface, interface, FULL, rendering)                                                         \
  X(ifindex, number, FULL, record->ifindex)                                                        \
  X(direction, label, COMPAT, sonde_direction_label(record->direction))                            \
  X(tunnel, tunnel, FULL, record)                                                                  \
  X(sampling_interval, number, FULL, record->sampling_interval)                                    \
  X(timestamps_late, number, FULL, record->timestamps_late)                                        \
  SONDE_LABEL_FIELD_LIST(X)                                                                        \
  SONDE_OWNER_FIELD_LIST(X)

/* The fields of a label; null, and label_state "off", in a record without one. */
#define SONDE_LABEL_FIELD_LIST(X)                                                                  \
  X(app, label, FULL, sonde_app_name(rendering->label.app))                                        \
  X(name, text_or_null, FULL, rendering->label.name)                                               \
  X(name_source, label, FULL, sonde_name_source_name(rendering->label.name_source))                \
  X(alpn, alpn, FULL, &rendering->label)                                                           \
  X(tls_version, label, FULL, sonde_tls_version_name(rendering->label.tls_version))                \
  X(ech, boolean_or_null, FULL, rendering->label.has_hello, rendering->label.ech)                  \
  X(label_state, label, FULL, sonde_label_state_name(rendering->label.state))

/* The fields of owners; null in a record without them. */
#define SONDE_OWNER_FIELD_LIST(X)                                                                  \
  X(process, process, FULL, &rendering->process, record->process_side)                             \
  X(peer_process, process, FULL, &rendering->peer_process,                                         \
    SONDE_SIDE_SOURCE + SONDE_SIDE_DEST - record->process_side)

/* X(name, kind, arguments...): the members of the fields "process" and "peer_process". */
#define SONDE_PROCESS_MEMBER_LIST(X)                                                               \
  X(pid, number_or_null, owner->pid)                                                               \
  X(start_ticks, count_or_null, owner->start_ticks)                                                \
  X(name, text_or_null, owner->name)                                                               \
  X(exe, text_or_null, owner->exe)                                                                 \
  X(uid, number_or_null, owner->uid)                                                               \
  X(cgroup, text_or_null, owner->cgroup)                                                           \
  X(unit, text_or_null, owner->unit)                                                               \
  X(container, text_or_null, owner->container)                                                     \
  X(pod, text_or_null, owner->pod)                                                                 \
  X(how, label, sonde_owner_how_name(owner->how))                                                  \
  X(reason, label, sonde_owner_reason_name(owner->reason))                                         \
  X(shared, boolean, owner->shared)                                                                \
  X(side, label, sonde_owner_side_name(side))

/* X(name, kind, arguments...): the members of the field "tunnel". */
#define SONDE_TUNNEL_MEMBER_LIST(X)                                                                \
  X(type, label, sonde_tunnel_label(record->tunnel_type))                                          \
  X(id, number, record->tunnel_id)                                                                 \
  X(outer_source_ip, address, record->tunnel_ip_version, record->tunnel_source_ip)                 \
  X(outer_dest_ip, address, record->tunnel_ip_version, record->tunnel_dest_ip)

#define SONDE_FIELD_NUMBER(name, ...) SONDE_FIELD_##name,
enum sonde_field { SONDE_FIELD_LIST(SONDE_FIELD_NUMBER) SONDE_FIELDS };
#undef SONDE_FIELD_NUMBER

/* A selection of fields is a set of bits, one per field number. */
#define SONDE_FIELD_BIT(name) (UINT64_C(1) << SONDE_FIELD_##name)
#define SONDE_FIELDS_ALL ((UINT64_C(1) << SONDE_FIELDS) - 1)
#define SONDE_FIELD_OR_BIT(name, ...) | SONDE_FIELD_BIT(name)
#define SONDE_FIELDS_LABEL (UINT64_C(0) SONDE_LABEL_FIELD_LIST(SONDE_FIELD_OR_BIT))
#define SONDE_FIELDS_OWNER (UINT64_C(0) SONDE_OWNER_FIELD_LIST(SONDE_FIELD_OR_BIT))

/* Each encoder expands the list twice. For all fields, the compiler removes the tests. The other
 * expansion is for a selection known at run time. */
#define SONDE_FIELD_PUT(name, kind, profile, ...)                                                  \
  if (fields & SONDE_FIELD_BIT(name))                                                              \
    p = put_##kind(PUT_KEY(p, #name), __VA_ARGS__);
#define SONDE_MEMBER_PUT(name, kind, ...) p = put_##kind(PUT_KEY(p, #name), __VA_ARGS__);

#endif
