/* members.c - see members.h. */
#include "members.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bytes.h"
#include "export.h"
#include "export/address.h"
#include "export/labels.h"
#include "record.h"
#include "tail.h"

enum { REVERSE = 29305 }; /* RFC 5103 */
enum { OWN = SONDE_ENTERPRISE_DEFAULT, PROCESS = SONDE_ELEMENT_PROCESS, PEER = SONDE_ELEMENT_PEER };

enum kind {
  NUMBER,
  IPV4,
  IPV6,
  MAC,
  TIME_S,
  TIME_MS,
  UPTIME,
  REASON,
  WAY,
  VLAN,
  ICMP,
  FLOW,
  MPLS,
  STRING,
  NAME_SOURCE,
  TLS_VERSION,
  LABEL_STATE,
  HOW,
  WHY,
  SIDE,
  TRUTH
};

static const struct name {
  uint32_t enterprise;
  uint16_t element;
  enum kind kind;
  const char *text;
} names[] = {
    {0, 1, NUMBER, "bytes"},
    {0, 2, NUMBER, "packets"},
    {0, 4, NUMBER, "protocol_number"},
    {0, 5, NUMBER, "tos"},
    {0, 6, NUMBER, "tcp_flags"},
    {0, 7, NUMBER, "source_port"},
    {0, 8, IPV4, "source_ip"},
    {0, 10, NUMBER, "input_ifindex"},
    {0, 11, NUMBER, "dest_port"},
    {0, 12, IPV4, "dest_ip"},
    {0, 14, NUMBER, "output_ifindex"},
    {0, 21, UPTIME, "last_seen"},
    {0, 22, UPTIME, "first_seen"},
    {0, 27, IPV6, "source_ip"},
    {0, 28, IPV6, "dest_ip"},
    {0, 31, NUMBER, "flow_label"},
    {0, 32, ICMP, ""},
    {0, 34, NUMBER, "sampling_interval"},
    {0, 35, NUMBER, "sampling_algorithm"},
    {0, 40, NUMBER, "exported_bytes"},
    {0, 41, NUMBER, "exported_messages"},
    {0, 42, NUMBER, "exported_records"},
    {0, 52, NUMBER, "ttl_min"},
    {0, 53, NUMBER, "ttl_max"},
    {0, 56, MAC, "source_mac"},
    {0, 58, VLAN, "vlan"},
    {0, 60, NUMBER, "ip_version"},
    {0, 61, WAY, "direction"},
    {0, 64, NUMBER, "ipv6_extensions"},
    {0, 70, MPLS, "mpls_label"},
    {0, 80, MAC, "dest_mac"},
    {0, 82, STRING, "interface"},
    {0, 88, NUMBER, "fragment_offset"},
    {0, 96, STRING, "app"},
    {0, 136, REASON, "end_reason"},
    {0, 139, ICMP, ""},
    {0, 144, NUMBER, "exporting_process"},
    {0, 148, FLOW, "flow_id"},
    {0, 149, NUMBER, "observation_domain"},
    {0, 150, TIME_S, "first_seen"},
    {0, 151, TIME_S, "last_seen"},
    {0, 152, TIME_MS, "first_seen"},
    {0, 153, TIME_MS, "last_seen"},
    {0, 164, NUMBER, "packets_ignored"},
    {0, 165, NUMBER, "bytes_ignored"},
    {0, 166, NUMBER, "records_lost"},
    {0, 167, NUMBER, "packets_lost"},
    {0, 168, NUMBER, "bytes_lost"},
    {0, 197, NUMBER, "fragment_flags"},
    {0, 239, NUMBER, "biflow_direction"},
    {0, 243, NUMBER, "vlan_outer"},
    {0, 244, NUMBER, "vlan_priority"},
    {0, 245, NUMBER, "vlan_inner"},
    {0, 351, NUMBER, "segment_id"},
    {0, 352, NUMBER, "l2_bytes"},
    {REVERSE, 1, NUMBER, "reverse_bytes"},
    {REVERSE, 2, NUMBER, "reverse_packets"},
    {REVERSE, 6, NUMBER, "reverse_tcp_flags"},
    {REVERSE, 352, NUMBER, "reverse_l2_bytes"},
    {OWN, SONDE_ELEMENT_NAME, STRING, "name"},
    {OWN, SONDE_ELEMENT_NAME_SOURCE, NAME_SOURCE, "name_source"},
    {OWN, SONDE_ELEMENT_ALPN, STRING, "alpn"},
    {OWN, SONDE_ELEMENT_TLS_VERSION, TLS_VERSION, "tls_version"},
    {OWN, SONDE_ELEMENT_ECH, TRUTH, "ech"},
    {OWN, SONDE_ELEMENT_LABEL_STATE, LABEL_STATE, "label_state"},
    {OWN, PROCESS + 0, NUMBER, "process_pid"},
    {OWN, PROCESS + 1, NUMBER, "process_start_ticks"},
    {OWN, PROCESS + 2, STRING, "process_name"},
    {OWN, PROCESS + 3, STRING, "process_exe"},
    {OWN, PROCESS + 4, NUMBER, "process_uid"},
    {OWN, PROCESS + 5, STRING, "process_cgroup"},
    {OWN, PROCESS + 6, STRING, "process_unit"},
    {OWN, PROCESS + 7, STRING, "process_container"},
    {OWN, PROCESS + 8, STRING, "process_pod"},
    {OWN, PROCESS + 9, HOW, "process_how"},
    {OWN, PROCESS + 10, WHY, "process_reason"},
    {OWN, PROCESS + 11, TRUTH, "process_shared"},
    {OWN, PROCESS + 12, SIDE, "process_side"},
    {OWN, PEER + 0, NUMBER, "peer_process_pid"},
    {OWN, PEER + 1, NUMBER, "peer_process_start_ticks"},
    {OWN, PEER + 2, STRING, "peer_process_name"},
    {OWN, PEER + 3, STRING, "peer_process_exe"},
    {OWN, PEER + 4, NUMBER, "peer_process_uid"},
    {OWN, PEER + 5, STRING, "peer_process_cgroup"},
    {OWN, PEER + 6, STRING, "peer_process_unit"},
    {OWN, PEER + 7, STRING, "peer_process_container"},
    {OWN, PEER + 8, STRING, "peer_process_pod"},
    {OWN, PEER + 9, HOW, "peer_process_how"},
    {OWN, PEER + 10, WHY, "peer_process_reason"},
    {OWN, PEER + 11, TRUTH, "peer_process_shared"},
};

/* ---- text ----------------------------------------------------------------------------- */

bool sonde_lines_reserve(struct sonde_lines *lines, size_t bytes) {
  size_t needed = lines->bytes + bytes, capacity = lines->capacity ? lines->capacity : 4096;
  while (capacity < needed)
    capacity *= 2;
  char *text = lines->text;
  if (!lines->full && capacity > lines->capacity)
    text = capacity <= SONDE_LINES_BYTES_MAX ? realloc(lines->text, capacity) : NULL;
  lines->full |= !text;
  if (lines->full)
    return false;
  lines->text = text;
  lines->capacity = capacity;
  return true;
}

void sonde_lines_print(struct sonde_lines *lines, const char *format, ...) {
  if (!sonde_lines_reserve(lines, SONDE_MEMBER_BYTES_MAX))
    return;
  va_list arguments;
  va_start(arguments, format);
  int bytes = vsnprintf(lines->text + lines->bytes, SONDE_MEMBER_BYTES_MAX, format, arguments);
  va_end(arguments);
  if (bytes < 0 || bytes >= SONDE_MEMBER_BYTES_MAX)
    lines->full = true;
  else
    lines->bytes += (size_t)bytes;
}

void sonde_lines_put_time(struct sonde_lines *lines, const char *name, uint64_t time_ns) {
  time_t second = (time_t)(time_ns / 1000000000);
  struct tm tm;
  char date[32];
  gmtime_r(&second, &tm); /* 2^64 ns end in 2554 */
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
  sonde_lines_print(lines, ",\"%s\":\"%s.%09uZ\"", name, date, (unsigned)(time_ns % 1000000000));
}

static void put_hex(struct sonde_lines *lines, const uint8_t *data, uint32_t bytes) {
  static const char digits[] = "0123456789abcdef";
  if (!sonde_lines_reserve(lines, 2 * (size_t)bytes))
    return;
  for (uint32_t i = 0; i < bytes; i++) {
    lines->text[lines->bytes++] = digits[data[i] >> 4];
    lines->text[lines->bytes++] = digits[data[i] & 15];
  }
}

static void put_unknown(struct sonde_lines *lines, const struct sonde_template_field *field,
                        const uint8_t *data, uint32_t bytes, bool scope) {
  if (scope)
    sonde_lines_print(lines, ",\"scope_%u\":\"", field->element);
  else if (field->enterprise)
    sonde_lines_print(lines, ",\"enterprise_%u_element_%u\":\"", field->enterprise, field->element);
  else
    sonde_lines_print(lines, ",\"element_%u\":\"", field->element);
  put_hex(lines, data, bytes);
  sonde_lines_print(lines, "\"");
}

/* Bytes other than plain ASCII become '?'. The agent never exports them. */
static void put_string(struct sonde_lines *lines, const char *name, const uint8_t *data,
                       uint32_t bytes) {
  sonde_lines_print(lines, ",\"%s\":\"", name);
  if (sonde_lines_reserve(lines, bytes)) {
    for (uint32_t i = 0; i < bytes; i++) {
      bool plain = data[i] >= 0x20 && data[i] < 0x7f && data[i] != '"' && data[i] != '\\';
      lines->text[lines->bytes++] = plain ? (char)data[i] : '?';
    }
  }
  sonde_lines_print(lines, "\"");
}

/* ---- fields --------------------------------------------------------------------------- */

static void put_address(struct sonde_lines *lines, const struct name *name, const uint8_t *data) {
  char text[SONDE_ADDRESS_TEXT_MAX + 4];
  uint8_t address[16] = {0};
  memcpy(address, data, name->kind == IPV6 ? 16 : 4);
  char *end = sonde_address_put(text, name->kind == IPV6 ? 6 : 4, address);
  sonde_lines_print(lines, ",\"%s\":\"%.*s\"", name->text, (int)(end - text), text);
}

static const struct sonde_label *find_label(enum kind kind, uint64_t value) {
  uint8_t byte = value <= UINT8_MAX ? (uint8_t)value : UINT8_MAX;
  switch (kind) {
  case REASON:
    return sonde_end_reason_label(value <= SONDE_END_RESOURCES ? byte : 0);
  case WAY:
    return sonde_direction_label(value == 0   ? SONDE_DIRECTION_INGRESS
                                 : value == 1 ? SONDE_DIRECTION_EGRESS
                                              : SONDE_DIRECTION_UNKNOWN);
  case NAME_SOURCE:
    return sonde_name_source_name(byte);
  case TLS_VERSION:
    return sonde_tls_version_name(value <= UINT16_MAX ? (uint16_t)value : 0);
  case LABEL_STATE:
    return sonde_label_state_name(byte);
  case HOW:
    return sonde_owner_how_name(byte);
  case WHY:
    return sonde_owner_reason_name(byte);
  default:
    return sonde_owner_side_name(byte);
  }
}

static void put_label(struct sonde_lines *lines, const struct name *name, uint64_t value) {
  const struct sonde_label *label = find_label(name->kind, value);
  sonde_lines_print(lines, label->length ? ",\"%s\":\"%s\"" : ",\"%s\":null", name->text,
                    label->text);
}

static bool fits(enum kind kind, uint32_t bytes) {
  static const uint8_t widths[] = {[IPV4] = 4, [IPV6] = 16, [MAC] = 6, [MPLS] = 3, [TRUTH] = 1};
  if (widths[kind] > 0)
    return bytes == widths[kind];
  return kind == STRING || (bytes >= 1 && bytes <= 8); /* RFC 7011 §6.2 */
}

/* Converts a time in units of unit_ns to ns, at most UINT64_MAX. */
static uint64_t read_time(uint64_t value, uint64_t unit_ns) {
  return value <= UINT64_MAX / unit_ns ? value * unit_ns : UINT64_MAX;
}

static void put_known(struct sonde_lines *lines, const struct name *name, const uint8_t *data,
                      uint32_t bytes, uint64_t base_ms) {
  uint64_t value = bytes <= 8 ? read_number(data, bytes) : 0;
  switch (name->kind) {
  case NUMBER:
    sonde_lines_print(lines, ",\"%s\":%llu", name->text, (unsigned long long)value);
    break;
  case IPV4:
  case IPV6:
    put_address(lines, name, data);
    break;
  case MAC:
    sonde_lines_print(lines, ",\"%s\":\"%02x:%02x:%02x:%02x:%02x:%02x\"", name->text, data[0],
                      data[1], data[2], data[3], data[4], data[5]);
    break;
  case TIME_S:
    sonde_lines_put_time(lines, name->text, read_time(value, 1000000000));
    break;
  case TIME_MS:
    sonde_lines_put_time(lines, name->text, read_time(value, 1000000));
    break;
  case UPTIME:
    sonde_lines_put_time(lines, name->text, (base_ms + (uint32_t)value) * 1000000);
    break;
  case REASON:
  case WAY:
  case NAME_SOURCE:
  case TLS_VERSION:
  case LABEL_STATE:
  case HOW:
  case WHY:
  case SIDE:
    put_label(lines, name, value);
    break;
  case TRUTH: /* RFC 7011 §6.1.5 */
    sonde_lines_print(lines, ",\"%s\":%s", name->text,
                      value == 1   ? "true"
                      : value == 2 ? "false"
                                   : "null");
    break;
  case VLAN:
    sonde_lines_print(lines, value ? ",\"%s\":[%llu]" : ",\"%s\":[]", name->text,
                      (unsigned long long)value);
    break;
  case ICMP:
    sonde_lines_print(lines, ",\"icmp_type\":%u,\"icmp_code\":%u", (unsigned)(value >> 8 & 0xff),
                      (unsigned)(value & 0xff));
    break;
  case FLOW:
    sonde_lines_print(lines, ",\"%s\":\"%016llx\"", name->text, (unsigned long long)value);
    break;
  case MPLS:
    sonde_lines_print(lines, ",\"%s\":%llu", name->text, (unsigned long long)(value >> 4));
    break;
  case STRING:
    put_string(lines, name->text, data, bytes);
    break;
  }
}

void sonde_lines_put_field(struct sonde_lines *lines, const struct sonde_template_field *field,
                           const uint8_t *data, uint32_t bytes, uint64_t base_ms, bool scope) {
  bool own = field->enterprise == lines->enterprise && field->enterprise != 0;
  for (size_t i = 0; !scope && i < sizeof names / sizeof names[0]; i++) {
    if (names[i].element == field->element &&
        (names[i].enterprise == OWN ? own : names[i].enterprise == field->enterprise) &&
        fits(names[i].kind, bytes)) {
      put_known(lines, &names[i], data, bytes, base_ms);
      return;
    }
  }
  put_unknown(lines, field, data, bytes, scope);
}
