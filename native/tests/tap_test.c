/* tap_test.c - taps: blocks equal the packets that match, a full ring counts and never waits, rate
 * and limits hold, and matched = sent + lost with several workers and with a session.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "netsonde.h"
#include "packets.h"
#include "tap/writer.h"

enum { WORKERS = 3, PACKETS = 30000 };

static uint8_t frame[2048];
static struct sonde_tap_interface ethernet = {0, 1};

static struct sonde_tap_config settings(void) {
  return (struct sonde_tap_config){.filter = "udp",
                                   .snaplen = 256,
                                   .slots = UINT64_MAX,
                                   .interfaces = &ethernet,
                                   .interface_count = 1};
}

struct answer { /* the sum of messages */
  uint64_t packets;
  uint64_t bytes;
  uint64_t faults;
  uint64_t last_number;
  struct sonde_tap_message end;
};

/* Reads the packets' numbers from their first bytes. */
static void check_blocks(const uint8_t *bytes, uint32_t length, struct answer *answer) {
  uint32_t block[7];
  for (uint32_t at = 0; at < length; at += block[1]) {
    uint32_t number, back;
    memcpy(block, bytes + at, sizeof block);
    memcpy(&number, bytes + at + 28, sizeof number);
    memcpy(&back, bytes + at + block[1] - 4, sizeof back);
    answer->faults += block[0] != 6 || back != block[1] || block[5] > 256 || number != block[4];
    answer->last_number = number;
    answer->packets++;
    answer->bytes += block[1];
  }
}

/* Takes messages until the last. */
static void take_all(struct sonde_tap_writer *writer, struct answer *answer) {
  static uint8_t buffer[SONDE_TAP_MESSAGE_BYTES];
  do {
    if (sonde_tap_writer_take(writer, buffer, &answer->end))
      check_blocks(buffer, answer->end.bytes, answer);
    else
      nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
  } while (!answer->end.last);
}

static void put(struct sonde_tap_writer *writer, uint32_t worker, uint32_t number, uint32_t bytes) {
  struct sonde_packet packet = {
      .data = frame, .caplen = bytes, .wirelen = bytes, .linktype = 1, .time_ns = number};
  memcpy(frame, &number, sizeof number);
  sonde_tap_ring_put(sonde_tap_writer_ring(writer, worker), &packet, number);
}

static struct sonde_tap_writer *create(const struct sonde_tap_config *config, uint32_t workers) {
  struct sonde_tap_writer *writer = NULL;
  struct sonde_error error = {0};
  CHECK_EQ(sonde_tap_writer_create(config, workers, true, &writer, &error), SONDE_OK);
  return writer;
}

static void check_sum(struct sonde_tap_writer *writer, const struct answer *answer) {
  struct sonde_tap_counts counts;
  sonde_tap_writer_counts(writer, &counts);
  CHECK_EQ(counts.matched_packets,
           answer->packets + counts.lost_ring_packets + counts.lost_rate_packets);
  CHECK_EQ(counts.matched_bytes, answer->bytes + counts.lost_ring_bytes + counts.lost_rate_bytes);
}

struct producer {
  struct sonde_tap_writer *writer;
  uint32_t worker;
  pthread_t thread;
};

static void *produce(void *argument) {
  struct producer *producer = argument;
  struct sonde_tap_ring *ring = sonde_tap_writer_ring(producer->writer, producer->worker);
  uint8_t data[300] = {0};
  for (uint32_t number = 1; number <= PACKETS; number++) {
    struct sonde_packet packet = {.data = data,
                                  .caplen = 60 + number % 240,
                                  .wirelen = 60 + number % 240,
                                  .linktype = 1,
                                  .source = (uint16_t)producer->worker};
    memcpy(data, &number, sizeof number);
    sonde_tap_ring_put(ring, &packet, number);
    if (number % 64 == 0)
      sonde_tap_writer_turn(producer->writer, ring, number);
  }
  return NULL;
}

static void workers_feed_one_tap(void) {
  struct sonde_tap_config config = settings();
  struct sonde_tap_writer *writer = create(&config, WORKERS);
  struct producer producers[WORKERS];
  struct answer answer = {0};
  for (uint32_t i = 0; i < WORKERS; i++) {
    producers[i] = (struct producer){.writer = writer, .worker = i};
    CHECK_EQ(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
  }
  for (uint32_t i = 0; i < WORKERS; i++)
    pthread_join(producers[i].thread, NULL);
  sonde_tap_writer_finish(writer);
  take_all(writer, &answer);
  CHECK_EQ(answer.faults, 0);
  CHECK_EQ(answer.end.interfaces, WORKERS);
  struct sonde_tap_counts counts;
  sonde_tap_writer_counts(writer, &counts);
  CHECK_EQ(counts.matched_packets, WORKERS * PACKETS);
  check_sum(writer, &answer);
  sonde_tap_writer_destroy(writer);
}

static bool is_even(void *context, const struct sonde_packet *packet) {
  uint32_t number;
  memcpy(&number, packet->data, sizeof number);
  ++*(uint32_t *)context;
  return number % 2 == 0;
}

/* Packets that are not chosen do not count. The choice runs on the tap's thread. */
static void a_choice_leaves_packets_out(void) {
  enum { OFFERED = 1000 };
  struct sonde_tap_config config = settings();
  struct sonde_tap_writer *writer = create(&config, 1);
  struct answer answer = {0};
  uint32_t asked = 0;
  sonde_tap_writer_choice_set(writer,
                              (struct sonde_tap_choice){.context = &asked, .wanted = is_even});
  for (uint32_t number = 1; number <= OFFERED; number++)
    put(writer, 0, number, 60);
  sonde_tap_writer_finish(writer);
  take_all(writer, &answer);
  struct sonde_tap_counts counts;
  sonde_tap_writer_counts(writer, &counts);
  CHECK_EQ(counts.matched_packets, OFFERED / 2);
  CHECK_EQ(answer.packets, OFFERED / 2);
  CHECK_EQ(answer.last_number, OFFERED);
  CHECK_EQ(answer.faults, 0);
  check_sum(writer, &answer);
  sonde_tap_writer_destroy(writer);
  CHECK_EQ(asked, OFFERED);
}

/* Nobody takes a message: put returns at once and counts. The oldest packets are kept. */
static void a_full_ring_counts(void) {
  struct sonde_tap_config config = settings();
  struct sonde_tap_writer *writer = create(&config, 1);
  struct answer answer = {0};
  for (uint32_t number = 1; number <= PACKETS; number++)
    put(writer, 0, number, 256);
  struct sonde_tap_counts counts;
  sonde_tap_writer_counts(writer, &counts);
  CHECK(counts.lost_ring_packets > 0 && counts.lost_ring_packets < PACKETS);
  sonde_tap_writer_finish(writer);
  take_all(writer, &answer);
  CHECK_EQ(answer.faults, 0);
  CHECK_EQ(answer.last_number, PACKETS - counts.lost_ring_packets);
  check_sum(writer, &answer);
  sonde_tap_writer_destroy(writer);
}

static void the_rate_is_kept(void) {
  struct sonde_tap_config config = settings();
  config.rate = 100000;
  struct sonde_tap_writer *writer = create(&config, 1);
  struct answer answer = {0};
  for (uint32_t number = 1; number <= 10000; number++)
    put(writer, 0, number, 256);
  sonde_tap_writer_finish(writer);
  take_all(writer, &answer);
  struct sonde_tap_counts counts;
  sonde_tap_writer_counts(writer, &counts);
  CHECK(answer.packets > 0);
  CHECK(counts.lost_rate_packets > 9000);
  CHECK_EQ(counts.lost_ring_packets, 0);
  check_sum(writer, &answer);
  sonde_tap_writer_destroy(writer);
}

static void limits_end_the_tap(void) {
  struct sonde_tap_config config = settings();
  struct answer answer = {0}, second = {0};
  config.max_packets = 100;
  struct sonde_tap_writer *writer = create(&config, 1);
  for (uint32_t number = 1; number <= 1000; number++)
    put(writer, 0, number, 100);
  take_all(writer, &answer);
  CHECK_EQ(answer.packets, 100);
  CHECK(answer.end.limited);
  sonde_tap_writer_destroy(writer);
  config.max_packets = 0;
  config.max_bytes = 1000;
  writer = create(&config, 1);
  for (uint32_t number = 1; number <= 1000; number++)
    put(writer, 0, number, 100);
  take_all(writer, &second);
  CHECK_EQ(second.packets, 1000 / sonde_tap_block_bytes(100));
  CHECK(second.end.limited);
  sonde_tap_writer_destroy(writer);
}

/* `through` follows the slowest worker, and never passes a packet that waits. */
static void through_follows_the_slowest_worker(void) {
  struct sonde_tap_config config = settings();
  struct sonde_tap_writer *writer = create(&config, 2);
  uint8_t buffer[SONDE_TAP_MESSAGE_BYTES];
  struct sonde_tap_message message = {0};
  const uint64_t now = 1700000000000000000;
  sonde_tap_writer_turn(writer, sonde_tap_writer_ring(writer, 0), now + 5000000000);
  sonde_tap_writer_turn(writer, sonde_tap_writer_ring(writer, 1), now);
  while (message.through_ns == 0)
    sonde_tap_writer_take(writer, buffer, &message);
  CHECK(message.through_ns <= now && message.through_ns > now - 1000000000);
  CHECK_EQ(message.bytes, 0);
  sonde_tap_writer_destroy(writer);
}

/* ---- a session ------------------------------------------------------------------------------ */

static int make_trace(void) {
  static const char *const layers[2] = {"eth:0800 ip4:11 udp:5000:53 pay:300",
                                        "eth:0800 ip4:6 tcp:40000:443 pay:900"};
  int fd = memfd_create("trace", MFD_CLOEXEC);
  FILE *file = fdopen(dup(fd), "w");
  const uint32_t head[6] = {0xa1b23c4d, 4u << 16 | 2, 0, 0, 262144, 1};
  fwrite(head, sizeof head, 1, file);
  for (uint32_t number = 0; number < PACKETS; number++) {
    struct crafted one;
    packet_craft(&one, layers[number % 2]);
    const uint32_t record[4] = {1700000000 + number / 1000, number % 1000 * 1000000, one.bytes,
                                one.bytes};
    fwrite(record, sizeof record, 1, file);
    fwrite(one.data, one.bytes, 1, file);
  }
  CHECK(fclose(file) == 0);
  lseek(fd, 0, SEEK_SET);
  return fd;
}

static struct sonde_session *open_session(void) {
  struct sonde_session_config config = {.plugin_dir = SONDE_PLUGIN_DIR,
                                        .backend = "file",
                                        .interfaces = (const char *const[]){"trace"},
                                        .interface_count = 1,
                                        .file_fd = make_trace(),
                                        .workers = 1,
                                        .snaplen = 262144,
                                        .ring_bytes = 1 << 20,
                                        .flow_table_size = 1024,
                                        .record_ring_size = 4096,
                                        .replay_speed = 15.0,
                                        .idle_timeout_ns = 300000000000,
                                        .active_timeout_ns = 60000000000};
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_session_open(&config, &session, &error), SONDE_OK);
  return session;
}

/* Thirty seconds of packets at fifteen times their speed: the tap opens while it runs. */
static void a_session_is_tapped(void) {
  struct sonde_session *session = open_session();
  struct sonde_tap_config config = settings();
  struct sonde_tap *tap = NULL, *none = NULL;
  struct sonde_error error;
  struct sonde_tap_message message = {0};
  static uint8_t buffer[SONDE_TAP_MESSAGE_BYTES];
  uint64_t packets = 0;
  CHECK_EQ(sonde_tap_open(session, &config, &tap, &error), SONDE_STATE);
  CHECK_EQ(sonde_session_start(session, &error), SONDE_OK);
  config.filter = "udp and";
  CHECK_EQ(sonde_tap_open(session, &config, &none, &error), SONDE_FILTER_INVALID);
  config.filter = "udp or tcp";
  config.exclude = "tcp port 443";
  CHECK_EQ(sonde_tap_open(session, &config, &tap, &error), SONDE_OK);
  while (packets < 100)
    if (sonde_tap_take(tap, buffer, &message))
      packets += message.packets;
  sonde_tap_stop(tap);
  sonde_tap_stop(tap);
  while (!message.last)
    if (sonde_tap_take(tap, buffer, &message))
      packets += message.packets;
  struct sonde_tap_counts counts;
  sonde_tap_counts(tap, &counts);
  CHECK_EQ(counts.matched_packets, packets);
  struct sonde_stats stats;
  sonde_session_stats(session, &stats);
  CHECK(packets >= 100 && packets <= stats.packets_captured / 2 + 1);
  CHECK_EQ(stats.packets_captured, stats.packets_recorded + stats.packets_active +
                                       stats.packets_non_flow + stats.packets_unmetered);
  sonde_tap_close(tap);
  sonde_session_close(session);
}

int main(void) {
  workers_feed_one_tap();
  a_choice_leaves_packets_out();
  a_full_ring_counts();
  the_rate_is_kept();
  limits_end_the_tap();
  through_follows_the_slowest_worker();
  a_session_is_tapped();
  return check_report();
}
