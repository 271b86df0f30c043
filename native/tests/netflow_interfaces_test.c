/* netflow_interfaces_test.c - records of several interfaces in one export: each has the index and
 * the name of its interface, in messages of every size.
 */
#include <stdlib.h>

#include "check.h"
#include "export.h"
#include "packet.h"
#include "random_record.h"

enum { RECORDS = 400, BUFFER_BYTES = 1 << 20, MESSAGES = 4096 };
static const uint64_t SECOND = 1000000000, START = 1700000000000000000;

static const char *names[SONDE_SOURCES_MAX] = {"eth0", "a", "a-long-name-15c", NULL, "eth4"};
static struct sonde_record records[RECORDS];
static uint8_t buffer[BUFFER_BYTES];
static struct sonde_message list[MESSAGES];

static void make_records(void) {
  for (uint32_t i = 0; i < RECORDS; i++)
    records[i] = (struct sonde_record){
        .flow_id = i + 1,
        .first_ns = START + SECOND,
        .last_ns = START + 2 * SECOND,
        .flow_start_ns = START + SECOND,
        .packets = {1 + i, i % 3},
        .bytes = {60 * (1 + i), 60 * (i % 3)},
        .source_ip = {10, 0, 0, 1},
        .dest_ip = {10, 0, 0, 2},
        .source_port = (uint16_t)i,
        .dest_port = 443,
        .ip_version = i % 5 ? 4 : 6,
        .protocol = 17,
        .end_reason = SONDE_END_IDLE,
        .direction = SONDE_DIRECTION_INGRESS,
        .mpls_label = UINT32_MAX,
        .sampling_interval = 1,
        .source = (uint16_t)(i * 7 % 5),
        .ifindex = 100 + i * 7 % 5,
    };
}

/* Checks one decoded line against the record of its source port. Returns whether it is one. */
static int check_line(const char *line, int full) {
  const char *port = strstr(line, "\"source_port\":"), *index = strstr(line, "\"input_ifindex\":");
  const char *out = strstr(line, "\"output_ifindex\":");
  if (!port || !index || !out)
    return 0;
  uint32_t from = (uint32_t)strtoul(port + 14, NULL, 10);
  from = from == 443 ? (uint32_t)strtoul(strstr(line, "\"dest_port\":") + 12, NULL, 10) : from;
  const struct sonde_record *record = &records[from];
  char wanted[64];
  CHECK_EQ(strtoul(index + 16, NULL, 10) + strtoul(out + 17, NULL, 10), record->ifindex);
  snprintf(wanted, sizeof wanted, "\"interface\":\"%s\"",
           names[record->source] ? names[record->source] : "");
  CHECK(!full || strstr(line, wanted));
  return 1;
}

static void each_record_has_its_interface(int version, int profile, int biflow, uint32_t bytes) {
  struct sonde_encoder_config config = {
      .version = version,
      .profile = profile,
      .biflow = biflow,
      .message_bytes_max = bytes,
      .template_refresh_sec = 60,
      .template_refresh_messages = 20,
      .observation_domain = 7,
      .interfaces = names,
      .start_ns = START,
  };
  struct sonde_messages messages = {
      .buffer = buffer, .capacity = BUFFER_BYTES, .list = list, .max = MESSAGES};
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_encoder *encoder = NULL;
  struct sonde_encoder_counters counters;
  struct sonde_error error;
  uint64_t lines = 0;
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  CHECK_EQ(sonde_encoder_add(encoder, records, RECORDS, START + 3 * SECOND, &messages), RECORDS);
  for (uint32_t i = 0; i < messages.count; i++) {
    struct sonde_decoded_message decoded;
    CHECK(list[i].bytes <= bytes);
    CHECK_EQ(sonde_export_decode(decoder, 0, buffer + list[i].offset, list[i].bytes, &decoded), 0);
    CHECK_EQ(decoded.malformed, 0);
    char *text = strndup(decoded.text, decoded.text_bytes), *rest = text, *line;
    while ((line = strsep(&rest, "\n")))
      lines += (uint64_t)check_line(line, profile == SONDE_PROFILE_FULL && version == 10);
    free(text);
  }
  sonde_encoder_counters(encoder, &counters);
  CHECK_EQ(lines, counters.records);
  CHECK(lines > RECORDS / 2);
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
}

int main(void) {
  static const uint32_t sizes[] = {512, 513, 1400, 65507};
  make_records();
  for (int i = 0; i < 4; i++) {
    each_record_has_its_interface(5, SONDE_PROFILE_COMPAT, 0, sizes[i]);
    for (int profile = 0; profile < 2; profile++) {
      each_record_has_its_interface(9, profile, 0, sizes[i]);
      each_record_has_its_interface(10, profile, 0, sizes[i]);
      each_record_has_its_interface(10, profile, 1, sizes[i]);
    }
  }
  return check_report();
}
