/* encode.c - how many records per second one core encodes into v5, v9 and IPFIX messages.
 *
 *   encode [SECONDS]
 *
 * Prints one JSON line per version and profile. The records are one-packet TCP flows, every fourth
 * with an answer, with mixed ports and addresses, and exceed a cache.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "export.h"

enum { RECORDS = 1 << 16, PIECE = 512, BUFFER_BYTES = 256 << 10, MESSAGES = 512 };

static double read_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void fill(struct sonde_record *records) {
  memset(records, 0, RECORDS * sizeof *records);
  for (uint32_t i = 0; i < RECORDS; i++) {
    struct sonde_record *record = &records[i];
    uint32_t mixed = i * 2654435761u;
    record->flow_id = i + 1;
    record->first_ns = 1700000000000000000 + (uint64_t)i * 1000000;
    record->last_ns = record->first_ns + mixed % 50000000;
    record->packets[0] = 1;
    record->bytes[0] = 40 + mixed % 1400;
    record->packets[1] = i % 4 == 0;
    record->bytes[1] = record->packets[1] * 52;
    memcpy(record->source_ip, &mixed, 4);
    memcpy(record->dest_ip, &i, 4);
    record->source_port = (uint16_t)(mixed >> 16);
    record->dest_port = 443;
    record->ip_version = 4;
    record->protocol = 6;
    record->tcp_flags[0] = 2;
    record->end_reason = SONDE_END_IDLE;
    record->sampling_interval = 1;
    record->mpls_label = UINT32_MAX;
  }
}

static void measure(const struct sonde_record *records, int version, int profile, double seconds) {
  static uint8_t buffer[BUFFER_BYTES];
  static struct sonde_message list[MESSAGES];
  struct sonde_encoder_config config = {
      .version = version,
      .profile = profile,
      .message_bytes_max = SONDE_EXPORT_MESSAGE_DEFAULT,
      .template_refresh_sec = 60,
      .template_refresh_messages = 20,
      .observation_domain = 1,
      .interface = "eth0",
      .packet_time = 1,
  };
  struct sonde_encoder *encoder;
  struct sonde_encoder_counters counters;
  struct sonde_error error;
  if (sonde_encoder_create(&config, &encoder, &error) < 0) {
    fprintf(stderr, "encode: %s\n", error.detail);
    exit(1);
  }
  double start = read_seconds(), used;
  do {
    for (uint32_t next = 0; next < RECORDS;) {
      struct sonde_messages messages = {
          .buffer = buffer, .capacity = BUFFER_BYTES, .list = list, .max = MESSAGES};
      uint32_t count = RECORDS - next < PIECE ? RECORDS - next : PIECE;
      next += sonde_encoder_add(encoder, records + next, count, 1800000000000000000, &messages);
    }
    used = read_seconds() - start;
  } while (used < seconds);
  sonde_encoder_counters(encoder, &counters);
  printf("{\"version\": %d, \"profile\": \"%s\", \"records\": %" PRIu64 ", \"bytes\": %" PRIu64
         ", \"cpu_sec\": %.3f, \"records_per_cpu_sec\": %.0f}\n",
         version, profile == SONDE_PROFILE_FULL ? "full" : "compat", counters.records,
         counters.octets, used, (double)counters.records / used);
  sonde_encoder_destroy(encoder);
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1;
  struct sonde_record *records = aligned_alloc(64, RECORDS * sizeof *records);
  if (!records)
    return 1;
  fill(records);
  measure(records, 5, SONDE_PROFILE_COMPAT, seconds);
  for (int version = 9; version <= 10; version++) {
    measure(records, version, SONDE_PROFILE_COMPAT, seconds);
    measure(records, version, SONDE_PROFILE_FULL, seconds);
  }
  free(records);
  return 0;
}
