/* store.c - the cost of the capture buffer and the time of a query.
 *
 *   store PLUGIN_DIR record BUFFER_MIB     ns per packet to meter 512-byte packets, alternately
 *                                          without and with a buffer
 *   store PLUGIN_DIR query BUFFER_MIB      one host in a full buffer, by index and by plain scan
 *   store PLUGIN_DIR seal                  MB/s on one core to seal an extent of 1 MiB
 *
 * Prints one JSON object. recorder.py checks the results.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "netsonde.h"
#include "store/seal.h"

enum {
  PACKET_BYTES = 512,
  PACKETS = 2000000,
  FLOWS = 10000,
  RUNS = 5,
  READ_BYTES = 1 << 20,
  SEAL_BYTES = 1 << 20,
  SEAL_ROUNDS = 3000,
};

static void die(const char *what) {
  fprintf(stderr, "store: %s\n", what);
  exit(1);
}

static double clock_seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Makes a pcap file in memory: UDP, hosts in bursts, one packet per microsecond. */
static int make_file(uint64_t packets) {
  int fd = memfd_create("packets", MFD_CLOEXEC);
  FILE *file = fd < 0 ? NULL : fdopen(dup(fd), "w");
  if (file == NULL)
    die("no memory for the packets");
  const uint32_t head[6] = {0xa1b23c4d, 4u << 16 | 2, 0, 0, 262144, 1};
  uint8_t packet[16 + PACKET_BYTES] = {0};
  uint8_t *frame = packet + 16;
  fwrite(head, sizeof head, 1, file);
  frame[12] = 8;
  memcpy(frame + 14, (uint8_t[]){0x45, 0, (PACKET_BYTES - 14) >> 8, (PACKET_BYTES - 14) & 255}, 4);
  memcpy(frame + 22, (uint8_t[]){64, 17}, 2);
  memcpy(frame + 30, (uint8_t[]){192, 168, 0, 1, 0, 0, 0, 53}, 8);
  for (uint64_t i = 0; i < packets; i++) {
    const uint64_t ns = i * 1000;
    const uint32_t flow = (uint32_t)(i / 10 * 2654435761u >> 8) % FLOWS + 20 * (uint32_t)(i >> 17);
    const uint32_t record[4] = {(uint32_t)(1700000000 + ns / 1000000000),
                                (uint32_t)(ns % 1000000000), PACKET_BYTES, PACKET_BYTES};
    memcpy(packet, record, sizeof record);
    memcpy(frame + 26, (uint8_t[]){10, 0, (uint8_t)(flow >> 8), (uint8_t)flow}, 4);
    memcpy(frame + 34, (uint8_t[]){(uint8_t)(flow >> 8 | 0x80), (uint8_t)flow}, 2);
    fwrite(packet, sizeof packet, 1, file);
  }
  if (fclose(file) != 0)
    die("no memory for the packets");
  return fd;
}

static void wait_until_finished(struct sonde_session *session, struct sonde_stats *stats) {
  static uint8_t buffer[256 << 10];
  do {
    struct pollfd ready = {.fd = sonde_session_event_fd(session), .events = POLLIN};
    uint64_t edges;
    struct sonde_batch batch;
    if (poll(&ready, 1, 5) == 1 && read(ready.fd, &edges, sizeof edges) < 0)
      die("event fd");
    do {
      sonde_session_drain(session, SONDE_ENCODING_JSON, 1000, buffer, sizeof buffer, &batch);
    } while (batch.records);
    sonde_session_stats(session, stats);
  } while (!stats->finished);
}

static struct sonde_session *replay(const char *plugins, int fd, uint64_t buffer_bytes,
                                    double *seconds, struct sonde_stats *stats) {
  struct sonde_session_config config = {
      .plugin_dir = plugins,
      .backend = "file",
      .interfaces = (const char *const[]){"bench"},
      .interface_count = 1,
      .file_fd = dup(fd),
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 64 << 20,
      .flow_table_size = 1 << 17,
      .record_ring_size = 1 << 16,
      .metering = 1,
      .idle_timeout_ns = 300000000000,
      .active_timeout_ns = 60000000000,
      .buffer_bytes = buffer_bytes,
  };
  struct sonde_session *session;
  struct sonde_error error;
  lseek(config.file_fd, 0, SEEK_SET);
  if (sonde_session_open(&config, &session, &error) < 0)
    die(error.detail);
  usleep(200000); /* until the first chunks have their pages */
  double begun = clock_seconds(CLOCK_MONOTONIC);
  if (sonde_session_start(session, &error) < 0)
    die(error.detail);
  wait_until_finished(session, stats);
  *seconds = clock_seconds(CLOCK_MONOTONIC) - begun;
  return session;
}

/* Returns the CPU time of the capture thread alone, which the kernel counts in ns. */
static double capture_seconds(void) {
  unsigned long long ns = 0;
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *task = tasks ? readdir(tasks) : NULL; task; task = readdir(tasks)) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
    FILE *file = fopen(path, "r");
    if (file && fgets(name, sizeof name, file) && strncmp(name, "sonde-cap-0", 11) == 0) {
      fclose(file);
      snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", task->d_name);
      file = fopen(path, "r");
      if (file && fscanf(file, "%llu", &ns) != 1)
        ns = 0;
    }
    if (file)
      fclose(file);
  }
  if (tasks)
    closedir(tasks);
  return (double)ns * 1e-9;
}

static void print_costs(const char *name, const double *ns) {
  printf("\"%s\": [", name);
  for (int run = 0; run < RUNS; run++)
    printf("%s%.1f", run ? ", " : "", ns[run]);
  printf("], ");
}

/* Every replay reads the same file from memory. Only the capture thread's time counts. */
static void bench_record(const char *plugins, uint64_t buffer_bytes) {
  int fd = make_file(PACKETS);
  double alone[RUNS], recording[RUNS], seconds;
  struct sonde_stats stats;
  for (int run = 0; run < RUNS; run++) {
    struct sonde_session *session = replay(plugins, fd, 0, &seconds, &stats);
    alone[run] = capture_seconds() / PACKETS * 1e9;
    sonde_session_close(session);
    session = replay(plugins, fd, buffer_bytes, &seconds, &stats);
    recording[run] = capture_seconds() / PACKETS * 1e9;
    sonde_session_close(session);
  }
  printf("{");
  print_costs("alone_ns", alone);
  print_costs("recording_ns", recording);
  printf("\"packets\": %d, \"captured\": %" PRIu64 ", \"recorded\": %" PRIu64 "}\n", PACKETS,
         stats.packets_captured, stats.buffer_packets + stats.packets_overwritten);
}

static double ask(struct sonde_session *session, const char *filter,
                  struct sonde_packets_summary *summary) {
  static uint8_t buffer[READ_BYTES];
  struct sonde_packets *packets;
  struct sonde_error error;
  double begun = clock_seconds(CLOCK_MONOTONIC);
  if (sonde_session_packets_open(session, filter, 0, 0, 0, 0, &packets, &error) < 0)
    die(error.detail);
  while (sonde_session_packets_read(packets, buffer, sizeof buffer) >= 0) {
  }
  sonde_session_packets_summary(packets, summary);
  sonde_session_packets_close(packets);
  return clock_seconds(CLOCK_MONOTONIC) - begun;
}

static void print_answer(const char *name, double seconds,
                         const struct sonde_packets_summary *summary) {
  printf("\"%s\": {\"seconds\": %.4f, \"packets\": %" PRIu64 ", \"chunks_read\": %" PRIu64
         ", \"chunks_skipped\": %" PRIu64 "}",
         name, seconds, summary->packets, summary->chunks_read, summary->chunks_skipped);
}

/* Queries a host that appears late in the trace with two equivalent expressions. No index
 * supports the second. */
static void bench_query(const char *plugins, uint64_t buffer_bytes) {
  int fd = make_file(buffer_bytes / 560);
  struct sonde_stats stats;
  struct sonde_packets_summary summary;
  double seconds;
  struct sonde_session *session = replay(plugins, fd, buffer_bytes, &seconds, &stats);
  close(fd);
  printf("{\"kept\": %" PRIu64 ", ", stats.buffer_packets);
  seconds = ask(session, "host 10.0.40.10", &summary);
  print_answer("indexed", seconds, &summary);
  printf(", ");
  seconds = ask(session, "host 10.0.40.10 and greater 0", &summary);
  print_answer("scanned", seconds, &summary);
  printf("}\n");
  sonde_session_close(session);
}

static void bench_seal(void) {
  uint8_t *data = aligned_alloc(64, SEAL_BYTES);
  uint8_t key[32] = {1}, nonce[SONDE_NONCE_BYTES], tag[SONDE_TAG_BYTES], aad[24] = {0};
  struct sonde_seal_text text = {aad, sizeof aad, SEAL_BYTES, data, data};
  if (data == NULL)
    die("no memory");
  memset(data, 7, SEAL_BYTES);
  double begun = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
  for (uint64_t i = 0; i < SEAL_ROUNDS; i++) {
    sonde_nonce(i, 0, nonce);
    if (sonde_seal(key, nonce, &text, tag) < 0)
      die("libcrypto failed");
  }
  double seconds = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - begun;
  printf("{\"mb_per_s\": %.1f}\n", (double)SEAL_BYTES * SEAL_ROUNDS / seconds / 1e6);
  free(data);
}

int main(int argc, char **argv) {
  uint64_t mib = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
  if (argc == 4 && strcmp(argv[2], "record") == 0) {
    bench_record(argv[1], mib << 20);
  } else if (argc == 4 && strcmp(argv[2], "query") == 0) {
    bench_query(argv[1], mib << 20);
  } else if (argc == 3 && strcmp(argv[2], "seal") == 0) {
    bench_seal();
  } else {
    fprintf(stderr, "usage: store PLUGIN_DIR record|query BUFFER_MIB, or PLUGIN_DIR seal\n");
    return 2;
  }
  return 0;
}
