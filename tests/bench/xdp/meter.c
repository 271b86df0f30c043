/* meter.c - one live session of the C core, its packet counts, and its processor time.
 *
 *   meter PLUGIN_DIR BACKEND INTERFACE [FILTER|dedicated [BUFFER_MIB]]
 *
 * Metering is on and the records are rendered, as in an agent. With BUFFER_MIB whole packets are
 * captured, and recorded unless it is 0. Otherwise 128 bytes of each suffice. Prints one line of
 * JSON when the capture is ready ("ready"), and one for each line on standard input, which gives
 * the number of packets sent so far. Ends at the end of its input.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "netsonde.h"

enum { BUFFER_BYTES = 1 << 20, PAUSE_MS = 20 };
static const double LATE_SEC_MAX = 1.5;

static double now_sec(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double used_sec(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void drain(struct sonde_session *session, uint8_t *buffer, uint32_t bytes) {
  struct sonde_batch batch;
  do {
    sonde_session_drain(session, SONDE_ENCODING_MSGPACK, 1000, buffer, bytes, &batch);
  } while (batch.records);
}

/* Waits until that many are counted. Counts of the kernel can be a second old. */
static void settle(struct sonde_session *session, uint8_t *buffer, uint64_t wanted) {
  struct sonde_stats stats;
  double limit = now_sec() + LATE_SEC_MAX;
  do {
    drain(session, buffer, BUFFER_BYTES);
    sonde_session_stats(session, &stats);
  } while (stats.packets_captured + stats.packets_dropped < wanted && now_sec() < limit &&
           nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000}, NULL) == 0);
  printf("{\"captured\": %llu, \"dropped\": %llu, \"flows\": %llu, \"cpu_sec\": %.6f}\n",
         (unsigned long long)stats.packets_captured, (unsigned long long)stats.packets_dropped,
         (unsigned long long)stats.flows_created, used_sec());
  fflush(stdout);
}

static int run(struct sonde_session *session, struct sonde_error *error) {
  static uint8_t buffer[BUFFER_BYTES];
  struct pollfd told = {.fd = 0, .events = POLLIN};
  char line[32];
  int status = sonde_session_start(session, error);
  if (status < 0)
    return status;
  printf("{\"ready\": true}\n");
  fflush(stdout);
  setvbuf(stdin, NULL, _IONBF, 0); /* poll does not see data in a stdio buffer */
  for (;;) {
    while (poll(&told, 1, PAUSE_MS) == 0)
      drain(session, buffer, BUFFER_BYTES);
    if (!fgets(line, sizeof line, stdin))
      return sonde_session_stop(session, error);
    settle(session, buffer, strtoull(line, NULL, 10));
  }
}

int main(int count, char **words) {
  if (count < 4) {
    fprintf(stderr, "usage: meter PLUGIN_DIR BACKEND INTERFACE [FILTER|dedicated [BUFFER_MIB]]\n");
    return 2;
  }
  const char *extra = count > 4 ? words[4] : "";
  int dedicated = strcmp(extra, "dedicated") == 0;
  struct sonde_session_config config = {
      .plugin_dir = words[1],
      .backend = words[2],
      .interfaces = (const char *const[]){words[3]},
      .interface_count = 1,
      .filter = dedicated ? NULL : extra,
      .file_fd = -1,
      .workers = 1,
      .snaplen = count > 5 ? 262144 : 128,
      .buffer_bytes = count > 5 ? strtoull(words[5], NULL, 10) << 20 : 0,
      .ring_bytes = 64u << 20,
      .dedicated = dedicated,
      .flow_table_size = 1u << 20,
      .record_ring_size = 1u << 17,
      .metering = 1,
      .idle_timeout_ns = 300000000000,
      .active_timeout_ns = 60000000000,
  };
  struct sonde_session *session = NULL;
  struct sonde_error error = {0};
  int status = sonde_session_open(&config, &session, &error);
  if (status == 0)
    status = run(session, &error);
  if (status < 0)
    fprintf(stderr, "%s\n", error.detail);
  sonde_session_close(session);
  return status < 0;
}
