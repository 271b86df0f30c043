/* replay.c - the core without the agent: one file through one session, records rendered.
 *
 *   replay PLUGIN_DIR FILE json|msgpack|unmetered FLOW_TABLE_SIZE RECORD_RING_SIZE
 *
 * Prints one JSON object: the session's counters before the stop ("finished") and after the last
 * record was drained ("stopped"), both with the process's memory except file pages, and the
 * rendered amounts. run.py checks the results.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "netsonde.h"

enum { BUFFER_BYTES = 256 << 10, BATCH_RECORDS = 1000, POLL_MS = 20 };

struct rendered {
  uint64_t records, packets, bytes, batches;
};

static void die(const char *what, const struct sonde_error *error) {
  fprintf(stderr, "replay: %s: %s\n", what, error ? error->detail : "");
  exit(1);
}

/* Resident memory without the pages of mapped files, in KiB. */
static uint64_t measure_memory_kib(void) {
  char line[256];
  uint64_t kib = 0, value;
  FILE *file = fopen("/proc/self/status", "r");
  if (file == NULL)
    die("cannot read /proc/self/status", NULL);
  while (fgets(line, sizeof line, file)) {
    if (sscanf(line, "RssAnon: %" SCNu64, &value) == 1 ||
        sscanf(line, "RssShmem: %" SCNu64, &value) == 1) {
      kib += value;
    }
  }
  fclose(file);
  return kib;
}

static void drain(struct sonde_session *session, int encoding, struct rendered *rendered) {
  static uint8_t buffer[BUFFER_BYTES];
  struct sonde_batch batch;
  for (;;) {
    int status =
        sonde_session_drain(session, encoding, BATCH_RECORDS, buffer, sizeof buffer, &batch);
    if (status < 0)
      die(sonde_status_name(status), NULL);
    if (batch.records == 0)
      return;
    rendered->records += batch.records;
    rendered->packets += batch.packets;
    rendered->bytes += batch.bytes;
    rendered->batches++;
  }
}

static void print_stats(const char *name, const struct sonde_stats *stats) {
  printf("\"%s\": {\"captured\": %" PRIu64 ", \"dropped\": %" PRIu64 ", \"recorded\": %" PRIu64
         ", \"active\": %" PRIu64 ", \"non_flow\": %" PRIu64 ", \"unmetered\": %" PRIu64
         ", \"records\": %" PRIu64 ", \"records_dropped\": %" PRIu64 ", \"resources\": %" PRIu64
         ", \"flows_active\": %" PRIu64 ", \"flows_created\": %" PRIu64 ", \"memory_kib\": %" PRIu64
         "}, ",
         name, stats->packets_captured, stats->packets_dropped, stats->packets_recorded,
         stats->packets_active, stats->packets_non_flow, stats->packets_unmetered, stats->records,
         stats->records_dropped, stats->records_by_reason[SONDE_END_RESOURCES], stats->flows_active,
         stats->flows_created, measure_memory_kib());
}

static struct sonde_session *open_session(char **argv, int metering) {
  struct sonde_session_config config = {
      .plugin_dir = argv[1],
      .backend = "file",
      .interfaces = (const char *const[]){"bench"},
      .interface_count = 1,
      .file_fd = open(argv[2], O_RDONLY | O_CLOEXEC),
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 64 << 20,
      .flow_table_size = (uint32_t)strtoul(argv[4], NULL, 10),
      .record_ring_size = (uint32_t)strtoul(argv[5], NULL, 10),
      .metering = metering,
      .idle_timeout_ns = 300000000000,
      .active_timeout_ns = 60000000000,
  };
  struct sonde_session *session;
  struct sonde_error error;
  if (config.file_fd < 0)
    die("cannot open the file", NULL);
  if (sonde_session_open(&config, &session, &error) < 0)
    die("open", &error);
  return session;
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: replay PLUGIN_DIR FILE json|msgpack|unmetered TABLE RING\n");
    return 2;
  }
  int metering = strcmp(argv[3], "unmetered") != 0;
  int encoding = strcmp(argv[3], "msgpack") == 0 ? SONDE_ENCODING_MSGPACK : SONDE_ENCODING_JSON;
  struct sonde_session *session = open_session(argv, metering);
  struct rendered rendered = {0};
  struct sonde_stats stats = {0};
  struct sonde_error error;
  if (sonde_session_start(session, &error) < 0)
    die("start", &error);
  while (!stats.finished) {
    struct pollfd ready = {.fd = sonde_session_event_fd(session), .events = POLLIN};
    uint64_t edges;
    if (poll(&ready, 1, POLL_MS) == 1 && read(ready.fd, &edges, sizeof edges) < 0)
      die("event fd", NULL);
    drain(session, encoding, &rendered);
    sonde_session_stats(session, &stats);
  }
  drain(session, encoding, &rendered);
  sonde_session_stats(session, &stats);
  printf("{");
  print_stats("finished", &stats);
  if (sonde_session_stop(session, &error) < 0)
    die("stop", &error);
  drain(session, encoding, &rendered);
  sonde_session_stats(session, &stats);
  print_stats("stopped", &stats);
  printf("\"rendered\": {\"records\": %" PRIu64 ", \"packets\": %" PRIu64 ", \"bytes\": %" PRIu64
         ", \"batches\": %" PRIu64 "}}\n",
         rendered.records, rendered.packets, rendered.bytes, rendered.batches);
  sonde_session_close(session);
  return 0;
}
