/* json_test.c - the JSON encoding: one literal record, and many compared with a slow encoder. */
#include <stdlib.h>

#include "check.h"
#include "json_reference.h"
#include "netsonde.h"
#include "random_record.h"

enum { ROUNDS = 20000 };

/* The second segment of an HTTPS flow inside a VXLAN, as it appears in the stream. */
static const struct sonde_record example = {
    .flow_id = 0x00c0ffee12345678,
    .first_ns = 1795358303000000001,
    .last_ns = 1795358303999999999,
    .flow_start_ns = 1795358240123456789,
    .packets = {6, 4},
    .bytes = {1000, 234567},
    .l2_bytes = {1084, 234623},
    .total_packets = {16, 5000000000},
    .total_bytes = {2000, 9007199254740993}, /* 2^53 + 1 */
    .source_ip = {192, 0, 2, 10},
    .dest_ip = {203, 0, 113, 255},
    .tunnel_source_ip = {0x20, 0x01, 0x0d, 0xb8, [15] = 1},
    .tunnel_dest_ip = {0x20, 0x01, 0x0d, 0xb8, [15] = 2},
    .tunnel_id = 5001,
    .mpls_label = UINT32_MAX,
    .segment = 1,
    .retransmissions = 2,
    .handshake_rtt_us = 1234,
    .sampling_interval = 1,
    .source_port = 51234,
    .dest_port = 443,
    .vlan = {100, 7},
    .vlan_depth = 2,
    .ip_version = 4,
    .tunnel_ip_version = 6,
    .protocol = 6,
    .source_mac = {0x02, 0, 0, 0, 0xab, 1},
    .dest_mac = {0x02, 0, 0, 0, 0xcd, 2},
    .has_mac = 1,
    .tcp_flags = {26, 24},
    .tos = 184,
    .ttl_min = 62,
    .ttl_max = 64,
    .end_reason = SONDE_END_ACTIVE,
    .direction = SONDE_DIRECTION_EGRESS,
    .tunnel_type = SONDE_TUNNEL_VXLAN,
    .ifindex = 7,
};

static const char example_json[] =
    "[{\"flow_id\":\"00c0ffee12345678\",\"community_id\":\"1:KJ/g8WPCEm3cD9Ubr8KkOLcqu3E=\","
    "\"source_ip\":\"192.0.2.10\",\"dest_ip\":\"203.0.113.255\",\"source_port\":51234,"
    "\"dest_port\":443,\"protocol\":\"TCP\",\"protocol_number\":6,\"ip_version\":4,"
    "\"vlan\":[100,7],\"mpls_label\":null,\"source_mac\":\"02:00:00:00:ab:01\","
    "\"dest_mac\":\"02:00:00:00:cd:02\",\"icmp_type\":null,\"icmp_code\":null,\"packets\":10,"
    "\"bytes\":235567,\"l2_bytes\":235707,\"reverse_packets\":4,\"reverse_bytes\":234567,"
    "\"reverse_l2_bytes\":234623,\"tcp_flags\":26,\"reverse_tcp_flags\":24,\"tos\":184,"
    "\"ttl_min\":62,\"ttl_max\":64,\"fragments\":0,\"retransmissions\":2,\"out_of_order\":0,"
    "\"handshake_rtt_us\":1234,\"first_seen\":\"2026-11-22T14:38:23.000000001Z\","
    "\"last_seen\":\"2026-11-22T14:38:23.999999999Z\","
    "\"flow_start\":\"2026-11-22T14:37:20.123456789Z\",\"segment\":1,\"final\":false,"
    "\"total_packets\":5000000016,\"total_bytes\":9007199254742993,\"end_reason\":\"active\","
    "\"interface\":\"br "
    "\\\"x\\\\\\u0001\xc3\xa9\xef\xbf\xbd\",\"ifindex\":7,\"direction\":\"egress\","
    "\"tunnel\":{\"type\":\"vxlan\",\"id\":5001,\"outer_source_ip\":\"2001:db8::1\","
    "\"outer_dest_ip\":\"2001:db8::2\"},\"sampling_interval\":1,\"timestamps_late\":0,"
    "\"app\":null,\"name\":null,\"name_source\":null,\"alpn\":null,\"tls_version\":null,"
    "\"ech\":null,\"label_state\":\"off\",\"process\":null,\"peer_process\":null}]";

static void check_text(const uint8_t *buffer, uint32_t bytes, const char *expected) {
  int same = bytes == strlen(expected) && memcmp(buffer, expected, bytes) == 0;
  if (!same)
    fprintf(stderr, "%.*s\nshould be\n%s\n", (int)bytes, buffer, expected);
  CHECK(same);
}

static void check_example(void) {
  uint8_t buffer[2 * SONDE_RENDERED_RECORD_MAX];
  struct sonde_batch batch;
  CHECK_EQ(sonde_records_render(&example, 1, SONDE_ENCODING_JSON, "br \"x\\\x01\xc3\xa9\xff",
                                buffer, sizeof buffer, &batch),
           SONDE_OK);
  CHECK_EQ(batch.records, 1);
  CHECK_EQ(batch.packets, 10);
  CHECK_EQ(batch.first_ns, example.first_ns);
  CHECK_EQ(batch.last_ns, example.last_ns);
  check_text(buffer, batch.bytes, example_json);
}

/* A final record after an empty segment, and a record without optional fields. */
static void check_empty_record(void) {
  struct sonde_record record = {.ip_version = 4,
                                .final = 1,
                                .mpls_label = UINT32_MAX,
                                .handshake_rtt_us = UINT32_MAX,
                                .end_reason = SONDE_END_IDLE};
  uint8_t buffer[2 * SONDE_RENDERED_RECORD_MAX];
  struct sonde_batch batch;
  CHECK_EQ(
      sonde_records_render(&record, 1, SONDE_ENCODING_JSON, "lo", buffer, sizeof buffer, &batch),
      SONDE_OK);
  CHECK_EQ(batch.records, 1);
  CHECK_EQ(batch.packets, 0);
  buffer[batch.bytes] = 0;
  CHECK(strstr((char *)buffer, "\"packets\":0,\"bytes\":0,\"l2_bytes\":0,") != NULL);
  CHECK(strstr((char *)buffer, "\"final\":true,") != NULL);
  CHECK(strstr((char *)buffer, "\"first_seen\":\"1970-01-01T00:00:00.000000000Z\"") != NULL);
}

/* A depth beyond the record's tags lists those that it has. */
static void check_vlan_depth(void) {
  static const char *const expected[] = {"\"vlan\":[],",
                                         "\"vlan\":[1],",
                                         "\"vlan\":[1,20],",
                                         "\"vlan\":[1,20,300],",
                                         "\"vlan\":[1,20,300,4000],",
                                         "\"vlan\":[1,20,300,4000],"};
  for (uint8_t depth = 0; depth < 6; depth++) {
    struct sonde_record record = {
        .ip_version = 4, .vlan = {1, 20, 300, 4000}, .vlan_depth = depth, .mpls_label = UINT32_MAX};
    uint8_t buffer[2 * SONDE_RENDERED_RECORD_MAX];
    struct sonde_batch batch;
    CHECK_EQ(
        sonde_records_render(&record, 1, SONDE_ENCODING_JSON, "lo", buffer, sizeof buffer, &batch),
        SONDE_OK);
    CHECK(memmem(buffer, batch.bytes, expected[depth], strlen(expected[depth])) != NULL);
  }
}

static int has_ipv4_tail(const struct sonde_record *record) {
  char text[INET6_ADDRSTRLEN];
  const uint8_t *six[] = {record->source_ip, record->dest_ip, record->tunnel_source_ip,
                          record->tunnel_dest_ip};
  for (int i = 0; i < 4; i++) {
    inet_ntop(AF_INET6, six[i], text, sizeof text);
    if ((i < 2 ? record->ip_version : record->tunnel_ip_version) == 6 && strchr(text, '.'))
      return 1;
  }
  return 0;
}

static void check_random(struct sonde_community_hash *hash) {
  for (int round = 0; round < ROUNDS; round++) {
    struct sonde_record records[3];
    struct reference expected = {.text = "[", .length = 1};
    uint32_t count = (uint32_t)(next_random() % 4);
    for (uint32_t i = 0; i < count; i++) {
      do {
        randomize_record(&records[i]);
      } while (has_ipv4_tail(&records[i])); /* covered by address_test.c */
      add(&expected, "%s", i ? "," : "");
      write_reference(&expected, &records[i], "eth0", 0, hash);
    }
    add(&expected, "]");
    uint8_t buffer[4 * SONDE_RENDERED_RECORD_MAX];
    struct sonde_batch batch;
    CHECK_EQ(sonde_records_render(records, count, SONDE_ENCODING_JSON, "eth0", buffer,
                                  sizeof buffer, &batch),
             SONDE_OK);
    CHECK_EQ(batch.records, count);
    check_text(buffer, batch.bytes, expected.text);
  }
}

/* Every day that fits in 2^64 ns, compared with gmtime. */
static void check_dates(struct sonde_community_hash *hash) {
  struct sonde_record record;
  randomize_record(&record);
  record.ip_version = record.tunnel_ip_version = 4;
  for (uint64_t day = 0; day < UINT64_MAX / 86400000000000u; day++) {
    struct reference expected = {.text = "[", .length = 1};
    record.first_ns = day * 86400000000000u;
    record.last_ns = record.first_ns + 86399999999999u;
    write_reference(&expected, &record, "eth0", 0, hash);
    add(&expected, "]");
    uint8_t buffer[2 * SONDE_RENDERED_RECORD_MAX];
    struct sonde_batch batch;
    sonde_records_render(&record, 1, SONDE_ENCODING_JSON, "eth0", buffer, sizeof buffer, &batch);
    check_text(buffer, batch.bytes, expected.text);
  }
}

int main(void) {
  struct sonde_community_hash hash;
  sonde_community_hash_open(&hash);
  check_example();
  check_empty_record();
  check_vlan_depth();
  check_random(&hash);
  check_dates(&hash);
  sonde_community_hash_close(&hash);
  return check_report();
}
