/* netflow_v5_test.c - NetFlow v5 messages, every octet of header and record, written by hand. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "export.h"

enum { HEADER = 24, RECORD = 48 };
static const uint64_t START_NS = 1700000000500000000, SECOND = 1000000000;

static uint8_t buffer[64 << 10];
static struct sonde_message list[64];
static struct sonde_messages messages;

static struct sonde_encoder *make(uint32_t ifindex, uint32_t domain) {
  const struct sonde_encoder_config config = {
      .version = 5,
      .message_bytes_max = 1464,
      .template_refresh_sec = 60,
      .template_refresh_messages = 20,
      .observation_domain = domain,
      .ifindex = ifindex,
      .interface = "eth0",
      .start_ns = START_NS,
  };
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  messages = (struct sonde_messages){.buffer = buffer,
                                     .capacity = sizeof buffer,
                                     .list = list,
                                     .max = sizeof list / sizeof list[0]};
  return encoder;
}

static struct sonde_record make_record(void) {
  return (struct sonde_record){
      .flow_id = 1,
      .first_ns = START_NS + SECOND,
      .last_ns = START_NS + 3 * SECOND,
      .packets = {0x010203, 0},
      .bytes = {0x0a0b0c0d, 0},
      .source_ip = {10, 1, 2, 3},
      .dest_ip = {192, 0, 2, 9},
      .source_port = 0x1234,
      .dest_port = 0x0050,
      .ip_version = 4,
      .protocol = 6,
      .tcp_flags = {0x1b, 0},
      .tos = 0xb8,
      .direction = SONDE_DIRECTION_INGRESS,
      .end_reason = SONDE_END_IDLE,
      .mpls_label = UINT32_MAX,
      .sampling_interval = 1,
  };
}

static void check_octets(const uint8_t *found, const uint8_t *expected, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (found[i] != expected[i])
      fprintf(stderr, "in octet %u:\n", i);
    CHECK_EQ(found[i], expected[i]);
  }
}

/* The base of SysUptime is 1699999940 s: a minute before the start, in whole seconds. */
static void every_octet_is_as_documented(void) {
  struct sonde_encoder *encoder = make(3, 0x1207);
  struct sonde_record record = make_record();
  static const uint8_t header[HEADER] = {
      0,    5,    0,    1,    0, 0, 0xf8, 0x0c, /* SysUptime 63,500 ms */
      0x65, 0x53, 0xf1, 0x03,                   /* 1700000003 s, 500,000,000 ns */
      0x1d, 0xcd, 0x65, 0x00, 0, 0, 0,    0,    0, 7, 0, 0,
  };
  static const uint8_t expected[RECORD] = {
      10,   1,    2,    3,    192,  0,    2,    9,    0, 0, 0, 0, /* next hop */
      0,    3,    0,    0,                                        /* in, out */
      0,    1,    2,    3,    0x0a, 0x0b, 0x0c, 0x0d,             /* packets, octets */
      0,    0,    0xf0, 0x3c, 0,    0,    0xf8, 0x0c,             /* first, last uptime */
      0x12, 0x34, 0,    0x50, 0,    0x1b, 6,    0xb8, 0, 0, 0, 0, 0, 0, 0, 0,
  };
  CHECK_EQ(sonde_encoder_add(encoder, &record, 1, START_NS + 3 * SECOND, &messages), 1);
  CHECK_EQ(messages.count, 1);
  CHECK_EQ(messages.bytes, HEADER + RECORD);
  CHECK_EQ(list[0].records, 1);
  CHECK_EQ(list[0].templates, 0);
  CHECK_EQ(list[0].packets, 0x010203);
  CHECK_EQ(list[0].octets, 0x0a0b0c0d);
  check_octets(buffer, header, HEADER);
  check_octets(buffer + HEADER, expected, RECORD);
  sonde_encoder_destroy(encoder);
}

/* The decoder shows the same record, and counts what is cut off. */
static void decoder_reads_it_back(void) {
  struct sonde_encoder *encoder = make(3, 7);
  struct sonde_record record = make_record();
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_decoded_message decoded;
  CHECK_EQ(sonde_encoder_add(encoder, &record, 1, START_NS + 3 * SECOND, &messages), 1);
  CHECK_EQ(sonde_export_decode(decoder, 0, buffer, messages.bytes, &decoded), SONDE_OK);
  static const char *const members[] = {"\"version\":5,",
                                        "\"domain\":7,",
                                        "\"sequence\":0,",
                                        "\"export_time\":\"2023-11-14T22:13:23.500000000Z\"",
                                        "\"source_ip\":\"10.1.2.3\"",
                                        "\"dest_ip\":\"192.0.2.9\"",
                                        "\"input_ifindex\":3",
                                        "\"output_ifindex\":0",
                                        "\"packets\":66051",
                                        "\"bytes\":168496141",
                                        "\"first_seen\":\"2023-11-14T22:13:21.500000000Z\"",
                                        "\"last_seen\":\"2023-11-14T22:13:23.500000000Z\"",
                                        "\"source_port\":4660",
                                        "\"dest_port\":80",
                                        "\"tcp_flags\":27",
                                        "\"protocol_number\":6",
                                        "\"tos\":184"};
  for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
    bool found = memmem(decoded.text, decoded.text_bytes, members[i], strlen(members[i])) != NULL;
    if (!found)
      fprintf(stderr, "no %s in %.*s", members[i], (int)decoded.text_bytes, decoded.text);
    CHECK(found);
  }
  CHECK_EQ(decoded.records, 1);
  CHECK_EQ(decoded.malformed, 0);
  CHECK_EQ(decoded.bytes, messages.bytes);
  for (uint32_t cut = HEADER; cut < messages.bytes; cut++) {
    CHECK_EQ(sonde_export_decode(decoder, 0, buffer, cut, &decoded), SONDE_OK);
    CHECK_EQ(decoded.records, 0);
    CHECK_EQ(decoded.malformed, 1);
    CHECK_EQ(decoded.bytes, cut);
    CHECK_EQ(decoded.text_bytes, 0);
  }
  CHECK_EQ(sonde_export_decode(decoder, 0, buffer, HEADER - 1, &decoded), SONDE_FORMAT);
  CHECK_EQ(sonde_export_decode(decoder, 0, buffer, 1, &decoded), SONDE_FORMAT);
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
}

static uint32_t number(const uint8_t *p, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; i++)
    value = value << 8 | p[i];
  return value;
}

/* Both directions of a flow are records, forward first. Each message has up to 30 records, and the
 * sequence counts records. */
static void directions_and_sequence(void) {
  enum { RECORDS = 31 };
  struct sonde_encoder *encoder = make(65536, 1);
  struct sonde_record records[RECORDS];
  struct sonde_encoder_counters counters;
  for (int i = 0; i < RECORDS; i++) {
    records[i] = make_record();
    records[i].packets[1] = 5;
    records[i].bytes[1] = 700;
    records[i].tcp_flags[1] = 0x12;
    records[i].direction = SONDE_DIRECTION_EGRESS;
  }
  records[30].ip_version = 6; /* skipped */
  CHECK_EQ(sonde_encoder_add(encoder, records, RECORDS, START_NS + 3 * SECOND, &messages), RECORDS);
  CHECK_EQ(messages.count, 2);
  for (int m = 0; m < 2; m++) {
    const uint8_t *message = buffer + list[m].offset;
    CHECK_EQ(list[m].bytes, HEADER + 30 * RECORD);
    CHECK_EQ(list[m].records, 30);
    CHECK_EQ(number(message + 2, 2), 30);
    CHECK_EQ(number(message + 16, 4), 30 * m);
    for (int r = 0; r < 30; r++) {
      const uint8_t *record = message + HEADER + r * RECORD;
      CHECK_EQ(number(record, 4), r % 2 ? 0xc0000209 : 0x0a010203);
      CHECK_EQ(number(record + 4, 4), r % 2 ? 0x0a010203 : 0xc0000209);
      CHECK_EQ(number(record + 12, 4), 0); /* the interface index does not fit 16 bits */
      CHECK_EQ(number(record + 16, 4), r % 2 ? 5 : 0x010203);
      CHECK_EQ(number(record + 20, 4), r % 2 ? 700 : 0x0a0b0c0d);
      CHECK_EQ(number(record + 32, 4), r % 2 ? 0x00501234 : 0x12340050);
      CHECK_EQ(record[37], r % 2 ? 0x12 : 0x1b);
    }
  }
  sonde_encoder_counters(encoder, &counters);
  CHECK_EQ(counters.messages, 2);
  CHECK_EQ(counters.records, 60);
  CHECK_EQ(counters.octets, messages.bytes);
  CHECK_EQ(counters.templates, 0);
  CHECK_EQ(counters.records_skipped_ipv6, 2); /* one each way */
  CHECK_EQ(counters.times_clamped, 0);
  sonde_encoder_destroy(encoder);
}

/* The direction decides which interface is the input of the forward record. */
static void interfaces_follow_the_direction(void) {
  static const struct {
    uint8_t direction;
    uint32_t interfaces; /* input and output of the forward record */
  } rows[] = {{SONDE_DIRECTION_INGRESS, 0xffff0000},
              {SONDE_DIRECTION_EGRESS, 0x0000ffff},
              {SONDE_DIRECTION_UNKNOWN, 0xffff0000}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_encoder *encoder = make(65535, 1);
    struct sonde_record record = make_record();
    record.direction = rows[i].direction;
    CHECK_EQ(sonde_encoder_add(encoder, &record, 1, START_NS + 3 * SECOND, &messages), 1);
    CHECK_EQ(number(buffer + HEADER + 12, 4), rows[i].interfaces);
    sonde_encoder_destroy(encoder);
  }
}

static void sampling_interval_is_in_the_header(void) {
  const uint32_t rows[][2] = {{0, 0},          {1, 0},          {2, 0x4002},
                              {16382, 0x7ffe}, {16383, 0x7fff}, {16384, 0x7fff}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_encoder *encoder = make(1, 1);
    struct sonde_record record = make_record();
    record.sampling_interval = rows[i][0];
    CHECK_EQ(sonde_encoder_add(encoder, &record, 1, START_NS + 3 * SECOND, &messages), 1);
    CHECK_EQ(number(buffer + 22, 2), rows[i][1]);
    sonde_encoder_destroy(encoder);
  }
}

/* A count beyond 32 bits becomes several records, which add up to it. */
static void large_counts_are_split(void) {
  const struct {
    uint64_t packets, octets;
    uint32_t records;
  } rows[] = {{1, UINT32_MAX, 1},
              {1, UINT32_MAX + UINT64_C(1), 2},
              {3, UINT64_C(2) * UINT32_MAX, 2},
              {3, UINT64_C(2) * UINT32_MAX + 1, 3},
              {UINT64_C(5) * UINT32_MAX + 4, 9, 6}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_encoder *encoder = make(1, 1);
    struct sonde_record record = make_record();
    uint64_t packets = 0, octets = 0;
    record.packets[0] = rows[i].packets;
    record.bytes[0] = rows[i].octets;
    CHECK_EQ(sonde_encoder_add(encoder, &record, 1, START_NS + 3 * SECOND, &messages), 1);
    CHECK_EQ(list[0].records, rows[i].records);
    CHECK_EQ(list[0].packets, rows[i].packets);
    CHECK_EQ(list[0].octets, rows[i].octets);
    for (uint32_t r = 0; r < rows[i].records; r++) {
      packets += number(buffer + HEADER + r * RECORD + 16, 4);
      octets += number(buffer + HEADER + r * RECORD + 20, 4);
    }
    CHECK_EQ(packets, rows[i].packets);
    CHECK_EQ(octets, rows[i].octets);
    sonde_encoder_destroy(encoder);
  }
}

int main(void) {
  decoder_reads_it_back();
  directions_and_sequence();
  interfaces_follow_the_direction();
  sampling_interval_is_in_the_header();
  large_counts_are_split();
  every_octet_is_as_documented();
  return check_report();
}
