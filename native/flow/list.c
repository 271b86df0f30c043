/* list.c - selects the first N flows of an order without sorting all flows.
 *
 * One pass over the used entries fills a heap of N records whose top is the last in the order.
 * The table does not change.
 */
#include <stdlib.h>

#include "entry.h"
#include "owner_match.h"

static int compare_numbers(uint64_t a, uint64_t b) {
  return (a > b) - (a < b);
}

static uint64_t both(const uint64_t pair[2]) {
  return pair[0] + pair[1];
}

int sonde_flow_record_compare(const struct sonde_record *a, const struct sonde_record *b,
                              uint32_t sort) {
  int bytes = compare_numbers(both(b->bytes), both(a->bytes));
  int packets = compare_numbers(both(b->packets), both(a->packets));
  int order = 0;
  if (sort == SONDE_FLOW_SORT_RECENT)
    order = compare_numbers(b->last_ns, a->last_ns);
  else if (sort == SONDE_FLOW_SORT_PACKETS)
    order = packets;
  if (order == 0)
    order = bytes ? bytes : packets;
  if (order == 0)
    order = compare_numbers(a->flow_start_ns, b->flow_start_ns);
  return order ? order : compare_numbers(a->flow_id, b->flow_id);
}

static bool in_network(const uint8_t *ip, const struct sonde_flow_match *match) {
  uint32_t bits = (match->ip_version == 4 ? 32 : 128) - (uint32_t)match->ip_bits_ignored;
  if (memcmp(ip, match->ip, bits / 8) != 0)
    return false;
  return bits % 8 == 0 || ((ip[bits / 8] ^ match->ip[bits / 8]) >> (8 - bits % 8)) == 0;
}

static bool key_matches(const struct sonde_key *key, const struct sonde_flow_match *match) {
  if (match->ip_version != 0 && (key->ip_version != match->ip_version ||
                                 !(in_network(key->lo_ip, match) || in_network(key->hi_ip, match))))
    return false;
  if (match->port >= 0 && key->lo_port != match->port && key->hi_port != match->port)
    return false;
  return match->protocol < 0 || key->protocol == match->protocol;
}

static bool entry_matches(const struct sonde_flow_table *table, uint32_t entry,
                          const struct sonde_flow_match *match, enum sonde_mark mark) {
  if (!key_matches(&table->hot[entry].key, match))
    return false;
  if (match->name &&
      !(table->labels &&
        table->label_hook.matches(table->label_hook.context, table->labels[entry], match->name)))
    return false;
  return !match->owner || sonde_flow_is_marked(table, entry, mark);
}

bool sonde_flow_matches(const struct sonde_flow_table *table, uint32_t entry,
                        const struct sonde_flow_query *query) {
  const struct sonde_flow_hot *hot = &table->hot[entry];
  if (!sonde_flow_used(hot) || !entry_matches(table, entry, &query->match, SONDE_MARK_MATCH) ||
      (query->excludes && entry_matches(table, entry, &query->except, SONDE_MARK_EXCEPT)))
    return false;
  if (sonde_flow_query_has_owner(query) && !sonde_flow_has_mark(table, entry))
    return false;
  if (query->min_packets <= 1)
    return true;
  return sonde_flow_segment_packets(hot) + both(table->cold[entry].packets) >= query->min_packets;
}

void sonde_flow_total_fill(const struct sonde_flow_table *table, uint32_t entry,
                           struct sonde_record *record) {
  const struct sonde_flow_cold *cold = &table->cold[entry];
  sonde_flow_record_fill(table, entry, record);
  record->first_ns = record->flow_start_ns;
  for (unsigned d = 0; d < 2; d++) {
    record->packets[d] += cold->packets[d];
    record->bytes[d] += cold->bytes[d];
    record->l2_bytes[d] += cold->l2_bytes[d];
  }
}

/* heap[0] is the last in the order. */
static void sift_down(struct sonde_record *heap, uint32_t count, uint32_t at, uint32_t sort) {
  struct sonde_record moving = heap[at];
  for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && sonde_flow_record_compare(&heap[child], &heap[child + 1], sort) < 0)
      child++;
    if (sonde_flow_record_compare(&heap[child], &moving, sort) <= 0)
      break;
    heap[at] = heap[child];
  }
  heap[at] = moving;
}

static void sift_up(struct sonde_record *heap, uint32_t at, uint32_t sort) {
  struct sonde_record moving = heap[at];
  for (uint32_t parent; at > 0; at = parent) {
    parent = (at - 1) / 2;
    if (sonde_flow_record_compare(&heap[parent], &moving, sort) >= 0)
      break;
    heap[at] = heap[parent];
  }
  heap[at] = moving;
}

uint32_t sonde_flow_table_list(const struct sonde_flow_table *table,
                               const struct sonde_flow_query *query, struct sonde_record *records,
                               uint64_t *matching) {
  uint32_t count = 0, sort = query->sort;
  for (uint32_t entry = 0; entry < table->fresh; entry++) {
    struct sonde_record record;
    if (!sonde_flow_matches(table, entry, query))
      continue;
    sonde_flow_total_fill(table, entry, &record);
    record.label = entry; /* until the first ones are known */
    if (query->after && sonde_flow_record_compare(query->after, &record, sort) >= 0)
      continue;
    ++*matching;
    if (count < query->limit) {
      records[count] = record;
      sift_up(records, count++, sort);
    } else if (sonde_flow_record_compare(&record, &records[0], sort) < 0) {
      records[0] = record;
      sift_down(records, count, 0, sort);
    }
  }
  for (uint32_t left = count; left > 1;) {
    struct sonde_record worst = records[0];
    records[0] = records[--left];
    records[left] = worst;
    sift_down(records, left, 0, sort);
  }
  for (uint32_t i = 0; i < count; i++) {
    uint32_t entry = records[i].label;
    records[i].label = 0;
    sonde_flow_record_label(table, entry, false, &records[i]);
  }
  return count;
}
