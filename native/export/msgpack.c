/* msgpack.c - a flow record as a MessagePack map, names and order as docs/flow-record.md.
 *
 * Integers take their shortest form, strings of this project's own are fixstr or str 8,
 * times are unsigned nanoseconds. A key is a literal with its length in front.
 */
#include "address.h"
#include "interface.h"
#include "labels.h"
#include "protocol.h"
#include "rendering.h"
#include "text.h"

/* https://github.com/msgpack/msgpack/blob/master/spec.md */
enum {
  FIXMAP = 0x80,
  FIXARRAY = 0x90,
  FIXSTR = 0xa0,
  NIL = 0xc0,
  FALSE = 0xc2,
  TRUE = 0xc3,
  UINT8 = 0xcc, /* 0xcd, 0xce, 0xcf: 16, 32, 64 bits */
  STR8 = 0xd9,
  ARRAY32 = 0xdd,
  MAP16 = 0xde,
};

enum { TUNNEL_FIELDS = 4 };

/* A key of at most 31 bytes: fixstr header and name, copied by a constant size. */
#define KEY(p, name)                                                                               \
  ((p)[0] = (char)(FIXSTR | (sizeof name - 1)), memcpy((p) + 1, name, sizeof name - 1),            \
   (p) + sizeof name)

static inline char *put_byte(char *p, uint32_t byte) {
  *p = (char)byte;
  return p + 1;
}

/* The shortest form of an unsigned integer. Most are small; which of the longer forms a
 * counter needs no predictor can guess, so those share one path: nine bytes are stored, and
 * those that are meant counted. */
static inline char *put_uint(char *p, uint64_t value) {
  if (value < 0x80) {
    return put_byte(p, (uint32_t)value);
  }
  uint32_t form = (value > UINT8_MAX) + (value > UINT16_MAX) + (value > UINT32_MAX);
  uint32_t bytes = 1u << form;
  uint64_t big_endian = htobe64(value << (64 - 8 * bytes));
  p[0] = (char)(UINT8 + form);
  memcpy(p + 1, &big_endian, 8);
  return p + 1 + bytes;
}

/* Numbers whose largest value says "none". */
static inline char *put_uint32_or_nil(char *p, uint32_t value) {
  return value == UINT32_MAX ? put_byte(p, NIL) : put_uint(p, value);
}

/* Sets the header of a string of less than 256 bytes that was written from start + 2 on.
 * Always str 8: a fixstr would have to move the text. */
static char *finish_string(char *start, char *end) {
  start[0] = (char)STR8;
  start[1] = (char)(end - start - 2);
  return end;
}

static char *put_label(char *p, const struct sonde_label *label) {
  if (label->length == 0) {
    return put_byte(p, NIL);
  }
  p = put_byte(p, FIXSTR | label->length);
  memcpy(p, label->text, SONDE_LABEL_TEXT_MAX);
  return p + label->length;
}

static char *put_address(char *p, uint8_t ip_version, const uint8_t address[16]) {
  return finish_string(p, sonde_address_put(p + 2, ip_version, address));
}

#define HAS(field) SONDE_FIELDS_HAVE(fields, field)
#define WRITER static inline __attribute__((always_inline)) char *

static char *put_community_id(char *p, const struct sonde_record *record,
                              struct sonde_rendering *rendering) {
  if (sonde_community_id_put(&rendering->community, record, p + 1) != 0) {
    return put_byte(p, NIL);
  }
  return put_byte(p, FIXSTR | SONDE_COMMUNITY_ID_BYTES) + SONDE_COMMUNITY_ID_BYTES;
}

static char *put_protocol(char *p, uint8_t protocol) {
  char *end = sonde_protocol_put(p + 1, protocol);
  *p = (char)(FIXSTR | (end - p - 1));
  return end;
}

/* Identity: flow_id … ip_version. */
WRITER put_identity(char *p, const struct sonde_record *record, struct sonde_rendering *rendering,
                    uint64_t fields) {
  if (HAS(FLOW_ID))
    p = put_flow_id(put_byte(KEY(p, "flow_id"), FIXSTR | 16), record->flow_id);
  if (HAS(COMMUNITY_ID))
    p = put_community_id(KEY(p, "community_id"), record, rendering);
  if (HAS(SOURCE_IP))
    p = put_address(KEY(p, "source_ip"), record->ip_version, record->source_ip);
  if (HAS(DEST_IP))
    p = put_address(KEY(p, "dest_ip"), record->ip_version, record->dest_ip);
  if (HAS(SOURCE_PORT))
    p = put_uint(KEY(p, "source_port"), record->source_port);
  if (HAS(DEST_PORT))
    p = put_uint(KEY(p, "dest_port"), record->dest_port);
  if (HAS(PROTOCOL))
    p = put_protocol(KEY(p, "protocol"), record->protocol);
  if (HAS(PROTOCOL_NUMBER))
    p = put_uint(KEY(p, "protocol_number"), record->protocol);
  if (HAS(IP_VERSION))
    p = put_uint(KEY(p, "ip_version"), record->ip_version);
  return p;
}

static char *put_vlan(char *p, const struct sonde_record *record) {
  uint32_t depth =
      record->vlan_depth < SONDE_VLAN_DEPTH_MAX ? record->vlan_depth : SONDE_VLAN_DEPTH_MAX;
  p = put_byte(p, FIXARRAY | depth);
  for (uint32_t i = 0; i < depth; i++) {
    p = put_uint(p, record->vlan[i]);
  }
  return p;
}

static char *put_mac_or_nil(char *p, uint8_t has_mac, const uint8_t mac[6]) {
  return has_mac ? put_mac(put_byte(p, FIXSTR | 17), mac) : put_byte(p, NIL);
}

/* What lies below and beside IP: vlan … icmp_code. */
WRITER put_link(char *p, const struct sonde_record *record, uint64_t fields) {
  int is_icmp = sonde_protocol_is_icmp(record->protocol);
  if (HAS(VLAN))
    p = put_vlan(KEY(p, "vlan"), record);
  if (HAS(MPLS_LABEL))
    p = put_uint32_or_nil(KEY(p, "mpls_label"), record->mpls_label);
  if (HAS(SOURCE_MAC))
    p = put_mac_or_nil(KEY(p, "source_mac"), record->has_mac, record->source_mac);
  if (HAS(DEST_MAC))
    p = put_mac_or_nil(KEY(p, "dest_mac"), record->has_mac, record->dest_mac);
  if (HAS(ICMP_TYPE)) {
    p = KEY(p, "icmp_type");
    p = is_icmp ? put_uint(p, record->icmp_type) : put_byte(p, NIL);
  }
  if (HAS(ICMP_CODE)) {
    p = KEY(p, "icmp_code");
    p = is_icmp ? put_uint(p, record->icmp_code) : put_byte(p, NIL);
  }
  return p;
}

/* What the segment counted: packets … reverse_l2_bytes. */
WRITER put_counters(char *p, const struct sonde_record *record, uint64_t fields) {
  if (HAS(PACKETS))
    p = put_uint(KEY(p, "packets"), record->packets[0] + record->packets[1]);
  if (HAS(BYTES))
    p = put_uint(KEY(p, "bytes"), record->bytes[0] + record->bytes[1]);
  if (HAS(L2_BYTES))
    p = put_uint(KEY(p, "l2_bytes"), record->l2_bytes[0] + record->l2_bytes[1]);
  if (HAS(REVERSE_PACKETS))
    p = put_uint(KEY(p, "reverse_packets"), record->packets[1]);
  if (HAS(REVERSE_BYTES))
    p = put_uint(KEY(p, "reverse_bytes"), record->bytes[1]);
  if (HAS(REVERSE_L2_BYTES))
    p = put_uint(KEY(p, "reverse_l2_bytes"), record->l2_bytes[1]);
  return p;
}

/* What the segment's headers told: tcp_flags … handshake_rtt_us. */
WRITER put_headers(char *p, const struct sonde_record *record, uint64_t fields) {
  if (HAS(TCP_FLAGS))
    p = put_uint(KEY(p, "tcp_flags"), record->tcp_flags[0]);
  if (HAS(REVERSE_TCP_FLAGS))
    p = put_uint(KEY(p, "reverse_tcp_flags"), record->tcp_flags[1]);
  if (HAS(TOS))
    p = put_uint(KEY(p, "tos"), record->tos);
  if (HAS(TTL_MIN))
    p = put_uint(KEY(p, "ttl_min"), record->ttl_min);
  if (HAS(TTL_MAX))
    p = put_uint(KEY(p, "ttl_max"), record->ttl_max);
  if (HAS(FRAGMENTS))
    p = put_uint(KEY(p, "fragments"), record->fragments);
  if (HAS(RETRANSMISSIONS))
    p = put_uint(KEY(p, "retransmissions"), record->retransmissions);
  if (HAS(OUT_OF_ORDER))
    p = put_uint(KEY(p, "out_of_order"), record->out_of_order);
  if (HAS(HANDSHAKE_RTT_US))
    p = put_uint32_or_nil(KEY(p, "handshake_rtt_us"), record->handshake_rtt_us);
  return p;
}

/* Where the segment stands in its flow: first_seen … end_reason. */
WRITER put_life(char *p, const struct sonde_record *record, uint64_t fields) {
  if (HAS(FIRST_SEEN))
    p = put_uint(KEY(p, "first_seen"), record->first_ns);
  if (HAS(LAST_SEEN))
    p = put_uint(KEY(p, "last_seen"), record->last_ns);
  if (HAS(FLOW_START))
    p = put_uint(KEY(p, "flow_start"), record->flow_start_ns);
  if (HAS(SEGMENT))
    p = put_uint(KEY(p, "segment"), record->segment);
  if (HAS(FINAL))
    p = put_byte(KEY(p, "final"), record->final ? TRUE : FALSE);
  if (HAS(TOTAL_PACKETS))
    p = put_uint(KEY(p, "total_packets"), record->total_packets[0] + record->total_packets[1]);
  if (HAS(TOTAL_BYTES))
    p = put_uint(KEY(p, "total_bytes"), record->total_bytes[0] + record->total_bytes[1]);
  if (HAS(END_REASON))
    p = put_label(KEY(p, "end_reason"), sonde_end_reason_label(record->end_reason));
  return p;
}

static char *put_tunnel(char *p, const struct sonde_record *record) {
  if (record->tunnel_type == SONDE_TUNNEL_NONE) {
    return put_byte(p, NIL);
  }
  p = put_byte(p, FIXMAP | TUNNEL_FIELDS);
  p = put_label(KEY(p, "type"), sonde_tunnel_label(record->tunnel_type));
  p = put_uint(KEY(p, "id"), record->tunnel_id);
  p = KEY(p, "outer_source_ip");
  p = put_address(p, record->tunnel_ip_version, record->tunnel_source_ip);
  p = KEY(p, "outer_dest_ip");
  return put_address(p, record->tunnel_ip_version, record->tunnel_dest_ip);
}

WRITER put_fields(char *p, const struct sonde_record *record, struct sonde_rendering *rendering,
                  uint64_t fields) {
  p = put_byte(p, MAP16);
  p = put_byte(p, 0);
  p = put_byte(p, (uint32_t)__builtin_popcountll(fields));
  p = put_identity(p, record, rendering, fields);
  p = put_link(p, record, fields);
  p = put_counters(p, record, fields);
  p = put_headers(p, record, fields);
  p = put_life(p, record, fields);
  if (HAS(INTERFACE)) {
    p = KEY(p, "interface");
    memcpy(p, rendering->interface_token, rendering->interface_token_bytes);
    p += rendering->interface_token_bytes;
  }
  if (HAS(DIRECTION))
    p = put_label(KEY(p, "direction"), sonde_direction_label(record->direction));
  if (HAS(TUNNEL))
    p = put_tunnel(KEY(p, "tunnel"), record);
  if (HAS(SAMPLING_INTERVAL))
    p = put_uint(KEY(p, "sampling_interval"), record->sampling_interval);
  return p;
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
  rendering->interface_token_bytes = sonde_interface_msgpack(interface, rendering->interface_token);
}

/* array 32 whatever the count, which is known only after the records. */
static char *put_array(char *start, char *p, uint32_t records) {
  uint32_t big_endian = htobe32(records);
  start[0] = (char)ARRAY32;
  memcpy(start + 1, &big_endian, 4);
  return p;
}

const struct sonde_encoding_ops sonde_encoding_msgpack = {
    .open_bytes = 5,
    .empty_bytes = 5,
    .prepare = prepare,
    .put_record = put_record,
    .put_selection = put_selection,
    .put_array = put_array,
};
