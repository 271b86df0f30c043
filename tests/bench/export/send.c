/* send.c - exports a capture file through one session to one collector, without the agent.
 *
 *   send PLUGIN_DIR FILE VERSION ADDRESS PORT [key=value …]
 *     profile=full  biflow=1  pace=BYTES_PER_SEC  table=FLOWS  ring=RECORDS  bytes=MESSAGE
 *     domain=N  tunnel=inner  filter=EXPRESSION  idle=MS  active=MS
 *     records=FILE  writes the stream's records as JSON for comparison; default: no consumer
 *
 * Prints one JSON object: the session's counters, the collector's counters, and the monotonic
 * times in seconds of the start, of the end of the file, and of the last record sent. The caller
 * checks the results.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "netsonde.h"

enum { FLUSH_MS = 120000 };

static void die(const char *what, const struct sonde_error *error) {
  fprintf(stderr, "send: %s: %s\n", what, error ? error->detail : "");
  exit(1);
}

static double read_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static const char *find_option(int argc, char **argv, const char *key, const char *otherwise) {
  size_t length = strlen(key);
  for (int i = 6; i < argc; i++)
    if (strncmp(argv[i], key, length) == 0 && argv[i][length] == '=')
      return argv[i] + length + 1;
  return otherwise;
}

static uint64_t find_number(int argc, char **argv, const char *key, const char *otherwise) {
  return strtoull(find_option(argc, argv, key, otherwise), NULL, 10);
}

static struct sonde_session *open_session(int argc, char **argv) {
  struct sonde_session_config config = {
      .plugin_dir = argv[1],
      .backend = "file",
      .interfaces = (const char *const[]){"bench0"},
      .interface_count = 1,
      .filter = find_option(argc, argv, "filter", NULL),
      .file_fd = open(argv[2], O_RDONLY | O_CLOEXEC),
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 64 << 20,
      .flow_table_size = (uint32_t)find_number(argc, argv, "table", "1048576"),
      .record_ring_size = (uint32_t)find_number(argc, argv, "ring", "65536"),
      .tunnel_mode = strcmp(find_option(argc, argv, "tunnel", "outer"), "inner") == 0,
      .metering = 1,
      .idle_timeout_ns = 1000000 * find_number(argc, argv, "idle", "300000"),
      .active_timeout_ns = 1000000 * find_number(argc, argv, "active", "60000"),
  };
  struct sonde_session *session;
  struct sonde_error error;
  if (config.file_fd < 0)
    die("cannot open the file", NULL);
  if (sonde_session_open(&config, &session, &error) < 0)
    die("open", &error);
  int stream = find_option(argc, argv, "records", NULL) != NULL;
  if (sonde_session_stream_set(session, stream, &error) < 0)
    die("stream", &error);
  return session;
}

static void add_collector(struct sonde_session *session, int argc, char **argv) {
  struct sonde_error error;
  struct sonde_collector_config config = {
      .address = argv[4],
      .port = (uint16_t)strtoul(argv[5], NULL, 10),
      .version = atoi(argv[3]),
      .profile = strcmp(find_option(argc, argv, "profile", "compat"), "full") == 0,
      .biflow = (int)find_number(argc, argv, "biflow", "0"),
      .message_bytes_max = (uint32_t)find_number(argc, argv, "bytes", "0"),
      .observation_domain = (uint32_t)find_number(argc, argv, "domain", "0"),
      .pace_bytes_per_sec = find_number(argc, argv, "pace", "0"),
  };
  if (sonde_session_collector_add(session, &config, &error) < 0)
    die("collector", &error);
}

/* Writes an array of records per line. */
static void drain(struct sonde_session *session, FILE *file) {
  static uint8_t buffer[256 << 10];
  struct sonde_batch batch;
  while (file &&
         sonde_session_drain(session, SONDE_ENCODING_JSON, 1000, buffer, sizeof buffer, &batch) ==
             SONDE_OK &&
         batch.records > 0) {
    fwrite(buffer, 1, batch.bytes, file);
    fputc('\n', file);
  }
}

struct times {
  double started, read_all, sent_all;
};

static void print(struct sonde_session *session, const struct times *times) {
  struct sonde_stats stats;
  struct sonde_collector_stats sent;
  sonde_session_stats(session, &stats);
  if (sonde_session_collectors(session, &sent, 1) != 1)
    die("collectors", NULL);
  printf("{\"captured\": %" PRIu64 ", \"recorded\": %" PRIu64 ", \"non_flow\": %" PRIu64
         ", \"ip_bytes\": %" PRIu64 ", \"records\": %" PRIu64 ", \"records_dropped\": %" PRIu64
         ", \"flows\": %" PRIu64 ", \"started\": %.4f, \"read_all\": %.4f, \"sent_all\": %.4f, ",
         stats.packets_captured, stats.packets_recorded, stats.packets_non_flow, stats.ip_bytes,
         stats.records, stats.records_dropped, stats.flows_created, times->started, times->read_all,
         times->sent_all);
  printf("\"sent\": {\"messages\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"templates\": %" PRIu64
         ", \"records\": %" PRIu64 ", \"packets\": %" PRIu64 ", \"octets\": %" PRIu64
         ", \"skipped_ipv6\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"no_room\": %" PRIu64
         ", \"lost_error\": %" PRIu64 ", \"packets_lost\": %" PRIu64 ", \"refusals\": %" PRIu64
         ", \"times_clamped\": %" PRIu64 ", \"last_error\": \"%s\"}}\n",
         sent.messages_sent, sent.bytes_sent, sent.templates_sent, sent.records_sent,
         sent.packets_sent, sent.octets_sent, sent.records_skipped_ipv6, sent.records_lost_refused,
         sent.records_lost_no_room, sent.records_lost_error, sent.packets_lost, sent.refusals,
         sent.times_clamped, sent.last_error);
}

int main(int argc, char **argv) {
  if (argc < 6) {
    fprintf(stderr, "usage: send PLUGIN_DIR FILE VERSION ADDRESS PORT [key=value …]\n");
    return 2;
  }
  struct sonde_session *session = open_session(argc, argv);
  struct sonde_error error;
  struct sonde_stats stats = {0};
  const char *path = find_option(argc, argv, "records", NULL);
  FILE *records = path ? fopen(path, "w") : NULL;
  add_collector(session, argc, argv);
  struct times times = {.started = read_seconds()};
  if (sonde_session_start(session, &error) < 0)
    die("start", &error);
  while (!stats.finished) {
    usleep(2000);
    drain(session, records);
    sonde_session_stats(session, &stats);
  }
  times.read_all = read_seconds();
  if (sonde_session_stop(session, &error) < 0)
    die("stop", &error);
  drain(session, records);
  if (sonde_session_export_flush(session, FLUSH_MS, &error) < 0)
    die("flush", &error);
  times.sent_all = read_seconds();
  print(session, &times);
  if (records && fclose(records) != 0)
    die("records", NULL);
  sonde_session_close(session);
  return 0;
}
