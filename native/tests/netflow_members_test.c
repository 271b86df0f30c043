/* netflow_members_test.c - the JSON member of each information element that the decoder knows, and
 * of unknown ones. Each row is an IPFIX message with one template of one field and one record.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "export.h"

enum { REVERSE = 29305, HEADER = 16 };

static struct sonde_export_decoder *decoder;

struct row {
  uint32_t enterprise;
  uint16_t element;
  uint16_t bytes;
  const char *value; /* hexadecimal */
  const char *member;
};

static const struct row rows[] = {
    {0, 1, 8, "0000000000000102", "\"bytes\":258"},
    {0, 2, 4, "ffffffff", "\"packets\":4294967295"},
    {0, 4, 1, "11", "\"protocol_number\":17"},
    {0, 5, 1, "b8", "\"tos\":184"},
    {0, 6, 1, "1b", "\"tcp_flags\":27"},
    {0, 7, 2, "0035", "\"source_port\":53"},
    {0, 8, 4, "0a000001", "\"source_ip\":\"10.0.0.1\""},
    {0, 10, 4, "00000003", "\"input_ifindex\":3"},
    {0, 11, 2, "ffff", "\"dest_port\":65535"},
    {0, 12, 4, "c0000201", "\"dest_ip\":\"192.0.2.1\""},
    {0, 14, 2, "0007", "\"output_ifindex\":7"},
    {0, 27, 16, "20010db8000000000000000000000001", "\"source_ip\":\"2001:db8::1\""},
    {0, 28, 16, "20010db8000000000000000000000002", "\"dest_ip\":\"2001:db8::2\""},
    {0, 31, 4, "000abcde", "\"flow_label\":703710"},
    {0, 32, 2, "0803", "\"icmp_type\":8,\"icmp_code\":3"},
    {0, 34, 4, "00000064", "\"sampling_interval\":100"},
    {0, 35, 1, "02", "\"sampling_algorithm\":2"},
    {0, 40, 8, "0000000000000001", "\"exported_bytes\":1"},
    {0, 41, 8, "0000000000000002", "\"exported_messages\":2"},
    {0, 42, 8, "0000000000000003", "\"exported_records\":3"},
    {0, 52, 1, "3f", "\"ttl_min\":63"},
    {0, 53, 1, "40", "\"ttl_max\":64"},
    {0, 56, 6, "0200000000ff", "\"source_mac\":\"02:00:00:00:00:ff\""},
    {0, 58, 2, "002a", "\"vlan\":[42]"},
    {0, 58, 2, "0000", "\"vlan\":[]"},
    {0, 60, 1, "06", "\"ip_version\":6"},
    {0, 61, 1, "00", "\"direction\":\"ingress\""},
    {0, 61, 1, "01", "\"direction\":\"egress\""},
    {0, 61, 1, "02", "\"direction\":\"unknown\""},
    {0, 64, 4, "00000002", "\"ipv6_extensions\":2"},
    {0, 70, 3, "000121", "\"mpls_label\":18"},
    {0, 80, 6, "010203040506", "\"dest_mac\":\"01:02:03:04:05:06\""},
    {0, 82, 4, "65746830", "\"interface\":\"eth0\""},
    {0, 82, 5, "65225c1f7f", "\"interface\":\"e????\""},
    {0, 82, 2, "207e", "\"interface\":\" ~\""},
    {0, 88, 2, "0010", "\"fragment_offset\":16"},
    {0, 136, 1, "01", "\"end_reason\":\"idle\""},
    {0, 136, 1, "05", "\"end_reason\":\"resources\""},
    {0, 136, 1, "06", "\"end_reason\":null"},
    {0, 139, 2, "8000", "\"icmp_type\":128,\"icmp_code\":0"},
    {0, 144, 4, "00000001", "\"exporting_process\":1"},
    {0, 148, 8, "0123456789abcdef", "\"flow_id\":\"0123456789abcdef\""},
    {0, 149, 4, "00000007", "\"observation_domain\":7"},
    {0, 150, 4, "6553f100", "\"first_seen\":\"2023-11-14T22:13:20.000000000Z\""},
    {0, 151, 4, "00000001", "\"last_seen\":\"1970-01-01T00:00:01.000000000Z\""},
    {0, 152, 8, "0000018bcfe568e1", "\"first_seen\":\"2023-11-14T22:13:20.225000000Z\""},
    {0, 153, 8, "ffffffffffffffff", "\"last_seen\":\"2554-07-21T23:34:33.709551615Z\""},
    {0, 164, 8, "0000000000000004", "\"packets_ignored\":4"},
    {0, 165, 8, "0000000000000005", "\"bytes_ignored\":5"},
    {0, 166, 8, "0000000000000006", "\"records_lost\":6"},
    {0, 167, 8, "0000000000000007", "\"packets_lost\":7"},
    {0, 168, 8, "0000000000000008", "\"bytes_lost\":8"},
    {0, 197, 1, "40", "\"fragment_flags\":64"},
    {0, 239, 1, "01", "\"biflow_direction\":1"},
    {0, 243, 2, "000a", "\"vlan_outer\":10"},
    {0, 244, 1, "07", "\"vlan_priority\":7"},
    {0, 245, 2, "0014", "\"vlan_inner\":20"},
    {0, 351, 8, "0000000000001092", "\"segment_id\":4242"},
    {0, 352, 8, "0000000000000009", "\"l2_bytes\":9"},
    {REVERSE, 1, 8, "000000000000000a", "\"reverse_bytes\":10"},
    {REVERSE, 2, 8, "000000000000000b", "\"reverse_packets\":11"},
    {REVERSE, 6, 1, "12", "\"reverse_tcp_flags\":18"},
    {REVERSE, 352, 8, "000000000000000c", "\"reverse_l2_bytes\":12"},
    /* unknown elements, and known ones of a width that they cannot have */
    {0, 3, 2, "abcd", "\"element_3\":\"abcd\""},
    {0, 32767, 1, "00", "\"element_32767\":\"00\""},
    {REVERSE, 3, 1, "ff", "\"enterprise_29305_element_3\":\"ff\""},
    {9, 1, 4, "00000001", "\"enterprise_9_element_1\":\"00000001\""},
    {0, 1, 9, "000000000000000001", "\"element_1\":\"000000000000000001\""},
    {0, 8, 5, "0a00000100", "\"element_8\":\"0a00000100\""},
    {0, 27, 4, "0a000001", "\"element_27\":\"0a000001\""},
    {0, 56, 7, "01020304050607", "\"element_56\":\"01020304050607\""},
    {0, 70, 4, "00000121", "\"element_70\":\"00000121\""},
};

static uint8_t *put(uint8_t *p, uint32_t value, int bytes) {
  for (int i = bytes; i-- > 0;)
    *p++ = (uint8_t)(value >> 8 * i);
  return p;
}

static void check_row(const struct row *row) {
  uint8_t message[128], *p = message + HEADER;
  struct sonde_decoded_message decoded;
  p = put(p, 2, 2);
  p = put(p, row->enterprise ? 16 : 12, 2);
  p = put(p, 256, 2);
  p = put(p, 1, 2);
  p = put(p, row->element | (row->enterprise ? 0x8000u : 0), 2);
  p = put(p, row->bytes, 2);
  if (row->enterprise)
    p = put(p, row->enterprise, 4);
  p = put(p, 256, 2);
  p = put(p, 4u + row->bytes, 2);
  for (const char *hex = row->value; *hex; hex += 2) {
    unsigned octet = 0;
    CHECK_EQ(sscanf(hex, "%2x", &octet), 1);
    *p++ = (uint8_t)octet;
  }
  uint8_t *head = put(message, 10, 2);
  head = put(head, (uint32_t)(p - message), 2);
  memset(head, 0, 12);
  CHECK_EQ(sonde_export_decode(decoder, 0, message, (uint32_t)(p - message), &decoded), SONDE_OK);
  CHECK_EQ(decoded.records, 1);
  CHECK_EQ(decoded.templates, 1);
  CHECK_EQ(decoded.malformed, 0);
  const char *end = decoded.text + decoded.text_bytes;
  size_t bytes = strlen(row->member);
  /* the last member of the line */
  bool found = decoded.text_bytes > bytes + 2 && memcmp(end - 2 - bytes, row->member, bytes) == 0;
  if (!found)
    fprintf(stderr, "%.*s", (int)decoded.text_bytes, decoded.text);
  CHECK(found);
}

/* v9 options: the template has the lengths of its scope and option fields in octets. */
static void check_v9_options(void) {
  /* template 260: one scope field (system), sampling interval and algorithm, padding */
  static const uint8_t message[] = {0, 9, 0,  2,  0, 0,  0, 0, 0x65, 0x53, 0xf1, 0, 0, 0, 0,
                                    5, 0, 0,  0,  7, 0,  1, 0, 24,   1,    4,    0, 4, 0, 8,
                                    0, 1, 0,  4,  0, 34, 0, 4, 0,    35,   0,    1, 0, 0, 1,
                                    4, 0, 16, 10, 0, 0,  1, 0, 0,    0,    100,  2, 0, 0, 0};
  struct sonde_decoded_message decoded;
  CHECK_EQ(sonde_export_decode(decoder, 1, message, sizeof message, &decoded), SONDE_OK);
  CHECK_EQ(decoded.templates, 1);
  CHECK_EQ(decoded.records, 1);
  CHECK_EQ(decoded.malformed, 0);
  CHECK_EQ(decoded.sequence, 5);
  CHECK_EQ(decoded.domain, 7);
  static const char expected[] =
      "{\"version\":9,\"domain\":7,\"sequence\":5,\"export_time\":\"2023-11-14T22:13:20."
      "000000000Z\","
      "\"template\":260,\"kind\":\"options\",\"scope_1\":\"0a000001\","
      "\"sampling_interval\":100,\"sampling_algorithm\":2}\n";
  bool same = decoded.text_bytes == sizeof expected - 1 &&
              memcmp(decoded.text, expected, sizeof expected - 1) == 0;
  if (!same)
    fprintf(stderr, "%.*s", (int)decoded.text_bytes, decoded.text);
  CHECK(same);
}

int main(void) {
  decoder = sonde_export_decoder_create();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    check_row(&rows[i]);
  check_v9_options();
  sonde_export_decoder_destroy(decoder);
  return check_report();
}
