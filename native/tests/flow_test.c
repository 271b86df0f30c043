/* flow_test.c - the flow table with a simulated clock: timeouts, ends, sums, limits. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flow/hash.h"
#include "flow/table.h"
#include "flow/wheel.h"

enum { RECORDS_MAX = 4096, FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
static const uint64_t SECOND = 1000000000;
static const uint64_t START = 1700000000000000000;

struct fixture {
  struct sonde_flow_table *table;
  struct sonde_record records[RECORDS_MAX];
  uint32_t count;
  uint32_t limit; /* number of records after which the sink is full */
};

static struct sonde_record *reserve(void *context) {
  struct fixture *f = context;
  return f->count < f->limit ? &f->records[f->count] : NULL;
}

static void commit(void *context) {
  ((struct fixture *)context)->count++;
}

static uint32_t room(void *context) {
  const struct fixture *f = context;
  return f->limit - f->count;
}

static struct fixture *make_worker(uint8_t worker, uint64_t id_seed, uint32_t flows) {
  struct fixture *f = calloc(1, sizeof *f);
  f->limit = RECORDS_MAX;
  f->table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = flows,
      .worker = worker,
      .id_seed = id_seed,
      .tunnels = true,
      .sink = {.context = f, .reserve = reserve, .commit = commit, .room = room},
  });
  return f;
}

static struct fixture *make(uint32_t flows, uint64_t idle_s, uint64_t active_s) {
  struct fixture *f = make_worker(0, 7, flows);
  sonde_flow_table_metering_set(f->table, true, idle_s * SECOND, active_s * SECOND);
  return f;
}

static void drop(struct fixture *f) {
  sonde_flow_table_destroy(f->table);
  free(f);
}

/* A packet of flow `number` at START + time_ns. */
static struct sonde_decoded packet(uint32_t number, uint64_t time_ns, bool reversed) {
  struct sonde_decoded p = {
      .time_ns = START + time_ns,
      .packets = 1,
      .ip_bytes = 100,
      .l2_bytes = 114,
      .ttl = 64,
      .mpls_label = UINT32_MAX,
      .flags = reversed ? SONDE_DECODED_REVERSED : 0,
  };
  p.key = (struct sonde_key){.ip_version = 4, .protocol = 17, .lo_port = 53, .hi_port = 5353};
  memcpy(p.key.lo_ip, &number, sizeof number);
  memcpy(p.key.hi_ip, "\xc0\x00\x02\x01", 4);
  return p;
}

static void send_packet(struct fixture *f, uint32_t number, uint64_t time_ns, bool reversed) {
  struct sonde_decoded p = packet(number, time_ns, reversed);
  sonde_flow_table_update(f->table, &p, 1);
}

static void send_tcp(struct fixture *f, uint64_t time_ns, bool reversed, uint8_t flags,
                     uint32_t seq, uint32_t payload) {
  struct sonde_decoded p = packet(1, time_ns, reversed);
  p.key.protocol = 6;
  p.flags |= SONDE_DECODED_TCP;
  p.tcp_flags = flags;
  p.tcp_seq = seq;
  p.tcp_payload = payload;
  sonde_flow_table_update(f->table, &p, 1);
}

static void flush(struct fixture *f) {
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(f->table, true, &cursor));
}

static uint64_t sum(const struct fixture *f) {
  uint64_t packets = 0;
  for (uint32_t i = 0; i < f->count; i++)
    packets += f->records[i].packets[0] + f->records[i].packets[1];
  return packets;
}

static void idle_limit_is_inclusive(void) {
  const uint64_t gaps[] = {299999000000, 300000000000, 300001000000};
  for (unsigned i = 0; i < 3; i++) {
    struct fixture *f = make(64, 300, 86400);
    send_packet(f, 1, 0, false);
    send_packet(f, 1, gaps[i], true);
    CHECK_EQ(f->count, i > 0 ? 1 : 0);
    if (i > 0) {
      CHECK_EQ(f->records[0].end_reason, SONDE_END_IDLE);
      CHECK_EQ(f->records[0].final, 1);
    }
    flush(f);
    CHECK_EQ(f->count, i > 0 ? 2 : 1);
    CHECK_EQ(f->records[f->count - 1].end_reason, SONDE_END_FORCED);
    CHECK_EQ(sum(f), 2);
    drop(f);
  }
}

static void active_timeout_emits_a_record_and_keeps_the_flow(void) {
  struct fixture *f = make(64, 300, 60);
  for (uint64_t s = 0; s <= 120; s += 10)
    send_packet(f, 1, s * SECOND, s % 20 != 0);
  CHECK_EQ(f->count, 2);
  for (uint32_t i = 0; i < 2; i++) {
    CHECK_EQ(f->records[i].end_reason, SONDE_END_ACTIVE);
    CHECK_EQ(f->records[i].final, 0);
    CHECK_EQ(f->records[i].segment, i);
    CHECK_EQ(f->records[i].packets[0] + f->records[i].packets[1], 6);
    CHECK_EQ(f->records[i].first_ns, START + i * 60 * SECOND);
    CHECK_EQ(f->records[i].flow_start_ns, START);
    CHECK_EQ(f->records[i].flow_id, f->records[0].flow_id);
  }
  CHECK_EQ(f->records[1].total_packets[0] + f->records[1].total_packets[1], 12);
  flush(f);
  CHECK_EQ(sum(f), 13);
  drop(f);
}

static void timer_ends_a_silent_flow_with_an_empty_record(void) {
  struct fixture *f = make(64, 300, 60);
  send_packet(f, 1, 0, false);
  for (uint64_t s = 0; s < 59; s++)
    sonde_flow_table_expire(f->table, START + s * SECOND);
  CHECK_EQ(f->count, 0);
  sonde_flow_table_expire(f->table, START + 61 * SECOND);
  CHECK_EQ(f->count, 1);
  CHECK_EQ(f->records[0].end_reason, SONDE_END_ACTIVE);
  sonde_flow_table_expire(f->table, START + 299 * SECOND);
  CHECK_EQ(f->count, 1);
  sonde_flow_table_expire(f->table, START + 301 * SECOND);
  CHECK_EQ(f->count, 2);
  CHECK_EQ(f->records[1].end_reason, SONDE_END_IDLE);
  CHECK_EQ(f->records[1].final, 1);
  CHECK_EQ(f->records[1].packets[0], 0);
  CHECK(f->records[1].first_ns <= f->records[1].last_ns);
  CHECK_EQ(sonde_flow_table_counters(f->table)->flows_active, 0);
  drop(f);
}

/* A segment that opens late in a silent flow is due before the idle timeout. */
static void late_segment_is_due_in_time(void) {
  struct fixture *f = make(64, 300, 60);
  send_packet(f, 1, 0, false);
  sonde_flow_table_expire(f->table, START + 61 * SECOND);
  send_packet(f, 1, 100 * SECOND, false);
  sonde_flow_table_expire(f->table, START + 159 * SECOND);
  CHECK_EQ(f->count, 1);
  for (uint64_t s = 160; s < 162; s++)
    sonde_flow_table_expire(f->table, START + s * SECOND);
  CHECK_EQ(f->count, 2);
  drop(f);
}

/* A replay must not depend on when the timer runs. */
static void timer_and_packet_expire_a_flow_at_the_same_time(void) {
  for (int with_timer = 0; with_timer < 2; with_timer++) {
    struct fixture *f = make(64, 300, 60);
    send_packet(f, 1, 0, false);
    for (uint64_t s = 0; with_timer && s < 1000; s++)
      sonde_flow_table_expire(f->table, START + s * SECOND);
    send_packet(f, 1, 1000 * SECOND, false);
    CHECK_EQ(f->count, 2);
    CHECK_EQ(f->records[0].end_reason, SONDE_END_ACTIVE);
    CHECK_EQ(f->records[0].packets[0], 1);
    CHECK_EQ(f->records[1].end_reason, SONDE_END_IDLE);
    CHECK_EQ(f->records[1].packets[0], 0);
    drop(f);
  }
}

static void tcp_end_lingers(void) {
  struct fixture *f = make(64, 300, 86400);
  send_tcp(f, 0, false, SYN, 100, 0);
  send_tcp(f, 1000000, true, SYN | ACK, 500, 0);
  send_tcp(f, 3000000, false, ACK, 101, 0);
  send_tcp(f, 4000000, false, PSH | ACK, 101, 50);
  send_tcp(f, 5000000, false, FIN | ACK, 151, 0);
  send_tcp(f, 6000000, true, FIN | ACK, 501, 0);
  send_tcp(f, 4 * SECOND, false, ACK, 152, 0);
  CHECK_EQ(f->count, 0);
  sonde_flow_table_expire(f->table, START + 8 * SECOND);
  CHECK_EQ(f->count, 0);
  sonde_flow_table_expire(f->table, START + 10 * SECOND);
  CHECK_EQ(f->count, 1);
  CHECK_EQ(f->records[0].end_reason, SONDE_END_END);
  CHECK_EQ(f->records[0].packets[0], 5);
  CHECK_EQ(f->records[0].packets[1], 2);
  CHECK_EQ(f->records[0].tcp_flags[0], FIN | SYN | PSH | ACK);
  CHECK_EQ(f->records[0].handshake_rtt_us, 3000);
  CHECK_EQ(f->records[0].retransmissions, 0);
  drop(f);
}

static void syn_on_a_closing_flow_begins_a_new_flow(void) {
  struct fixture *f = make(64, 300, 86400);
  send_tcp(f, 0, false, SYN, 1, 0);
  send_tcp(f, 1, true, RST | ACK, 0, 0);
  send_tcp(f, 2, true, SYN, 9, 0);
  CHECK_EQ(f->count, 1);
  CHECK_EQ(f->records[0].end_reason, SONDE_END_END);
  CHECK_EQ(f->records[0].packets[0] + f->records[0].packets[1], 2);
  flush(f);
  CHECK_EQ(f->count, 2);
  CHECK(f->records[0].flow_id != f->records[1].flow_id);
  CHECK_EQ(f->records[1].packets[0], 1); /* the sender of the new SYN is the source */
  drop(f);
}

static void sequence_events_are_distinguished(void) {
  struct fixture *f = make(64, 300, 86400);
  send_tcp(f, 0, false, ACK, 1000, 100);
  send_tcp(f, 1, false, ACK, 1000, 100); /* a retransmission */
  send_tcp(f, 2, false, ACK, 1300, 100); /* 1100…1300 is missing */
  send_tcp(f, 3, false, ACK, 1100, 200); /* which arrives late */
  send_tcp(f, 4, false, ACK, 1399, 1);   /* keep-alive */
  for (int i = 0; i < 600; i++)
    send_tcp(f, 5, false, ACK, 1000, 100);
  for (int i = 0; i < 3; i++)
    send_tcp(f, 6, true, SYN | ACK, 5000, 0); /* two of them are retransmissions */
  send_tcp(f, 7, false, FIN | ACK, 1400, 0);
  send_tcp(f, 8, false, FIN | ACK, 1400, 0);
  flush(f);
  CHECK_EQ(f->records[0].retransmissions, 604);
  CHECK_EQ(f->records[0].out_of_order, 1);
  drop(f);
}

static void backward_time_does_no_harm(void) {
  struct fixture *f = make(64, 300, 60);
  send_packet(f, 1, 1000 * SECOND, false);
  send_packet(f, 1, 1000 * SECOND, true);
  send_packet(f, 1, 999500000000, false); /* half a second earlier: reordered */
  send_packet(f, 1, 0, true);             /* far earlier: the clock was set back */
  sonde_flow_table_expire(f->table, START);
  CHECK_EQ(f->count, 0);
  flush(f);
  CHECK_EQ(f->count, 1);
  CHECK_EQ(f->records[0].first_ns, START + 999500000000);
  CHECK_EQ(f->records[0].flow_start_ns, f->records[0].first_ns);
  CHECK_EQ(f->records[0].last_ns, START + 1000 * SECOND);
  CHECK_EQ(sum(f), 4);
  drop(f);
}

static void clock_jump_of_years_turns_the_timer_wheel_once(void) {
  struct fixture *f = make(64, 300, 60);
  send_packet(f, 1, 0, false);
  send_packet(f, 2, 10 * 365 * 86400 * SECOND, false);
  sonde_flow_table_expire(f->table, START + 10 * 365 * 86400 * SECOND);
  CHECK_EQ(sonde_flow_table_counters(f->table)->flows_active, 1);
  flush(f);
  CHECK_EQ(sum(f), 2);
  drop(f);
}

static void full_table_evicts_without_losing_packets(void) {
  struct fixture *f = make(256, 300, 86400);
  for (uint32_t i = 0; i < 2000; i++)
    send_packet(f, i, i * 1000, false);
  const struct sonde_flow_counters *counters = sonde_flow_table_counters(f->table);
  CHECK_EQ(counters->flows_active, 256);
  CHECK_EQ(counters->records_by_reason[SONDE_END_RESOURCES], 2000 - 256);
  CHECK_EQ(counters->packets_recorded + counters->packets_active, 2000);
  flush(f);
  CHECK_EQ(sum(f), 2000);
  CHECK_EQ(counters->flows_active, 0);
  drop(f);
}

static void table_holds_exactly_the_configured_flows(void) {
  enum { FLOWS = 1 << 20 };
  struct fixture *f = make(FLOWS, 300, 86400);
  for (uint32_t i = 0; i < FLOWS; i++)
    send_packet(f, i, 0, false);
  CHECK_EQ(sonde_flow_table_counters(f->table)->records, 0);
  CHECK_EQ(sonde_flow_table_counters(f->table)->flows_active, FLOWS);
  drop(f);
}

/* Without the secret the hash multiplies an IPv4 address by zero: keys that differ only in
 * addresses share one slot, and only a few hundred fit. */
static void keys_that_collide_without_the_secret_fit(void) {
  enum { FLOWS = 1 << 17 };
  const struct sonde_hash_secret none = {{0}};
  struct fixture *f = make(FLOWS, 300, 60);
  const struct sonde_decoded first = packet(0, 0, false);
  for (uint32_t i = 0; i < FLOWS; i++) {
    const struct sonde_decoded p = packet(i, 0, false);
    if (sonde_key_hash(&p.key, &none) != sonde_key_hash(&first.key, &none))
      CHECK(!"a key that collides");
    sonde_flow_table_update(f->table, &p, 1);
  }
  for (uint32_t i = 0; i < FLOWS; i++) /* each is found again, also behind one with its tag */
    send_packet(f, i, 1, true);
  CHECK_EQ(sonde_flow_table_counters(f->table)->flows_created, FLOWS);
  CHECK_EQ(sonde_flow_table_counters(f->table)->flows_active, FLOWS);
  CHECK_EQ(f->count, 0);
  drop(f);
}

static void full_sink_delays_timers_and_counts_lost_records(void) {
  struct fixture *f = make(64, 300, 86400);
  for (uint32_t i = 0; i < 10; i++)
    send_packet(f, i, 0, false);
  f->limit = 4;
  sonde_flow_table_expire(f->table, START + 400 * SECOND);
  const struct sonde_flow_counters *counters = sonde_flow_table_counters(f->table);
  CHECK_EQ(counters->records_dropped, 0);
  CHECK(counters->flows_active > 0);
  f->limit = RECORDS_MAX;
  sonde_flow_table_expire(f->table, START + 400 * SECOND);
  CHECK_EQ(counters->flows_active, 0);
  CHECK_EQ(sum(f), 10);
  f->limit = f->count;
  send_packet(f, 1, 500 * SECOND, false);
  send_packet(f, 1, 900 * SECOND, false); /* its flow has ended: the record cannot wait */
  CHECK_EQ(counters->records_dropped, 1);
  CHECK_EQ(counters->packets_records_dropped, 1);
  drop(f);
}

static void flush_reports_flows_that_had_ended(void) {
  struct fixture *f = make(64, 300, 86400);
  send_tcp(f, 0, false, RST, 1, 0);
  send_packet(f, 2, 5010000000, false);
  sonde_flow_table_expire(f->table, START + 5010000000); /* 10 ms after the end of the linger */
  flush(f);
  CHECK_EQ(f->count, 2);
  CHECK_EQ(f->records[0].end_reason, SONDE_END_END);
  CHECK_EQ(f->records[1].end_reason, SONDE_END_FORCED);
  CHECK_EQ(sonde_flow_table_counters(f->table)->flows_active, 0);
  drop(f);
}

static void metering_off_counts_as_unmetered(void) {
  struct fixture *f = make(64, 300, 60);
  sonde_flow_table_metering_set(f->table, false, 300 * SECOND, 60 * SECOND);
  send_packet(f, 1, 0, false);
  sonde_flow_table_expire(f->table, START + 400 * SECOND);
  CHECK_EQ(f->count, 0);
  CHECK_EQ(sonde_flow_table_counters(f->table)->packets_unmetered, 1);
  CHECK_EQ(sonde_flow_table_counters(f->table)->packets_active, 0);
  drop(f);
}

/* For any timeouts the deltas of a flow have the same sums. */
static void sums_do_not_depend_on_timeouts(void) {
  const uint64_t limits[] = {1, 15, 60, 300};
  for (unsigned i = 0; i < 4; i++) {
    for (unsigned j = 0; j < 4; j++) {
      struct fixture *f = make(512, limits[i], limits[j]);
      srand(3);
      uint64_t now = 0;
      for (int n = 0; n < 3000; n++) {
        now += (uint64_t)(rand() % 1000) * 1000000;
        send_packet(f, (uint32_t)(rand() % 20), now, rand() & 1);
        sonde_flow_table_expire(f->table, START + now);
        if (f->count > RECORDS_MAX - 64)
          break;
      }
      const struct sonde_flow_counters *counters = sonde_flow_table_counters(f->table);
      CHECK_EQ(counters->packets_recorded + counters->packets_active, 3000);
      flush(f);
      CHECK_EQ(sum(f), 3000);
      drop(f);
    }
  }
}

static void listing_is_ordered_and_limited(void) {
  struct fixture *f = make(1024, 300, 60);
  for (uint32_t i = 0; i < 500; i++)
    for (uint32_t n = 0; n <= i % 7; n++)
      send_packet(f, i, i * 1000, n & 1);
  struct sonde_flow_query query = {
      .limit = 40, .match = {.port = -1, .protocol = -1}, .min_packets = 2};
  struct sonde_record listed[40];
  uint64_t matching = 0;
  CHECK_EQ(sonde_flow_table_list(f->table, &query, listed, &matching), 40);
  CHECK_EQ(matching, 500 - 72);
  for (uint32_t i = 0; i + 1 < 40; i++)
    CHECK(sonde_flow_record_compare(&listed[i], &listed[i + 1], query.sort) < 0);
  CHECK_EQ(listed[0].packets[0] + listed[0].packets[1], 7);
  query.match.port = 54;
  matching = 0;
  CHECK_EQ(sonde_flow_table_list(f->table, &query, listed, &matching), 0);
  query.match.port = 53;
  query.match.ip_version = 4;
  query.min_packets = 1;
  memcpy(query.match.ip, "\x07\x00\x00\x00", 4);
  CHECK_EQ(sonde_flow_table_list(f->table, &query, listed, &matching), 1);
  CHECK_EQ(f->count, 0);
  drop(f);
}

/* No two flows of a session have one id, whichever worker meters them. Another session has others.
 */
static void flow_ids_are_unique_across_workers(void) {
  enum { TABLES = 4, FLOWS = 100 };
  static uint64_t ids[TABLES * FLOWS];
  const struct {
    uint8_t worker;
    uint64_t id_seed;
  } tables[TABLES] = {{0, 7}, {1, 7}, {255, 7}, {0, 0x5bd1e995c2b2ae35}};
  for (uint32_t t = 0; t < TABLES; t++) {
    struct fixture *f = make_worker(tables[t].worker, tables[t].id_seed, 128);
    sonde_flow_table_metering_set(f->table, true, 300 * SECOND, 60 * SECOND);
    for (uint32_t i = 0; i < FLOWS; i++)
      send_packet(f, i, i, false);
    flush(f);
    CHECK_EQ(f->count, FLOWS);
    for (uint32_t i = 0; i < FLOWS; i++)
      ids[t * FLOWS + i] = f->records[i].flow_id;
    drop(f);
  }
  for (uint32_t i = 0; i < TABLES * FLOWS; i++) {
    CHECK(ids[i] != 0);
    for (uint32_t other = 0; other < i; other++)
      CHECK(ids[i] != ids[other]);
  }
}

/* A listed flow has the sums since its start. Equal flows are ordered by start, then by id. */
static void listing_orders_by_each_key(void) {
  struct fixture *f = make(64, 300, 60);
  struct sonde_record listed[4];
  uint64_t matching = 0;
  const struct {
    uint64_t time_ns;
    uint32_t packets, bytes;
  } flows[4] = {{9, 2, 100}, {5, 3, 100}, {7, 1, 900}, {6, 2, 100}};
  for (uint32_t i = 0; i < 4; i++) {
    struct sonde_decoded p = packet(i, flows[i].time_ns, i % 2);
    p.packets = flows[i].packets;
    p.ip_bytes = flows[i].bytes;
    p.l2_bytes = flows[i].bytes + 14;
    sonde_flow_table_update(f->table, &p, 1);
  }
  const uint32_t sorts[] = {SONDE_FLOW_SORT_BYTES, SONDE_FLOW_SORT_PACKETS, SONDE_FLOW_SORT_RECENT};
  const uint64_t starts[3][4] = {{7, 5, 6, 9}, {5, 6, 9, 7}, {9, 7, 6, 5}};
  for (uint32_t s = 0; s < 3; s++) {
    for (uint32_t limit = 1; limit <= 4; limit++) {
      struct sonde_flow_query query = {
          .limit = limit, .sort = sorts[s], .match = {.port = -1, .protocol = -1}};
      CHECK_EQ(sonde_flow_table_list(f->table, &query, listed, &matching), limit);
      for (uint32_t i = 0; i < limit; i++)
        CHECK_EQ(listed[i].flow_start_ns - START, starts[s][i]);
    }
  }
  struct sonde_record one = {.flow_id = 1}, other = {.flow_id = 2};
  CHECK(sonde_flow_record_compare(&one, &other, SONDE_FLOW_SORT_BYTES) < 0);
  CHECK(sonde_flow_record_compare(&other, &one, SONDE_FLOW_SORT_RECENT) > 0);
  CHECK_EQ(sonde_flow_record_compare(&one, &one, SONDE_FLOW_SORT_PACKETS), 0);
  drop(f);
}

static void listing_counts_earlier_segments(void) {
  struct fixture *f = make(64, 300, 60);
  struct sonde_record listed[1];
  struct sonde_flow_query query = {
      .limit = 1, .match = {.port = -1, .protocol = -1}, .min_packets = 3};
  uint64_t matching = 0;
  send_packet(f, 1, 0, false);
  send_packet(f, 1, SECOND, true);
  send_packet(f, 1, 60 * SECOND, false); /* the second segment */
  CHECK_EQ(f->count, 1);
  CHECK_EQ(sonde_flow_table_list(f->table, &query, listed, &matching), 1);
  CHECK_EQ(listed[0].first_ns, START);
  CHECK_EQ(listed[0].last_ns, START + 60 * SECOND);
  for (int d = 0; d < 2; d++) {
    CHECK_EQ(listed[0].packets[d], d == 0 ? 2 : 1);
    CHECK_EQ(listed[0].bytes[d], 100 * listed[0].packets[d]);
    CHECK_EQ(listed[0].l2_bytes[d], 114 * listed[0].packets[d]);
    CHECK_EQ(listed[0].total_packets[d], listed[0].packets[d]);
  }
  drop(f);
}

/* The round trip is from the source's last SYN to its ACK after the answer, whatever lies between.
 */
static void handshake_is_measured_from_syn_to_ack(void) {
  struct fixture *f = make(64, 300, 86400);
  send_tcp(f, 10000000, false, SYN, 100, 0);
  send_tcp(f, 5000000, false, PSH, 90, 5);   /* reordered: the flow starts earlier */
  send_tcp(f, 10500000, false, ACK, 101, 0); /* before the answer */
  send_tcp(f, 11000000, true, SYN | ACK, 500, 0);
  send_tcp(f, 12000000, true, ACK, 501, 0);  /* from the other side */
  send_tcp(f, 12500000, false, PSH, 101, 5); /* without ACK */
  send_tcp(f, 13000000, false, ACK, 106, 0);
  send_tcp(f, 19000000, false, ACK, 106, 0); /* measured once */
  flush(f);
  CHECK_EQ(f->records[0].flow_start_ns, START + 5000000);
  CHECK_EQ(f->records[0].handshake_rtt_us, 3000);
  drop(f);
}

static void repeated_syn_restarts_the_handshake(void) {
  struct fixture *f = make(64, 300, 86400);
  send_tcp(f, 0, false, SYN, 100, 0);
  send_tcp(f, 1000000000, true, SYN | ACK, 500, 0);
  send_tcp(f, 1100000000, false, SYN, 100, 0);
  send_tcp(f, 1150000000, false, ACK, 101, 0); /* the second answer is missing */
  flush(f);
  CHECK_EQ(f->records[0].handshake_rtt_us, UINT32_MAX);
  drop(f);
}

int main(void) {
  handshake_is_measured_from_syn_to_ack();
  repeated_syn_restarts_the_handshake();
  flow_ids_are_unique_across_workers();
  listing_orders_by_each_key();
  listing_counts_earlier_segments();
  idle_limit_is_inclusive();
  active_timeout_emits_a_record_and_keeps_the_flow();
  timer_ends_a_silent_flow_with_an_empty_record();
  late_segment_is_due_in_time();
  timer_and_packet_expire_a_flow_at_the_same_time();
  tcp_end_lingers();
  syn_on_a_closing_flow_begins_a_new_flow();
  sequence_events_are_distinguished();
  backward_time_does_no_harm();
  clock_jump_of_years_turns_the_timer_wheel_once();
  full_table_evicts_without_losing_packets();
  table_holds_exactly_the_configured_flows();
  keys_that_collide_without_the_secret_fit();
  full_sink_delays_timers_and_counts_lost_records();
  flush_reports_flows_that_had_ended();
  metering_off_counts_as_unmetered();
  sums_do_not_depend_on_timeouts();
  listing_is_ordered_and_limited();
  return check_report();
}
