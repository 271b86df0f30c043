/* collector_test.c - one collector without a session: what is sent, what is lost and for which
 * cause, how fast, and when the next try is due. The test calls with a clock that it sets.
 *
 * Sockets that fail are real: a closed port, a UNIX socket that nobody reads, a device.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "exporter/collector.h"

static const uint64_t SECOND = 1000000000, MS = 1000000, WALL = 1700000000000000000;
static const uint64_t NOW = 5000000000000;
enum { RECORDS = 60, PACKETS_EACH = 3, OCTETS_EACH = 500 };

static struct sonde_record records[RECORDS];

static void make_records(void) {
  for (uint32_t i = 0; i < RECORDS; i++)
    records[i] = (struct sonde_record){
        .flow_id = i + 1,
        .first_ns = WALL - SECOND,
        .last_ns = WALL,
        .packets = {PACKETS_EACH},
        .bytes = {OCTETS_EACH},
        .source_ip = {10, 0, 0, (uint8_t)i},
        .dest_ip = {192, 0, 2, 1},
        .source_port = 1000,
        .dest_port = 53,
        .ip_version = 4,
        .protocol = 17,
        .end_reason = SONDE_END_IDLE,
        .mpls_label = UINT32_MAX,
        .sampling_interval = 1,
    };
}

static int create(const struct sonde_collector_config *config, struct sonde_collector **collector) {
  const struct sonde_encoder_config session = {.interface = "eth0", .start_ns = WALL};
  struct sonde_error error;
  return sonde_collector_create(config, &session, collector, &error);
}

static struct sonde_collector *make(int version, uint16_t port, uint64_t pace) {
  struct sonde_collector *collector = NULL;
  CHECK_EQ(create(&(struct sonde_collector_config){.address = "127.0.0.1",
                                                   .port = port,
                                                   .version = version,
                                                   .message_bytes_max = 512,
                                                   .pace_bytes_per_sec = pace},
                  &collector),
           SONDE_OK);
  return collector;
}

static int listen_on(uint16_t *port) {
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t bytes = sizeof any;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int room = 1 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  CHECK_EQ(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&any, &bytes), 0);
  *port = ntohs(any.sin_port);
  return fd;
}

/* Encodes all records as one batch. Returns its messages. */
static uint32_t fill(struct sonde_collector *collector) {
  sonde_collector_begin(collector);
  CHECK_EQ(sonde_encoder_add(collector->encoder, records, RECORDS, WALL, &collector->messages),
           RECORDS);
  CHECK(collector->messages.count >= 3);
  return collector->messages.count;
}

static void send_all(struct sonde_collector *collector, uint64_t now_ns) {
  for (int turn = 0; turn < 1000 && !sonde_collector_idle(collector); turn++)
    sonde_collector_send(collector, now_ns);
  CHECK(sonde_collector_idle(collector));
}

static void check_lost(struct sonde_collector *collector, uint64_t refused, uint64_t no_room,
                       uint64_t error) {
  struct sonde_collector_stats stats;
  sonde_collector_settle(collector);
  sonde_collector_stats(collector, &stats);
  CHECK_EQ(stats.records_lost_refused, refused);
  CHECK_EQ(stats.records_lost_no_room, no_room);
  CHECK_EQ(stats.records_lost_error, error);
  CHECK_EQ(stats.packets_lost, (refused + no_room + error) * PACKETS_EACH);
  CHECK_EQ(stats.octets_lost, (refused + no_room + error) * OCTETS_EACH);
}

/* ---- sending -------------------------------------------------------------------------- */

static void sent_messages_are_counted(void) {
  uint16_t port;
  int fd = listen_on(&port);
  struct sonde_collector *collector = make(9, port, 0);
  struct sonde_collector_stats stats;
  uint64_t received = 0, octets = 0;
  sonde_collector_stats(collector, &stats);
  CHECK_EQ(stats.connected, 0);
  CHECK_EQ(sonde_collector_send(collector, NOW), 0); /* an empty batch */
  uint32_t messages = fill(collector);
  send_all(collector, NOW);
  uint8_t datagram[2048];
  for (ssize_t bytes; (bytes = recv(fd, datagram, sizeof datagram, 0)) > 0; received++) {
    octets += (uint64_t)bytes;
    CHECK_EQ(datagram[1], 9);
    CHECK_EQ(datagram[19], 1); /* the default observation domain */
    CHECK(bytes <= 512);
  }
  sonde_collector_stats(collector, &stats);
  CHECK_EQ(received, messages);
  CHECK_EQ(stats.messages_sent, messages - 1); /* the last can still be refused */
  sonde_collector_confirm_old(collector, NOW + SECOND / 2 - 1);
  CHECK(collector->last_pending);
  sonde_collector_confirm_old(collector, NOW + SECOND / 2);
  sonde_collector_stats(collector, &stats);
  CHECK_EQ(stats.messages_sent, messages);
  CHECK_EQ(stats.bytes_sent, octets);
  CHECK_EQ(stats.records_sent, RECORDS);
  CHECK_EQ(stats.packets_sent, RECORDS * PACKETS_EACH);
  CHECK_EQ(stats.octets_sent, RECORDS * OCTETS_EACH);
  CHECK(stats.templates_sent > 0);
  CHECK_EQ(stats.connected, 1);
  CHECK_EQ(stats.refusals, 0);
  CHECK_EQ(stats.last_error[0], '\0');
  check_lost(collector, 0, 0, 0);
  sonde_collector_destroy(collector);
  close(fd);
}

static void refusals_are_charged_to_refused(void) {
  uint16_t port;
  close(listen_on(&port)); /* nobody listens */
  struct sonde_collector *collector = make(9, port, 0);
  struct sonde_collector_stats stats;
  uint32_t messages = fill(collector);
  send_all(collector, NOW);
  check_lost(collector, RECORDS, 0, 0);
  sonde_collector_stats(collector, &stats);
  CHECK_EQ(stats.refusals, messages);
  CHECK(strcmp(stats.last_error, "Connection refused") == 0);
  CHECK_EQ(stats.connected, 1);
  sonde_collector_destroy(collector);
}

static void check_not_less(const struct sonde_collector_stats *now,
                           const struct sonde_collector_stats *before) {
  CHECK(now->messages_sent >= before->messages_sent);
  CHECK(now->bytes_sent >= before->bytes_sent);
  CHECK(now->records_sent >= before->records_sent);
  CHECK(now->packets_sent >= before->packets_sent);
  CHECK(now->octets_sent >= before->octets_sent);
  CHECK(now->records_lost_refused >= before->records_lost_refused);
  CHECK(now->packets_lost >= before->packets_lost);
}

/* The port is closed while some messages are sent: the kernel refuses those with an ICMP error. */
static void refusals_decrease_no_counter(void) {
  uint16_t port;
  int fd = listen_on(&port);
  struct sonde_collector *collector = make(9, port, 0);
  struct sonde_collector_stats before = {0}, stats;
  for (int round = 0; round < 3; round++) {
    if (round == 1)
      close(fd);
    fill(collector);
    for (int turn = 0; turn < 1000 && !sonde_collector_idle(collector); turn++) {
      sonde_collector_send(collector, NOW);
      for (int settled = 0; settled < 2; settled++) {
        sonde_collector_stats(collector, &stats);
        check_not_less(&stats, &before);
        before = stats;
        sonde_collector_settle(collector);
      }
    }
  }
  sonde_collector_confirm(collector);
  sonde_collector_stats(collector, &stats);
  check_not_less(&stats, &before);
  CHECK(stats.records_sent >= RECORDS && stats.records_lost_refused >= RECORDS);
  CHECK_EQ(stats.records_sent + stats.records_lost_refused, 3 * RECORDS);
  /* A refusal of a message that was reported as sent is no loss. */
  uint64_t refusals = stats.refusals;
  CHECK_EQ(send(collector->fd, "x", 1, 0), 1);
  before = stats;
  collector->last_pending = true; /* so that settle reads the error */
  collector->last = (struct sonde_message){0};
  sonde_collector_confirm(collector);
  sonde_collector_stats(collector, &stats);
  CHECK_EQ(stats.refusals, refusals + 1);
  CHECK_EQ(stats.records_lost_refused, before.records_lost_refused);
  sonde_collector_destroy(collector);
}

/* A message that meets a refusal of an earlier datagram is sent again once, then it is lost. */
static void repeated_refusal_is_charged_to_refused(void) {
  uint16_t port;
  close(listen_on(&port));
  struct sonde_collector *collector = make(9, port, 0);
  fill(collector);
  send_all(collector, NOW);
  check_lost(collector, RECORDS, 0, 0);
  fill(collector);
  uint64_t first = collector->messages.list[0].records;
  for (int attempt = 0; attempt < 2; attempt++) {
    CHECK_EQ(collector->next, 0);
    CHECK_EQ(send(collector->fd, "x", 1, 0), 1);
    CHECK_EQ(sonde_collector_send(collector, NOW), NOW);
  }
  CHECK_EQ(collector->next, 1);
  CHECK_EQ(collector->stats.records_lost_refused, RECORDS + first);
  CHECK_EQ(collector->stats.records_lost_error, 0);
  sonde_collector_destroy(collector);
}

/* Replaces the socket of the collector. Returns the other end. */
static int replace_socket(struct sonde_collector *collector) {
  int pair[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
  if (collector->fd >= 0)
    close(collector->fd);
  collector->fd = pair[0];
  return pair[1];
}

/* The socket takes nothing: the first message waits 50 ms, the others no longer. */
static void full_socket_is_charged_to_no_room(void) {
  struct sonde_collector *collector = make(9, 9, 0);
  int reader = replace_socket(collector);
  while (send(collector->fd, "x", 1, MSG_DONTWAIT) == 1)
    ;
  uint32_t messages = fill(collector);
  CHECK_EQ(sonde_collector_send(collector, NOW), NOW + MS);
  CHECK_EQ(sonde_collector_send(collector, NOW + 50 * MS - 1), NOW + 51 * MS - 1);
  check_lost(collector, 0, 0, 0);
  CHECK_EQ(sonde_collector_send(collector, NOW + 50 * MS), NOW + 50 * MS);
  CHECK_EQ(collector->next, 1);
  for (uint32_t i = 1; i < messages; i++)
    sonde_collector_send(collector, NOW + 50 * MS);
  CHECK(sonde_collector_idle(collector));
  check_lost(collector, 0, RECORDS, 0);
  CHECK_EQ(collector->stats.messages_sent, 0);
  CHECK(strcmp(collector->stats.last_error, "Resource temporarily unavailable") == 0);

  /* Once a message was taken, the next one that is not waits again. */
  uint8_t datagram[2048];
  while (recv(reader, datagram, sizeof datagram, 0) > 0)
    ;
  fill(collector);
  send_all(collector, NOW + SECOND);
  check_lost(collector, 0, RECORDS, 0);
  while (send(collector->fd, "x", 1, MSG_DONTWAIT) == 1)
    ;
  fill(collector);
  CHECK_EQ(sonde_collector_send(collector, NOW + 2 * SECOND), NOW + 2 * SECOND + MS);
  check_lost(collector, 0, RECORDS, 0);
  close(reader);
  sonde_collector_destroy(collector);
}

/* Another error loses one message, then the collector connects again and sends the others. */
static void error_reconnects(void) {
  uint16_t port;
  int fd = listen_on(&port);
  struct sonde_collector *collector = make(9, port, 0);
  uint32_t messages = fill(collector);
  uint64_t first = collector->messages.list[0].records;
  collector->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  sonde_collector_send(collector, NOW);
  CHECK_EQ(collector->next, 0);
  sonde_collector_send(collector, NOW);
  CHECK_EQ(collector->next, 1);
  CHECK_EQ(collector->fd, -1);
  send_all(collector, NOW);
  check_lost(collector, 0, 0, first);
  CHECK_EQ(collector->stats.messages_sent, messages - 1);
  CHECK(strcmp(collector->stats.last_error, "Socket operation on non-socket") == 0);

  /* Within a second of the last attempt the socket stays. */
  fill(collector);
  first += collector->messages.list[0].records;
  close(collector->fd);
  collector->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  sonde_collector_send(collector, NOW + SECOND - 1);
  sonde_collector_send(collector, NOW + SECOND - 1);
  CHECK(collector->fd >= 0);
  check_lost(collector, 0, 0, first);
  sonde_collector_send(collector, NOW + SECOND);
  sonde_collector_send(collector, NOW + SECOND);
  CHECK_EQ(collector->fd, -1);
  sonde_collector_destroy(collector);
  close(fd);
}

/* Without a way to the address the batch is lost at once. The next attempt is a second later. */
static void unreachable_address_loses_the_batch(void) {
  uint16_t port;
  int fd = listen_on(&port);
  struct sonde_collector *collector = make(9, port, 0);
  socklen_t right_bytes = collector->to_bytes;
  collector->to_bytes = 1; /* connect fails */
  fill(collector);
  CHECK_EQ(sonde_collector_send(collector, NOW), 0);
  CHECK(sonde_collector_idle(collector));
  check_lost(collector, 0, 0, RECORDS);
  CHECK(strcmp(collector->stats.last_error, "Invalid argument") == 0);
  collector->to_bytes = right_bytes;
  fill(collector);
  CHECK_EQ(sonde_collector_send(collector, NOW + SECOND - 1), 0);
  check_lost(collector, 0, 0, 2 * RECORDS);
  fill(collector);
  send_all(collector, NOW + SECOND);
  check_lost(collector, 0, 0, 2 * RECORDS);
  CHECK_EQ(collector->stats.records_sent, RECORDS);
  sonde_collector_destroy(collector);
  close(fd);
}

/* ---- pace ----------------------------------------------------------------------------- */

static void pace_limits_bursts(void) {
  enum { BURST = 64 << 10, PACE = 1000000 };
  uint16_t port;
  int fd = listen_on(&port);
  struct sonde_collector *collector = make(9, port, PACE);
  uint8_t datagram[2048];
  uint64_t now_ns = NOW, total = 0;
  sonde_collector_begin(collector);
  for (int i = 0; i < 100; i++)
    sonde_encoder_add(collector->encoder, records, RECORDS, WALL, &collector->messages);
  for (uint32_t i = 0; i < collector->messages.count; i++)
    total += collector->messages.list[i].bytes;
  CHECK(total > 3 * BURST);
  uint64_t due_ns = sonde_collector_send(collector, now_ns);
  CHECK_EQ(collector->stats.messages_sent, 64); /* one system call */
  while (due_ns == now_ns) {
    due_ns = sonde_collector_send(collector, now_ns);
    while (recv(fd, datagram, sizeof datagram, 0) > 0)
      ;
  }
  CHECK(collector->stats.bytes_sent <= BURST);
  CHECK(collector->stats.bytes_sent > BURST - 512);
  while (due_ns) {
    CHECK(due_ns - now_ns <= 34 * MS); /* half a burst and one message */
    now_ns = due_ns > now_ns ? due_ns : now_ns;
    due_ns = sonde_collector_send(collector, now_ns);
    CHECK(collector->stats.bytes_sent <= BURST + (now_ns - NOW) / 1000);
    while (recv(fd, datagram, sizeof datagram, 0) > 0)
      ;
  }
  CHECK_EQ(collector->stats.bytes_sent, total);
  CHECK(now_ns - NOW >= (total - BURST) * 1000);
  CHECK(now_ns - NOW <= (total - BURST) * 1000 + 5 * MS);
  sonde_collector_destroy(collector);
  close(fd);
}

/* ---- batches -------------------------------------------------------------------------- */

static void skipped_records_are_lost_for_want_of_room(void) {
  struct sonde_record mixed[3] = {records[0], records[1], records[2]};
  struct sonde_collector_stats stats;
  mixed[1].packets[1] = 2; /* two records for a collector */
  mixed[1].bytes[1] = 80;
  mixed[2].ip_version = 6;
  struct sonde_collector *v5 = make(5, 9, 0), *v9 = make(9, 9, 0);
  sonde_collector_skip(v5, mixed, 3);
  sonde_collector_stats(v5, &stats);
  CHECK_EQ(stats.records_skipped_ipv6, 1);
  CHECK_EQ(stats.records_lost_no_room, 3);
  CHECK_EQ(stats.packets_lost, 2 * PACKETS_EACH + 2);
  CHECK_EQ(stats.octets_lost, 2 * OCTETS_EACH + 80);
  sonde_collector_skip(v9, mixed, 3);
  sonde_collector_stats(v9, &stats);
  CHECK_EQ(stats.records_skipped_ipv6, 0);
  CHECK_EQ(stats.records_lost_no_room, 4);
  CHECK_EQ(stats.packets_lost, 3 * PACKETS_EACH + 2);
  CHECK_EQ(stats.octets_lost, 3 * OCTETS_EACH + 80);
  sonde_collector_begin(v5);
  CHECK_EQ(sonde_encoder_add(v5->encoder, mixed, 3, WALL, &v5->messages), 3);
  sonde_collector_stats(v5, &stats);
  CHECK_EQ(stats.records_skipped_ipv6, 2); /* one skipped, one that v5 cannot encode */
  sonde_collector_destroy(v5);
  sonde_collector_destroy(v9);
}

/* A biflow record of IPFIX holds both directions, otherwise there are two records. */
static void biflow_is_one_record(void) {
  struct sonde_record both = records[0];
  uint32_t bytes[2];
  both.packets[1] = 1;
  both.bytes[1] = 60;
  for (int biflow = 0; biflow < 2; biflow++) {
    struct sonde_collector *collector = NULL;
    CHECK_EQ(create(
                 &(struct sonde_collector_config){
                     .address = "127.0.0.1", .port = 9, .version = 10, .biflow = biflow},
                 &collector),
             SONDE_OK);
    struct sonde_record list[20];
    for (int i = 0; i < 20; i++)
      list[i] = both;
    sonde_collector_begin(collector);
    CHECK_EQ(sonde_encoder_add(collector->encoder, list, 20, WALL, &collector->messages), 20);
    bytes[biflow] = collector->messages.bytes;
    sonde_collector_destroy(collector);
  }
  CHECK(bytes[1] < bytes[0]);
}

static uint32_t reported(struct sonde_collector *collector, uint64_t now_ns) {
  const struct sonde_export_totals totals = {.records_lost = 1};
  sonde_collector_begin(collector);
  sonde_collector_report(collector, &totals, WALL, now_ns);
  return collector->messages.count;
}

/* Statistics are sent twice at the start, then every template refresh. v5 has none. */
static void statistics_follow_the_template_refresh(void) {
  struct sonde_collector *v9 = make(9, 9, 0), *v5 = make(5, 9, 0);
  CHECK_EQ(reported(v9, NOW), 1);
  CHECK_EQ(reported(v9, NOW), 1);
  CHECK_EQ(reported(v9, NOW + 60 * SECOND - 1), 0);
  CHECK_EQ(reported(v9, NOW + 60 * SECOND), 1);
  CHECK_EQ(reported(v9, NOW + 60 * SECOND), 0);
  CHECK_EQ(reported(v5, NOW), 0);
  CHECK_EQ(v5->statistics_ns, NOW + SECOND);
  sonde_collector_destroy(v9);
  sonde_collector_destroy(v5);
}

/* Losses of the core and of the collector are added up. */
static void statistics_add_up_losses(void) {
  const struct sonde_export_totals totals = {
      .records_lost = 8, .packets_lost = 32, .octets_lost = 128};
  struct sonde_collector *collector = make(10, 9, 0);
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_decoded_message message;
  collector->stats.records_lost_refused = 1;
  collector->stats.records_lost_no_room = 2;
  collector->stats.records_lost_error = 4;
  collector->stats.packets_lost = 16;
  collector->stats.octets_lost = 64;
  sonde_collector_begin(collector);
  sonde_collector_report(collector, &totals, WALL, NOW);
  CHECK_EQ(collector->messages.count, 1);
  CHECK_EQ(sonde_export_decode(decoder, 0, collector->messages.buffer,
                               collector->messages.list[0].bytes, &message),
           0);
  CHECK(memmem(message.text, message.text_bytes, "\"kind\":\"options\"", 16) != NULL);
  CHECK(memmem(message.text, message.text_bytes, "\"kind\":\"flow\"", 13) == NULL);
  CHECK(memmem(message.text, message.text_bytes, "\"records_lost\":15,", 18) != NULL);
  CHECK(memmem(message.text, message.text_bytes, "\"packets_lost\":48,", 18) != NULL);
  CHECK(memmem(message.text, message.text_bytes, "\"bytes_lost\":192", 16) != NULL);
  sonde_export_decoder_destroy(decoder);
  sonde_collector_destroy(collector);
}

/* New settings keep counters, the socket and unsent messages. */
static void successor_continues(void) {
  uint16_t port;
  int fd = listen_on(&port);
  struct sonde_collector *before = make(9, port, 0), *after = make(10, port, 0);
  struct sonde_collector_stats stats;
  fill(before);
  send_all(before, NOW);
  fill(before);
  before->positions[3] = 77;
  sonde_collector_supersede(after, before);
  sonde_collector_destroy(before);
  CHECK_EQ(after->positions[3], 77);
  CHECK(!sonde_collector_idle(after));
  send_all(after, NOW);
  sonde_collector_confirm(after);
  sonde_collector_stats(after, &stats);
  CHECK_EQ(stats.records_sent, 2 * RECORDS);
  CHECK_EQ(stats.version, 10);
  CHECK_EQ(stats.port, port);
  CHECK(strcmp(stats.address, "127.0.0.1") == 0);
  CHECK(sonde_collector_is(after, "127.0.0.1", port));
  CHECK(!sonde_collector_is(after, "127.0.0.1", port ^ 1));
  CHECK(!sonde_collector_is(after, "127.0.0.2", port));
  CHECK(!sonde_collector_is(after, NULL, port));
  sonde_collector_destroy(after);
  close(fd);
}

static void limits_of_a_configuration(void) {
  char address[65];
  memset(address, '1', 64);
  address[64] = '\0';
  const struct {
    struct sonde_collector_config config;
    int expected;
  } rows[] = {
      {{.address = "127.0.0.1", .port = 1, .version = 9, .pace_bytes_per_sec = 10000}, SONDE_OK},
      {{.address = "127.0.0.1", .port = 1, .version = 9, .pace_bytes_per_sec = 9999},
       SONDE_INVALID},
      {{.address = "127.0.0.1", .port = 65535, .version = 9}, SONDE_OK},
      {{.address = "127.0.0.1", .port = 0, .version = 9}, SONDE_INVALID},
      {{.address = NULL, .port = 1, .version = 9}, SONDE_INVALID},
      {{.address = address, .port = 1, .version = 9}, SONDE_INVALID},
      {{.address = "::1", .port = 1, .version = 9}, SONDE_OK},
      {{.address = "::", .port = 1, .version = 9}, SONDE_INVALID},
      {{.address = "0.0.0.0", .port = 1, .version = 9}, SONDE_INVALID},
      {{.address = "255.255.255.255", .port = 1, .version = 9}, SONDE_INVALID},
      {{.address = "ffff:ffff::", .port = 1, .version = 9}, SONDE_OK},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_collector *collector = NULL;
    CHECK_EQ(create(&rows[i].config, &collector), rows[i].expected);
    sonde_collector_destroy(collector);
  }
}

int main(void) {
  make_records();
  sent_messages_are_counted();
  refusals_are_charged_to_refused();
  repeated_refusal_is_charged_to_refused();
  refusals_decrease_no_counter();
  full_socket_is_charged_to_no_room();
  error_reconnects();
  unreachable_address_loses_the_batch();
  pace_limits_bursts();
  skipped_records_are_lost_for_want_of_room();
  statistics_follow_the_template_refresh();
  biflow_is_one_record();
  statistics_add_up_losses();
  successor_continues();
  limits_of_a_configuration();
  return check_report();
}
