/* session_test.c - whole sessions over a crafted capture file: threads, rings, requests.
 *
 * The record ring has its minimum size, so the replay has to wait for the drain. Requests
 * meanwhile must lose neither a packet nor a record. Also run under TSan.
 */
#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "netsonde.h"

enum { PACKETS = 60000, FLOWS = 9000, FRAME = 60 };
static const uint64_t SECOND = 1000000000;

/* UDP packets of FLOWS flows alternately, one per millisecond. */
static int make_capture_of(uint32_t linktype) {
  int fd = memfd_create("capture", MFD_CLOEXEC);
  FILE *file = fdopen(dup(fd), "w");
  const uint32_t head[6] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, linktype};
  fwrite(head, sizeof head, 1, file);
  for (uint32_t i = 0; i < PACKETS; i++) {
    const uint32_t record[4] = {1700000000 + i / 1000, i % 1000 * 1000, FRAME, FRAME};
    uint32_t flow = i % FLOWS;
    uint8_t frame[FRAME] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46};
    frame[22] = 64;
    frame[23] = 17;
    frame[26] = 10;
    frame[28] = (uint8_t)(flow >> 8);
    frame[29] = (uint8_t)flow;
    frame[30] = 192;
    frame[34] = 4;
    frame[37] = 53;
    frame[39] = 26;
    fwrite(record, sizeof record, 1, file);
    fwrite(frame, sizeof frame, 1, file);
  }
  fclose(file);
  lseek(fd, 0, SEEK_SET);
  return fd;
}

static int make_capture(void) {
  return make_capture_of(1);
}

static struct sonde_session_config config(int fd) {
  static const char *const names[] = {"crafted"};
  return (struct sonde_session_config){
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = "file",
      .interfaces = names,
      .interface_count = 1,
      .file_fd = fd,
      .workers = 4, /* ignored: a file has one queue */
      .snaplen = 262144,
      .ring_bytes = 1 << 20,
      .flow_table_size = 16384,
      .record_ring_size = 64,
      .metering = 1,
      .idle_timeout_ns = 5 * SECOND,
      .active_timeout_ns = 60 * SECOND,
  };
}

static void check_conservation(struct sonde_session *session, struct sonde_stats *stats) {
  sonde_session_stats(session, stats);
  CHECK_EQ(stats->packets_captured, stats->packets_recorded + stats->packets_active +
                                        stats->packets_non_flow + stats->packets_unmetered);
}

static uint64_t drain_all(struct sonde_session *session, uint64_t *records) {
  static uint8_t buffer[64 * 1024];
  struct sonde_batch batch;
  uint64_t packets = 0;
  do {
    CHECK_EQ(sonde_session_drain(session, SONDE_ENCODING_JSON, 1000, buffer, sizeof buffer, &batch),
             0);
    packets += batch.packets;
    *records += batch.records;
  } while (batch.records > 0);
  return packets;
}

static void await_end(struct sonde_session *session, uint64_t *packets, uint64_t *records) {
  struct sonde_stats stats;
  do {
    struct pollfd readable = {.fd = sonde_session_event_fd(session), .events = POLLIN};
    CHECK(poll(&readable, 1, 5000) == 1);
    uint64_t count;
    CHECK_EQ(read(readable.fd, &count, sizeof count), sizeof count);
    *packets += drain_all(session, records);
    struct sonde_event events[8];
    while (sonde_session_events(session, events, 8) > 0)
      ;
    check_conservation(session, &stats);
  } while (!stats.finished);
}

static void every_packet_reaches_a_record(void) {
  struct sonde_session_config c = config(make_capture());
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_stats stats;
  uint64_t packets = 0, records = 0;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), SONDE_STATE);
  await_end(session, &packets, &records);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  packets += drain_all(session, &records);
  check_conservation(session, &stats);
  CHECK_EQ(stats.packets_captured, PACKETS);
  CHECK_EQ(stats.packets_recorded, PACKETS);
  CHECK_EQ(stats.records_dropped, 0);
  CHECK_EQ(stats.flows_active, 0);
  CHECK_EQ(packets, PACKETS);
  CHECK_EQ(records, stats.records);
  /* The packets of each flow are nine seconds apart, more than the idle timeout. */
  CHECK_EQ(records, PACKETS);
  CHECK_EQ(sonde_session_stop(session, &error), SONDE_STATE);
  sonde_session_close(session);
}

static void requests_during_replay_lose_nothing(void) {
  struct sonde_session_config c = config(make_capture());
  c.idle_timeout_ns = 300 * SECOND;
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_stats stats;
  struct sonde_record listed[16];
  struct sonde_flow_query query = {.limit = 16, .match = {.port = -1, .protocol = -1}};
  uint64_t packets = 0, records = 0, matching, active;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  for (int i = 0; i < 20; i++) {
    CHECK(sonde_session_list(session, &query, listed, &matching, &active, &error) >= 0);
    check_conservation(session, &stats);
    packets += drain_all(session, &records);
  }
  await_end(session, &packets, &records);
  CHECK_EQ(sonde_session_list(session, &query, listed, &matching, &active, &error), 16);
  CHECK_EQ(matching, FLOWS);
  CHECK_EQ(active, FLOWS);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  packets += drain_all(session, &records);
  CHECK_EQ(packets, PACKETS);
  sonde_session_close(session);
}

static void metering_can_be_turned_off_and_on(void) {
  struct sonde_session_config c = config(make_capture());
  c.idle_timeout_ns = 300 * SECOND;
  c.record_ring_size = 1 << 15;
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_stats stats;
  uint64_t packets = 0, records = 0;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  await_end(session, &packets, &records);
  CHECK_EQ(sonde_session_metering_set(session, 0, 300 * SECOND, 60 * SECOND, &error), 0);
  do {
    packets += drain_all(session, &records);
    check_conservation(session, &stats);
  } while (stats.packets_active > 0);
  packets += drain_all(session, &records);
  CHECK_EQ(packets, PACKETS);
  CHECK_EQ(stats.records_by_reason[SONDE_END_FORCED], FLOWS);
  CHECK_EQ(stats.flows_active, FLOWS);
  sonde_session_close(session); /* without stop, with flows in the table */
}

static void filter_counts_only_matching_packets(void) {
  struct sonde_session_config c = config(make_capture());
  c.filter = "host 10.0.0.1";
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_stats stats;
  uint64_t packets = 0, records = 0;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  await_end(session, &packets, &records);
  check_conservation(session, &stats);
  CHECK_EQ(stats.packets_captured, (PACKETS + FLOWS - 1) / FLOWS);
  sonde_session_close(session);
}

/* Dropped records count like drained ones, before and after stop. */
static void discarded_records_are_counted(void) {
  struct sonde_session_config c = config(make_capture());
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_stats stats;
  struct sonde_batch batch;
  uint64_t packets = 0, records = 0;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  do {
    sonde_session_stats(session, &stats);
    sonde_session_discard(session, 7, &batch);
    CHECK(batch.records <= 7);
    packets += batch.packets;
    records += batch.records;
  } while (!stats.finished);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  do {
    sonde_session_discard(session, UINT32_MAX, &batch);
    packets += batch.packets;
    records += batch.records;
  } while (batch.records);
  sonde_session_stats(session, &stats);
  CHECK_EQ(packets, PACKETS);
  CHECK_EQ(records, stats.records);
  CHECK_EQ(stats.flows_active, 0);
  sonde_session_close(session);
}

static _Atomic bool threads_fail;

/* The linker redirects the core's pthread_create to this file (see CMakeLists.txt). */
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
  return atomic_load(&threads_fail) ? EAGAIN
                                    : __real_pthread_create(thread, attributes, run, argument);
}

/* A rejected collector leaves nothing behind that waits for records. */
static void rejected_collector_blocks_nothing(void) {
  struct sonde_session_config c = config(make_capture());
  struct sonde_collector_config collector = {.address = "127.0.0.1", .port = 9, .version = 9};
  struct sonde_collector_stats collectors[1];
  struct sonde_session *session = NULL;
  struct sonde_error error;
  uint64_t packets = 0, records = 0;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  atomic_store(&threads_fail, true);
  CHECK_EQ(sonde_session_collector_add(session, &collector, &error), SONDE_SYSTEM);
  atomic_store(&threads_fail, false);
  CHECK_EQ(sonde_session_collectors(session, collectors, 1), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  await_end(session, &packets, &records);
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  packets += drain_all(session, &records);
  CHECK_EQ(packets, PACKETS);
  sonde_session_close(session);
}

static const uint8_t datagram[] = {0x45, 0, 0, 32, 0, 1,   0, 0,  64, 17, 0, 0, 10, 0, 0, 1,
                                   10,   0, 0, 2,  4, 210, 0, 53, 0,  12, 0, 0, 1,  2, 3, 4};

/* A pcapng section with one interface and one packet per link type: `head` and the datagram. */
static const struct {
  uint16_t linktype;
  uint8_t head_bytes;
  uint8_t head[20];
} link_heads[] = {
    {1, 14, {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}},
    {101, 0, {0}},
    {0, 4, {2}},
    {0, 4, {0, 0, 0, 2}},
    {108, 4, {0, 0, 0, 2}},
    {113, 16, {[3] = 1, [5] = 6, [14] = 8}},
    {276, 20, {[0] = 8, [7] = 1, [9] = 1, [11] = 6}},
    {9, 4, {0xff, 3, 0, 0x21}},
    {50, 4, {0xff, 3, 0, 0x21}},
    {228, 0, {0}},
    {147, 2, {0}}, /* private use: not a flow, and the expression cannot match */
    {229, 0, {0}}, /* IPv6, but the datagram is IPv4 */
};
enum { LINK_HEADS = sizeof link_heads / sizeof link_heads[0], LINKS_MATCHING = LINK_HEADS - 2 };

static void write_block(FILE *file, uint32_t type, const void *head, size_t head_bytes,
                        const void *data, uint32_t bytes) {
  uint32_t padding = -(uint32_t)(head_bytes + bytes) & 3;
  uint32_t length = (uint32_t)head_bytes + bytes + padding + 12;
  fwrite(&type, 4, 1, file);
  fwrite(&length, 4, 1, file);
  fwrite(head, head_bytes, 1, file);
  fwrite(data, bytes, 1, file);
  fwrite("\0\0", padding, 1, file);
  fwrite(&length, 4, 1, file);
}

static int make_capture_of_links(void) {
  int fd = memfd_create("links", MFD_CLOEXEC);
  FILE *file = fdopen(dup(fd), "w");
  const uint32_t section[] = {0x1a2b3c4d, 1, UINT32_MAX, UINT32_MAX};
  write_block(file, 0x0a0d0d0a, section, sizeof section, "", 0);
  for (uint32_t i = 0; i < LINK_HEADS; i++)
    write_block(file, 1, (uint32_t[]){link_heads[i].linktype, 0}, 8, "", 0);
  for (uint32_t i = 0; i < LINK_HEADS; i++) {
    uint8_t frame[20 + sizeof datagram];
    uint32_t bytes = link_heads[i].head_bytes + (uint32_t)sizeof datagram;
    memcpy(frame, link_heads[i].head, sizeof link_heads[i].head);
    memcpy(frame + link_heads[i].head_bytes, datagram, sizeof datagram);
    write_block(file, 6, (uint32_t[]){i, 0, i, bytes, bytes}, 20, frame, bytes);
  }
  fclose(file);
  lseek(fd, 0, SEEK_SET);
  return fd;
}

static _Atomic unsigned compiled, compiled_capturing, optimized_capturing;
static pthread_t main_thread;

/* Redirected by the linker, like pthread_create above. */
int __real_pcap_compile(pcap_t *pcap, struct bpf_program *program, const char *expression,
                        int optimize, bpf_u_int32 netmask);
int __wrap_pcap_compile(pcap_t *pcap, struct bpf_program *program, const char *expression,
                        int optimize, bpf_u_int32 netmask);

int __wrap_pcap_compile(pcap_t *pcap, struct bpf_program *program, const char *expression,
                        int optimize, bpf_u_int32 netmask) {
  bool capturing = !pthread_equal(pthread_self(), main_thread);
  atomic_fetch_add(&compiled, 1);
  atomic_fetch_add(&compiled_capturing, capturing);
  atomic_fetch_add(&optimized_capturing, capturing && optimize);
  return __real_pcap_compile(pcap, program, expression, optimize, netmask);
}

/* Returns the number of packets captured from a file with a filter. */
static uint64_t filtered(int fd, const char *expression) {
  struct sonde_session_config c = config(fd);
  c.filter = expression;
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_stats stats;
  uint64_t packets = 0, records = 0;
  CHECK_EQ(sonde_session_open(&c, &session, &error), 0);
  CHECK_EQ(sonde_session_start(session, &error), 0);
  await_end(session, &packets, &records);
  check_conservation(session, &stats);
  sonde_session_close(session);
  return stats.packets_captured;
}

static void filter_matches_on_each_link_type(void) {
  CHECK_EQ(filtered(make_capture_of_links(), "udp port 53"), LINKS_MATCHING);
}

/* An expression that cannot match the link type is compiled once, not for each packet. */
static void unmatchable_filter_is_compiled_once(void) {
  atomic_store(&compiled, 0);
  CHECK_EQ(filtered(make_capture(), "ether host 2:0:0:0:0:1"), PACKETS);
  unsigned fits = atomic_exchange(&compiled, 0);
  CHECK_EQ(fits, 1); /* the optimizer may take seconds: the check's program is the one that runs */
  CHECK_EQ(filtered(make_capture_of(101), "ether host 2:0:0:0:0:1"), 0);
  CHECK(atomic_load(&compiled) <= fits + 1);
}

/* The optimizer may take seconds: a capture thread never runs it, and compiles only for a file. */
static void filter_is_compiled_before_capture(void) {
  atomic_store(&compiled_capturing, 0);
  CHECK_EQ(filtered(make_capture(), "udp"), PACKETS);
  CHECK_EQ(atomic_load(&compiled_capturing), 0);
  CHECK_EQ(filtered(make_capture_of_links(), "udp port 53"), LINKS_MATCHING);
  CHECK(atomic_load(&compiled_capturing) > 0);
  CHECK_EQ(atomic_load(&optimized_capturing), 0);
}

static void invalid_configurations_are_rejected(void) {
  struct sonde_session *session = NULL;
  struct sonde_error error;
  struct sonde_session_config c = config(make_capture());
  c.backend = "carrier_pigeon";
  CHECK_EQ(sonde_session_open(&c, &session, &error), SONDE_BACKEND_UNKNOWN);
  c = config(make_capture());
  c.filter = "host and and";
  CHECK_EQ(sonde_session_open(&c, &session, &error), SONDE_FILTER_INVALID);
  CHECK(error.detail[0]);
  c = config(open("/dev/null", O_RDONLY | O_CLOEXEC));
  CHECK_EQ(sonde_session_open(&c, &session, &error), SONDE_FORMAT); /* shorter than a header */
}

static void check_config(struct sonde_session_config c, int expected) {
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_session_open(&c, &session, &error), expected);
  if (session)
    sonde_session_close(session);
}

/* Opens with `member` at both limits and fails beyond them. */
#define CHECK_LIMITS(member, least, most)                                                          \
  do {                                                                                             \
    struct sonde_session_config c = config(make_capture());                                        \
    c.member = (least);                                                                            \
    check_config(c, 0);                                                                            \
    c = config(make_capture());                                                                    \
    c.member = (least) - 1;                                                                        \
    check_config(c, SONDE_INVALID);                                                                \
    c = config(make_capture());                                                                    \
    c.member = (most) + 1;                                                                         \
    check_config(c, SONDE_INVALID);                                                                \
  } while (0)

static void limits_of_a_configuration_are_exact(void) {
  CHECK_LIMITS(workers, 1, 64);
  CHECK_LIMITS(snaplen, 64, 262144);
  CHECK_LIMITS(ring_bytes, 1u << 20, 1u << 30);
  CHECK_LIMITS(flow_table_size, 16, 1u << 26);
  CHECK_LIMITS(record_ring_size, 64, 1u << 24);
  CHECK_LIMITS(idle_timeout_ns, 1000000, (1ull << 60) - 1);
  CHECK_LIMITS(active_timeout_ns, 1000000, (1ull << 60) - 1);
}

int main(void) {
  main_thread = pthread_self();
  every_packet_reaches_a_record();
  requests_during_replay_lose_nothing();
  metering_can_be_turned_off_and_on();
  filter_counts_only_matching_packets();
  discarded_records_are_counted();
  rejected_collector_blocks_nothing();
  filter_matches_on_each_link_type();
  unmatchable_filter_is_compiled_once();
  filter_is_compiled_before_capture();
  invalid_configurations_are_rejected();
  limits_of_a_configuration_are_exact();
  return check_report();
}
