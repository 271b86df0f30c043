/* session_read_test.c - a listing of a worker without a thread, with a simulated source and clock.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core/session_state.h"
#include "host/clock.h"

static const uint64_t SECOND = 1000000000, BEGIN = UINT64_C(1700000000) * 1000000000;

static struct sonde_record record;
static uint32_t records;

static struct sonde_record *reserve(void *context) {
  (void)context;
  return &record;
}

static void commit(void *context) {
  (void)context;
  records++;
}

static uint32_t room(void *context) {
  (void)context;
  return 100;
}

static void add_delta(struct sonde_worker *worker, const struct sonde_delta *delta,
                      uint64_t complete_ns) {
  struct sonde_packet packets[] = {
      {.linktype = SONDE_LINKTYPE_DELTA, .caplen = sizeof *delta, .data = (const uint8_t *)delta},
      {.linktype = SONDE_LINKTYPE_DELTA, .time_ns = complete_ns},
  };
  sonde_worker_merge(worker, delta ? packets : &packets[1], delta ? 2 : 1);
}

static uint64_t list(struct sonde_session *session) {
  struct sonde_flow_query query = {.limit = 1, .match = {.port = -1, .protocol = -1}};
  struct sonde_record listed;
  struct sonde_error error;
  uint64_t matching = 0, active = 0;
  CHECK(sonde_session_list(session, &query, &listed, &matching, &active, &error) >= 0);
  CHECK_EQ(matching, active);
  return active;
}

/* A source that adds up is behind the clock: a flow is idle only once the source confirms it. */
static void listing_waits_for_added_up_packets(struct sonde_session *session) {
  struct sonde_worker *worker = session->workers;
  struct sonde_delta delta = {
      .key = {.lo_ip = {10, 0, 0, 1}, .hi_ip = {10, 0, 0, 2}, .ip_version = 4, .protocol = 17},
      .first_ns = {BEGIN},
      .last_ns = {BEGIN},
      .packets = {1},
      .frames = 1,
  };
  add_delta(worker, &delta, BEGIN + SECOND / 2);
  worker->clock.now_ns = BEGIN + 2 * SECOND;
  CHECK_EQ(list(session), 1);
  delta.first_ns[0] = delta.last_ns[0] = BEGIN + SECOND * 9 / 10;
  add_delta(worker, &delta, BEGIN + SECOND);
  CHECK_EQ(list(session), 1);
  CHECK_EQ(records, 0);
  add_delta(worker, NULL, BEGIN + 3 * SECOND);
  CHECK_EQ(list(session), 0);
  CHECK_EQ(records, 1);
  CHECK_EQ(record.end_reason, SONDE_END_IDLE);
  CHECK_EQ(record.packets[0], 2);
}

static void both_directions_are_counted(struct sonde_session *session) {
  const struct sonde_worker_counters *counters = &session->workers->counters;
  uint64_t packets = counters->packets_captured, bytes = counters->bytes_captured;
  struct sonde_delta delta = {
      .key = {.lo_ip = {10, 0, 0, 3}, .hi_ip = {10, 0, 0, 4}, .ip_version = 4, .protocol = 17},
      .first_ns = {BEGIN + 4 * SECOND, BEGIN + 4 * SECOND},
      .last_ns = {BEGIN + 4 * SECOND, BEGIN + 4 * SECOND},
      .packets = {3, 2},
      .l2_bytes = {300, 120},
      .frames = 5,
  };
  add_delta(session->workers, &delta, BEGIN + 4 * SECOND);
  CHECK_EQ(counters->packets_captured - packets, 5);
  CHECK_EQ(counters->bytes_captured - bytes, 420);
}

static void statistics_have_the_time(struct sonde_session *session) {
  struct sonde_stats stats;
  uint64_t before = sonde_clock_ns(CLOCK_REALTIME);
  sonde_session_stats(session, &stats);
  CHECK(stats.time_ns >= before && stats.time_ns <= sonde_clock_ns(CLOCK_REALTIME));
}

int main(void) {
  struct sonde_session *session = calloc(1, sizeof *session);
  session->workers = aligned_alloc(64, sizeof *session->workers);
  memset(session->workers, 0, sizeof *session->workers);
  session->worker_count = 1;
  session->state = SONDE_SESSION_RUNNING;
  pthread_mutex_init(&session->control, NULL);
  sonde_worker_init(session->workers);
  session->workers->table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = 16, .sink = {.reserve = reserve, .commit = commit, .room = room}});
  sonde_worker_metering_set(session->workers, true, SECOND, 60 * SECOND);
  listing_waits_for_added_up_packets(session);
  both_directions_are_counted(session);
  statistics_have_the_time(session);
  sonde_worker_release(session->workers);
  pthread_mutex_destroy(&session->control);
  free(session->workers);
  free(session);
  return check_report();
}
