/* merge.c - merges the sums of a backend into flows, like their packets one by one. Only the times
 * between the first and the last packet are unknown.
 *
 * A delta can come after a later packet of its flow. It is then treated as its first packet, which
 * has none of the fields that deltas do not carry (docs/backends.md).
 */
#include "entry.h"
#include "ip_protocol.h"
#include "table.h"

/* Returns a packet like the delta's first one, for the timeout checks. */
static struct sonde_decoded first_packet(const struct sonde_delta *delta) {
  unsigned side = delta->first_side & 1;
  struct sonde_decoded first = {
      .key = delta->key,
      .time_ns = delta->first_ns[side],
      .packets = 1,
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
  if (sonde_flow_segment_packets(hot) == 0)
    sonde_flow_open_segment(table, entry, &first);
  else if ((int64_t)(hot->first_ns - first.time_ns) > 0)
    sonde_flow_begin_earlier(table, entry, &first);
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
