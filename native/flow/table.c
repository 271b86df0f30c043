/* table.c - the flow table; see table.h and entry.h.
 *
 * A batch takes three passes, so that the cache misses of its packets overlap: hash and prefetch
 * the index lines, compare tags and prefetch the entries, update. A flow's timeouts are checked by
 * its next packet, with the packet's time, and by the timer. Both call age(), so replay is
 * deterministic.
 */
#include "table.h"

#include <stdlib.h>
#include <sys/random.h>

#include "entry.h"
#include "host/pages.h"
#include "ip_protocol.h"

enum { TCP_SYN = 2, TCP_ACK = 16, FLUSH_AHEAD = 16, DUE_AHEAD = 16 };
static const int64_t LINGER_NS =
    5000000000; /* after the end of a TCP connection, for the last ACK */

/* ---- memory -------------------------------------------------------------------------- */

static void *map_zeroed(uint64_t bytes) {
  void *memory = sonde_pages_map(bytes);
  if (memory)
    madvise(memory, bytes, MADV_HUGEPAGE); /* optional, faster */
  return memory;
}

static uint64_t bucket_total(const struct sonde_flow_table *table) {
  return table->bucket_count + SONDE_PROBE_MAX;
}

struct sonde_flow_table *sonde_flow_table_create(const struct sonde_flow_config *config) {
  struct sonde_flow_table *table = calloc(1, sizeof *table);
  if (!table)
    return NULL;
  uint64_t flows = table->flows_max = config->flows_max;
  table->sink = config->sink;
  table->id_seed = config->id_seed;
  table->id_next = (uint64_t)config->worker << 56;
  table->free = SONDE_WHEEL_NONE;
  table->bucket_count = flows * 10 / (SONDE_BUCKET_SLOTS * 7) + 1; /* 70 % full at most */
  table->buckets = map_zeroed(bucket_total(table) * sizeof *table->buckets);
  table->hot = map_zeroed(flows * sizeof *table->hot);
  table->cold = map_zeroed(flows * sizeof *table->cold);
  table->headers = map_zeroed(flows * sizeof *table->headers);
  if (config->tunnels)
    table->tunnels = map_zeroed(flows * sizeof *table->tunnels);
  table->label_hook = config->labels;
  table->owner_hook = config->owners;
  if (config->owners.context)
    table->owners = map_zeroed(flows * sizeof *table->owners);
  if (config->labels.context)
    table->labels = map_zeroed(flows * sizeof *table->labels);
  struct sonde_wheel_link *links =
      map_zeroed(sonde_wheel_links(table->flows_max) * sizeof(struct sonde_wheel_link));
  if (links)
    sonde_wheel_init(&table->wheel, links, table->flows_max);
  ssize_t drawn = getrandom(&table->secret, sizeof table->secret, 0);
  if (!table->buckets || !table->hot || !table->cold || !table->headers || !links ||
      (config->tunnels && !table->tunnels) || (config->labels.context && !table->labels) ||
      (config->owners.context && !table->owners) || drawn != sizeof table->secret) {
    sonde_flow_table_destroy(table);
    return NULL;
  }
  sonde_flow_table_metering_set(table, false, 300000000000, 60000000000);
  return table;
}

void sonde_flow_table_destroy(struct sonde_flow_table *table) {
  if (!table)
    return;
  uint64_t flows = table->flows_max;
  sonde_pages_unmap(table->buckets, bucket_total(table) * sizeof *table->buckets);
  sonde_pages_unmap(table->hot, flows * sizeof *table->hot);
  sonde_pages_unmap(table->cold, flows * sizeof *table->cold);
  sonde_pages_unmap(table->headers, flows * sizeof *table->headers);
  sonde_pages_unmap(table->tunnels, flows * sizeof *table->tunnels);
  sonde_pages_unmap(table->labels, flows * sizeof *table->labels);
  sonde_pages_unmap(table->owners, flows * sizeof *table->owners);
  sonde_pages_unmap(table->wheel.links,
                    sonde_wheel_links(table->flows_max) * sizeof(struct sonde_wheel_link));
  free(table);
}

const struct sonde_flow_counters *sonde_flow_table_counters(const struct sonde_flow_table *table) {
  return &table->counters;
}

void sonde_flow_table_epoch_set(struct sonde_flow_table *table, int64_t offset_ns) {
  table->epoch_ns = offset_ns;
}

void sonde_flow_table_interface_set(struct sonde_flow_table *table, uint32_t source,
                                    uint32_t ifindex) {
  table->ifindex[source] = ifindex;
}

uint64_t sonde_flow_table_sources(const struct sonde_flow_table *table) {
  uint64_t sources = 0;
  for (uint32_t i = 0; i < SONDE_SOURCES_MAX; i++)
    sources |= (uint64_t)(table->flows_of[i] > 0) << i;
  return sources;
}

/* ---- prefetching --------------------------------------------------------------------- */

/* The index lines of flows that end together are spread over memory. Without prefetching, their
 * cache misses would take most of the time. */

static void prefetch_home(const struct sonde_flow_table *table, uint32_t entry) {
  if (entry < table->fresh)
    __builtin_prefetch(
        sonde_flow_index_home(table, sonde_key_hash(&table->hot[entry].key, &table->secret)), 1);
}

static void prefetch_entry(const struct sonde_flow_table *table, uint32_t entry) {
  const char *hot = (const char *)&table->hot[entry], *cold = (const char *)&table->cold[entry];
  __builtin_prefetch(hot, 1);
  __builtin_prefetch(hot + 64, 1);
  __builtin_prefetch(cold, 1);
  __builtin_prefetch(cold + sizeof *table->cold - 1, 1);
}

/* ---- a flow's time ------------------------------------------------------------------- */

/* When the flow ends if no further packet comes. */
static int64_t end_deadline(const struct sonde_flow_table *table,
                            const struct sonde_flow_hot *hot) {
  int64_t wait = table->idle_ns;
  if ((hot->state & SONDE_STATE_CLOSING) && LINGER_NS < wait)
    wait = LINGER_NS;
  return (int64_t)hot->last_ns + wait;
}

static int64_t segment_deadline(const struct sonde_flow_table *table,
                                const struct sonde_flow_hot *hot) {
  if (!table->metering || sonde_flow_segment_packets(hot) == 0)
    return INT64_MAX;
  return (int64_t)hot->first_ns + table->active_ns;
}

/* Arms the timer for the earliest time at which the flow or its segment can be due. A segment that
 * is not open yet cannot be due before now plus the active timeout. */
static void arm(struct sonde_flow_table *table, uint32_t entry) {
  const struct sonde_flow_hot *hot = &table->hot[entry];
  int64_t deadline = end_deadline(table, hot);
  if (table->metering) {
    int64_t opened = (int64_t)hot->first_ns;
    int64_t clock = (int64_t)sonde_wheel_clock(&table->wheel);
    if (sonde_flow_segment_packets(hot) == 0 && clock > opened)
      opened = clock;
    if (opened + table->active_ns < deadline)
      deadline = opened + table->active_ns;
  }
  sonde_wheel_arm(&table->wheel, entry, (uint64_t)deadline);
}

/* Removes the entry from the table. Its timer must be disarmed. */
static void release(struct sonde_flow_table *table, uint32_t entry) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  if (table->labels && table->labels[entry])
    table->label_hook.release(table->label_hook.context, &table->labels[entry]);
  if (table->owners)
    table->owners[entry][0] = table->owners[entry][1] = 0;
  sonde_flow_index_remove(table, sonde_key_hash(&hot->key, &table->secret), entry);
  hot->key.ip_version = 0;
  table->flows_of[hot->key.source]--;
  table->wheel.links[entry].next = table->free;
  table->free = entry;
  table->counters.flows_active--;
}

static void remove_flow(struct sonde_flow_table *table, uint32_t entry,
                        enum sonde_end_reason reason) {
  sonde_wheel_disarm(&table->wheel, entry);
  sonde_flow_record_emit(table, entry, reason, true);
  release(table, entry);
}

/* Emits the records due at now_ns. Returns true if the flow has ended: its final record is out, but
 * the entry is still in the table. The segment's limit counts only if it is before the end. */
static bool age(struct sonde_flow_table *table, uint32_t entry, uint64_t now_ns) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  int64_t now = (int64_t)now_ns, end = end_deadline(table, hot);
  int64_t segment = segment_deadline(table, hot);
  if (now >= segment && segment < end)
    sonde_flow_record_emit(table, entry, SONDE_END_ACTIVE, false);
  if (now < end)
    return false;
  sonde_flow_record_emit(table, entry,
                         hot->state & SONDE_STATE_CLOSING ? SONDE_END_END : SONDE_END_IDLE, true);
  return true;
}

/* Takes and prefetches due entries, as many as the sink has room for: each can make two records. */
static uint32_t take_due(struct sonde_flow_table *table, uint32_t due[DUE_AHEAD]) {
  uint32_t count = 0, room = DUE_AHEAD;
  if (table->metering) {
    uint32_t records = table->sink.room(table->sink.context);
    room = records / 2 < DUE_AHEAD ? records / 2 : DUE_AHEAD;
  }
  for (; count < room; count++) {
    due[count] = sonde_wheel_due(&table->wheel);
    if (due[count] == SONDE_WHEEL_NONE)
      break;
    prefetch_entry(table, due[count]);
  }
  for (uint32_t i = 0; i < count; i++)
    prefetch_home(table, due[i]);
  return count;
}

void sonde_flow_table_expire(struct sonde_flow_table *table, uint64_t now_ns) {
  uint32_t due[DUE_AHEAD], count;
  sonde_wheel_advance(&table->wheel, now_ns);
  if ((int64_t)(now_ns - table->now_ns) > 0 || table->now_ns == 0)
    table->now_ns = now_ns;
  while ((count = take_due(table, due)) > 0) {
    for (uint32_t i = 0; i < count; i++)
      if (age(table, due[i], now_ns))
        release(table, due[i]);
      else
        arm(table, due[i]);
  }
}

void sonde_flow_table_metering_set(struct sonde_flow_table *table, bool on, uint64_t idle_ns,
                                   uint64_t active_ns) {
  table->metering = on;
  table->idle_ns = (int64_t)idle_ns;
  table->active_ns = (int64_t)active_ns;
  for (uint32_t entry = 0; entry < table->fresh; entry++) {
    if (!sonde_flow_used(&table->hot[entry]))
      continue;
    sonde_wheel_disarm(&table->wheel, entry);
    arm(table, entry);
  }
}

/* A flow that was due before the flush gets the reason of its timeout. */
static void flush_flow(struct sonde_flow_table *table, uint32_t entry, bool final) {
  if (age(table, entry, table->now_ns)) {
    sonde_wheel_disarm(&table->wheel, entry);
    release(table, entry);
  } else if (final) {
    remove_flow(table, entry, SONDE_END_FORCED);
  } else if (sonde_flow_segment_packets(&table->hot[entry]) > 0) {
    sonde_flow_record_emit(table, entry, SONDE_END_FORCED, false);
  }
}

bool sonde_flow_table_flush(struct sonde_flow_table *table, bool final, uint32_t *cursor) {
  for (; *cursor < table->fresh; ++*cursor) {
    if (final)
      prefetch_home(table, *cursor + FLUSH_AHEAD);
    if (!sonde_flow_used(&table->hot[*cursor]))
      continue;
    if (table->metering && table->sink.room(table->sink.context) < 2)
      return false;
    flush_flow(table, *cursor, final);
  }
  return true;
}

/* ---- a packet ------------------------------------------------------------------------ */

static uint32_t take_free(struct sonde_flow_table *table) {
  uint32_t entry = table->free;
  if (entry != SONDE_WHEEL_NONE) {
    table->free = table->wheel.links[entry].next;
    return entry;
  }
  return table->fresh < table->flows_max ? table->fresh++ : SONDE_WHEEL_NONE;
}

/* Evicts a flow near `hash`. A due flow gets the reason of its timeout, not `resources`. */
static void evict(struct sonde_flow_table *table, uint64_t hash, uint64_t now_ns) {
  uint32_t entry = sonde_flow_index_oldest(table, hash);
  if (age(table, entry, now_ns)) {
    sonde_wheel_disarm(&table->wheel, entry);
    release(table, entry);
  } else {
    remove_flow(table, entry, SONDE_END_RESOURCES);
  }
}

static void begin_cold(struct sonde_flow_table *table, uint32_t entry,
                       const struct sonde_decoded *packet) {
  table->cold[entry] = (struct sonde_flow_cold){
      .flow_id = sonde_hash_fold(++table->id_next ^ table->id_seed, 0x9e3779b97f4a7c15u) | 1,
      .start_ns = packet->time_ns,
  };
  sonde_flow_note_first(table, entry, packet);
}

static uint8_t payloads_to_read(const struct sonde_flow_table *table, const struct sonde_key *key) {
  if (key->protocol == SONDE_IP_TCP)
    return table->label_hook.tcp_payloads & 15;
  return key->protocol == SONDE_IP_UDP ? table->label_hook.udp_payloads & 15 : 0;
}

static uint32_t begin_flow(struct sonde_flow_table *table, uint64_t hash,
                           const struct sonde_decoded *packet) {
  uint32_t entry = take_free(table);
  if (entry == SONDE_WHEEL_NONE) {
    evict(table, hash, packet->time_ns);
    entry = take_free(table);
  }
  while (!sonde_flow_index_insert(table, hash, entry))
    evict(table, hash, packet->time_ns);
  struct sonde_flow_hot *hot = &table->hot[entry];
  *hot = (struct sonde_flow_hot){
      .key = packet->key,
      .last_ns = packet->time_ns,
      .first_ns = packet->time_ns,
      .state = packet->flags & SONDE_DECODED_REVERSED ? SONDE_STATE_SOURCE_HI : 0,
      .payloads_left = payloads_to_read(table, &packet->key) & 15,
  };
  if ((packet->flags & SONDE_DECODED_TCP) && (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_ACK)
    hot->state |= /* perhaps of a handshake whose other packets come late */
        SONDE_STATE_ACK | (hot->state & SONDE_STATE_SOURCE_HI ? SONDE_STATE_CLIENT_HI : 0);
  begin_cold(table, entry, packet);
  arm(table, entry);
  table->flows_of[packet->key.source]++;
  table->counters.flows_active++;
  table->counters.flows_created++;
  return entry;
}

/* Returns true if the flow's timeouts must be checked before this packet counts. */
static bool must_age(const struct sonde_flow_table *table, const struct sonde_flow_hot *hot,
                     const struct sonde_decoded *packet) {
  int64_t since_last = (int64_t)(packet->time_ns - hot->last_ns);
  int64_t since_first = (int64_t)(packet->time_ns - hot->first_ns);
  return since_last >= table->idle_ns || since_first >= table->active_ns ||
         (hot->state & SONDE_STATE_CLOSING);
}

/* Does the packet open a connection after the one that closed? A SYN slightly older than the
 * packet that closed the flow is the flow's own, and arrives late. */
static bool reopens(const struct sonde_flow_hot *hot, const struct sonde_decoded *packet) {
  int64_t since_last = (int64_t)(packet->time_ns - hot->last_ns);
  return (hot->state & SONDE_STATE_CLOSING) &&
         (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
         (since_last >= 0 || since_last < -sonde_flow_reorder_ns ||
          (hot->state & SONDE_STATE_AFTER_CLOSE));
}

/* Returns the packet's entry, a new one after a timeout or if a SYN reopens the connection. */
static uint32_t check_timeouts(struct sonde_flow_table *table, uint32_t entry, uint64_t hash,
                               const struct sonde_decoded *packet) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  bool reopened = reopens(hot, packet);
  if (age(table, entry, packet->time_ns)) {
    sonde_wheel_disarm(&table->wheel, entry);
    release(table, entry);
  } else if (reopened) {
    remove_flow(table, entry, SONDE_END_END);
  } else {
    if ((hot->state & SONDE_STATE_CLOSING) && packet->time_ns > hot->last_ns)
      hot->state |= SONDE_STATE_AFTER_CLOSE;
    return entry;
  }
  uint32_t begun = begin_flow(table, hash, packet);
  if (reopened)
    table->hot[begun].state |= SONDE_STATE_REOPENED;
  return begun;
}

void sonde_flow_open_segment(struct sonde_flow_table *table, uint32_t entry,
                             const struct sonde_decoded *packet) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  hot->first_ns = packet->time_ns;
  if (packet->time_ns < hot->last_ns) { /* its own segment has left */
    hot->first_ns = hot->last_ns;
    sonde_flow_count_late(table, entry, packet);
  }
  hot->ttl_min = hot->ttl_max = packet->ttl;
  hot->tos = packet->tos;
}

static void note_extensions(struct sonde_flow_table *table, uint32_t entry, uint32_t extensions) {
  if (!table->cold[entry].has_headers)
    table->headers[entry] = (struct sonde_flow_headers){0};
  table->cold[entry].has_headers = 1;
  table->headers[entry].ipv6 |= extensions;
}

static void read_payload(struct sonde_flow_table *table, uint32_t entry,
                         const struct sonde_decoded *packet, unsigned direction) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  bool known = hot->state & (SONDE_STATE_SEQ << direction);
  hot->payloads_left =
      table->label_hook.payload(table->label_hook.context, &table->labels[entry], packet,
                                known ? hot->tcp_next[direction] : sonde_first_sequence(packet),
                                hot->payloads_left) &
      15;
}

static void count_packet(struct sonde_flow_table *table, uint32_t entry,
                         const struct sonde_decoded *packet) {
  struct sonde_flow_hot *hot = &table->hot[entry];
  if (sonde_flow_segment_packets(hot) == 0)
    sonde_flow_open_segment(table, entry, packet);
  else if ((int64_t)(hot->first_ns - packet->time_ns) > 0)
    sonde_flow_begin_earlier(table, entry, packet);
  unsigned direction =
      !!(packet->flags & SONDE_DECODED_REVERSED) ^ !!(hot->state & SONDE_STATE_SOURCE_HI);
  if (packet->time_ns > hot->last_ns)
    hot->last_ns = packet->time_ns;
  hot->packets[direction] += packet->packets;
  hot->bytes[direction] += packet->ip_bytes;
  hot->l2_bytes[direction] += packet->l2_bytes;
  hot->ttl_min = packet->ttl < hot->ttl_min ? packet->ttl : hot->ttl_min;
  hot->ttl_max = packet->ttl > hot->ttl_max ? packet->ttl : hot->ttl_max;
  table->counters.packets_active += packet->packets;
  table->counters.ip_bytes += packet->ip_bytes;
  if (packet->ipv6 & ~SONDE_FLOW_LABEL_MASK)
    note_extensions(table, entry, packet->ipv6 & ~SONDE_FLOW_LABEL_MASK);
  if (packet->flags & SONDE_DECODED_FRAGMENT)
    table->cold[entry].fragments += packet->packets;
  if (hot->payloads_left)
    read_payload(table, entry, packet, direction);
  if (packet->flags & SONDE_DECODED_TCP) {
    hot->tcp_flags[direction] |= packet->tcp_flags;
    if (sonde_flow_tcp_update(hot, &table->cold[entry], packet, direction)) {
      sonde_wheel_disarm(&table->wheel, entry);
      arm(table, entry);
    }
  }
}

uint32_t sonde_flow_enter(struct sonde_flow_table *table, uint32_t candidate, uint64_t hash,
                          const struct sonde_decoded *packet) {
  uint32_t entry = candidate;
  /* An earlier packet of the batch may have evicted the candidate or created the flow. */
  if (entry == SONDE_WHEEL_NONE || !sonde_key_equal(&table->hot[entry].key, &packet->key))
    entry = sonde_flow_index_find(table, hash, &packet->key);
  if (entry == SONDE_WHEEL_NONE)
    return begin_flow(table, hash, packet);
  if (must_age(table, &table->hot[entry], packet))
    return check_timeouts(table, entry, hash, packet);
  return entry;
}

void sonde_flow_table_update(struct sonde_flow_table *table, const struct sonde_decoded *packets,
                             uint32_t count) {
  uint64_t hash[SONDE_FLOW_BATCH_MAX];
  uint32_t candidate[SONDE_FLOW_BATCH_MAX];
  if (count > 0 && !table->wheel.started)
    sonde_wheel_advance(&table->wheel, packets[0].time_ns);
  for (uint32_t i = 0; i < count; i++) {
    hash[i] = sonde_key_hash(&packets[i].key, &table->secret);
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
    count_packet(table, sonde_flow_enter(table, candidate[i], hash[i], &packets[i]), &packets[i]);
}
