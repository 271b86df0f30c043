/* json_reference.h - a slow, independent printf encoder of flow records as JSON.
 *
 * The tests compare both encodings with it: JSON byte by byte, MessagePack after decoding.
 * Protocol names come from a separate list, the Community ID from the code under test
 * (community_id_test.c compares that with published ids).
 */
#ifndef SONDE_TESTS_JSON_REFERENCE_H
#define SONDE_TESTS_JSON_REFERENCE_H

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "export/community_id.h"
#include "record.h"

struct reference {
  char text[4096];
  int length;
};

__attribute__((format(printf, 2, 3))) static inline void add(struct reference *out,
                                                             const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  out->length +=
      vsnprintf(out->text + out->length, sizeof out->text - (size_t)out->length, format, arguments);
  va_end(arguments);
}

static inline void add_time(struct reference *out, const char *name, uint64_t time_ns) {
  time_t second = (time_t)(time_ns / 1000000000u);
  struct tm date;
  gmtime_r(&second, &date);
  add(out, ",\"%s\":\"%04d-%02d-%02dT%02d:%02d:%02d.%09" PRIu64 "Z\"", name, date.tm_year + 1900,
      date.tm_mon + 1, date.tm_mday, date.tm_hour, date.tm_min, date.tm_sec, time_ns % 1000000000u);
}

static inline void add_ip(struct reference *out, const char *before, int ip_version,
                          const uint8_t address[16]) {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(ip_version == 6 ? AF_INET6 : AF_INET, address, text, sizeof text);
  add(out, "%s\"%s\"", before, text);
}

static inline void add_number_or_null(struct reference *out, const char *name, uint32_t value,
                                      int is_null) {
  is_null ? add(out, ",\"%s\":null", name) : add(out, ",\"%s\":%" PRIu32, name, value);
}

static inline void add_mac(struct reference *out, const char *name, int has_mac,
                           const uint8_t mac[6]) {
  has_mac ? add(out, ",\"%s\":\"%02x:%02x:%02x:%02x:%02x:%02x\"", name, mac[0], mac[1], mac[2],
                mac[3], mac[4], mac[5])
          : add(out, ",\"%s\":null", name);
}

static inline void add_protocol(struct reference *out, uint8_t protocol) {
  const char *name = protocol == 1     ? "ICMP"
                     : protocol == 4   ? "IPIP"
                     : protocol == 6   ? "TCP"
                     : protocol == 17  ? "UDP"
                     : protocol == 47  ? "GRE"
                     : protocol == 58  ? "ICMPv6"
                     : protocol == 132 ? "SCTP"
                                       : NULL;
  name ? add(out, ",\"protocol\":\"%s\"", name) : add(out, ",\"protocol\":\"%u\"", protocol);
}

static inline void add_front(struct reference *out, const struct sonde_record *r,
                             struct sonde_community_hash *hash) {
  char community_id[SONDE_COMMUNITY_ID_BYTES + 1] = "";
  sonde_community_id_put(hash, r, community_id);
  add(out, "{\"flow_id\":\"%016" PRIx64 "\",\"community_id\":\"%s\"", r->flow_id, community_id);
  add_ip(out, ",\"source_ip\":", r->ip_version, r->source_ip);
  add_ip(out, ",\"dest_ip\":", r->ip_version, r->dest_ip);
  add(out, ",\"source_port\":%u,\"dest_port\":%u", r->source_port, r->dest_port);
  add_protocol(out, r->protocol);
  add(out, ",\"protocol_number\":%u,\"ip_version\":%u,\"vlan\":[", r->protocol, r->ip_version);
  for (int i = 0; i < r->vlan_depth; i++)
    add(out, i ? ",%u" : "%u", r->vlan[i]);
  add(out, "]");
  add_number_or_null(out, "mpls_label", r->mpls_label, r->mpls_label == UINT32_MAX);
  add_mac(out, "source_mac", r->has_mac, r->source_mac);
  add_mac(out, "dest_mac", r->has_mac, r->dest_mac);
  int is_icmp = r->protocol == 1 || r->protocol == 58;
  add_number_or_null(out, "icmp_type", r->icmp_type, !is_icmp);
  add_number_or_null(out, "icmp_code", r->icmp_code, !is_icmp);
}

static inline void add_number(struct reference *out, const char *name, uint64_t value) {
  add(out, ",\"%s\":%" PRIu64, name, value);
}

static inline void add_middle(struct reference *out, const struct sonde_record *r) {
  add_number(out, "packets", r->packets[0] + r->packets[1]);
  add_number(out, "bytes", r->bytes[0] + r->bytes[1]);
  add_number(out, "l2_bytes", r->l2_bytes[0] + r->l2_bytes[1]);
  add_number(out, "reverse_packets", r->packets[1]);
  add_number(out, "reverse_bytes", r->bytes[1]);
  add_number(out, "reverse_l2_bytes", r->l2_bytes[1]);
  add_number(out, "tcp_flags", r->tcp_flags[0]);
  add_number(out, "reverse_tcp_flags", r->tcp_flags[1]);
  add_number(out, "tos", r->tos);
  add_number(out, "ttl_min", r->ttl_min);
  add_number(out, "ttl_max", r->ttl_max);
  add_number(out, "fragments", r->fragments);
  add_number(out, "retransmissions", r->retransmissions);
  add_number(out, "out_of_order", r->out_of_order);
  add_number_or_null(out, "handshake_rtt_us", r->handshake_rtt_us,
                     r->handshake_rtt_us == UINT32_MAX);
}

static inline void add_tunnel(struct reference *out, const struct sonde_record *r) {
  static const char *const types[] = {NULL,    "gre",    "erspan", "ipip",
                                      "vxlan", "geneve", "gtpu",   "teredo"};
  if (r->tunnel_type == 0) {
    add(out, ",\"tunnel\":null");
    return;
  }
  add(out, ",\"tunnel\":{\"type\":\"%s\",\"id\":%u", types[r->tunnel_type], r->tunnel_id);
  add_ip(out, ",\"outer_source_ip\":", r->tunnel_ip_version, r->tunnel_source_ip);
  add_ip(out, ",\"outer_dest_ip\":", r->tunnel_ip_version, r->tunnel_dest_ip);
  add(out, "}");
}

/* times_as_numbers: nanoseconds, as in MessagePack. */
static inline void add_times(struct reference *out, const struct sonde_record *r,
                             int times_as_numbers) {
  if (times_as_numbers) {
    add_number(out, "first_seen", r->first_ns);
    add_number(out, "last_seen", r->last_ns);
    add_number(out, "flow_start", r->flow_start_ns);
    return;
  }
  add_time(out, "first_seen", r->first_ns);
  add_time(out, "last_seen", r->last_ns);
  add_time(out, "flow_start", r->flow_start_ns);
}

/* interface: a plain name without characters to escape. */
static inline void write_reference(struct reference *out, const struct sonde_record *r,
                                   const char *interface, int times_as_numbers,
                                   struct sonde_community_hash *hash) {
  static const char *const reasons[] = {"null",    "\"idle\"",   "\"active\"",
                                        "\"end\"", "\"forced\"", "\"resources\""};
  static const char *const directions[] = {"unknown", "ingress", "egress"};
  add_front(out, r, hash);
  add_middle(out, r);
  add_times(out, r, times_as_numbers);
  add_number(out, "segment", r->segment);
  add(out, ",\"final\":%s", r->final ? "true" : "false");
  add_number(out, "total_packets", r->total_packets[0] + r->total_packets[1]);
  add_number(out, "total_bytes", r->total_bytes[0] + r->total_bytes[1]);
  add(out, ",\"end_reason\":%s,\"interface\":\"%s\",\"ifindex\":%u,\"direction\":\"%s\"",
      reasons[r->end_reason], interface, r->ifindex, directions[r->direction]);
  add_tunnel(out, r);
  add_number(out, "sampling_interval", r->sampling_interval);
  add_number(out, "timestamps_late", r->timestamps_late);
  add(out, ",\"app\":null,\"name\":null,\"name_source\":null,\"alpn\":null,\"tls_version\":null");
  add(out, ",\"ech\":null,\"label_state\":\"off\",\"process\":null,\"peer_process\":null}");
}

#endif
