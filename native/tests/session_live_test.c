/* session_live_test.c - whole sessions on a veth pair in a separate network, while its interface
 * is deleted and returns.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "live.h"
#include "netsonde.h"

enum { TIMEOUT_MS = 20000, POLL_MS = 20 };
static const uint64_t SECOND = 1000000000;
static _Atomic bool enough;

static struct sonde_session *begin_workers(const char *backend, uint64_t idle_ns,
                                           uint32_t workers) {
  struct sonde_session_config config = {
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = backend,
      .interfaces = (const char *const[]){"v0"},
      .interface_count = 1,
      .file_fd = -1,
      .workers = workers,
      .snaplen = 262144,
      .ring_bytes = 1 << 20,
      .flow_table_size = 1024,
      .record_ring_size = 1024,
      .metering = 1,
      .idle_timeout_ns = idle_ns,
      .active_timeout_ns = 60 * SECOND,
  };
  struct sonde_session *session = NULL;
  struct sonde_error error;
  if (sonde_session_open(&config, &session, &error) || sonde_session_start(session, &error)) {
    fprintf(stderr, "%s: %s\n", backend, error.detail);
    exit(1);
  }
  return session;
}

static struct sonde_session *begin(const char *backend, uint64_t idle_ns) {
  return begin_workers(backend, idle_ns, 1);
}

static void send_one(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  close(sender);
}

/* Returns whether that many flows become active before the timeout. */
static bool await_active(struct sonde_session *session, uint64_t wanted) {
  struct sonde_stats stats;
  for (int waited_ms = 0; waited_ms < TIMEOUT_MS; waited_ms += POLL_MS) {
    sonde_session_stats(session, &stats);
    if (stats.flows_active == wanted)
      return true;
    usleep(POLL_MS * 1000);
  }
  return false;
}

/* The source fails while its interface is gone. Flows seen before still time out. */
static void flows_time_out_without_a_source(void) {
  struct sonde_session *session = begin("pcap", SECOND);
  struct sonde_stats stats;
  send_one();
  CHECK(await_active(session, 1));
  live_run("ip link del v0");
  CHECK(await_active(session, 0));
  sonde_session_stats(session, &stats);
  CHECK_EQ(stats.records_by_reason[SONDE_END_IDLE], 1);
  live_pair();
  for (int i = 0; i < TIMEOUT_MS / POLL_MS && !stats.flows_active; i++) {
    send_one();
    usleep(POLL_MS * 1000);
    sonde_session_stats(session, &stats);
  }
  CHECK_EQ(stats.flows_active, 1);
  sonde_session_close(session);
}

/* Returns NULL if every read found a capture. */
static void *read_statistics(void *argument) {
  struct sonde_session *session = argument;
  struct sonde_stats stats;
  bool found = true;
  do {
    sonde_session_stats(session, &stats);
    found = found && strncmp(stats.attach, "tpacket_v3", 10) == 0;
  } while (!atomic_load(&enough));
  return found ? NULL : session;
}

/* A reader during the deletion and return of the interface always finds one of the captures. */
static void statistics_work_while_the_interface_is_replaced(void) {
  struct sonde_session *session = begin("af_packet", SECOND);
  struct sonde_event event;
  pthread_t thread;
  live_need(pthread_create(&thread, NULL, read_statistics, session) == 0, "thread");
  for (int i = 0; i < 3; i++) {
    live_run("ip link del v0");
    live_pair();
    event.kind = 0;
    for (int tries = 0; tries < TIMEOUT_MS && event.kind != SONDE_EVENT_LINK_RETURNED; tries++)
      if (!sonde_session_events(session, &event, 1))
        usleep(1000);
    CHECK_EQ(event.kind, SONDE_EVENT_LINK_RETURNED);
  }
  atomic_store(&enough, true);
  void *missed;
  pthread_join(thread, &missed);
  CHECK(!missed);
  sonde_session_close(session);
}

static void *stop_session(void *session) {
  struct sonde_error error;
  return sonde_session_stop(session, &error) ? NULL : session;
}

/* If two threads stop a session, exactly one succeeds. */
static void one_of_two_stops_succeeds(void) {
  for (int i = 0; i < 5; i++) {
    struct sonde_session *session = begin("af_packet", SECOND);
    void *first, *second;
    pthread_t thread;
    live_need(pthread_create(&thread, NULL, stop_session, session) == 0, "thread");
    second = stop_session(session);
    pthread_join(thread, &first);
    CHECK(!first != !second);
    sonde_session_close(session);
  }
}

/* Two workers: each packet is in one record, and no two flows have one id. */
static void workers_share_nothing(void) {
  enum { FLOWS = 200 };
  static uint8_t buffer[FLOWS * SONDE_RENDERED_RECORD_MAX];
  static char ids[FLOWS][17];
  struct sonde_session *session = begin_workers("af_packet", 60 * SECOND, 2);
  struct sonde_batch batch;
  struct sonde_error error;
  struct sonde_stats stats;
  uint32_t records = 0;
  uint64_t packets = 0;
  int sender = live_sender("v1");
  for (uint32_t flow = 0; flow < FLOWS; flow++) {
    struct live_frame frame = live_udp4(NULL, 1, 2, 1000 + flow, 53, 100, 0);
    live_send(sender, frame.bytes, frame.length);
  }
  close(sender);
  CHECK(await_active(session, FLOWS));
  CHECK_EQ(sonde_session_stop(session, &error), SONDE_OK);
  do {
    CHECK_EQ(
        sonde_session_drain(session, SONDE_ENCODING_JSON, FLOWS, buffer, sizeof buffer, &batch),
        SONDE_OK);
    const char *at = (const char *)buffer;
    for (uint32_t i = 0; i < batch.records && (at = strstr(at, "\"flow_id\":\"")); i++, records++)
      memcpy(ids[records % FLOWS], at += 11, 16);
    packets += batch.packets;
  } while (batch.records > 0);
  CHECK_EQ(records, FLOWS);
  CHECK_EQ(packets, FLOWS);
  qsort(ids, FLOWS, sizeof ids[0], (int (*)(const void *, const void *))strcmp);
  for (uint32_t i = 1; i < FLOWS; i++)
    CHECK(strcmp(ids[i - 1], ids[i]) != 0);
  sonde_session_stats(session, &stats);
  CHECK_EQ(stats.packets_captured, packets + stats.packets_non_flow);
  sonde_session_close(session);
}

int main(void) {
  live_begin();
  live_pair();
  workers_share_nothing();
  flows_time_out_without_a_source();
  statistics_work_while_the_interface_is_replaced();
  one_of_two_stops_succeeds();
  return check_report();
}
