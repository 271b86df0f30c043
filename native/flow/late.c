/* late.c - a packet that is older than the first packet of its segment.
 *
 * Up to sonde_flow_reorder_ns late, it becomes the first: the segment begins with it, and if the
 * flow has made no record yet, everything that the first packet decides is decided again, above
 * all which side is the source. An older packet only counts, also in timestamps_late. No packet
 * in order comes here. docs/flow-record.md has the rule.
 */
#include "entry.h"

const int64_t sonde_flow_reorder_ns = 1000000000;

static void copy_ip(uint8_t to[16], const uint8_t *from, uint8_t version) {
  memset(to, 0, 16);
  memcpy(to, from, version == 4 ? 4 : 16);
}

static void note_tunnel(struct sonde_flow_tunnel *tunnel, const struct sonde_decoded *packet) {
  memset(tunnel, 0, sizeof *tunnel);
  if (packet->tunnel_type) {
    tunnel->type = packet->tunnel_type;
    tunnel->id = packet->tunnel_id;
    tunnel->ip_version = packet->tunnel_ip_version;
    copy_ip(tunnel->source_ip, packet->tunnel_source_ip, tunnel->ip_version);
    copy_ip(tunnel->dest_ip, packet->tunnel_dest_ip, tunnel->ip_version);
  }
}

void sonde_flow_note_first(struct sonde_flow_table *table, uint32_t entry,
                           const struct sonde_decoded *packet) {
  struct sonde_flow_cold *cold = &table->cold[entry];
  cold->mpls_label = packet->mpls_label;
  cold->icmp_type = packet->icmp_type;
  cold->icmp_code = packet->icmp_code;
  cold->direction = packet->direction & 3u;
  cold->fragment_flags = packet->fragment_flags;
  cold->vlan_priority = packet->vlan_priority & 7u;
  if (cold->has_headers || packet->ipv6 | packet->fragment_offset) {
    struct sonde_flow_headers *headers = &table->headers[entry];
    uint32_t extensions = cold->has_headers ? headers->ipv6 & ~SONDE_FLOW_LABEL_MASK : 0;
    *headers = (struct sonde_flow_headers){.ipv6 = packet->ipv6 | extensions,
                                           .fragment_offset = packet->fragment_offset};
    cold->has_headers = 1;
  }
  if (packet->flags & SONDE_DECODED_MAC) {
    cold->has_mac = 1;
    memcpy(cold->source_mac, packet->source_mac, 6);
    memcpy(cold->dest_mac, packet->dest_mac, 6);
  }
  if (table->tunnels)
    note_tunnel(&table->tunnels[entry], packet);
}

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

static void swap_directions(struct sonde_flow_hot *hot) {
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
}

void sonde_flow_count_late(struct sonde_flow_table *table, uint32_t entry,
                           const struct sonde_decoded *packet) {
  table->cold[entry].timestamps_late += packet->packets;
  table->counters.timestamps_late += packet->packets;
}

void sonde_flow_begin_earlier(struct sonde_flow_table *table, uint32_t entry,
                              const struct sonde_decoded *packet) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  struct sonde_flow_cold *cold = &table->cold[entry];
  int64_t late = (int64_t)(hot->first_ns - packet->time_ns);
  /* Before the SYN that reopened a connection: a packet of the flow before this one. */
  if (late > sonde_flow_reorder_ns || (hot->state & SONDE_STATE_REOPENED)) {
    sonde_flow_count_late(table, entry, packet);
    return;
  }
  hot->first_ns = packet->time_ns;
  hot->tos = packet->tos;
  if (cold->segment > 0)
    return;
  bool hi = packet->flags & SONDE_DECODED_REVERSED;
  if (hi != !!(hot->state & SONDE_STATE_SOURCE_HI))
    swap_directions(hot);
  sonde_flow_move_start(hot, cold, packet->time_ns);
  sonde_flow_note_first(table, entry, packet);
}
