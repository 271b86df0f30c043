/* json.c - a flow record as a JSON object, names and order as docs/flow-record.md.
 *
 * Keys are literals with the punctuation around them, copied by constant sizes; values are
 * written by text.h. The only string that is not this project's own is the interface, and
 * that was escaped once for the batch. Numbers stay integers whatever their size.
 */
#include "address.h"
#include "interface.h"
#include "labels.h"
#include "protocol.h"
#include "rendering.h"
#include "text.h"

/* Copies a literal without its NUL and moves on. */
#define PUT(p, literal) (memcpy((p), literal, sizeof literal - 1), (p) + sizeof literal - 1)

static const uint64_t second_ns = 1000000000, day_sec = 86400;

/* Gregorian date of a day since 1970-01-01, by eras of 400 years that begin in March. */
static void write_date(uint64_t day, char date[11]) {
  uint32_t shifted = (uint32_t)day + 719468; /* days since 0000-03-01 */
  uint32_t era = shifted / 146097, day_of_era = shifted % 146097;
  uint32_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  uint32_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  uint32_t month_from_march = (5 * day_of_year + 2) / 153;
  uint32_t day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
  uint32_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
  uint32_t year = era * 400 + year_of_era + (month <= 2);
  char *p = put_pair(date, year / 100); /* 2^64 ns end in 2554 */
  p = put_pair(p, year % 100);
  *p++ = '-';
  p = put_pair(p, month);
  *p++ = '-';
  p = put_pair(p, day_of_month);
  *p = 'T';
}

/* "2026-11-22T14:38:23.000000001Z", RFC 3339 in UTC, nine digits always. */
static char *put_time(char *p, uint64_t time_ns, struct sonde_rendering *rendering) {
  uint64_t second = time_ns / second_ns;
  uint32_t nanosecond = (uint32_t)(time_ns % second_ns);
  uint64_t day = second / day_sec;
  uint32_t of_day = (uint32_t)(second % day_sec);
  if (day != rendering->day) {
    write_date(day, rendering->date);
    rendering->day = day;
  }
  *p++ = '"';
  memcpy(p, rendering->date, sizeof rendering->date);
  p = put_pair(p + sizeof rendering->date, of_day / 3600);
  *p++ = ':';
  p = put_pair(p, of_day / 60 % 60);
  *p++ = ':';
  p = put_pair(p, of_day % 60);
  *p++ = '.';
  *p++ = (char)('0' + nanosecond / 100000000);
  p = put_eight(p, nanosecond % 100000000);
  return PUT(p, "Z\"");
}

static char *put_boolean(char *p, int value) {
  return value ? PUT(p, "true") : PUT(p, "false");
}

static char *put_label(char *p, const struct sonde_label *label) {
  if (label->length == 0) {
    return PUT(p, "null");
  }
  *p++ = '"';
  memcpy(p, label->text, SONDE_LABEL_TEXT_MAX);
  p += label->length;
  *p++ = '"';
  return p;
}

#define HAS(field) SONDE_FIELDS_HAVE(fields, field)
#define NAME(p, name) PUT(p, ",\"" name "\":")
#define WRITER static inline __attribute__((always_inline)) char *

static char *put_community_id(char *p, const struct sonde_record *record,
                              struct sonde_rendering *rendering) {
  if (sonde_community_id_put(&rendering->community, record, p + 1) != 0) {
    return PUT(p, "null");
  }
  p[0] = p[SONDE_COMMUNITY_ID_BYTES + 1] = '"';
  return p + SONDE_COMMUNITY_ID_BYTES + 2;
}

static char *put_address(char *p, uint8_t ip_version, const uint8_t address[16]) {
  *p++ = '"';
  p = sonde_address_put(p, ip_version, address);
  *p++ = '"';
  return p;
}

/* Identity: flow_id … ip_version. */
WRITER put_identity(char *p, const struct sonde_record *record, struct sonde_rendering *rendering,
                    uint64_t fields) {
  if (HAS(FLOW_ID)) {
    p = put_flow_id(PUT(p, ",\"flow_id\":\""), record->flow_id);
    *p++ = '"';
  }
  if (HAS(COMMUNITY_ID))
    p = put_community_id(NAME(p, "community_id"), record, rendering);
  if (HAS(SOURCE_IP))
    p = put_address(NAME(p, "source_ip"), record->ip_version, record->source_ip);
  if (HAS(DEST_IP))
    p = put_address(NAME(p, "dest_ip"), record->ip_version, record->dest_ip);
  if (HAS(SOURCE_PORT))
    p = put_small(NAME(p, "source_port"), record->source_port);
  if (HAS(DEST_PORT))
    p = put_small(NAME(p, "dest_port"), record->dest_port);
  if (HAS(PROTOCOL)) {
    p = sonde_protocol_put(PUT(p, ",\"protocol\":\""), record->protocol);
    *p++ = '"';
  }
  if (HAS(PROTOCOL_NUMBER))
    p = put_octet(NAME(p, "protocol_number"), record->protocol);
  if (HAS(IP_VERSION))
    p = put_octet(NAME(p, "ip_version"), record->ip_version);
  return p;
}

static char *put_vlan(char *p, const struct sonde_record *record) {
  *p++ = '[';
  for (uint32_t i = 0; i < record->vlan_depth && i < SONDE_VLAN_DEPTH_MAX; i++) {
    p = put_small(p, record->vlan[i]);
    *p++ = ',';
  }
  p -= record->vlan_depth != 0; /* the last comma */
  *p++ = ']';
  return p;
}

static char *put_mac_or_null(char *p, uint8_t has_mac, const uint8_t mac[6]) {
  if (!has_mac) {
    return PUT(p, "null");
  }
  *p++ = '"';
  p = put_mac(p, mac);
  *p++ = '"';
  return p;
}

static char *put_uint32_or_null(char *p, uint32_t value) {
  return value == UINT32_MAX ? PUT(p, "null") : put_decimal(p, value);
}

/* What lies below and beside IP: vlan … icmp_code. */
WRITER put_link(char *p, const struct sonde_record *record, uint64_t fields) {
  int is_icmp = sonde_protocol_is_icmp(record->protocol);
  if (HAS(VLAN))
    p = put_vlan(NAME(p, "vlan"), record);
  if (HAS(MPLS_LABEL))
    p = put_uint32_or_null(NAME(p, "mpls_label"), record->mpls_label);
  if (HAS(SOURCE_MAC))
    p = put_mac_or_null(NAME(p, "source_mac"), record->has_mac, record->source_mac);
  if (HAS(DEST_MAC))
    p = put_mac_or_null(NAME(p, "dest_mac"), record->has_mac, record->dest_mac);
  if (HAS(ICMP_TYPE)) {
    p = NAME(p, "icmp_type");
    p = is_icmp ? put_octet(p, record->icmp_type) : PUT(p, "null");
  }
  if (HAS(ICMP_CODE)) {
    p = NAME(p, "icmp_code");
    p = is_icmp ? put_octet(p, record->icmp_code) : PUT(p, "null");
  }
  return p;
}

/* What the segment counted: packets … reverse_l2_bytes. */
WRITER put_counters(char *p, const struct sonde_record *record, uint64_t fields) {
  if (HAS(PACKETS))
    p = put_decimal(NAME(p, "packets"), record->packets[0] + record->packets[1]);
  if (HAS(BYTES))
    p = put_decimal(NAME(p, "bytes"), record->bytes[0] + record->bytes[1]);
  if (HAS(L2_BYTES))
    p = put_decimal(NAME(p, "l2_bytes"), record->l2_bytes[0] + record->l2_bytes[1]);
  if (HAS(REVERSE_PACKETS))
    p = put_decimal(NAME(p, "reverse_packets"), record->packets[1]);
  if (HAS(REVERSE_BYTES))
    p = put_decimal(NAME(p, "reverse_bytes"), record->bytes[1]);
  if (HAS(REVERSE_L2_BYTES))
    p = put_decimal(NAME(p, "reverse_l2_bytes"), record->l2_bytes[1]);
  return p;
}

/* What the segment's headers told: tcp_flags … handshake_rtt_us. */
WRITER put_headers(char *p, const struct sonde_record *record, uint64_t fields) {
  if (HAS(TCP_FLAGS))
    p = put_octet(NAME(p, "tcp_flags"), record->tcp_flags[0]);
  if (HAS(REVERSE_TCP_FLAGS))
    p = put_octet(NAME(p, "reverse_tcp_flags"), record->tcp_flags[1]);
  if (HAS(TOS))
    p = put_octet(NAME(p, "tos"), record->tos);
  if (HAS(TTL_MIN))
    p = put_octet(NAME(p, "ttl_min"), record->ttl_min);
  if (HAS(TTL_MAX))
    p = put_octet(NAME(p, "ttl_max"), record->ttl_max);
  if (HAS(FRAGMENTS))
    p = put_decimal(NAME(p, "fragments"), record->fragments);
  if (HAS(RETRANSMISSIONS))
    p = put_decimal(NAME(p, "retransmissions"), record->retransmissions);
  if (HAS(OUT_OF_ORDER))
    p = put_decimal(NAME(p, "out_of_order"), record->out_of_order);
  if (HAS(HANDSHAKE_RTT_US))
    p = put_uint32_or_null(NAME(p, "handshake_rtt_us"), record->handshake_rtt_us);
  return p;
}

/* Where the segment stands in its flow: first_seen … end_reason. */
WRITER put_life(char *p, const struct sonde_record *record, struct sonde_rendering *rendering,
                uint64_t fields) {
  if (HAS(FIRST_SEEN))
    p = put_time(NAME(p, "first_seen"), record->first_ns, rendering);
  if (HAS(LAST_SEEN))
    p = put_time(NAME(p, "last_seen"), record->last_ns, rendering);
  if (HAS(FLOW_START))
    p = put_time(NAME(p, "flow_start"), record->flow_start_ns, rendering);
  if (HAS(SEGMENT))
    p = put_decimal(NAME(p, "segment"), record->segment);
  if (HAS(FINAL))
    p = put_boolean(NAME(p, "final"), record->final);
  if (HAS(TOTAL_PACKETS))
    p = put_decimal(NAME(p, "total_packets"), record->total_packets[0] + record->total_packets[1]);
  if (HAS(TOTAL_BYTES))
    p = put_decimal(NAME(p, "total_bytes"), record->total_bytes[0] + record->total_bytes[1]);
  if (HAS(END_REASON))
    p = put_label(NAME(p, "end_reason"), sonde_end_reason_label(record->end_reason));
  return p;
}

static char *put_tunnel(char *p, const struct sonde_record *record) {
  if (record->tunnel_type == SONDE_TUNNEL_NONE) {
    return PUT(p, "null");
  }
  p = put_label(PUT(p, "{\"type\":"), sonde_tunnel_label(record->tunnel_type));
  p = put_decimal(NAME(p, "id"), record->tunnel_id);
  p = NAME(p, "outer_source_ip");
  p = put_address(p, record->tunnel_ip_version, record->tunnel_source_ip);
  p = NAME(p, "outer_dest_ip");
  p = put_address(p, record->tunnel_ip_version, record->tunnel_dest_ip);
  *p++ = '}';
  return p;
}

/* Every name has a comma before it; the first one becomes the brace. */
WRITER put_fields(char *p, const struct sonde_record *record, struct sonde_rendering *rendering,
                  uint64_t fields) {
  char *start = p;
  p = put_identity(p, record, rendering, fields);
  p = put_link(p, record, fields);
  p = put_counters(p, record, fields);
  p = put_headers(p, record, fields);
  p = put_life(p, record, rendering, fields);
  if (HAS(INTERFACE)) {
    p = NAME(p, "interface");
    memcpy(p, rendering->interface_token, rendering->interface_token_bytes);
    p += rendering->interface_token_bytes;
  }
  if (HAS(DIRECTION))
    p = put_label(NAME(p, "direction"), sonde_direction_label(record->direction));
  if (HAS(TUNNEL))
    p = put_tunnel(NAME(p, "tunnel"), record);
  if (HAS(SAMPLING_INTERVAL))
    p = put_decimal(NAME(p, "sampling_interval"), record->sampling_interval);
  *start = '{';
  return PUT(p, "},");
}

static char *put_record(char *p, const struct sonde_record *record,
                        struct sonde_rendering *rendering) {
  return put_fields(p, record, rendering, SONDE_FIELDS_ALL);
}

static char *put_selection(char *p, const struct sonde_record *record,
                           struct sonde_rendering *rendering) {
  return put_fields(p, record, rendering, rendering->fields);
}

static void prepare(struct sonde_rendering *rendering, const char *interface) {
  rendering->interface_token_bytes = sonde_interface_json(interface, rendering->interface_token);
}

static char *put_array(char *start, char *p, uint32_t records) {
  start[0] = '[';
  p -= records != 0; /* the last record's comma */
  *p++ = ']';
  return p;
}

const struct sonde_encoding_ops sonde_encoding_json = {
    .open_bytes = 1,
    .empty_bytes = 2,
    .prepare = prepare,
    .put_record = put_record,
    .put_selection = put_selection,
    .put_array = put_array,
};
