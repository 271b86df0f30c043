/* netflow_limits_test.c - headers that the decoder accepts or rejects, byte for byte, and the
 * interface's name in a message.
 */
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "export.h"
#include "netsonde.h"

static const uint64_t WALL = 1700000000000000000;

static void headers(void) {
  static const struct {
    uint8_t bytes[24]; /* the rest of a message is 0 */
    uint32_t length;
    int status;
    uint32_t consumed, malformed;
  } rows[] = {
      {{0, 10, 0, 16}, 16, 0, 16, 0},
      {{0, 10, 0, 16}, 15, SONDE_FORMAT, 0, 0},
      {{0, 10, 0, 16}, 4, SONDE_FORMAT, 0, 0},
      {{0, 10, 0, 15}, 16, SONDE_FORMAT, 0, 0},
      {{0, 10, 0, 16}, 24, 0, 16, 0}, /* another message follows */
      {{0, 10, 0, 17}, 16, 0, 16, 1}, /* cut off */
      {{0, 9, 0, 0}, 20, 0, 20, 0},
      {{0, 9, 0, 0}, 19, SONDE_FORMAT, 0, 0},
      {{0, 5, 0, 0}, 24, 0, 24, 0},
      {{0, 5, 0, 0}, 23, SONDE_FORMAT, 0, 0},
      {{0, 6, 0, 0}, 24, SONDE_FORMAT, 0, 0},
      {{0}, 0, SONDE_FORMAT, 0, 0},
      {{0}, 1, SONDE_FORMAT, 0, 0},
  };
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_decoded_message message = {0};
    unsigned long failures = check_failures;
    int status = sonde_export_decode(decoder, 0, rows[i].bytes, rows[i].length, &message);
    CHECK_EQ(status, rows[i].status);
    if (status == 0) {
      CHECK_EQ(message.bytes, rows[i].consumed);
      CHECK_EQ(message.malformed, rows[i].malformed);
      CHECK_EQ(message.records, 0);
    }
    if (check_failures > failures)
      fprintf(stderr, "  in row %zu\n", i);
  }
  sonde_export_decoder_destroy(decoder);
}

/* Exports one record from an interface. Returns the decoded text. */
static struct sonde_decoded_message export_from(struct sonde_export_decoder *decoder,
                                                const char *interface, int profile, uint32_t ipv6) {
  static uint8_t buffer[4096];
  struct sonde_message list[4];
  struct sonde_messages messages = {
      .buffer = buffer, .capacity = sizeof buffer, .list = list, .max = 4};
  const struct sonde_record record = {
      .flow_id = 1,
      .first_ns = WALL,
      .last_ns = WALL,
      .flow_start_ns = WALL,
      .packets = {1},
      .bytes = {60},
      .source_ip = {10, 0, 0, 1},
      .dest_ip = {10, 0, 0, 2},
      .ip_version = ipv6 ? 6 : 4,
      .ipv6 = ipv6,
      .protocol = 17,
      .end_reason = SONDE_END_IDLE,
      .mpls_label = UINT32_MAX,
      .sampling_interval = 1,
  };
  const struct sonde_encoder_config config = {
      .version = 10,
      .profile = profile,
      .message_bytes_max = 1400,
      .template_refresh_sec = 60,
      .template_refresh_messages = 20,
      .observation_domain = 1,
      .interface = interface,
      .start_ns = WALL,
  };
  struct sonde_encoder *encoder = NULL;
  struct sonde_error error;
  struct sonde_decoded_message message = {0};
  CHECK_EQ(sonde_encoder_create(&config, &encoder, &error), 0);
  CHECK_EQ(sonde_encoder_add(encoder, &record, 1, WALL, &messages), 1);
  CHECK_EQ(sonde_export_decode(decoder, 0, buffer, list[0].bytes, &message), 0);
  CHECK_EQ(message.records, 1);
  sonde_encoder_destroy(encoder);
  return message;
}

static bool shows(const struct sonde_decoded_message *message, const char *member) {
  return memmem(message->text, message->text_bytes, member, strlen(member)) != NULL;
}

static void members_of_the_full_profile(void) {
  const uint32_t ipv6 = SONDE_EXTENSION_HOP_BY_HOP | SONDE_EXTENSION_AUTHENTICATION | 0x12345;
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_decoded_message message = export_from(decoder, "eth0.100", SONDE_PROFILE_FULL, 0);
  CHECK(shows(&message, "\"interface\":\"eth0.100\""));
  message = export_from(decoder, "eth0.100", SONDE_PROFILE_COMPAT, 0);
  CHECK(!shows(&message, "eth0.100"));
  message = export_from(decoder, "eth0", SONDE_PROFILE_FULL, ipv6);
  CHECK(shows(&message, "\"interface\":\"eth0\""));
  CHECK(shows(&message, "\"flow_label\":74565"));
  CHECK(shows(&message, "\"ipv6_extensions\":16386")); /* bits 1 and 14 */
  sonde_export_decoder_destroy(decoder);
}

/* The time of a message is that of its newest record, in whole seconds. */
static void export_times(void) {
  static uint8_t buffer[16384];
  struct sonde_record records[4] = {{0}};
  struct sonde_batch batch;
  for (uint32_t i = 0; i < 4; i++) {
    records[i] = (struct sonde_record){.flow_id = i + 1, .ip_version = 4, .packets = {1}};
    records[i].first_ns = WALL;
    records[i].last_ns = WALL + (i == 0 ? 500 : i == 3 ? 900 : i) * UINT64_C(1000000000);
  }
  for (uint32_t count = 1; count <= 4; count++) {
    const uint8_t *time = buffer + 4;
    CHECK_EQ(sonde_records_render(records, count, SONDE_ENCODING_IPFIX, "eth0", buffer,
                                  sizeof buffer, &batch),
             0);
    CHECK_EQ((uint32_t)time[0] << 24 | (uint32_t)time[1] << 16 | (uint32_t)time[2] << 8 | time[3],
             1700000000 + (count == 4 ? 900 : 500));
  }
}

/* ---- templates -------------------------------------------------------------------------- */

struct draft {
  uint8_t bytes[256];
  uint32_t length;
};

static void put(struct draft *draft, const uint16_t *words, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    draft->bytes[draft->length++] = (uint8_t)(words[i] >> 8);
    draft->bytes[draft->length++] = (uint8_t)words[i];
  }
}

#define PUT(draft, ...)                                                                            \
  put(draft, (const uint16_t[]){__VA_ARGS__}, sizeof (uint16_t[]){__VA_ARGS__} / sizeof(uint16_t))

/* Decodes an IPFIX message of one set. `claims`: bytes that its length adds. */
static struct sonde_decoded_message decode_set(struct sonde_export_decoder *decoder,
                                               const struct draft *set, uint16_t claims) {
  struct draft message = {0};
  struct sonde_decoded_message decoded = {0};
  PUT(&message, 10, (uint16_t)(16 + set->length + claims), 0x6553, 0xf100, 0, 0, 0, 1);
  memcpy(message.bytes + message.length, set->bytes, set->length);
  CHECK_EQ(sonde_export_decode(decoder, 0, message.bytes, message.length + set->length, &decoded),
           0);
  return decoded;
}

static void check_known(struct sonde_export_decoder *decoder, uint16_t id, bool known) {
  struct draft data = {0};
  PUT(&data, id, 8, 1, 2);
  struct sonde_decoded_message message = decode_set(decoder, &data, 0);
  CHECK_EQ(message.records, known);
  CHECK_EQ(message.sets_unknown, !known);
  CHECK_EQ(message.malformed, 0);
}

/* RFC 7011 section 8.1: a template without fields withdraws itself, or all of its set. */
static void templates_are_withdrawn(void) {
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct draft templates = {0}, one = {0}, all_options = {0}, all = {0};
  PUT(&templates, 2, 20, 300, 1, 8, 4, 301, 1, 12, 4);
  PUT(&one, 2, 8, 300, 0);
  PUT(&all_options, 3, 8, 3, 0);
  PUT(&all, 2, 8, 2, 0);
  CHECK_EQ(decode_set(decoder, &templates, 0).templates, 2);
  check_known(decoder, 300, true);
  check_known(decoder, 301, true);
  check_known(decoder, 302, false);
  decode_set(decoder, &one, 0);
  check_known(decoder, 300, false);
  check_known(decoder, 301, true);
  decode_set(decoder, &templates, 0);
  decode_set(decoder, &all_options, 0);
  check_known(decoder, 300, true);
  decode_set(decoder, &all, 0);
  check_known(decoder, 300, false);
  check_known(decoder, 301, false);
  CHECK_EQ(decode_set(decoder, &templates, 5).malformed, 1); /* cut, but its template is whole */
  check_known(decoder, 300, true);
  sonde_export_decoder_destroy(decoder);
}

int main(void) {
  headers();
  members_of_the_full_profile();
  export_times();
  templates_are_withdrawn();
  return check_report();
}
