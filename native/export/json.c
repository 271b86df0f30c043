/* json.c - writes a flow record as a JSON object. The format is in docs/flow-record.md.
 *
 * The table in fields.h gives the fields. For each kind of field there is a put_<kind> here.
 * Keys are literals with punctuation, copied with a constant size. The interface name is
 * the only string from outside. It is escaped once per batch. Numbers of any size are
 * written as integers.
 */
#include "address.h"
#include "interface.h"
#include "labels.h"
#include "protocol.h"
#include "rendering.h"
#include "text.h"

/* Copies a literal without its NUL. Returns the end. */
#define PUT(p, literal) (memcpy((p), literal, sizeof literal - 1), (p) + sizeof literal - 1)

static const uint64_t second_ns = 1000000000, day_sec = 86400;

/* Converts days since 1970-01-01 to a Gregorian date, in eras of 400 years that begin in March. */
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
  char *p = put_pair(date, year / 100); /* 2^64 ns end in the year 2554 */
  p = put_pair(p, year % 100);
  *p++ = '-';
  p = put_pair(p, month);
  *p++ = '-';
  p = put_pair(p, day_of_month);
  *p = 'T';
}

/* "2026-11-22T14:38:23.000000001Z": RFC 3339 in UTC, always with nine fraction digits. */
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

static inline char *put_null(char *p) {
  return PUT(p, "null");
}

static inline char *put_quote(char *p) {
  *p = '"';
  return p + 1;
}

static inline char *put_boolean(char *p, int value) {
  return value ? PUT(p, "true") : PUT(p, "false");
}

/* A narrow type needs fewer branches. */
#define put_number(p, value)                                                                       \
  _Generic((value), uint8_t: put_octet, uint16_t: put_small, default: put_decimal)(p, value)

static inline char *put_number_or_null(char *p, uint32_t value) {
  return value == UINT32_MAX ? put_null(p) : put_decimal(p, value);
}

static inline char *put_icmp(char *p, uint8_t protocol, uint8_t value) {
  return sonde_ip_is_icmp(protocol) ? put_octet(p, value) : put_null(p);
}

static inline char *put_hex64(char *p, uint64_t value) {
  return put_quote(put_flow_id(put_quote(p), value));
}

static inline char *put_protocol(char *p, uint8_t protocol) {
  return put_quote(sonde_protocol_put(put_quote(p), protocol));
}

static char *put_address(char *p, uint8_t ip_version, const uint8_t address[16]) {
  return put_quote(sonde_address_put(put_quote(p), ip_version, address));
}

static char *put_mac_or_null(char *p, uint8_t has_mac, const uint8_t mac[6]) {
  return has_mac ? put_quote(put_mac(put_quote(p), mac)) : put_null(p);
}

static char *put_label(char *p, const struct sonde_label *label) {
  if (label->length == 0)
    return put_null(p);
  p = put_quote(p);
  memcpy(p, label->text, SONDE_LABEL_TEXT_MAX);
  return put_quote(p + label->length);
}

static char *put_community_id(char *p, const struct sonde_record *record,
                              struct sonde_rendering *rendering) {
  if (sonde_community_id_put(&rendering->community, record, p + 1) != 0)
    return put_null(p);
  return put_quote(put_quote(p) + SONDE_COMMUNITY_ID_BYTES);
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

static char *put_text(char *p, const char *text) {
  p = put_quote(p);
  for (; *text; text++) { /* printable ASCII without quotes */
    if (*text == '\\')
      *p++ = '\\';
    *p++ = *text;
  }
  return put_quote(p);
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
  *p++ = '[';
  for (uint32_t i = 0; i < label->alpns; i++) {
    p = put_text(p, label->alpn[i]);
    *p++ = ',';
  }
  p -= label->alpns != 0;
  *p++ = ']';
  return p;
}

/* A comma precedes every key. The first comma of an object is overwritten by its brace. */
#define PUT_KEY(p, name) PUT(p, ",\"" name "\":")

static inline char *put_count_or_null(char *p, uint64_t value) {
  return value ? put_decimal(p, value) : put_null(p);
}

static char *put_process(char *p, const struct sonde_owner *owner, uint32_t side) {
  if (owner->how == SONDE_OWNER_NOTHING)
    return put_null(p);
  char *start = p;
  SONDE_PROCESS_MEMBER_LIST(SONDE_MEMBER_PUT);
  *start = '{';
  return PUT(p, "}");
}

static char *put_tunnel(char *p, const struct sonde_record *record) {
  if (record->tunnel_type == SONDE_TUNNEL_NONE)
    return put_null(p);
  char *start = p;
  SONDE_TUNNEL_MEMBER_LIST(SONDE_MEMBER_PUT);
  *start = '{';
  return PUT(p, "}");
}

static inline __attribute__((always_inline)) char *put_fields(char *p,
                                                              const struct sonde_record *record,
                                                              struct sonde_rendering *rendering,
                                                              uint64_t fields) {
  SONDE_FIELD_LIST(SONDE_FIELD_PUT);
  return p;
}

/* The fields of a label and of owners in a record without them, which most sessions have. */
#define UNLABELLED                                                                                 \
  ",\"app\":null,\"name\":null,\"name_source\":null,\"alpn\":null,\"tls_version\":null,"           \
  "\"ech\":null,\"label_state\":\"off\""
#define OWNERLESS ",\"process\":null,\"peer_process\":null"

static char *put_record(char *p, const struct sonde_record *record,
                        struct sonde_rendering *rendering) {
  char *start = p;
  p = put_fields(p, record, rendering,
                 SONDE_FIELDS_ALL & ~SONDE_FIELDS_LABEL & ~SONDE_FIELDS_OWNER);
  p = record->label ? put_fields(p, record, rendering, SONDE_FIELDS_LABEL) : PUT(p, UNLABELLED);
  p = record->process ? put_fields(p, record, rendering, SONDE_FIELDS_OWNER) : PUT(p, OWNERLESS);
  *start = '{';
  return PUT(p, "},");
}

static char *put_selection(char *p, const struct sonde_record *record,
                           struct sonde_rendering *rendering) {
  char *start = p;
  if (!record->process)
    rendering->process.how = rendering->peer_process.how = SONDE_OWNER_NOTHING;
  p = put_fields(p, record, rendering, rendering->fields);
  *start = '{';
  return PUT(p, "},");
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
