/* file_pace_test.c - the file backend with pacing: packets at the time of their timestamps, a wait
 * that can be woken, and a stop before the end of the file.
 */
#include <time.h>

#include "capture_file.h"

enum { HANGS_MS = 60000 };

static uint64_t clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Packets are never early. The delay depends on the machine. Without the speed-up no packet would
 * arrive before the timeout of receive. */
static void check_pace(void) {
  struct sonde_backend *backend = NULL;
  struct sonde_packet packets[BATCH];
  struct sonde_error error;
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(1000, 0, 20, 20);
  put_pcap_packet(1200, 0, 20, 20);  /* due after 200 ms at 1000 times the speed */
  put_pcap_packet(1100, 0, 20, 20);  /* backwards */
  put_pcap_packet(90000, 0, 20, 20); /* a day later: returned at once */
  put_pcap_packet(90100, 0, 20, 20);
  CHECK_EQ(open_fd(memory_file(image.length), 1000.0, &backend, &error), 0);
  uint64_t begin_ms = clock_ms();
  CHECK_EQ(ops->receive(backend, 0, packets, 1, HANGS_MS, &error), 1);
  CHECK_EQ(packets[0].caplen, 20);
  CHECK_EQ(ops->receive(backend, 0, packets, 3, HANGS_MS, &error), 3);
  CHECK(clock_ms() - begin_ms >= 199);
  CHECK_EQ(packets[2].time_ns, UINT64_C(90000000000000));
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, HANGS_MS, &error), 1);
  CHECK(clock_ms() - begin_ms >= 299);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 0, &error), SONDE_END);
  CHECK_EQ(error.detail[0], 0);
  ops->close(backend);
}

/* A wait without a packet ends by its timeout or by a wake-up from another thread. */
static void check_wake(void) {
  struct sonde_backend *backend = NULL;
  struct sonde_packet packets[BATCH];
  struct sonde_error error;
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(1000, 0, 20, 20);
  put_pcap_packet(1000 + HANGS_MS / 1000, 0, 20, 20);
  CHECK_EQ(open_fd(memory_file(image.length), 2.0, &backend, &error), 0);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, HANGS_MS, &error), 1);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 20, &error), 0);
  ops->wake(backend);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, HANGS_MS, &error), 0);
  ops->close(backend);
}

static void check_quiesce(void) {
  struct sonde_backend *backend = NULL;
  struct sonde_backend_info info;
  struct sonde_backend_stats stats;
  struct sonde_packet packets[1];
  struct sonde_error error;
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(1, 0, 20, 20);
  put_pcap_packet(2, 0, 20, 20);
  CHECK_EQ(open_fd(memory_file(image.length), 0, &backend, &error), 0);
  ops->info(backend, &info);
  CHECK_EQ(info.live, 0);
  CHECK_EQ(info.queues, 1);
  CHECK_EQ(ops->start(backend, &error), 0);
  CHECK_EQ(ops->receive(backend, 0, packets, 1, 0, &error), 1);
  ops->quiesce(backend);
  CHECK_EQ(ops->receive(backend, 0, packets, 1, 0, &error), 0);
  ops->stats(backend, &stats);
  CHECK_EQ(stats.dropped, 0);
  ops->stop(backend);
  ops->close(backend);
}

int main(void) {
  if (!capture_file_begin())
    return 1;
  check_pace();
  check_wake();
  check_quiesce();
  free(image.bytes);
  return check_report();
}
