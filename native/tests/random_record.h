/* random_record.h - flow records with arbitrary but reproducible contents, for the encoding
 * tests. Every field takes small, large and extreme values, valid or not.
 */
#ifndef SONDE_TESTS_RANDOM_RECORD_H
#define SONDE_TESTS_RANDOM_RECORD_H

#include <string.h>

#include "record.h"

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* Returns a value of random magnitude, so that numbers of every length occur. */
static inline uint64_t random_magnitude(uint32_t bits) {
  uint32_t shift = (uint32_t)(next_random() % (bits + 1));
  return shift == 0 ? 0 : next_random() >> (64 - shift);
}

static inline void randomize_address(uint8_t address[16], int ip_version) {
  memset(address, 0, 16);
  for (uint32_t i = 0; i < (ip_version == 6 ? 16u : 4u); i++)
    address[i] = (uint8_t)(next_random() % 3 == 0 ? 0 : next_random());
}

static inline void randomize_record(struct sonde_record *record) {
  static const uint8_t protocols[] = {1, 6, 17, 47, 58, 132, 4, 253, 0, 255, 99, 5};
  memset(record, 0, sizeof *record);
  record->flow_id = next_random();
  record->first_ns = random_magnitude(64);
  record->last_ns = random_magnitude(64);
  record->flow_start_ns = random_magnitude(64);
  for (int way = 0; way < 2; way++) {
    record->packets[way] = random_magnitude(63);
    record->bytes[way] = random_magnitude(63);
    record->l2_bytes[way] = random_magnitude(63);
    record->total_packets[way] = random_magnitude(63);
    record->total_bytes[way] = random_magnitude(63);
    record->tcp_flags[way] = (uint8_t)random_magnitude(8);
  }
  record->ip_version = next_random() % 2 ? 4 : 6;
  randomize_address(record->source_ip, record->ip_version);
  randomize_address(record->dest_ip, record->ip_version);
  record->tunnel_type = (uint8_t)(next_random() % 8);
  record->tunnel_ip_version = next_random() % 2 ? 4 : 6;
  randomize_address(record->tunnel_source_ip, record->tunnel_ip_version);
  randomize_address(record->tunnel_dest_ip, record->tunnel_ip_version);
  record->tunnel_id = (uint32_t)random_magnitude(32);
  record->mpls_label = next_random() % 2 ? UINT32_MAX : (uint32_t)random_magnitude(20);
  record->segment = (uint32_t)random_magnitude(32);
  record->fragments = (uint32_t)random_magnitude(32);
  record->retransmissions = (uint32_t)random_magnitude(32);
  record->out_of_order = (uint32_t)random_magnitude(32);
  record->timestamps_late = (uint32_t)random_magnitude(32);
  record->ifindex = (uint32_t)random_magnitude(32);
  record->handshake_rtt_us = next_random() % 2 ? UINT32_MAX : (uint32_t)random_magnitude(32);
  record->sampling_interval = (uint32_t)random_magnitude(32);
  record->source_port = (uint16_t)random_magnitude(16);
  record->dest_port = (uint16_t)random_magnitude(16);
  record->vlan_depth = (uint8_t)(next_random() % (SONDE_VLAN_DEPTH_MAX + 1));
  for (int i = 0; i < SONDE_VLAN_DEPTH_MAX; i++)
    record->vlan[i] = (uint16_t)random_magnitude(12);
  record->protocol = protocols[next_random() % sizeof protocols];
  record->has_mac = next_random() % 2;
  for (int i = 0; i < 6; i++) {
    record->source_mac[i] = (uint8_t)next_random();
    record->dest_mac[i] = (uint8_t)next_random();
  }
  record->icmp_type = (uint8_t)random_magnitude(8);
  record->icmp_code = (uint8_t)random_magnitude(8);
  record->tos = (uint8_t)random_magnitude(8);
  record->ttl_min = (uint8_t)random_magnitude(8);
  record->ttl_max = (uint8_t)random_magnitude(8);
  record->end_reason = (uint8_t)(next_random() % 6);
  record->final = next_random() % 2;
  record->direction = (uint8_t)(next_random() % 3);
  record->ipv6 = (uint32_t)random_magnitude(32);
  record->fragment_offset = (uint16_t)random_magnitude(13);
  record->fragment_flags = (uint8_t)(next_random() % 4 * 32);
  record->vlan_priority = (uint8_t)random_magnitude(3);
}

#endif
