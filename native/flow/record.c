/* record.c - makes records from entries, and closes their segments. */
#include "entry.h"

static void fill_identity(const struct sonde_flow_hot *hot, struct sonde_record *record) {
  const struct sonde_key *key = &hot->key;
  bool hi = hot->state & SONDE_STATE_SOURCE_HI;
  memcpy(record->source_ip, hi ? key->hi_ip : key->lo_ip, 16);
  memcpy(record->dest_ip, hi ? key->lo_ip : key->hi_ip, 16);
  record->source_port = hi ? key->hi_port : key->lo_port;
  record->dest_port = hi ? key->lo_port : key->hi_port;
  record->ip_version = key->ip_version;
  record->protocol = key->protocol;
  record->vlan_depth = key->vlan_depth;
  memcpy(record->vlan, key->vlan, sizeof record->vlan);
  record->source = key->source;
}

static void fill_tunnel(const struct sonde_flow_tunnel *tunnel, struct sonde_record *record) {
  memcpy(record->tunnel_source_ip, tunnel->source_ip, 16);
  memcpy(record->tunnel_dest_ip, tunnel->dest_ip, 16);
  record->tunnel_id = tunnel->id;
  record->tunnel_type = tunnel->type;
  record->tunnel_ip_version = tunnel->ip_version;
}

void sonde_flow_record_fill(const struct sonde_flow_table *table, uint32_t entry,
                            struct sonde_record *record) {
  const struct sonde_flow_hot *hot = &table->hot[entry];
  const struct sonde_flow_cold *cold = &table->cold[entry];
  *record = (struct sonde_record){.sampling_interval = 1};
  fill_identity(hot, record);
  if (table->tunnels)
    fill_tunnel(&table->tunnels[entry], record);
  uint64_t epoch = (uint64_t)table->epoch_ns;
  record->flow_id = cold->flow_id;
  record->first_ns = hot->first_ns + epoch;
  record->last_ns = hot->last_ns + epoch;
  record->flow_start_ns = cold->start_ns + epoch;
  for (unsigned d = 0; d < 2; d++) {
    record->packets[d] = hot->packets[d];
    record->bytes[d] = hot->bytes[d];
    record->l2_bytes[d] = hot->l2_bytes[d];
    record->total_packets[d] = cold->packets[d] + hot->packets[d];
    record->total_bytes[d] = cold->bytes[d] + hot->bytes[d];
    record->tcp_flags[d] = hot->tcp_flags[d];
  }
  record->mpls_label = cold->mpls_label;
  record->segment = cold->segment;
  record->fragments = cold->fragments;
  record->retransmissions = cold->retransmissions + hot->retransmitted;
  record->out_of_order = cold->out_of_order;
  record->timestamps_late = cold->timestamps_late;
  record->handshake_rtt_us = hot->state & SONDE_STATE_RTT ? cold->handshake_us : UINT32_MAX;
  memcpy(record->source_mac, cold->source_mac, 6);
  memcpy(record->dest_mac, cold->dest_mac, 6);
  record->has_mac = cold->has_mac;
  record->icmp_type = cold->icmp_type;
  record->icmp_code = cold->icmp_code;
  record->tos = hot->tos;
  record->ttl_min = hot->ttl_min;
  record->ttl_max = hot->ttl_max;
  record->direction = cold->direction;
  if (cold->has_headers) {
    record->ipv6 = table->headers[entry].ipv6;
    record->fragment_offset = table->headers[entry].fragment_offset;
  }
  record->fragment_flags = cold->fragment_flags;
  record->vlan_priority = cold->vlan_priority;
  record->ifindex = table->ifindex[hot->key.source];
}

void sonde_flow_record_label(const struct sonde_flow_table *table, uint32_t entry, bool last,
                             struct sonde_record *record) {
  if (table->labels)
    table->label_hook.record(table->label_hook.context, &table->labels[entry], record,
                             table->cold[entry].start_ns, last);
  if (table->owners)
    table->owner_hook.record(table->owner_hook.context, table->owners[entry], record);
}

static void close_segment(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold) {
  for (unsigned d = 0; d < 2; d++) {
    cold->packets[d] += hot->packets[d];
    cold->bytes[d] += hot->bytes[d];
    cold->l2_bytes[d] += hot->l2_bytes[d];
    hot->packets[d] = hot->bytes[d] = hot->l2_bytes[d] = 0;
    hot->tcp_flags[d] = 0;
  }
  cold->segment++;
  cold->fragments = cold->retransmissions = cold->out_of_order = cold->timestamps_late = 0;
  hot->retransmitted = 0;
  hot->first_ns = hot->last_ns; /* for the record of an empty segment */
}

void sonde_flow_record_emit(struct sonde_flow_table *table, uint32_t entry,
                            enum sonde_end_reason reason, bool final) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  struct sonde_flow_counters *counters = &table->counters;
  uint64_t packets = sonde_flow_segment_packets(hot);
  counters->packets_active -= packets;
  if (table->metering) {
    struct sonde_record *record = table->sink.reserve(table->sink.context);
    counters->records++;
    counters->records_by_reason[reason]++;
    counters->packets_recorded += packets;
    if (record) {
      sonde_flow_record_fill(table, entry, record);
      sonde_flow_record_label(table, entry, final, record);
      record->end_reason = (uint8_t)reason;
      record->final = final;
      table->sink.commit(table->sink.context);
    } else {
      counters->records_dropped++;
      counters->packets_records_dropped += packets;
    }
  } else {
    counters->packets_unmetered += packets;
  }
  close_segment(hot, &table->cold[entry]);
}
