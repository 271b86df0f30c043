/* netflow_encode_test.c - the encoders, checked with the project's decoder and byte by byte.
 *
 * The decoder finds records by templates alone, so a template that does not fit its data fails.
 * Sequence numbers, padding and bounds are read here from the bytes.
 */
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "export.h"
#include "random_record.h"

enum { RECORDS = 600, BUFFER_BYTES = 4 << 20, MESSAGES = 8192 };
static const uint64_t SECOND = 1000000000, START = 1700000000123456789;

static uint8_t buffer[BUFFER_BYTES];
static struct sonde_message list[MESSAGES];
static struct sonde_messages messages;

static void clear(void) {
  messages = (struct sonde_messages){
      .buffer = buffer, .capacity = BUFFER_BYTES, .list = list, .max = MESSAGES};
}

static uint32_t number(const uint8_t *p, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; i++)
    value = value << 8 | p[i];
  return value;
}

static struct sonde_encoder *make(int version, int profile, int biflow, uint32_t bytes_max) {
  struct sonde_encoder_config config = {
      .version = version,
      .profile = profile,
      .biflow = biflow,
      .message_bytes_max = bytes_max,
      .template_refresh_sec = 60,
      .template_refresh_messages = 20,
      .observation_domain = 7,
      .ifindex = 3,
      .interface = "eth\"0",
      .start_ns = START,
  };
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  return encoder;
}

/* A record of a TCP flow with one packet in each direction. */
static struct sonde_record plain_record(void) {
  struct sonde_record record = {
      .flow_id = 1,
      .first_ns = START + SECOND,
      .last_ns = START + 2 * SECOND,
      .packets = {1, 1},
      .bytes = {60, 52},
      .source_ip = {10, 0, 0, 1},
      .dest_ip = {10, 0, 0, 2},
      .source_port = 5000,
      .dest_port = 443,
      .vlan = {13, 14},
      .vlan_depth = 2,
      .ip_version = 4,
      .protocol = 6,
      .tcp_flags = {2, 18},
      .end_reason = SONDE_END_IDLE,
      .direction = SONDE_DIRECTION_EGRESS,
      .mpls_label = UINT32_MAX,
      .sampling_interval = 1,
  };
  return record;
}

/* ---- reading back --------------------------------------------------------------------- */

struct sums {
  uint64_t flows, options, packets, octets, unknown;
};

static uint64_t member(const char *line, const char *end, const char *name) {
  char key[64];
  snprintf(key, sizeof key, ",\"%s\":", name);
  const char *found = memmem(line, (size_t)(end - line), key, strlen(key));
  return found ? strtoull(found + strlen(key), NULL, 10) : 0;
}

static void sum_lines(const struct sonde_decoded_message *decoded, struct sums *sums) {
  const char *line = decoded->text, *end = line + decoded->text_bytes;
  while (line < end) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    int options = memmem(line, (size_t)(stop - line), "\"options\"", 9) != NULL;
    sums->options += options;
    sums->flows += !options;
    sums->packets += member(line, stop, "packets") + member(line, stop, "reverse_packets");
    sums->octets += member(line, stop, "bytes") + member(line, stop, "reverse_bytes");
    line = stop + 1;
  }
}

/* Checks that all of `messages` decodes, has the stated length, and counts up by its version. */
static void read_back(struct sonde_export_decoder *decoder, int version, uint32_t bytes_max,
                      uint32_t *sequence, struct sums *sums) {
  for (uint32_t i = 0; i < messages.count; i++) {
    const struct sonde_message *message = &list[i];
    struct sonde_decoded_message decoded;
    uint64_t flows = sums->flows;
    CHECK(message->bytes <= bytes_max);
    CHECK_EQ(sonde_export_decode(decoder, 0, buffer + message->offset, message->bytes, &decoded),
             0);
    CHECK_EQ(decoded.malformed, 0);
    CHECK_EQ(decoded.templates_refused, 0);
    CHECK_EQ(decoded.bytes, message->bytes);
    CHECK_EQ(decoded.version, version);
    CHECK_EQ(decoded.domain, 7);
    CHECK_EQ(decoded.sequence, *sequence);
    sum_lines(&decoded, sums);
    sums->unknown += decoded.sets_unknown;
    if (!decoded.sets_unknown)
      CHECK_EQ(sums->flows - flows, message->records);
    *sequence += version == 9 ? 1 : message->records;
    if (version != 5)
      CHECK_EQ(message->bytes % 4, 0);
    if (version == 5)
      CHECK(message->records <= 30);
    if (version == 9)
      CHECK_EQ(number(buffer + message->offset + 2, 2), message->records + message->templates);
  }
}

static void make_plausible(struct sonde_record *record) {
  randomize_record(record);
  for (int way = 0; way < 2; way++) {
    record->packets[way] &= (1ull << random_magnitude(5)) - 1;
    record->bytes[way] = record->packets[way] ? record->bytes[way] & 0x3ffffffff : 0;
  }
  record->last_ns = START + record->last_ns % (600 * SECOND);
  record->first_ns = record->last_ns - record->first_ns % (300 * SECOND);
}

static void decoded_random_records_equal_the_originals(int version, int profile, int biflow,
                                                       uint32_t bytes_max) {
  static struct sonde_record records[RECORDS];
  struct sonde_encoder *encoder = make(version, profile, biflow, bytes_max);
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_encoder_counters counters;
  struct sums sums = {0};
  uint64_t packets = 0, octets = 0, skipped = 0;
  uint32_t sequence = 0;
  for (uint32_t i = 0; i < RECORDS; i++) {
    struct sonde_record *record = &records[i];
    make_plausible(record);
    if (version == 5 && record->ip_version == 6) {
      skipped += (record->packets[0] > 0) + (record->packets[1] > 0);
      continue;
    }
    packets += record->packets[0] + record->packets[1];
    octets += record->bytes[0] + record->bytes[1];
  }
  for (uint32_t done = 0, turn = 0; done < RECORDS; turn++) { /* varied records per message */
    uint32_t count = 1 + (uint32_t)(next_random() % 40);
    count = count < RECORDS - done ? count : RECORDS - done;
    clear();
    if (turn % 3 == 0) { /* too little room, so a message ends early */
      messages.capacity = 2 * bytes_max;
      messages.max = 2;
    }
    done += sonde_encoder_add(encoder, records + done, count, START + 600 * SECOND, &messages);
    read_back(decoder, version, bytes_max, &sequence, &sums);
  }
  sonde_encoder_counters(encoder, &counters);
  CHECK_EQ(sums.unknown, 0);
  CHECK_EQ(sums.packets, packets);
  CHECK_EQ(sums.octets, octets);
  CHECK_EQ(sums.flows, counters.records);
  CHECK_EQ(counters.records_skipped_ipv6, skipped);
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
}

/* ---- what is sent: docs/export.md ------------------------------------------------------- */

static void encode_one(struct sonde_encoder *encoder, const struct sonde_record *record,
                       uint64_t now_ns) {
  clear();
  CHECK_EQ(sonde_encoder_add(encoder, record, 1, now_ns, &messages), 1);
}

static void lost_templates_are_sent_again(int version) {
  struct sonde_encoder *encoder = make(version, SONDE_PROFILE_COMPAT, 0, 1400);
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_record record = plain_record();
  uint32_t first_known = 0;
  for (uint32_t i = 0; i < 60; i++) {
    struct sonde_decoded_message decoded;
    encode_one(encoder, &record, START + 3 * SECOND + i);
    CHECK_EQ(messages.count, 1);
    CHECK_EQ(list[0].templates, i < 2 || (i - 1) % 20 == 0);
    if (i < 2)
      continue; /* the first two datagrams are lost */
    CHECK_EQ(sonde_export_decode(decoder, 0, buffer, list[0].bytes, &decoded), 0);
    uint64_t export_sec = START / SECOND + 3 + (version == 9); /* version 9 rounds up */
    CHECK_EQ(decoded.export_ns, export_sec * SECOND);
    if (decoded.records && !first_known)
      first_known = i;
    CHECK_EQ(decoded.records, first_known ? 2 : 0);
    CHECK_EQ(decoded.sets_unknown, !first_known);
  }
  CHECK_EQ(first_known, 21);
  encode_one(encoder, &record, START + 70 * SECOND); /* by time */
  CHECK_EQ(list[0].templates, 1);
  sonde_encoder_destroy(encoder);
  encoder = make(version, SONDE_PROFILE_COMPAT, 0, 1400); /* restart */
  encode_one(encoder, &record, START + 71 * SECOND);
  CHECK_EQ(list[0].templates, 1);
  CHECK_EQ(number(buffer + (version == 9 ? 12 : 8), 4), 0);
  sonde_encoder_destroy(encoder);
  sonde_export_decoder_destroy(decoder);
}

static void counters_above_32_bits_are_split(void) {
  struct sonde_encoder *encoder = make(5, 0, 0, 1464);
  struct sonde_record record = plain_record();
  uint64_t octets = 0, packets = 0;
  record.bytes[0] = 3 * (1ull << 32) + 17;
  record.packets[0] = 1000003;
  record.packets[1] = record.bytes[1] = 0;
  encode_one(encoder, &record, START + 3 * SECOND);
  CHECK_EQ(messages.count, 1);
  CHECK_EQ(list[0].records, 4);
  for (int i = 0; i < 4; i++) {
    packets += number(buffer + 24 + 48 * i + 16, 4);
    octets += number(buffer + 24 + 48 * i + 20, 4);
  }
  CHECK_EQ(octets, record.bytes[0]);
  CHECK_EQ(packets, record.packets[0]);
  record.bytes[0] = UINT32_MAX;
  encode_one(encoder, &record, START + 3 * SECOND);
  CHECK_EQ(list[0].records, 1);
  CHECK_EQ(number(buffer + 16, 4), 4); /* flows before this message */
  sonde_encoder_destroy(encoder);
}

static void full_v5_message_has_thirty_records(void) {
  struct sonde_encoder *encoder = make(5, 0, 0, 1464);
  static struct sonde_record records[31];
  for (int i = 0; i < 31; i++) {
    records[i] = plain_record();
    records[i].packets[1] = 0;
  }
  clear();
  CHECK_EQ(sonde_encoder_add(encoder, records, 31, START + 3 * SECOND, &messages), 31);
  CHECK_EQ(messages.count, 2);
  CHECK_EQ(list[0].bytes, 24 + 30 * 48);
  CHECK_EQ(list[1].records, 1);
  CHECK_EQ(number(buffer + list[1].offset + 16, 4), 30);
  sonde_encoder_destroy(encoder);
}

/* ---- contents of a record ------------------------------------------------------------- */

static void check_text(int version, const struct sonde_record *record, uint32_t line,
                       const char *wanted) {
  struct sonde_encoder *encoder = make(version, SONDE_PROFILE_COMPAT, 0, 1400);
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_decoded_message decoded;
  encode_one(encoder, record, START + 3 * SECOND);
  CHECK_EQ(sonde_export_decode(decoder, 0, buffer, list[0].bytes, &decoded), 0);
  const char *text = decoded.text, *end = text + decoded.text_bytes;
  for (; line > 0 && text; line--) {
    text = memchr(text, '\n', (size_t)(end - text));
    text += text != NULL;
  }
  const char *stop = text ? memchr(text, '\n', (size_t)(end - text)) : NULL;
  int found = stop && memmem(text, (size_t)(stop - text), wanted, strlen(wanted)) != NULL;
  if (!found)
    fprintf(stderr, "version %d: no %s in\n%.*s\n", version, wanted, (int)decoded.text_bytes,
            decoded.text);
  CHECK(found);
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
}

static void reverse_direction_is_swapped(int version) {
  struct sonde_record record = plain_record();
  check_text(version, &record, 0, "\"source_ip\":\"10.0.0.1\",\"dest_ip\":\"10.0.0.2\"");
  check_text(version, &record, 1, "\"source_ip\":\"10.0.0.2\",\"dest_ip\":\"10.0.0.1\"");
  check_text(version, &record, 0, "\"tcp_flags\":2");
  check_text(version, &record, 1, "\"tcp_flags\":18");
  check_text(version, &record, 0, "\"input_ifindex\":0,\"output_ifindex\":3");
  check_text(version, &record, 1, "\"input_ifindex\":3,\"output_ifindex\":0");
  if (version != 5) {
    check_text(version, &record, 0, "\"vlan\":[13]");
    check_text(version, &record, 1, "\"source_port\":443,\"dest_port\":5000");
    check_text(version, &record, 0, "\"direction\":\"egress\"");
    check_text(version, &record, 1, "\"direction\":\"ingress\"");
    check_text(version, &record, 0, "\"end_reason\":\"idle\"");
  }
  /* Truncated to the millisecond. START ends in 123.456789 ms. */
  check_text(version, &record, 0, "\"first_seen\":\"2023-11-14T22:13:21.123000000Z\"");
  check_text(version, &record, 0, "\"last_seen\":\"2023-11-14T22:13:22.123000000Z\"");
}

static void icmp_types_are_paired(int version) {
  struct sonde_record record = plain_record();
  record.protocol = 1;
  record.source_port = record.icmp_type = 8;
  record.dest_port = 0;
  check_text(version, &record, 0, "\"dest_port\":2048");
  check_text(version, &record, 1, "\"dest_port\":0");
  record.source_port = record.icmp_type = 3; /* one way: the code is the other port */
  record.dest_port = record.icmp_code = 13;
  record.packets[1] = 0;
  check_text(version, &record, 0, "\"dest_port\":781");
  if (version != 5) {
    record = plain_record();
    record.ip_version = 6;
    record.protocol = 58;
    record.source_port = record.icmp_type = 135;
    record.dest_port = 136;
    check_text(version, &record, 0, "\"dest_port\":34560");
    check_text(version, &record, 1, "\"dest_port\":34816");
  }
}

static void empty_segments_make_no_record(int version) {
  struct sonde_encoder *encoder = make(version, 0, 0, 1400);
  struct sonde_record record = plain_record();
  record.packets[0] = record.packets[1] = 0;
  encode_one(encoder, &record, START);
  CHECK_EQ(messages.count, 0);
  record.packets[1] = 3; /* only the reverse direction */
  encode_one(encoder, &record, START);
  CHECK_EQ(list[0].records, 1);
  sonde_encoder_destroy(encoder);
}

/* v5 and v9 give times as an offset. The time that a collector computes must be exact to the ms,
 * and SysUptime must never drift against the seconds. */
static void exported_times_are_exact(int version) {
  struct sonde_encoder *encoder = make(version, 0, 0, 1400);
  struct sonde_record record = plain_record();
  int64_t base = 0;
  for (uint32_t i = 0; i < 100; i++) {
    uint64_t now = START + 3 * SECOND + i * 777777777ull;
    record.last_ns = now - 1;
    record.first_ns = record.last_ns - i * 1000003;
    encode_one(encoder, &record, now);
    int64_t seconds = number(buffer + 8, 4), uptime = number(buffer + 4, 4);
    int64_t boot = seconds * 1000 - uptime;
    if (version == 5)
      boot += number(buffer + 12, 4) / 1000000;
    if (i == 0)
      base = boot;
    CHECK_EQ(boot, base);
    CHECK_EQ(boot % 1000, 0);
    if (version == 5) {
      CHECK_EQ(boot + number(buffer + 24 + 24, 4), record.first_ns / 1000000);
      CHECK_EQ(boot + number(buffer + 24 + 28, 4), record.last_ns / 1000000);
      CHECK(number(buffer + 24 + 28, 4) <= uptime);
    }
  }
  sonde_encoder_destroy(encoder);
}

/* A replay with a jump of years, and a live session that runs for months. */
static void exported_times_survive_clock_jumps(int version) {
  const uint64_t year = 365 * 86400 * SECOND;
  struct sonde_encoder_config config = {.version = version,
                                        .message_bytes_max = 1400,
                                        .template_refresh_sec = 60,
                                        .template_refresh_messages = 20,
                                        .observation_domain = 7,
                                        .packet_time = 1};
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error;
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_decoded_message decoded;
  struct sonde_record records[4];
  char line[128];
  for (int i = 0; i < 4; i++) {
    records[i] = plain_record();
    records[i].packets[1] = 0;
    records[i].last_ns += (uint64_t)(i * i) * year / 3;
    records[i].first_ns = records[i].last_ns - SECOND;
  }
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  for (int round = 0; round < 2; round++) {
    clear();
    CHECK_EQ(sonde_encoder_add(encoder, records, 4, START, &messages), 4);
    int seen = 0;
    for (uint32_t m = 0; m < messages.count; m++) {
      CHECK_EQ(sonde_export_decode(decoder, 0, buffer + list[m].offset, list[m].bytes, &decoded),
               0);
      for (int i = 0; i < 4; i++) {
        time_t second = (time_t)(records[i].first_ns / SECOND);
        strftime(line, sizeof line, "\"first_seen\":\"%Y-%m-%dT%H:%M:%S.123000000Z",
                 gmtime(&second));
        seen += memmem(decoded.text, decoded.text_bytes, line, strlen(line)) != NULL;
      }
    }
    CHECK_EQ(seen, 4);
  }
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
}

static void statistics_have_their_own_domain(void) {
  struct sonde_encoder *encoder = make(10, 0, 0, 1400);
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_export_totals totals = {11, 12, 13, 14, 15};
  struct sonde_decoded_message decoded;
  for (uint32_t i = 0; i < 3; i++) {
    clear();
    sonde_encoder_statistics(encoder, &totals, START, &messages);
    CHECK_EQ(messages.count, 1);
    CHECK_EQ(sonde_export_decode(decoder, 0, buffer, list[0].bytes, &decoded), 0);
    CHECK_EQ(decoded.domain, 0);
    CHECK_EQ(decoded.sequence, 3 * i);
    CHECK_EQ(decoded.records, 3);
    CHECK_EQ(decoded.malformed, 0);
    CHECK(strstr(decoded.text, "\"packets_ignored\":11,\"bytes_ignored\":12") != NULL);
    CHECK(strstr(decoded.text, "\"records_lost\":13") != NULL);
  }
  struct sonde_record record = plain_record();
  record.sampling_interval = 64;
  encode_one(encoder, &record, START);
  CHECK_EQ(number(buffer + 8, 4), 0); /* not counted in the flows' domain */
  clear();
  sonde_encoder_statistics(encoder, &totals, START, &messages);
  CHECK_EQ(sonde_export_decode(decoder, 0, buffer, list[0].bytes, &decoded), 0);
  CHECK(strstr(decoded.text, "\"sampling_interval\":64,\"sampling_algorithm\":1") != NULL);
  sonde_export_decoder_destroy(decoder);
  sonde_encoder_destroy(encoder);
}

static void invalid_settings_are_named(void) {
  struct sonde_encoder_config config = {.version = 7};
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error = {0};
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), SONDE_INVALID);
  CHECK(strstr(error.detail, "version") != NULL);
  config = (struct sonde_encoder_config){.version = 10, .message_bytes_max = 511};
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), SONDE_INVALID);
  CHECK(strstr(error.detail, "message_bytes_max") != NULL);
  CHECK(encoder == NULL);
}

int main(void) {
  static const uint32_t sizes[] = {512, 515, 1400, 9001, 65507};
  for (int i = 0; i < 5; i++) {
    decoded_random_records_equal_the_originals(5, SONDE_PROFILE_COMPAT, 0, sizes[i]);
    for (int profile = 0; profile < 2; profile++) {
      decoded_random_records_equal_the_originals(9, profile, 0, sizes[i]);
      decoded_random_records_equal_the_originals(10, profile, 0, sizes[i]);
      decoded_random_records_equal_the_originals(10, profile, 1, sizes[i]);
    }
  }
  for (int version = 9; version <= 10; version++)
    lost_templates_are_sent_again(version);
  counters_above_32_bits_are_split();
  full_v5_message_has_thirty_records();
  static const int versions[] = {5, 9, 10};
  for (int i = 0; i < 3; i++) {
    reverse_direction_is_swapped(versions[i]);
    icmp_types_are_paired(versions[i]);
    empty_segments_make_no_record(versions[i]);
    if (versions[i] != 10)
      exported_times_are_exact(versions[i]);
    exported_times_survive_clock_jumps(versions[i]);
  }
  statistics_have_their_own_domain();
  invalid_settings_are_named();
  return check_report();
}
