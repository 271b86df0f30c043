/* sum.c - sums over the active flows, by chosen fields.
 *
 * An open-addressed table with room for twice SONDE_FLOW_SUMS_MAX, so that a probe is short. Flows
 * whose values find the table full are counted in left_out. Nothing in the flow table changes.
 */
#include "sum.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "entry.h"
#include "hash.h"

enum { SLOTS = 2 * SONDE_FLOW_SUMS_MAX };

struct sonde_flow_sums {
  uint64_t count;
  uint64_t left_out;
  struct sonde_flow_sum slots[SLOTS]; /* unused: no flows */
};

struct sonde_flow_sums *sonde_flow_sums_create(void) {
  return calloc(1, sizeof(struct sonde_flow_sums));
}

void sonde_flow_sums_destroy(struct sonde_flow_sums *sums) {
  free(sums);
}

static void fill_key(struct sonde_flow_sum *key, const struct sonde_record *record, uint32_t by) {
  *key = (struct sonde_flow_sum){0};
  if (by & SONDE_FLOW_BY_SOURCE_IP)
    memcpy(key->source_ip, record->source_ip, sizeof key->source_ip);
  if (by & SONDE_FLOW_BY_DEST_IP)
    memcpy(key->dest_ip, record->dest_ip, sizeof key->dest_ip);
  if (by & (SONDE_FLOW_BY_SOURCE_IP | SONDE_FLOW_BY_DEST_IP))
    key->ip_version = record->ip_version;
  if (by & SONDE_FLOW_BY_SOURCE_PORT)
    key->source_port = record->source_port;
  if (by & SONDE_FLOW_BY_DEST_PORT)
    key->dest_port = record->dest_port;
  if (by & SONDE_FLOW_BY_PROTOCOL)
    key->protocol = record->protocol;
}

enum { KEY_BYTES = offsetof(struct sonde_flow_sum, protocol) + 1 };

static uint64_t hash(const struct sonde_flow_sum *key) {
  uint64_t value = UINT64_C(14695981039346656037); /* FNV-1a */
  const uint8_t *bytes = (const uint8_t *)key;
  for (uint32_t i = 0; i < KEY_BYTES; i++)
    value = (value ^ bytes[i]) * UINT64_C(1099511628211);
  return value ^ value >> 32;
}

static struct sonde_flow_sum *slot_for(struct sonde_flow_sums *sums,
                                       const struct sonde_flow_sum *key) {
  for (uint64_t at = hash(key) % SLOTS;; at = (at + 1) % SLOTS) {
    struct sonde_flow_sum *slot = &sums->slots[at];
    if (slot->flows && memcmp(slot, key, KEY_BYTES) == 0)
      return slot;
    if (!slot->flows) {
      if (sums->count == SONDE_FLOW_SUMS_MAX)
        return NULL;
      sums->count++;
      *slot = *key;
      return slot;
    }
  }
}

void sonde_flow_table_sum(const struct sonde_flow_table *table,
                          const struct sonde_flow_query *query, uint32_t by,
                          struct sonde_flow_sums *sums) {
  for (uint32_t entry = 0; entry < table->fresh; entry++) {
    struct sonde_record record;
    struct sonde_flow_sum key;
    if (!sonde_flow_matches(table, entry, query))
      continue;
    sonde_flow_total_fill(table, entry, &record);
    fill_key(&key, &record, by);
    struct sonde_flow_sum *slot = slot_for(sums, &key);
    if (!slot) {
      sums->left_out++;
      continue;
    }
    slot->flows++;
    slot->packets += record.packets[0] + record.packets[1];
    slot->bytes += record.bytes[0] + record.bytes[1];
  }
}

/* Largest first; equal ones in the order of their values, so that a listing is stable. */
static int compare(const struct sonde_flow_sum *a, const struct sonde_flow_sum *b, bool packets) {
  uint64_t left = packets ? a->packets : a->bytes, right = packets ? b->packets : b->bytes;
  return left != right ? (left < right) - (left > right) : memcmp(a, b, KEY_BYTES);
}

static int compare_bytes(const void *a, const void *b) {
  return compare(a, b, false);
}

static int compare_packets(const void *a, const void *b) {
  return compare(a, b, true);
}

uint32_t sonde_flow_sums_take(struct sonde_flow_sums *sums, const struct sonde_flow_query *query,
                              struct sonde_flow_sum *taken, uint64_t *distinct,
                              uint64_t *left_out) {
  uint64_t count = 0;
  for (uint64_t at = 0; at < SLOTS; at++)
    if (sums->slots[at].flows)
      sums->slots[count++] = sums->slots[at];
  qsort(sums->slots, count, sizeof *sums->slots,
        query->sort == SONDE_FLOW_SORT_PACKETS ? compare_packets : compare_bytes);
  *distinct = count;
  *left_out = sums->left_out;
  uint32_t written = count < query->limit ? (uint32_t)count : query->limit;
  memcpy(taken, sums->slots, written * sizeof *taken);
  return written;
}
