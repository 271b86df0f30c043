/* collisions.c - packets per second of the flow table when senders provoke hash collisions.
 *
 *   collisions FLOWS PACKETS
 *
 * Prints one JSON line for each of three sets of keys. scattered: random addresses. aimed: keys
 * that differ only in their addresses and have the same slot under an unkeyed form of the hash;
 * the table uses its random secret. known: the same keys, but the senders know the table's
 * secret (all zeros). Each of FLOWS flows first sends one packet. Then they send in random
 * order, up to PACKETS (known: a sixty-fourth of that). No records are made.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "flow/entry.h"
#include "flow/table.h"

enum { PIECE = 64 * SONDE_FLOW_BATCH_MAX };

static uint64_t random_state = 20261122;

static uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static double read_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct sonde_decoded make_packet(uint32_t low, uint32_t high, uint16_t port) {
  struct sonde_decoded packet = {
      .time_ns = 1700000000000000000,
      .packets = 1,
      .ip_bytes = 40,
      .l2_bytes = 54,
      .ttl = 64,
      .mpls_label = UINT32_MAX,
      .key = {.lo_port = port, .hi_port = 443, .ip_version = 4, .protocol = 17},
  };
  memcpy(packet.key.lo_ip, &low, 4);
  memcpy(packet.key.hi_ip, &high, 4);
  return packet;
}

/* With an all-zero secret, zero address words make the product of the addresses zero. */
static void fill_keys(struct sonde_decoded *keys, uint32_t flows, bool aimed) {
  const struct sonde_hash_secret none = {{0}};
  for (uint32_t i = 0; i < flows; i++) {
    uint64_t drawn = next_random();
    keys[i] = aimed ? make_packet(i, 1, 80)
                    : make_packet((uint32_t)drawn, (uint32_t)(drawn >> 32), (uint16_t)i);
    if (aimed && sonde_key_hash(&keys[i].key, &none) != sonde_key_hash(&keys[0].key, &none)) {
      fprintf(stderr, "collisions: flow %u has another hash\n", i);
      exit(1);
    }
  }
}

static void measure(const char *way, const struct sonde_decoded *keys, uint32_t flows,
                    uint64_t packets, bool known) {
  struct sonde_flow_table *table =
      sonde_flow_table_create(&(struct sonde_flow_config){.flows_max = flows, .id_seed = 7});
  if (!table)
    exit(1);
  if (known)
    memset(&table->secret, 0, sizeof table->secret);
  double used = 0;
  for (uint64_t sent = 0; sent < packets; sent += PIECE) {
    static struct sonde_decoded piece[PIECE]; /* made outside the measured time */
    for (uint32_t i = 0; i < PIECE; i++)
      piece[i] = keys[sent + i < flows ? sent + i : next_random() % flows];
    double start = read_seconds();
    for (uint32_t i = 0; i < PIECE; i += SONDE_FLOW_BATCH_MAX)
      sonde_flow_table_update(table, piece + i, SONDE_FLOW_BATCH_MAX);
    used += read_seconds() - start;
  }
  const struct sonde_flow_counters *counters = sonde_flow_table_counters(table);
  printf("{\"way\": \"%s\", \"packets\": %" PRIu64 ", \"flows_active\": %" PRIu64
         ", \"flows_created\": %" PRIu64 ", \"packets_per_cpu_sec\": %.0f}\n",
         way, packets, counters->flows_active, counters->flows_created, (double)packets / used);
  sonde_flow_table_destroy(table);
}

int main(int argc, char **argv) {
  uint32_t flows = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1 << 20;
  uint64_t packets = argc > 2 ? strtoull(argv[2], NULL, 10) : 4 << 20;
  struct sonde_decoded *keys = malloc(flows * sizeof *keys);
  if (!keys)
    return 1;
  fill_keys(keys, flows, false);
  measure("scattered", keys, flows, packets, false);
  fill_keys(keys, flows, true);
  measure("aimed", keys, flows, packets, false);
  measure("known", keys, flows, packets / 64, true);
  free(keys);
  return 0;
}
