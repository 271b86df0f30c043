/* rendering.c - how fast records are rendered as JSON, MessagePack or IPFIX, in isolation.
 *
 *   rendering json|msgpack|ipfix RECORDS SEED [all|key]
 *
 * Renders batches of 1,000 records of a plausible mix (TCP and UDP, one in five IPv6) until
 * RECORDS are done; `key` renders only key, counters, times and reason. Prints one JSON object:
 * records, bytes, seconds of processor time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "netsonde.h"

enum { BATCH_RECORDS = 1000, BUFFER_BYTES = 4 << 20 };

static uint64_t random_state;

static uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void make_record(struct sonde_record *record) {
  *record = (struct sonde_record){
      .flow_id = next_random(),
      .first_ns = 1700000000000000000 + next_random() % 3600000000000,
      .mpls_label = UINT32_MAX,
      .handshake_rtt_us = next_random() % 2 ? UINT32_MAX : (uint32_t)(next_random() % 100000),
      .sampling_interval = 1,
      .source_port = (uint16_t)(1024 + next_random() % 60000),
      .dest_port = 443,
      .ip_version = next_random() % 5 ? 4 : 6,
      .protocol = next_random() % 2 ? 6 : 17,
      .has_mac = 1,
      .tcp_flags = {27, 27},
      .ttl_min = 57,
      .ttl_max = 64,
      .end_reason = (uint8_t)(1 + next_random() % 4),
      .final = 1,
  };
  record->last_ns = record->first_ns + next_random() % 60000000000;
  record->flow_start_ns = record->first_ns;
  for (int way = 0; way < 2; way++) {
    record->packets[way] = record->total_packets[way] = 1 + next_random() % 200;
    record->bytes[way] = record->total_bytes[way] = record->packets[way] * (next_random() % 1400);
    record->l2_bytes[way] = record->bytes[way] + 14 * record->packets[way];
  }
  for (int i = 0; i < (record->ip_version == 6 ? 16 : 4); i++) {
    record->source_ip[i] = (uint8_t)next_random();
    record->dest_ip[i] = (uint8_t)next_random();
  }
}

static uint64_t select_key_fields(void) {
  static const char *const names[] = {
      "source_ip", "dest_ip",    "source_port", "dest_port",  "protocol_number", "packets",
      "bytes",     "first_seen", "last_seen",   "end_reason", "reverse_packets", "reverse_bytes",
  };
  uint64_t fields = 0;
  for (uint32_t i = 0; sonde_record_field_name(i); i++)
    for (size_t j = 0; j < sizeof names / sizeof names[0]; j++)
      fields |= (uint64_t)(strcmp(names[j], sonde_record_field_name(i)) == 0) << i;
  return fields;
}

int main(int argc, char **argv) {
  if (argc != 4 && argc != 5) {
    fprintf(stderr, "usage: rendering json|msgpack|ipfix RECORDS SEED [all|key]\n");
    return 2;
  }
  int encoding = strcmp(argv[1], "json") == 0      ? SONDE_ENCODING_JSON
                 : strcmp(argv[1], "msgpack") == 0 ? SONDE_ENCODING_MSGPACK
                                                   : SONDE_ENCODING_IPFIX;
  uint64_t fields = argc == 5 && strcmp(argv[4], "key") == 0 ? select_key_fields() : 0;
  uint64_t wanted = strtoull(argv[2], NULL, 10), records = 0, bytes = 0;
  random_state = strtoull(argv[3], NULL, 10);
  static struct sonde_record batch_records[BATCH_RECORDS];
  static uint8_t buffer[BUFFER_BYTES];
  for (int i = 0; i < BATCH_RECORDS; i++)
    make_record(&batch_records[i]);
  struct timespec begin, end;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
  while (records < wanted) {
    struct sonde_batch batch;
    if (sonde_records_render_fields(batch_records, BATCH_RECORDS, encoding, fields, "eth0", buffer,
                                    BUFFER_BYTES, &batch) < 0) {
      return 1;
    }
    records += batch.records;
    bytes += batch.bytes;
  }
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
  double seconds =
      (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9;
  printf("{\"records\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"seconds\": %.6f}\n", records, bytes,
         seconds);
  return 0;
}
