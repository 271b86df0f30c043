/* netflow_change_test.c - a collector's version changes and changes back in the middle of a
 * record: each record is exported once, and the sequence numbers of each version continue.
 */
#include "check.h"
#include "export.h"

enum { RECORDS = 60, TURN_MESSAGES = 1, MESSAGE_BYTES_MAX = 800 };
static const uint64_t SECOND = 1000000000, START = 1700000000123456789;

static uint8_t buffer[2 * MESSAGE_BYTES_MAX];
static struct sonde_message list[2];
static struct sonde_record records[RECORDS];

static void fill_records(void) {
  for (uint32_t i = 0; i < RECORDS; i++)
    records[i] = (struct sonde_record){
        .flow_id = i,
        .first_ns = START + SECOND,
        .last_ns = START + 2 * SECOND,
        .packets = {1 + i, 1000},
        .bytes = {60 * (1 + i), 52000},
        .source_ip = {10, 0, 0, 1},
        .dest_ip = {10, 0, 0, 2},
        .source_port = 5000,
        .dest_port = 443,
        .ip_version = 4,
        .protocol = 6,
        .end_reason = SONDE_END_IDLE,
        .mpls_label = UINT32_MAX,
        .sampling_interval = 1,
    };
}

static struct sonde_encoder *make(int version, uint32_t bytes_max) {
  struct sonde_encoder_config config = {
      .version = version,
      .message_bytes_max = bytes_max,
      .template_refresh_sec = 60,
      .template_refresh_messages = 20,
      .observation_domain = 1,
      .interface = "eth0",
      .start_ns = START,
  };
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  return encoder;
}

static uint32_t sequence_of(int version) {
  const uint8_t *p = buffer + (version == 5 ? 16 : version == 9 ? 12 : 8);
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Encodes messages of both versions alternately until all records are done. */
static void change(const int versions[2], uint32_t bytes_max) {
  uint64_t packets = 0, octets = 0, sides = 0, expected_packets = 0, expected_octets = 0;
  uint32_t expected[11] = {0};
  struct sonde_encoder *encoder = NULL;
  for (uint32_t done = 0, turn = 0; done < RECORDS; turn++) {
    int version = versions[turn % 2];
    struct sonde_encoder *next = make(version, bytes_max);
    struct sonde_messages messages = {
        .buffer = buffer, .capacity = sizeof buffer, .list = list, .max = TURN_MESSAGES};
    if (encoder)
      sonde_encoder_continue(next, encoder);
    sonde_encoder_destroy(encoder);
    encoder = next;
    done += sonde_encoder_add(encoder, records + done, RECORDS - done, START, &messages);
    CHECK_EQ(messages.count, TURN_MESSAGES);
    CHECK_EQ(sequence_of(version), expected[version]);
    expected[version] += version == 9 ? 1 : list[0].records;
    packets += list[0].packets;
    octets += list[0].octets;
    sides += list[0].records;
  }
  for (uint32_t i = 0; i < RECORDS; i++) {
    expected_packets += records[i].packets[0] + records[i].packets[1];
    expected_octets += records[i].bytes[0] + records[i].bytes[1];
  }
  CHECK_EQ(sides, 2 * RECORDS);
  CHECK_EQ(packets, expected_packets);
  CHECK_EQ(octets, expected_octets);
  sonde_encoder_destroy(encoder);
}

int main(void) {
  static const int pairs[][2] = {{5, 9}, {9, 10}, {10, 5}, {9, 9}};
  fill_records();
  for (uint32_t bytes_max = 512; bytes_max <= MESSAGE_BYTES_MAX; bytes_max += 16)
    for (int i = 0; i < 4; i++)
      change(pairs[i], bytes_max);
  return check_report();
}
