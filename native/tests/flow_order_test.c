/* flow_order_test.c - packets that arrive out of order: what the flow's first packet decides.
 *
 * Within one second the result does not depend on the order of arrival. Later packets are counted
 * as late and correct nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flow/table.h"

enum { RECORDS_MAX = 16, FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
static const uint64_t START = 1700000000000000000, US = 1000, MS = 1000000, SECOND = 1000000000;

static const uint8_t client_mac[6] = {2, 0, 0, 0, 0, 1}, server_mac[6] = {2, 0, 0, 0, 0, 2};
static struct sonde_flow_table *table;
static struct sonde_record records[RECORDS_MAX];
static uint32_t count;

static struct sonde_record *reserve(void *context) {
  (void)context;
  return count < RECORDS_MAX ? &records[count] : NULL;
}

static void commit(void *context) {
  (void)context;
  count++;
}

static uint32_t room(void *context) {
  (void)context;
  return RECORDS_MAX - count;
}

static void begin(uint64_t active_ns) {
  count = 0;
  table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = 64,
      .tunnels = true,
      .sink = {.reserve = reserve, .commit = commit, .room = room},
  });
  sonde_flow_table_metering_set(table, true, 300 * SECOND, active_ns);
}

static void end(void) {
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(table, true, &cursor));
  const struct sonde_flow_counters *counters = sonde_flow_table_counters(table);
  uint64_t packets = 0, late = 0;
  for (uint32_t i = 0; i < count; i++) {
    packets += records[i].packets[0] + records[i].packets[1];
    late += records[i].timestamps_late;
    CHECK(records[i].first_ns <= records[i].last_ns);
  }
  CHECK_EQ(packets, counters->packets_recorded);
  CHECK_EQ(counters->packets_active, 0);
  CHECK_EQ(late, counters->timestamps_late);
  sonde_flow_table_destroy(table);
}

/* A segment from the key's lo side, or from its hi side if reversed. Each side has a TOS. */
static void send(uint64_t time_ns, bool reversed, uint8_t flags) {
  struct sonde_decoded packet = {
      .time_ns = START + time_ns,
      .packets = 1,
      .ip_bytes = reversed ? 60 : 40,
      .l2_bytes = 74,
      .ttl = 64,
      .tos = reversed ? 2 : 1,
      .vlan_priority = reversed ? 2 : 1,
      .icmp_type = reversed ? 2 : 1,
      .mpls_label = reversed ? 2 : 1,
      .direction = reversed ? SONDE_DIRECTION_EGRESS : SONDE_DIRECTION_INGRESS,
      .source_mac = client_mac,
      .dest_mac = server_mac,
      .flags = (uint16_t)(SONDE_DECODED_TCP | SONDE_DECODED_MAC |
                          (reversed ? SONDE_DECODED_REVERSED : 0)),
      .tcp_flags = flags,
      .key = {.ip_version = 4, .protocol = 6, .lo_port = 40000, .hi_port = 80},
  };
  if (reversed) {
    packet.source_mac = server_mac;
    packet.dest_mac = client_mac;
  }
  memcpy(packet.key.lo_ip, "\x0a\x00\x00\x01", 4);
  memcpy(packet.key.hi_ip, "\x0a\x00\x00\x02", 4);
  sonde_flow_table_update(table, &packet, 1);
}

struct step {
  uint64_t time_ns;
  bool reversed;
  uint8_t flags;
};

/* Sends `steps` in every order, each order to a new table. `from`: the first step to permute. */
static void permute(struct step *steps, uint32_t from, uint32_t total, void (*check)(void)) {
  if (from == total) {
    begin(86400 * SECOND);
    for (uint32_t i = 0; i < total; i++)
      send(steps[i].time_ns, steps[i].reversed, steps[i].flags);
    end();
    check();
    return;
  }
  for (uint32_t i = from; i < total; i++) {
    struct step swap = steps[from];
    steps[from] = steps[i];
    steps[i] = swap;
    permute(steps, from + 1, total, check);
    steps[i] = steps[from];
    steps[from] = swap;
  }
}

static void check_client_first(uint8_t tag) {
  CHECK_EQ(count, 1);
  CHECK(memcmp(records[0].source_mac, client_mac, 6) == 0);
  CHECK(memcmp(records[0].dest_mac, server_mac, 6) == 0);
  CHECK_EQ(records[0].source_port, 40000);
  CHECK_EQ(records[0].first_ns, START);
  CHECK_EQ(records[0].flow_start_ns, START);
  CHECK_EQ(records[0].tos, tag);
  CHECK_EQ(records[0].vlan_priority, tag);
  CHECK_EQ(records[0].icmp_type, tag);
  CHECK_EQ(records[0].mpls_label, tag);
  CHECK_EQ(records[0].direction, SONDE_DIRECTION_INGRESS);
  CHECK_EQ(records[0].timestamps_late, 0);
}

static void check_handshake(void) {
  check_client_first(1);
  CHECK_EQ(records[0].packets[0], 2);
  CHECK_EQ(records[0].packets[1], 1);
  CHECK_EQ(records[0].bytes[0], 80);
  CHECK_EQ(records[0].bytes[1], 60);
  CHECK_EQ(records[0].tcp_flags[0], SYN | ACK);
  CHECK_EQ(records[0].tcp_flags[1], SYN | ACK);
  CHECK_EQ(records[0].handshake_rtt_us, 200);
}

static void handshake_in_any_order(void) {
  struct step steps[] = {{0, false, SYN}, {100 * US, true, SYN | ACK}, {200 * US, false, ACK}};
  permute(steps, 0, 3, check_handshake);
}

static void check_refused(void) {
  check_client_first(1);
  CHECK_EQ(records[0].packets[0], 1);
  CHECK_EQ(records[0].tcp_flags[0], SYN);
  CHECK_EQ(records[0].tcp_flags[1], RST | ACK);
  CHECK_EQ(records[0].handshake_rtt_us, UINT32_MAX);
}

static void refused_connection_is_one_flow(void) {
  struct step steps[] = {{0, false, SYN}, {200 * US, true, RST | ACK}};
  permute(steps, 0, 2, check_refused);
}

static void ports_are_reused_after_the_end(void) {
  begin(86400 * SECOND);
  send(0, false, SYN);
  send(MS, true, RST | ACK);
  send(2 * MS, false, SYN);
  CHECK_EQ(count, 1);
  send(3 * MS, true, SYN | ACK);
  send(1500 * US, true, ACK); /* late, from the closed connection */
  end();
  CHECK_EQ(count, 2);
  CHECK_EQ(records[1].source_port, 40000);
  CHECK_EQ(records[1].first_ns, START + 2 * MS);
  CHECK_EQ(records[1].timestamps_late, 1);
}

/* The last ACK of a closed connection comes before the SYN, and so may its answer. */
static void ports_are_reused_after_a_late_answer(void) {
  begin(86400 * SECOND);
  send(0, false, FIN | ACK);
  send(MS, true, FIN | ACK);
  send(2 * MS, false, ACK);
  send(11 * MS, true, SYN | ACK);
  send(10 * MS, false, SYN);
  CHECK_EQ(count, 1);
  end();
  CHECK_EQ(count, 2);
  CHECK_EQ(records[1].first_ns, START + 10 * MS);
}

static void window_is_one_second(void) {
  for (uint64_t over_ns = 0; over_ns < 2; over_ns++) {
    begin(86400 * SECOND);
    send(SECOND + over_ns, true, ACK);
    send(0, false, ACK);
    end();
    CHECK_EQ(records[0].first_ns, over_ns ? START + SECOND + over_ns : START);
    CHECK_EQ(records[0].source_port, over_ns ? 80 : 40000);
    CHECK_EQ(records[0].timestamps_late, over_ns);
  }
}

/* Once a record has left, its flow keeps its source. A packet older than that record is late. */
static void later_segments_keep_the_source(void) {
  begin(10 * SECOND);
  send(0, false, ACK);
  send(10 * SECOND, false, ACK); /* opens the second segment */
  send(10 * SECOND - MS, true, ACK);
  send(20 * SECOND, false, ACK); /* ends it; opens the third */
  CHECK_EQ(count, 2);
  CHECK_EQ(records[1].source_port, 40000);
  CHECK_EQ(records[1].first_ns, START + 10 * SECOND - MS);
  CHECK_EQ(records[1].timestamps_late, 0);
  end();
}

static void check_stray(void) {
  CHECK_EQ(records[0].source_port, 40000);
  CHECK_EQ(records[0].handshake_rtt_us, 200);
}

/* An acknowledgement older than the SYN-ACK completes nothing. */
static void stray_ack_completes_nothing(void) {
  begin(86400 * SECOND);
  send(0, false, SYN);
  send(50 * US, false, ACK);
  send(100 * US, true, SYN | ACK);
  send(200 * US, false, ACK);
  end();
  check_stray();
}

/* A SYN sent again: the handshake counts from the last one. */
static void repeated_syn_restarts_the_handshake(void) {
  begin(86400 * SECOND);
  send(0, false, SYN);
  send(7 * SECOND, false, SYN);
  send(7 * SECOND + 100 * US, true, SYN | ACK);
  send(7 * SECOND + 200 * US, false, ACK);
  end();
  check_stray();
}

/* The offset of a SYN from the flow's start has 32 bits of microseconds. */
static void handshake_late_in_a_long_flow(void) {
  for (int beyond = 0; beyond < 2; beyond++) {
    const uint64_t syn_ns = (UINT32_MAX - UINT64_C(1) + (uint64_t)beyond) * US;
    begin(86400 * SECOND);
    sonde_flow_table_metering_set(table, true, 86400 * SECOND, 86400 * SECOND);
    send(0, false, ACK);
    send(syn_ns, false, SYN);
    send(syn_ns + 100 * US, true, SYN | ACK);
    send(syn_ns + 200 * US, false, ACK);
    end();
    CHECK_EQ(count, 1);
    CHECK_EQ(records[0].handshake_rtt_us, beyond ? UINT32_MAX : 200);
  }
}

int main(void) {
  handshake_in_any_order();
  refused_connection_is_one_flow();
  ports_are_reused_after_the_end();
  ports_are_reused_after_a_late_answer();
  window_is_one_second();
  later_segments_keep_the_source();
  stray_ack_completes_nothing();
  repeated_syn_restarts_the_handshake();
  handshake_late_in_a_long_flow();
  return check_report();
}
