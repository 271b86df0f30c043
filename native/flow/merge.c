/* merge.c - merges the sums of a backend into flows, like their packets one by one. Only the times
 * between the first and the last packet are unknown.
 *
 * A delta can come after a later packet of its flow. If that packet created the flow, source and
 * destination are swapped if needed: the source is the sender of the first packet.
 */
#include "entry.h"
#include "ip_protocol.h"
#include "table.h"

static void swap_numbers(uint64_t pair[2]) {
  uint64_t first = pair[0];
  pair[0] = pair[1];
  pair[1] = first;
}

/* Swaps bit `forward` and the next bit. */
static uint16_t swap_bits(uint16_t state, uint16_t forward) {
  uint16_t reverse = (uint16_t)(forward << 1);
  uint16_t others = (uint16_t)(state & ~(forward | reverse));
  return (uint16_t)(others | (state & forward ? reverse : 0) | (state & reverse ? forward : 0));
}

static void swap_directions(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold) {
  swap_numbers(hot->packets);
  swap_numbers(hot->bytes);
  swap_numbers(hot->l2_bytes);
  uint32_t next = hot->tcp_next[0];
  hot->tcp_next[0] = hot->tcp_next[1];
  hot->tcp_next[1] = next;
  uint8_t flags = hot->tcp_flags[0];
  hot->tcp_flags[0] = hot->tcp_flags[1];
  hot->tcp_flags[1] = flags;
  hot->state = swap_bits(hot->state, SONDE_STATE_FIN);
  hot->state = swap_bits(hot->state, SONDE_STATE_SEQ);
  hot->state = swap_bits(hot->state, SONDE_STATE_GAP);
  hot->state ^= SONDE_STATE_SOURCE_HI;
  hot->state &= (uint16_t)~(SONDE_STATE_SYN | SONDE_STATE_SYN_ACK);
  cold->handshake_us = 0;
}

/* Clears the fields that deltas do not carry, see docs/backends.md. */
static void forget_headers(struct sonde_flow_table *table, uint32_t entry) {
  struct sonde_flow_cold *cold = &table->cold[entry];
  cold->mpls_label = UINT32_MAX;
  cold->fragment_flags = 0;
  cold->vlan_priority = 0;
  if (cold->has_headers) {
    table->headers[entry].ipv6 &= ~SONDE_FLOW_LABEL_MASK;
    table->headers[entry].fragment_offset = 0;
  }
  if (table->tunnels)
    table->tunnels[entry] = (struct sonde_flow_tunnel){0};
}

/* Moves the flow's start back to the delta's first packet. The flow has made no record yet. */
static void begin_earlier(struct sonde_flow_table *table, uint32_t entry,
                          const struct sonde_delta *delta, const struct sonde_decoded *first) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  struct sonde_flow_cold *cold = &table->cold[entry];
  bool hi = first->flags & SONDE_DECODED_REVERSED;
  if (hi != !!(hot->state & SONDE_STATE_SOURCE_HI))
    swap_directions(hot, cold);
  sonde_flow_move_start(hot, cold, first->time_ns);
  forget_headers(table, entry);
  cold->direction = first->direction & 3u;
  hot->tos = first->tos;
  if (delta->has_mac) {
    memcpy(cold->source_mac, delta->source_mac, 6);
    memcpy(cold->dest_mac, delta->dest_mac, 6);
  }
}

/* Returns a packet like the delta's first one, for the timeout checks. */
static struct sonde_decoded first_packet(const struct sonde_delta *delta) {
  unsigned side = delta->first_side & 1;
  struct sonde_decoded first = {
      .key = delta->key,
      .time_ns = delta->first_ns[side],
      .mpls_label = UINT32_MAX,
      .flags = (uint16_t)(side ? SONDE_DECODED_REVERSED : 0),
      .tos = delta->tos[side],
      .ttl = delta->ttl_min,
      .direction = delta->direction,
      .source_mac = delta->source_mac,
      .dest_mac = delta->dest_mac,
  };
  if (delta->has_mac)
    first.flags |= SONDE_DECODED_MAC;
  return first;
}

static void add_side(struct sonde_flow_table *table, uint32_t entry,
                     const struct sonde_delta *delta, unsigned side) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  unsigned direction = side ^ !!(hot->state & SONDE_STATE_SOURCE_HI);
  hot->packets[direction] += delta->packets[side];
  hot->bytes[direction] += delta->ip_bytes[side];
  hot->l2_bytes[direction] += delta->l2_bytes[side];
  table->counters.packets_active += delta->packets[side];
  table->counters.ip_bytes += delta->ip_bytes[side];
  if (delta->last_ns[side] > hot->last_ns)
    hot->last_ns = delta->last_ns[side];
  if (delta->key.protocol == SONDE_IP_TCP)
    sonde_flow_tcp_merge(hot, &table->cold[entry], delta, side, direction);
}

static void merge_one(struct sonde_flow_table *table, uint32_t candidate, uint64_t hash,
                      const struct sonde_delta *delta) {
  struct sonde_decoded first = first_packet(delta);
  uint32_t entry = sonde_flow_enter(table, candidate, hash, &first);
  struct sonde_flow_hot *hot = &table->hot[entry];
  struct sonde_flow_cold *cold = &table->cold[entry];
  int64_t late = (int64_t)(hot->first_ns - first.time_ns);
  if (sonde_flow_segment_packets(hot) == 0)
    sonde_flow_open_segment(hot, &first);
  else if (late > 0 && late <= sonde_flow_reorder_ns)
    hot->first_ns = first.time_ns;
  if (late > 0 && late <= sonde_flow_reorder_ns && cold->segment == 0 &&
      first.time_ns < cold->start_ns)
    begin_earlier(table, entry, delta, &first);
  hot->ttl_min = delta->ttl_min < hot->ttl_min ? delta->ttl_min : hot->ttl_min;
  hot->ttl_max = delta->ttl_max > hot->ttl_max ? delta->ttl_max : hot->ttl_max;
  /* The side that sent first comes first, because the handshake's ACK can be a first packet. */
  unsigned side = delta->first_side & 1;
  add_side(table, entry, delta, side);
  if (delta->packets[side ^ 1])
    add_side(table, entry, delta, side ^ 1);
}

/* Has the three passes of sonde_flow_table_update. */
void sonde_flow_table_merge(struct sonde_flow_table *table, const struct sonde_delta *deltas,
                            uint32_t count) {
  uint64_t hash[SONDE_FLOW_BATCH_MAX];
  uint32_t candidate[SONDE_FLOW_BATCH_MAX];
  if (count > 0 && !table->wheel.started)
    sonde_wheel_advance(&table->wheel, deltas[0].first_ns[deltas[0].first_side & 1]);
  for (uint32_t i = 0; i < count; i++) {
    hash[i] = sonde_key_hash(&deltas[i].key, &table->secret);
    __builtin_prefetch(sonde_flow_index_home(table, hash[i]));
  }
  for (uint32_t i = 0; i < count; i++) {
    candidate[i] = sonde_flow_index_guess(table, hash[i]);
    if (candidate[i] == SONDE_WHEEL_NONE)
      continue;
    const char *hot = (const char *)&table->hot[candidate[i]];
    __builtin_prefetch(hot, 1);
    __builtin_prefetch(hot + 64, 1);
  }
  for (uint32_t i = 0; i < count; i++)
    merge_one(table, candidate[i], hash[i], &deltas[i]);
}
