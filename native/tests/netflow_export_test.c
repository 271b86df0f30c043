/* netflow_export_test.c - a session's export thread with sockets of this process as collectors:
 * the received records add up, other readers do not matter, and an absent collector blocks
 * nothing. Also run under TSan.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "core/session_state.h"
#include "netsonde.h"

enum { PACKETS = 20000, FLOWS = 3000, FRAME = 60, FLUSH_MS = 20000 };
static const uint64_t SECOND = 1000000000;

/* UDP packets of FLOWS flows alternately, one per millisecond. Every fourth round is reversed. */
static int make_capture(void) {
  int fd = memfd_create("capture", MFD_CLOEXEC);
  FILE *file = fdopen(dup(fd), "w");
  const uint32_t head[6] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, 1};
  fwrite(head, sizeof head, 1, file);
  for (uint32_t i = 0; i < PACKETS; i++) {
    const uint32_t record[4] = {1700000000 + i / 1000, i % 1000 * 1000, FRAME, FRAME};
    uint32_t flow = i % FLOWS, back = i / FLOWS % 4 == 3;
    uint8_t frame[FRAME] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46};
    const uint8_t here[4] = {10, 0, (uint8_t)(flow >> 8), (uint8_t)flow}, there[4] = {192, 0, 2, 1};
    frame[22] = 64;
    frame[23] = 17;
    memcpy(frame + 26, back ? there : here, 4);
    memcpy(frame + 30, back ? here : there, 4);
    frame[34] = frame[36] = 4;
    frame[39] = 26;
    fwrite(record, sizeof record, 1, file);
    fwrite(frame, sizeof frame, 1, file);
  }
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
      .flow_table_size = 16384,
      .record_ring_size = 64,
      .metering = 1,
      .idle_timeout_ns = 300 * SECOND,
      .active_timeout_ns = 5 * SECOND,
  };
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_session_open(&config, &session, &error), 0);
  return session;
}

/* ---- a collector ---------------------------------------------------------------------- */

struct receiver {
  int fd;
  uint16_t port;
  pthread_t thread;
  _Atomic bool stop;
  uint64_t messages, records, packets, gaps, unknown, faults;
  uint8_t datagram[65536];
};

static uint64_t sum_member(const char *text, uint32_t bytes, const char *key) {
  uint64_t sum = 0;
  const char *end = text + bytes;
  while ((text = memmem(text, (size_t)(end - text), key, strlen(key))) != NULL) {
    text += strlen(key);
    sum += strtoull(text, NULL, 10);
  }
  return sum;
}

static void *receive(void *argument) {
  struct receiver *receiver = argument;
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  uint32_t expected = 0;
  for (;;) {
    struct pollfd readable = {.fd = receiver->fd, .events = POLLIN};
    struct sonde_decoded_message message;
    if (poll(&readable, 1, 20) == 0) {
      if (atomic_load(&receiver->stop))
        break;
      continue;
    }
    ssize_t bytes = recv(receiver->fd, receiver->datagram, sizeof receiver->datagram, 0);
    if (bytes < 0 ||
        sonde_export_decode(decoder, 0, receiver->datagram, (uint32_t)bytes, &message) < 0 ||
        message.malformed) {
      receiver->faults++;
      continue;
    }
    receiver->messages++;
    receiver->unknown += message.sets_unknown;
    if (message.version == 10 && message.domain == 0)
      continue;
    receiver->packets += sum_member(message.text, message.text_bytes, ",\"packets\":");
    uint32_t flows = message.version == 9 ? 1 : message.records;
    receiver->gaps += message.sequence != expected;
    expected = message.sequence + flows;
    receiver->records += message.records;
  }
  sonde_export_decoder_destroy(decoder);
  return NULL;
}

static void start_receiver(struct receiver *receiver, int family) {
  struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_storage bound;
  socklen_t length = sizeof bound;
  int room = 64 << 20;
  memset(receiver, 0, sizeof *receiver);
  receiver->fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (setsockopt(receiver->fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0)
    CHECK_EQ(setsockopt(receiver->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room), 0);
  if (family == AF_INET)
    CHECK_EQ(bind(receiver->fd, (struct sockaddr *)&any, sizeof any), 0);
  else
    CHECK_EQ(bind(receiver->fd, (struct sockaddr *)&any6, sizeof any6), 0);
  CHECK_EQ(getsockname(receiver->fd, (struct sockaddr *)&bound, &length), 0);
  receiver->port = ntohs(family == AF_INET ? ((struct sockaddr_in *)&bound)->sin_port
                                           : ((struct sockaddr_in6 *)&bound)->sin6_port);
  CHECK_EQ(pthread_create(&receiver->thread, NULL, receive, receiver), 0);
}

static void end_receiver(struct receiver *receiver) {
  atomic_store(&receiver->stop, true);
  pthread_join(receiver->thread, NULL);
  close(receiver->fd);
}

/* Returns a port without a listener. */
static uint16_t find_closed_port(void) {
  struct receiver receiver;
  start_receiver(&receiver, AF_INET);
  end_receiver(&receiver);
  return receiver.port;
}

/* ---- sessions ------------------------------------------------------------------------- */

static void add(struct sonde_session *session, const char *address, uint16_t port, int version) {
  struct sonde_collector_config config = {
      .address = address, .port = port, .version = version, .pace_bytes_per_sec = 20000000};
  struct sonde_error error;
  int status = sonde_session_collector_add(session, &config, &error);
  CHECK_EQ(status, 0);
  if (status < 0)
    fprintf(stderr, "%s\n", error.detail);
}

static uint64_t drain(struct sonde_session *session) {
  static uint8_t buffer[64 * 1024];
  struct sonde_batch batch = {0};
  uint64_t packets = 0;
  do {
    CHECK_EQ(sonde_session_drain(session, SONDE_ENCODING_JSON, 1000, buffer, sizeof buffer, &batch),
             0);
    packets += batch.packets;
  } while (batch.records > 0);
  return packets;
}

/* Replays the file. Returns the packets of the stream's records. */
static uint64_t run(struct sonde_session *session, int stream) {
  struct sonde_error error;
  struct sonde_stats stats;
  uint64_t packets = 0;
  CHECK_EQ(sonde_session_stream_set(session, stream, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  do {
    usleep(1000);
    packets += drain(session);
    sonde_session_stats(session, &stats);
  } while (!stats.finished);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  int status = SONDE_STATE; /* the ring stays full while the stream is unread */
  for (int waited_ms = 0; status == SONDE_STATE && waited_ms < FLUSH_MS; waited_ms += 10) {
    packets += drain(session);
    status = sonde_session_export_flush(session, 10, &error);
  }
  CHECK_EQ(status, 0);
  packets += drain(session);
  sonde_session_stats(session, &stats);
  CHECK_EQ(stats.packets_recorded, PACKETS);
  CHECK_EQ(stats.records_dropped, 0);
  CHECK_EQ(stats.flows_active, 0);
  CHECK_EQ(stats.records_waiting, 0);
  return packets;
}

static void check_received(struct sonde_session *session, uint32_t number,
                           struct receiver *receiver) {
  struct sonde_collector_stats stats[SONDE_COLLECTORS_MAX];
  CHECK(sonde_session_collectors(session, stats, SONDE_COLLECTORS_MAX) > (int)number);
  uint64_t messages_before = stats[number].messages_sent;
  end_receiver(receiver);
  CHECK(sonde_session_collectors(session, stats, SONDE_COLLECTORS_MAX) > (int)number);
  CHECK_EQ(stats[number].packets_sent, PACKETS);
  CHECK_EQ(receiver->packets, PACKETS);
  /* Statistics are sent by the clock, possibly during this check. The last message counts as sent
   * a while later. */
  CHECK(receiver->messages >= messages_before);
  CHECK(receiver->messages <= stats[number].messages_sent + 1);
  CHECK_EQ(receiver->gaps, 0);
  CHECK_EQ(receiver->unknown, 0);
  CHECK_EQ(receiver->faults, 0);
  CHECK_EQ(stats[number].packets_lost, 0);
}

static void every_collector_gets_every_record(void) {
  struct receiver receivers[3];
  struct sonde_session *session = open_session();
  start_receiver(&receivers[0], AF_INET);
  start_receiver(&receivers[1], AF_INET);
  start_receiver(&receivers[2], AF_INET6);
  add(session, "127.0.0.1", receivers[0].port, 5);
  add(session, "127.0.0.1", receivers[1].port, 9);
  add(session, "::1", receivers[2].port, 10);
  CHECK_EQ(run(session, 1), PACKETS);
  for (uint32_t i = 0; i < 3; i++)
    check_received(session, i, &receivers[i]);
  sonde_session_close(session);
}

static void export_works_without_the_stream(void) {
  struct receiver receiver;
  struct sonde_session *session = open_session();
  start_receiver(&receiver, AF_INET);
  add(session, "127.0.0.1", receiver.port, 10);
  CHECK_EQ(run(session, 0), 0);
  check_received(session, 0, &receiver);
  sonde_session_close(session);
}

static void absent_collectors_are_counted(void) {
  struct receiver receiver;
  struct sonde_session *session = open_session();
  struct sonde_collector_stats stats[3];
  uint16_t deaf = find_closed_port();
  start_receiver(&receiver, AF_INET);
  add(session, "127.0.0.1", deaf, 9);             /* refused */
  add(session, "2001:db8:dead:beef::1", 2055, 9); /* no route or no host */
  add(session, "127.0.0.1", receiver.port, 9);
  CHECK_EQ(run(session, 1), PACKETS);
  CHECK_EQ(sonde_session_collectors(session, stats, 3), 3);
  CHECK(stats[0].refusals > 0 && stats[0].records_lost_refused > 0);
  for (int i = 0; i < 3; i++)
    CHECK_EQ(stats[i].packets_sent + stats[i].packets_lost, PACKETS);
  CHECK(stats[0].last_error[0] != '\0');
  check_received(session, 2, &receiver);
  sonde_session_close(session);
}

static void collectors_can_be_added_and_removed(void) {
  struct receiver receiver;
  struct sonde_session *session = open_session();
  struct sonde_collector_stats stats[2];
  struct sonde_error error;
  uint64_t packets = 0;
  start_receiver(&receiver, AF_INET);
  CHECK_EQ(sonde_session_export_flush(session, 1, &error), 0); /* no collector to wait for */
  CHECK_EQ(sonde_session_start(session, &error), 0);
  for (int i = 0; i < 50; i++) {
    add(session, "127.0.0.1", receiver.port, i % 2 ? 9 : 10);
    packets += drain(session);
    CHECK_EQ(sonde_session_collectors(session, stats, 2), 1);
    CHECK_EQ(stats[0].version, i % 2 ? 9 : 10);
    if (i % 5 == 4) {
      CHECK_EQ(sonde_session_collector_remove(session, "127.0.0.1", receiver.port, &error), 0);
      CHECK_EQ(sonde_session_collectors(session, stats, 2), 0);
    }
  }
  CHECK_EQ(sonde_session_collector_remove(session, "127.0.0.1", receiver.port, &error),
           SONDE_INVALID);
  struct sonde_stats all;
  do {
    packets += drain(session);
    sonde_session_stats(session, &all);
  } while (!all.finished);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  for (int i = 0; i < 10; i++)
    packets += drain(session);
  CHECK_EQ(packets, PACKETS);
  end_receiver(&receiver);
  sonde_session_close(session);
}

struct removal {
  struct sonde_session *session;
  int before, status, after; /* results, which the main thread checks */
  _Atomic bool done;
};

static void *remove_last(void *argument) {
  struct removal *removal = argument;
  struct sonde_collector_stats stats[1];
  struct sonde_error error;
  removal->before = sonde_session_collectors(removal->session, stats, 1);
  removal->status = sonde_session_collector_remove(removal->session, "127.0.0.1", 9, &error);
  removal->after = sonde_session_collectors(removal->session, stats, 1);
  atomic_store(&removal->done, true);
  return NULL;
}

/* The monitor holds `control` while it reopens an interface, which may take long. */
static void removal_and_statistics_do_not_wait_for_a_reopening(void) {
  struct removal removal = {.session = open_session()};
  pthread_t thread;
  add(removal.session, "127.0.0.1", 9, 9);
  pthread_mutex_lock(&removal.session->control);
  CHECK_EQ(pthread_create(&thread, NULL, remove_last, &removal), 0);
  for (int turn = 0; turn < 60000 && !atomic_load(&removal.done); turn++)
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  CHECK(atomic_load(&removal.done));
  pthread_mutex_unlock(&removal.session->control);
  pthread_join(thread, NULL);
  CHECK_EQ(removal.before, 1);
  CHECK_EQ(removal.status, 0);
  CHECK_EQ(removal.after, 0);
  sonde_session_close(removal.session);
}

static void invalid_collectors_are_named(void) {
  static const struct {
    const char *address;
    uint16_t port;
    int version;
    const char *word;
  } cases[] = {{"", 2055, 9, "address"},          {"localhost", 2055, 9, "address"},
               {"1.2.3.4.5", 2055, 9, "address"}, {"0.0.0.0", 2055, 9, "address"},
               {"::", 2055, 9, "address"},        {"255.255.255.255", 2055, 9, "address"},
               {"127.0.0.1", 0, 9, "port"},       {"127.0.0.1", 2055, 8, "version"}};
  struct sonde_session *session = open_session();
  struct sonde_collector_stats stats[1];
  struct sonde_error error;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct sonde_collector_config config = {
        .address = cases[i].address, .port = cases[i].port, .version = cases[i].version};
    CHECK_EQ(sonde_session_collector_add(session, &config, &error), SONDE_INVALID);
    CHECK(strstr(error.detail, cases[i].word) != NULL);
  }
  CHECK_EQ(sonde_session_collectors(session, stats, 1), 0);
  for (uint16_t i = 0; i < SONDE_COLLECTORS_MAX; i++)
    add(session, "127.0.0.1", 20000 + i, 9);
  struct sonde_collector_config one_more = {.address = "127.0.0.1", .port = 1, .version = 9};
  CHECK_EQ(sonde_session_collector_add(session, &one_more, &error), SONDE_INVALID);
  sonde_session_close(session);
}

int main(void) {
  every_collector_gets_every_record();
  export_works_without_the_stream();
  absent_collectors_are_counted();
  collectors_can_be_added_and_removed();
  removal_and_statistics_do_not_wait_for_a_reopening();
  invalid_collectors_are_named();
  return check_report();
}
