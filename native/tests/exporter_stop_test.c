/* exporter_stop_test.c - after stop the export thread drains the table through the record ring
 * without wake-ups, so it must not sleep while flows remain.
 *
 * The flows are silent: their packets left in earlier records, so their last records make no
 * message. A ring full of them once looked like finished work, and the thread slept its maximum
 * between two ringfuls. The linker redirects the core's ppoll to this file (see CMakeLists.txt),
 * which counts the sleeps that ran to their timeout.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "netsonde.h"

enum { FLOWS = 1000, RING_RECORDS = 64, FRAME = 60, DISCARD_PORT = 9, FLUSH_MS = 60000 };
static const uint64_t SECOND = 1000000000;

static struct sonde_session *_Atomic stopped; /* NULL until its stop was requested */
static _Atomic int sleeps_through;

int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask) {
  struct sonde_session *session = atomic_load(&stopped); /* read before the sleep: stop wakes it */
  int ready = __real_ppoll(fds, count, timeout, mask);
  if (session && ready == 0 && timeout->tv_sec > 0) {
    struct sonde_stats stats;
    sonde_session_stats(session, &stats);
    atomic_fetch_add(&sleeps_through, stats.flows_active > 0);
  }
  return ready;
}

static void put_packet(FILE *file, uint32_t flow, uint32_t sec) {
  const uint32_t record[4] = {1700000000 + sec, 0, FRAME, FRAME};
  uint8_t frame[FRAME] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46};
  const uint8_t addresses[8] = {10, 0, (uint8_t)(flow >> 8), (uint8_t)flow, 192, 0, 2, 1};
  frame[22] = 64;
  frame[23] = 17;
  memcpy(frame + 26, addresses, sizeof addresses);
  frame[34] = frame[36] = 4;
  frame[39] = 26;
  fwrite(record, sizeof record, 1, file);
  fwrite(frame, sizeof frame, 1, file);
}

/* One packet of each flow, then one of another flow, after the active and before the idle timeout.
 */
static int make_capture(void) {
  int fd = memfd_create("capture", MFD_CLOEXEC);
  FILE *file = fdopen(dup(fd), "w");
  const uint32_t head[6] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, 1};
  fwrite(head, sizeof head, 1, file);
  for (uint32_t i = 0; i < FLOWS; i++)
    put_packet(file, i, 0);
  put_packet(file, FLOWS, 10);
  fclose(file);
  lseek(fd, 0, SEEK_SET);
  return fd;
}

static struct sonde_session *open_session(void) {
  struct sonde_session_config config = {
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = "file",
      .interfaces = (const char *const[]){"crafted"},
      .interface_count = 1,
      .file_fd = make_capture(),
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 1 << 20,
      .flow_table_size = 2048,
      .record_ring_size = RING_RECORDS,
      .metering = 1,
      .idle_timeout_ns = 300 * SECOND,
      .active_timeout_ns = 5 * SECOND,
  };
  struct sonde_collector_config collector = {
      .address = "127.0.0.1", .port = DISCARD_PORT, .version = 9};
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_session_open(&config, &session, &error), 0);
  CHECK_EQ(sonde_session_stream_set(session, 0, &error), 0);
  CHECK_EQ(sonde_session_collector_add(session, &collector, &error), 0);
  return session;
}

static void silent_flows_are_drained_without_a_pause(void) {
  struct sonde_session *session = open_session();
  struct sonde_stats stats;
  struct sonde_error error;
  CHECK_EQ(sonde_session_start(session, &error), 0);
  do {
    usleep(1000);
    sonde_session_stats(session, &stats);
  } while (stats.packets_recorded < FLOWS); /* then all but the last flow are silent */
  CHECK_EQ(stats.flows_active, FLOWS + 1);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  atomic_store(&stopped, session);
  CHECK_EQ(sonde_session_export_flush(session, FLUSH_MS, &error), 0);
  atomic_store(&stopped, NULL);
  CHECK_EQ(sleeps_through, 0);
  sonde_session_stats(session, &stats);
  CHECK_EQ(stats.flows_active, 0);
  CHECK_EQ(stats.records, FLOWS + FLOWS + 1); /* the end of each silent flow is a record as well */
  CHECK_EQ(stats.records_dropped, 0);
  sonde_session_close(session);
}

int main(void) {
  silent_flows_are_drained_without_a_pause();
  return check_report();
}
