/* merge_test.c - packets that were added up give the same records as single packets.
 *
 * Random packets of a few flows go into two tables: into one unchanged, into the other added up
 * by a plain model of the kernel programs, with openings and ends of TCP as single packets after
 * the sum of their flow. The records must be equal, byte for byte, except for two allowed
 * differences: ids, and which segment a packet near an active timeout belongs to.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flow/table.h"
#include "random_draw.h"

enum { FLOWS = 24, PACKETS = 20000, RECORDS_MAX = 4096, FIN = 1, SYN = 2, RST = 4, ACK = 16 };

static struct sonde_record records[2][RECORDS_MAX];
static uint32_t record_count[2];
static struct sonde_delta sums[FLOWS];
static uint32_t next_seq[FLOWS][2];
static struct sonde_record *reserve(void *context) {
  unsigned which = (unsigned)(uintptr_t)context;
  return &records[which][record_count[which]];
}

static void commit(void *context) {
  record_count[(unsigned)(uintptr_t)context]++;
}

static uint32_t room(void *context) {
  return RECORDS_MAX - record_count[(unsigned)(uintptr_t)context];
}

static struct sonde_flow_table *create(unsigned which) {
  struct sonde_flow_table *table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = 1024,
      .tunnels = true,
      .sink = {(void *)(uintptr_t)which, reserve, commit, room},
  });
  sonde_flow_table_metering_set(table, true, 30000000000, 3600000000000);
  return table;
}

static const uint8_t mac[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};

/* One packet of a flow. Even flows are TCP, odd ones UDP. */
static struct sonde_decoded make(unsigned flow, uint64_t time_ns) {
  unsigned side = draw(2), payload = draw(3) ? draw(1400) : 0;
  struct sonde_decoded packet = {
      .key = {.lo_ip = {10, 0, 0, (uint8_t)flow},
              .hi_ip = {10, 0, 1, 1},
              .lo_port = 1000,
              .hi_port = 80,
              .ip_version = 4,
              .protocol = flow % 2 ? 17 : 6},
      .time_ns = time_ns,
      .ip_bytes = 40 + payload,
      .l2_bytes = 54 + payload,
      .packets = 1 + draw(3),
      .mpls_label = UINT32_MAX,
      .flags = (uint16_t)(SONDE_DECODED_MAC | (side ? SONDE_DECODED_REVERSED : 0)),
      .tos = (uint8_t)draw(4),
      .ttl = (uint8_t)(60 + draw(5)),
      .direction = (uint8_t)(side ? SONDE_DIRECTION_EGRESS : SONDE_DIRECTION_INGRESS),
      .source_mac = mac[side],
      .dest_mac = mac[side ^ 1],
  };
  if (packet.key.protocol == 6) {
    static const uint8_t rare[] = {SYN, SYN | ACK, FIN | ACK, RST};
    packet.flags |= SONDE_DECODED_TCP;
    packet.tcp_flags = draw(20) ? ACK : rare[draw(4)];
    packet.tcp_payload = packet.tcp_flags == ACK ? payload : 0;
    packet.tcp_seq = next_seq[flow][side];
    next_seq[flow][side] += packet.tcp_payload + !!(packet.tcp_flags & (SYN | FIN));
  }
  return packet;
}

static void add_up(struct sonde_delta *sum, const struct sonde_decoded *packet) {
  unsigned side = packet->flags & SONDE_DECODED_REVERSED ? 1 : 0;
  if (sum->frames++ == 0) {
    sum->key = packet->key;
    sum->first_side = (uint8_t)side;
    sum->direction = packet->direction;
    sum->has_mac = 1;
    sum->ttl_min = 255;
    memcpy(sum->source_mac, packet->source_mac, 6);
    memcpy(sum->dest_mac, packet->dest_mac, 6);
  }
  if (sum->packets[side] == 0) {
    sum->first_ns[side] = packet->time_ns;
    sum->tos[side] = packet->tos;
    sum->tcp_seq[side] = packet->tcp_seq;
    sum->tcp_length[side] = packet->tcp_payload;
  }
  sum->last_ns[side] = packet->time_ns;
  sum->packets[side] += packet->packets;
  sum->ip_bytes[side] += packet->ip_bytes;
  sum->l2_bytes[side] += packet->l2_bytes;
  sum->tcp_flags[side] |= packet->tcp_flags;
  sum->tcp_next[side] = packet->tcp_seq + packet->tcp_payload;
  sum->ttl_min = packet->ttl < sum->ttl_min ? packet->ttl : sum->ttl_min;
  sum->ttl_max = packet->ttl > sum->ttl_max ? packet->ttl : sum->ttl_max;
}

static void add_delta(struct sonde_flow_table *table, unsigned flow) {
  if (sums[flow].frames)
    sonde_flow_table_merge(table, &sums[flow], 1);
  sums[flow] = (struct sonde_delta){0};
}

static int by_identity(const void *left, const void *right) {
  const struct sonde_record *a = left, *b = right;
  int order = memcmp(a->source_ip, b->source_ip, 4) + 2 * memcmp(a->dest_ip, b->dest_ip, 4);
  if (order == 0)
    order = (a->flow_start_ns > b->flow_start_ns) - (a->flow_start_ns < b->flow_start_ns);
  return order ? order : (a->first_ns > b->first_ns) - (a->first_ns < b->first_ns);
}

static void check_random_packets(void) {
  struct sonde_flow_table *plain = create(0), *summed = create(1);
  uint64_t now = 1000000000000;
  for (unsigned i = 0; i < PACKETS; i++) {
    unsigned flow = draw(FLOWS);
    now += draw(2000000) + (draw(4000) == 0 ? 31000000000 : 0); /* rarely: all become idle */
    struct sonde_decoded packet = make(flow, now);
    if (i % 97 == 0) {
      for (unsigned f = 0; f < FLOWS; f++)
        add_delta(summed, f);
      sonde_flow_table_expire(plain, now - 1);
      sonde_flow_table_expire(summed, now - 1);
    }
    if (now - sums[flow].last_ns[0] > 30000000000 && now - sums[flow].last_ns[1] > 30000000000)
      add_delta(summed, flow); /* sums are read more often than flows time out */
    sonde_flow_table_update(plain, &packet, 1);
    if (packet.tcp_flags & (SYN | FIN | RST)) {
      add_delta(summed, flow);
      sonde_flow_table_update(summed, &packet, 1);
    } else {
      add_up(&sums[flow], &packet);
    }
  }
  for (unsigned f = 0; f < FLOWS; f++)
    add_delta(summed, f);
  uint32_t cursor[2] = {0, 0};
  CHECK(sonde_flow_table_flush(plain, true, &cursor[0]));
  CHECK(sonde_flow_table_flush(summed, true, &cursor[1]));
  CHECK(record_count[0] > 3 * FLOWS);
  CHECK_EQ(record_count[0], record_count[1]);
  for (unsigned which = 0; which < 2; which++)
    qsort(records[which], record_count[which], sizeof records[0][0], by_identity);
  for (uint32_t i = 0; i < record_count[0] && i < record_count[1]; i++) {
    struct sonde_record *one = &records[0][i], *other = &records[1][i];
    one->flow_id = other->flow_id;
    CHECK_EQ(one->packets[0], other->packets[0]);
    CHECK_EQ(one->bytes[1], other->bytes[1]);
    CHECK_EQ(one->handshake_rtt_us, other->handshake_rtt_us);
    CHECK(memcmp(one, other, sizeof *one) == 0);
  }
  const struct sonde_flow_counters *a = sonde_flow_table_counters(plain);
  CHECK(memcmp(a, sonde_flow_table_counters(summed), sizeof *a) == 0);
  sonde_flow_table_destroy(plain);
  sonde_flow_table_destroy(summed);
}

/* A younger packet arrived first and began the flow. Its older sum reverses the direction. */
static void check_late_sum(void) {
  struct sonde_flow_table *table = create(0);
  record_count[0] = 0;
  struct sonde_decoded late = make(1, 2000000000), early = make(1, 1500000000);
  late.flags |= SONDE_DECODED_REVERSED;
  late.mpls_label = 18;
  late.ipv6 = 0xabcde | SONDE_EXTENSION_ROUTING;
  late.fragment_offset = 7;
  late.fragment_flags = 32;
  late.vlan_priority = 3;
  late.tunnel_type = SONDE_TUNNEL_VXLAN;
  late.tunnel_id = 7;
  late.tunnel_ip_version = 4;
  late.tunnel_source_ip = late.tunnel_dest_ip = mac[0];
  early.flags &= (uint16_t)~SONDE_DECODED_REVERSED;
  sums[1] = (struct sonde_delta){0};
  add_up(&sums[1], &early);
  sonde_flow_table_update(table, &late, 1);
  sonde_flow_table_merge(table, &sums[1], 1);
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(table, true, &cursor));
  CHECK_EQ(record_count[0], 1);
  CHECK_EQ(records[0][0].source_ip[2], 0); /* the lo side of the key sent first */
  CHECK_EQ(records[0][0].flow_start_ns, 1500000000);
  CHECK_EQ(records[0][0].packets[0], early.packets);
  CHECK_EQ(records[0][0].packets[1], late.packets);
  CHECK_EQ(records[0][0].mpls_label, UINT32_MAX); /* from the first packet, not the late one */
  CHECK_EQ(records[0][0].ipv6, SONDE_EXTENSION_ROUTING); /* the label is the first packet's */
  CHECK_EQ(records[0][0].fragment_offset, 0);
  CHECK_EQ(records[0][0].fragment_flags, 0);
  CHECK_EQ(records[0][0].vlan_priority, 0);
  CHECK_EQ(records[0][0].tunnel_type, SONDE_TUNNEL_NONE);
  CHECK_EQ(records[0][0].tunnel_id, 0);
  sonde_flow_table_destroy(table);
}

/* The same for TCP: everything with a direction is swapped, and the handshake is unknown. */
static void check_late_tcp_sum(void) {
  struct sonde_flow_table *table = create(0);
  record_count[0] = 0;
  struct sonde_decoded late = make(2, 2000000000), early = make(2, 1500000000), next;
  late.flags = SONDE_DECODED_MAC | SONDE_DECODED_TCP | SONDE_DECODED_REVERSED;
  late.packets = 1;
  late.ip_bytes = 1040;
  late.l2_bytes = 1054;
  late.tcp_payload = 1000;
  late.tcp_seq = 5000;
  late.tcp_flags = FIN | ACK;
  early.flags = SONDE_DECODED_MAC | SONDE_DECODED_TCP;
  early.packets = 2;
  early.ip_bytes = 300;
  early.l2_bytes = 328;
  early.tcp_payload = 220;
  early.tcp_seq = 70;
  early.tcp_flags = ACK | 8;
  sums[2] = (struct sonde_delta){0};
  add_up(&sums[2], &early);
  sonde_flow_table_update(table, &late, 1);
  sonde_flow_table_merge(table, &sums[2], 1);
  next = late; /* the FIN once more, then the other side's: the flow is closing */
  next.time_ns += 1000;
  sonde_flow_table_update(table, &next, 1);
  next = early;
  next.time_ns = late.time_ns + 2000;
  next.tcp_seq += next.tcp_payload;
  next.tcp_flags = FIN | ACK;
  sonde_flow_table_update(table, &next, 1);
  sonde_flow_table_expire(table, late.time_ns + 5000003000);
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(table, true, &cursor));
  CHECK_EQ(record_count[0], 1);
  const struct sonde_record *record = &records[0][0];
  CHECK_EQ(record->source_port, 1000);
  CHECK_EQ(record->packets[0], 4);
  CHECK_EQ(record->packets[1], 2);
  CHECK_EQ(record->bytes[0], 600);
  CHECK_EQ(record->bytes[1], 2080);
  CHECK_EQ(record->l2_bytes[0], 656);
  CHECK_EQ(record->l2_bytes[1], 2108);
  CHECK_EQ(record->tcp_flags[0], ACK | 8 | FIN);
  CHECK_EQ(record->tcp_flags[1], FIN | ACK);
  CHECK_EQ(record->retransmissions, 1);
  CHECK_EQ(record->out_of_order, 0);
  CHECK_EQ(record->handshake_rtt_us, UINT32_MAX);
  CHECK_EQ(record->end_reason, SONDE_END_END);
  CHECK_EQ(record->direction, early.direction);
  CHECK(memcmp(record->source_mac, early.source_mac, 6) == 0);
  sonde_flow_table_destroy(table);
}

/* One side's FIN stays one side's: the flow does not end when that side repeats it. */
static void check_late_sum_of_a_half_closed_flow(void) {
  struct sonde_flow_table *table = create(0);
  record_count[0] = 0;
  struct sonde_decoded late = make(2, 2000000000), early = make(2, 1500000000);
  late.flags = SONDE_DECODED_MAC | SONDE_DECODED_TCP | SONDE_DECODED_REVERSED;
  late.tcp_flags = FIN | ACK;
  late.tcp_payload = 0;
  late.tcp_seq = 5000;
  early.flags = SONDE_DECODED_MAC | SONDE_DECODED_TCP;
  early.tcp_flags = ACK;
  sums[2] = (struct sonde_delta){0};
  add_up(&sums[2], &early);
  sonde_flow_table_update(table, &late, 1);
  sonde_flow_table_merge(table, &sums[2], 1);
  late.time_ns += 1000;
  sonde_flow_table_update(table, &late, 1);
  sonde_flow_table_expire(table, late.time_ns + 7000000000);
  CHECK_EQ(record_count[0], 0);
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(table, true, &cursor));
  CHECK_EQ(records[0][0].end_reason, SONDE_END_FORCED);
  sonde_flow_table_destroy(table);
}

/* Sums that count only one of the two. */
static void check_retransmissions_and_disorder(void) {
  for (unsigned which = 0; which < 2; which++) {
    struct sonde_flow_table *table = create(0);
    struct sonde_decoded packet = make(2, 1700000000000000000);
    uint32_t cursor = 0;
    record_count[0] = 0;
    sums[2] = (struct sonde_delta){0};
    add_up(&sums[2], &packet);
    sums[2].retransmissions[0] = which ? 0 : 7;
    sums[2].out_of_order[0] = which ? 5 : 0;
    sums[2].packets[0] += 10;
    sonde_flow_table_merge(table, &sums[2], 1);
    CHECK(sonde_flow_table_flush(table, true, &cursor));
    CHECK_EQ(records[0][0].retransmissions, which ? 0 : 7);
    CHECK_EQ(records[0][0].out_of_order, which ? 5 : 0);
    sonde_flow_table_destroy(table);
  }
}

/* A table whose first packets were added up expires their flow after its idle timeout. */
static void check_first_sum_starts_the_clock(void) {
  struct sonde_flow_table *table = create(0);
  struct sonde_decoded packet = make(1, 1700000000000000000);
  record_count[0] = 0;
  sums[1] = (struct sonde_delta){0};
  add_up(&sums[1], &packet);
  sonde_flow_table_merge(table, &sums[1], 1);
  sonde_flow_table_expire(table, packet.time_ns + 29000000000);
  CHECK_EQ(record_count[0], 0);
  sonde_flow_table_expire(table, packet.time_ns + 32000000000);
  CHECK_EQ(record_count[0], 1);
  CHECK_EQ(records[0][0].end_reason, SONDE_END_IDLE);
  sonde_flow_table_destroy(table);
}

int main(void) {
  check_random_packets();
  check_late_sum();
  check_late_tcp_sum();
  check_late_sum_of_a_half_closed_flow();
  check_first_sum_starts_the_clock();
  check_retransmissions_and_disorder();
  return check_report();
}
