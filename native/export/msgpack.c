/* msgpack.c - writes a flow record as a MessagePack map. The format is in docs/flow-record.md.
 *
 * The table in fields.h gives the fields. For each kind of field there is a put_<kind> here.
 * Integers have their shortest form. Strings are fixstr or str 8. Times are unsigned
 * nanoseconds. A key is a literal with its length in front.
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

#define ONE(...) +1
enum { TUNNEL_MEMBERS = 0 SONDE_TUNNEL_MEMBER_LIST(ONE) };
enum { PROCESS_MEMBERS = 0 SONDE_PROCESS_MEMBER_LIST(ONE) };

/* A key of at most 31 bytes: fixstr header and name, copied with a constant size. */
#define PUT_KEY(p, name)                                                                           \
  ((p)[0] = (char)(FIXSTR | (sizeof name - 1)), memcpy((p) + 1, name, sizeof name - 1),            \
   (p) + sizeof name)

static inline char *put_byte(char *p, uint32_t byte) {
  *p = (char)byte;
  return p + 1;
}

static inline char *put_null(char *p) {
  return put_byte(p, NIL);
}

static inline char *put_boolean(char *p, int value) {
  return put_byte(p, value ? TRUE : FALSE);
}

/* The shortest form of an unsigned integer. Most values are small. The length of a larger
 * counter is unpredictable for the processor, so the longer forms share one path without
 * branches: store nine bytes, then advance by as many as the form has. */
static inline char *put_number(char *p, uint64_t value) {
  if (value < 0x80)
    return put_byte(p, (uint32_t)value);
  uint32_t form = (value > UINT8_MAX) + (value > UINT16_MAX) + (value > UINT32_MAX);
  uint32_t bytes = 1u << form;
  uint64_t big_endian = htobe64(value << (64 - 8 * bytes));
  p[0] = (char)(UINT8 + form);
  memcpy(p + 1, &big_endian, 8);
  return p + 1 + bytes;
}

static inline char *put_number_or_null(char *p, uint32_t value) {
  return value == UINT32_MAX ? put_null(p) : put_number(p, value);
}

static inline char *put_time(char *p, uint64_t time_ns, const struct sonde_rendering *rendering) {
  (void)rendering;
  return put_number(p, time_ns);
}

static inline char *put_icmp(char *p, uint8_t protocol, uint8_t value) {
  return sonde_ip_is_icmp(protocol) ? put_number(p, value) : put_null(p);
}

static inline char *put_hex64(char *p, uint64_t value) {
  return put_flow_id(put_byte(p, FIXSTR | 16), value);
}

static char *put_protocol(char *p, uint8_t protocol) {
  char *end = sonde_protocol_put(p + 1, protocol);
  *p = (char)(FIXSTR | (end - p - 1));
  return end;
}

/* Always str 8: the header of a fixstr is shorter, so the text would have to move. */
static char *put_address(char *p, uint8_t ip_version, const uint8_t address[16]) {
  char *end = sonde_address_put(p + 2, ip_version, address);
  p[0] = (char)STR8;
  p[1] = (char)(end - p - 2);
  return end;
}

static char *put_mac_or_null(char *p, uint8_t has_mac, const uint8_t mac[6]) {
  return has_mac ? put_mac(put_byte(p, FIXSTR | 17), mac) : put_null(p);
}

static char *put_label(char *p, const struct sonde_label *label) {
  if (label->length == 0)
    return put_null(p);
  p = put_byte(p, FIXSTR | label->length);
  memcpy(p, label->text, SONDE_LABEL_TEXT_MAX);
  return p + label->length;
}

static char *put_community_id(char *p, const struct sonde_record *record,
                              struct sonde_rendering *rendering) {
  if (sonde_community_id_put(&rendering->community, record, p + 1) != 0)
    return put_null(p);
  return put_byte(p, FIXSTR | SONDE_COMMUNITY_ID_BYTES) + SONDE_COMMUNITY_ID_BYTES;
}

static char *put_vlan(char *p, const struct sonde_record *record) {
  uint32_t depth =
      record->vlan_depth < SONDE_VLAN_DEPTH_MAX ? record->vlan_depth : SONDE_VLAN_DEPTH_MAX;
  p = put_byte(p, FIXARRAY | depth);
  for (uint32_t i = 0; i < depth; i++)
    p = put_number(p, record->vlan[i]);
  return p;
}

static char *put_text(char *p, const char *text) {
  size_t bytes = strlen(text); /* at most SONDE_LABEL_NAME_MAX */
  p[0] = (char)STR8;
  p[1] = (char)bytes;
  memcpy(p + 2, text, bytes);
  return p + 2 + bytes;
}

static inline char *put_text_or_null(char *p, const char *text) {
  return *text ? put_text(p, text) : put_null(p);
}

static inline char *put_boolean_or_null(char *p, int known, int value) {
  return known ? put_boolean(p, value) : put_null(p);
}

static char *put_alpn(char *p, const struct sonde_app_label *label) {
  if (!label->has_hello)
    return put_null(p);
  p = put_byte(p, FIXARRAY | label->alpns);
  for (uint32_t i = 0; i < label->alpns; i++)
    p = put_text(p, label->alpn[i]);
  return p;
}

static inline char *put_count_or_null(char *p, uint64_t value) {
  return value ? put_number(p, value) : put_null(p);
}

static char *put_process(char *p, const struct sonde_owner *owner, uint32_t side) {
  if (owner->how == SONDE_OWNER_NOTHING)
    return put_null(p);
  p = put_byte(p, FIXMAP | PROCESS_MEMBERS);
  SONDE_PROCESS_MEMBER_LIST(SONDE_MEMBER_PUT);
  return p;
}

static char *put_tunnel(char *p, const struct sonde_record *record) {
  if (record->tunnel_type == SONDE_TUNNEL_NONE)
    return put_null(p);
  p = put_byte(p, FIXMAP | TUNNEL_MEMBERS);
  SONDE_TUNNEL_MEMBER_LIST(SONDE_MEMBER_PUT);
  return p;
}

static char *put_map(char *p, uint32_t members) {
  p = put_byte(p, MAP16);
  p = put_byte(p, 0);
  return put_byte(p, members);
}

static inline __attribute__((always_inline)) char *put_fields(char *p,
                                                              const struct sonde_record *record,
                                                              struct sonde_rendering *rendering,
                                                              uint64_t fields) {
  SONDE_FIELD_LIST(SONDE_FIELD_PUT);
  return p;
}

/* The fields of a label and of owners in a record without them, which most sessions have. */
static const char unlabelled[] = "\xa3"
                                 "app"
                                 "\xc0"
                                 "\xa4"
                                 "name"
                                 "\xc0"
                                 "\xab"
                                 "name_source"
                                 "\xc0"
                                 "\xa4"
                                 "alpn"
                                 "\xc0"
                                 "\xab"
                                 "tls_version"
                                 "\xc0"
                                 "\xa3"
                                 "ech"
                                 "\xc0"
                                 "\xab"
                                 "label_state"
                                 "\xa3"
                                 "off";

static const char ownerless[] = "\xa7"
                                "process"
                                "\xc0"
                                "\xac"
                                "peer_process"
                                "\xc0";

static char *put_constant(char *p, const char *bytes, size_t count) {
  memcpy(p, bytes, count);
  return p + count;
}

static char *put_record(char *p, const struct sonde_record *record,
                        struct sonde_rendering *rendering) {
  p = put_map(p, SONDE_FIELDS);
  p = put_fields(p, record, rendering,
                 SONDE_FIELDS_ALL & ~SONDE_FIELDS_LABEL & ~SONDE_FIELDS_OWNER);
  p = record->label ? put_fields(p, record, rendering, SONDE_FIELDS_LABEL)
                    : put_constant(p, unlabelled, sizeof unlabelled - 1);
  return record->process ? put_fields(p, record, rendering, SONDE_FIELDS_OWNER)
                         : put_constant(p, ownerless, sizeof ownerless - 1);
}

static char *put_selection(char *p, const struct sonde_record *record,
                           struct sonde_rendering *rendering) {
  if (!record->process)
    rendering->process.how = rendering->peer_process.how = SONDE_OWNER_NOTHING;
  p = put_map(p, (uint32_t)__builtin_popcountll(rendering->fields));
  return put_fields(p, record, rendering, rendering->fields);
}

static void prepare(struct sonde_rendering *rendering, const char *interface) {
  rendering->interface_token_bytes = sonde_interface_msgpack(interface, rendering->interface_token);
}

/* Always array 32: the count is known only after the records are written. */
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
