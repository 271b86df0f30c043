/* worker.c - the session loop: receive, filter, decode, meter, publish.
 *
 * Never allocates, except filters for a file's further link types. Never waits for a consumer
 * during live capture. A full record ring delays timers and file replay. Live capture
 * continues, and counts records that find no room as dropped.
 */
#include "core/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/thread.h"

enum {
  DRAIN_MIN_MS = 50, /* after a wake-up the kernel may still hold packets */
  RING_WAIT_NS = 200000,
  RECORDS_PER_BATCH_MAX = SONDE_WORKER_BATCH * SONDE_FLOW_RECORDS_PER_PACKET_MAX,
};
static const uint64_t ALARM_INTERVAL_NS = 60000000000;
static const uint64_t SEVERAL_SOURCES_NS = 500000000;

/* ---- the record ring as the table's sink ---------------------------------------------- */

static struct sonde_record *reserve_record(void *context) {
  return sonde_ring_reserve(&((struct sonde_worker *)context)->ring);
}

static void commit_record(void *context) {
  sonde_ring_commit(&((struct sonde_worker *)context)->ring);
}

/* Timers leave the last eighth to records that packets cause: these cannot wait. */
static uint32_t record_room(void *context) {
  struct sonde_ring *ring = &((struct sonde_worker *)context)->ring;
  uint32_t spare = (ring->mask + 1) / 8;
  uint32_t room = sonde_ring_room(ring, spare + 2);
  return room > spare ? room - spare : 0;
}

struct sonde_record_sink sonde_worker_sink(struct sonde_worker *worker) {
  return (struct sonde_record_sink){
      .context = worker,
      .reserve = reserve_record,
      .commit = commit_record,
      .room = record_room,
  };
}

static uint32_t record_position(void *context) {
  return sonde_ring_head(&((struct sonde_worker *)context)->ring);
}

static bool records_read(void *context, uint32_t position) {
  const struct sonde_ring *ring = &((struct sonde_worker *)context)->ring;
  uint32_t head = sonde_ring_head(ring);
  return head - sonde_ring_lag(ring, head) - position < UINT32_C(1) << 31;
}

struct sonde_record_progress sonde_worker_progress(struct sonde_worker *worker) {
  return (struct sonde_record_progress){worker, record_position, records_read};
}

/* ---- counters ------------------------------------------------------------------------- */

_Static_assert(sizeof(struct sonde_worker_counters) % sizeof(uint64_t) == 0,
               "a seqlock copies 64-bit words");

static void publish(struct sonde_worker *worker) {
  worker->counters.turns++;
  worker->counters.flow = *sonde_flow_table_counters(worker->table);
  if (worker->labeler)
    worker->counters.labels = *sonde_labeler_counters(worker->labeler);
  sonde_seqlock_write(&worker->seqlock, &worker->published, &worker->counters,
                      sizeof worker->counters);
}

void sonde_worker_counters(struct sonde_worker *worker, struct sonde_worker_counters *counters) {
  sonde_seqlock_read(&worker->seqlock, &worker->published, counters, sizeof *counters);
}

void sonde_worker_slot_counters(struct sonde_worker *worker, uint32_t slot,
                                struct sonde_slot_counters *counters) {
  struct sonde_worker_slot *from = &worker->slots[slot];
  sonde_seqlock_read(&from->seqlock, &from->published, counters, sizeof *counters);
}

/* The first alarm is always due: a file's time may start at 0. */
static bool alarm_due(const struct sonde_worker *worker, uint64_t reported_ns) {
  return reported_ns == 0 || worker->clock.now_ns - reported_ns >= ALARM_INTERVAL_NS;
}

static void raise_alarms(struct sonde_worker *worker, const struct sonde_flow_counters *before) {
  const struct sonde_flow_counters *now = sonde_flow_table_counters(worker->table);
  uint64_t full =
      now->records_by_reason[SONDE_END_RESOURCES] - before->records_by_reason[SONDE_END_RESOURCES];
  uint64_t dropped = now->records_dropped - before->records_dropped;
  if (full && alarm_due(worker, worker->full_reported_ns)) {
    worker->full_reported_ns = worker->clock.now_ns;
    sonde_events_push(worker->events, SONDE_EVENT_TABLE_FULL, (int64_t)full, "");
  }
  if (dropped && alarm_due(worker, worker->dropped_reported_ns)) {
    worker->dropped_reported_ns = worker->clock.now_ns;
    sonde_events_push(worker->events, SONDE_EVENT_RECORDS_DROPPED, (int64_t)dropped, "");
  }
}

/* ---- packets -------------------------------------------------------------------------- */

static uint32_t filter_batch(struct sonde_worker *worker, uint32_t count) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; i++) {
    const struct sonde_packet *packet = &worker->packets[i];
    if (packet->linktype == SONDE_LINKTYPE_DELTA || /* its source has filtered it */
        sonde_filter_set_match(&worker->filters, packet))
      worker->packets[kept++] = *packet;
  }
  return kept;
}

static inline uint64_t epoch_now(const struct sonde_worker *worker) {
  return worker->clock.now_ns + (uint64_t)worker->clock.epoch_offset;
}

/* Stores a packet in the capture buffer; an implausible stamp is replaced by now. */
static inline void record(struct sonde_worker *worker, const struct sonde_packet *packet,
                          const struct sonde_decoded *decoded, bool time_valid) {
  uint64_t time_ns = time_valid ? packet->time_ns : epoch_now(worker);
  sonde_appender_add(worker->appender, packet, decoded, time_ns);
}

static __attribute__((noinline)) void copy_to_taps(struct sonde_worker *worker,
                                                   const struct sonde_packet *packet,
                                                   const struct sonde_decoded *decoded) {
  for (uint32_t i = 0; i < worker->tap_count; i++)
    if (!sonde_tap_feed_rejects(worker->taps[i], packet))
      sonde_tap_feed_packet(worker->taps[i], packet, decoded, worker->tapped_ns);
}

/* Not inline: a session without taps only tests their number. Calls only at its end: it needs no
 * stack for a packet that no tap copies. */
static __attribute__((noinline)) void offer_to_taps(struct sonde_worker *worker,
                                                    const struct sonde_packet *packet,
                                                    const struct sonde_decoded *decoded,
                                                    bool time_valid) {
  worker->tapped_ns = time_valid ? packet->time_ns : epoch_now(worker);
  for (uint32_t i = 0; i < worker->tap_count; i++)
    if (!sonde_tap_feed_rejects(worker->taps[i], packet)) {
      copy_to_taps(worker, packet, decoded);
      return;
    }
}

static void count_undecoded(struct sonde_worker_counters *counters, uint16_t linktype) {
  for (uint32_t i = 0; i < SONDE_UNDECODED_MAX; i++) {
    struct sonde_undecoded *slot = &counters->undecoded[i];
    if (slot->packets && slot->linktype != linktype)
      continue;
    slot->linktype = linktype;
    slot->packets++;
    return;
  }
}

/* In a tunnel the key can be that of an inner packet, which no socket here sent. */
static inline bool is_own(const struct sonde_own_snapshot *own,
                          const struct sonde_decoded *decoded) {
  return sonde_own_may(own, &decoded->key) && decoded->tunnel_type == SONDE_TUNNEL_NONE &&
         sonde_own_snapshot_match(own, &decoded->key);
}

static void meter_run(struct sonde_worker *worker, const struct sonde_packet *packets,
                      uint32_t count) {
  struct sonde_worker_counters *counters = &worker->counters;
  const struct sonde_own_snapshot *own = sonde_own_reader_held(&worker->own);
  uint32_t flows = 0;
  for (uint32_t i = 0; i < count; i++) {
    const struct sonde_packet *packet = &packets[i];
    struct sonde_decoded *decoded = &worker->decoded[flows];
    if (i + 4 < count)
      __builtin_prefetch(packets[i + 4].data);
    int cause = sonde_decode(worker->decoder, packet, decoded);
    if (cause < 0 && is_own(own, decoded))
      cause = SONDE_NON_FLOW_OWN;
    counters->packets_captured += decoded->packets;
    counters->bytes_captured += decoded->l2_bytes;
    bool time_valid = sonde_packet_clock_stamp(&worker->clock, packet->time_ns, &decoded->time_ns);
    counters->timestamps_corrected += !time_valid;
    if (worker->appender && cause != SONDE_NON_FLOW_OWN)
      record(worker, packet, cause < 0 ? decoded : NULL, time_valid);
    if (__builtin_expect(worker->tap_count != 0, 0) && cause != SONDE_NON_FLOW_OWN)
      offer_to_taps(worker, packet, cause < 0 ? decoded : NULL, time_valid);
    if (cause >= 0) {
      counters->packets_non_flow += decoded->packets;
      counters->non_flow[cause] += decoded->packets;
      if (cause == SONDE_NON_FLOW_OTHER_LINKTYPE)
        count_undecoded(counters, packet->linktype);
      continue;
    }
    counters->fragments += decoded->flags & SONDE_DECODED_FRAGMENT ? decoded->packets : 0;
    counters->ip_length_clamped += !!(decoded->flags & SONDE_DECODED_CLAMPED);
    if (worker->labeler)
      sonde_decoder_payload(worker->decoder, packet, &worker->payloads[flows]);
    flows++;
  }
  counters->frames_captured += count;
  sonde_flow_table_update(worker->table, worker->decoded, flows);
}

/* ---- flow sums of an aggregating source ---- */

/* Converts one side's times to flow time. False if one was implausible. */
static bool stamp_side(struct sonde_packet_clock *clock, struct sonde_delta *delta, unsigned side) {
  bool first = sonde_packet_clock_stamp(clock, delta->first_ns[side], &delta->first_ns[side]);
  bool last = sonde_packet_clock_stamp(clock, delta->last_ns[side], &delta->last_ns[side]);
  return first && last;
}

/* Returns false if the delta is traffic of this process. */
static bool count_delta(struct sonde_worker *worker, struct sonde_delta *delta) {
  struct sonde_worker_counters *counters = &worker->counters;
  uint64_t packets = delta->packets[0] + delta->packets[1];
  for (unsigned side = 0; side < 2; side++)
    if (delta->packets[side])
      counters->timestamps_corrected += !stamp_side(&worker->clock, delta, side);
  counters->frames_captured += delta->frames;
  counters->packets_captured += packets;
  counters->bytes_captured += delta->l2_bytes[0] + delta->l2_bytes[1];
  if (!sonde_own_has(sonde_own_reader_held(&worker->own), &delta->key))
    return true;
  counters->packets_non_flow += packets;
  counters->non_flow[SONDE_NON_FLOW_OWN] += packets;
  return false;
}

void sonde_worker_merge(struct sonde_worker *worker, const struct sonde_packet *packets,
                        uint32_t count) {
  struct sonde_delta deltas[SONDE_WORKER_BATCH];
  uint32_t added = 0;
  uint64_t complete_ns = worker->complete_ns;
  for (uint32_t i = 0; i < count; i++) {
    if (packets[i].caplen == 0) {
      sonde_packet_clock_stamp(&worker->clock, packets[i].time_ns, &complete_ns);
      continue;
    }
    memcpy(&deltas[added], packets[i].data, sizeof deltas[added]);
    deltas[added].key.source = packets[i].source & (SONDE_SOURCES_MAX - 1);
    added += count_delta(worker, &deltas[added]);
  }
  sonde_flow_table_merge(worker->table, deltas, added);
  worker->complete_ns = complete_ns;
}

static void meter_batch(struct sonde_worker *worker, uint32_t count) {
  sonde_own_reader_refresh(&worker->own);
  for (uint32_t i = 0; i < worker->tap_count; i++)
    __builtin_prefetch(&worker->taps[i]->glance);
  if (worker->filters.expression)
    count = filter_batch(worker, count);
  for (uint32_t first = 0, end = 0; first < count; first = end) {
    bool aggregated = worker->packets[first].linktype == SONDE_LINKTYPE_DELTA;
    while (end < count && (worker->packets[end].linktype == SONDE_LINKTYPE_DELTA) == aggregated)
      end++;
    if (aggregated)
      sonde_worker_merge(worker, &worker->packets[first], end - first);
    else
      meter_run(worker, &worker->packets[first], end - first);
  }
}

/* Meters the batch that receive has just read. Its packets are all from one source. */
static void meter_received(struct sonde_worker *worker, uint32_t count) {
  struct sonde_worker_slot *slot = &worker->slots[worker->feed->source->slot];
  struct sonde_slot_counters *counters = &slot->counters;
  const struct sonde_worker_counters *total = &worker->counters;
  uint64_t packets = total->packets_captured, bytes = total->bytes_captured;
  uint64_t non_flow = total->packets_non_flow;
  worker->complete_ns = worker->feed->complete_ns;
  meter_batch(worker, count);
  worker->feed->complete_ns = worker->complete_ns;
  worker->complete_ns = sonde_worker_complete_ns(worker);
  counters->packets_captured += total->packets_captured - packets;
  counters->bytes_captured += total->bytes_captured - bytes;
  counters->packets_non_flow += total->packets_non_flow - non_flow;
  sonde_seqlock_write(&slot->seqlock, &slot->published, counters, sizeof *counters);
}

/* ---- between batches ------------------------------------------------------------------ */

void sonde_worker_metering_set(struct sonde_worker *worker, bool on, uint64_t idle_ns,
                               uint64_t active_ns) {
  worker->metering = on;
  worker->idle_ns = idle_ns;
  worker->active_ns = active_ns;
  worker->metering_ends = false;
  sonde_flow_table_metering_set(worker->table, on, idle_ns, active_ns);
}

/* An aggregating source may still hold packets later than complete_ns that keep flows alive. */
void sonde_worker_expire(struct sonde_worker *worker) {
  uint64_t complete_ns = worker->complete_ns ? worker->complete_ns : worker->clock.now_ns;
  sonde_flow_table_expire(worker->table, complete_ns);
}

void sonde_worker_metering_end(struct sonde_worker *worker) {
  worker->metering_ends = true;
  worker->flush_cursor = 0;
}

static void flush_some(struct sonde_worker *worker) {
  if (sonde_flow_table_flush(worker->table, false, &worker->flush_cursor))
    sonde_worker_metering_set(worker, false, worker->idle_ns, worker->active_ns);
}

bool sonde_worker_final_flush(struct sonde_worker *worker, uint32_t *cursor) {
  pthread_mutex_lock(&worker->lock);
  bool done = sonde_flow_table_flush(worker->table, true, cursor);
  publish(worker);
  pthread_mutex_unlock(&worker->lock);
  return done;
}

static void run_command(struct sonde_worker *worker) {
  pthread_mutex_lock(&worker->lock);
  void (*command)(struct sonde_worker *, void *) = worker->command;
  if (command) {
    command(worker, worker->argument);
    publish(worker);
    worker->command = NULL;
    pthread_cond_broadcast(&worker->changed);
  }
  pthread_mutex_unlock(&worker->lock);
}

/* Makes a waiting receive return. Under the session's control lock: the list of sources changes
 * only by a command, which its caller awaits under this lock. */
static void wake(struct sonde_worker *worker) {
  eventfd_write(worker->wake_fd, 1);
  if (worker->feed_count == 1)
    worker->feeds[0].source->ops->wake(worker->feeds[0].source->backend);
}

void sonde_worker_call(struct sonde_worker *worker,
                       void (*command)(struct sonde_worker *worker, void *argument),
                       void *argument) {
  pthread_mutex_lock(&worker->lock);
  if (worker->joined) {
    command(worker, argument);
    publish(worker);
  } else {
    worker->argument = argument;
    worker->command = command;
    pthread_cond_broadcast(&worker->changed);
    wake(worker);
    while (worker->command)
      pthread_cond_wait(&worker->changed, &worker->lock);
  }
  pthread_mutex_unlock(&worker->lock);
}

static void attach(struct sonde_worker *worker, void *source) {
  const struct sonde_source *attached = source;
  sonde_worker_feed_add(worker, source);
  sonde_flow_table_interface_set(worker->table, attached->slot, (uint32_t)attached->info.ifindex);
}

void sonde_worker_attach(struct sonde_worker *worker, struct sonde_source *source) {
  sonde_worker_call(worker, attach, source);
}

/* Meters what is left in the source, without waiting. A backend that cannot share a worker may
 * wait, and only loses its interface after a failure. */
static void detach(struct sonde_worker *worker, void *argument) {
  struct sonde_source *source = argument;
  struct sonde_feed *feed = worker->feeds, *end = feed + worker->feed_count;
  while (feed < end && feed->source != source)
    feed++;
  if (feed < end && !worker->joined && source->ops->poll_fd) {
    int received;
    while ((received = sonde_worker_receive_now(worker, feed)) > 0) {
      meter_received(worker, (uint32_t)received);
      if (worker->appender)
        sonde_appender_turn(worker->appender);
    }
  }
  sonde_worker_feed_drop(worker, source);
  worker->complete_ns = sonde_worker_complete_ns(worker);
}

void sonde_worker_detach(struct sonde_worker *worker, struct sonde_source *source) {
  sonde_worker_call(worker, detach, source);
}

void sonde_worker_drain(struct sonde_worker *worker) {
  pthread_mutex_lock(&worker->lock);
  atomic_store_explicit(&worker->draining, true, memory_order_release);
  pthread_cond_broadcast(&worker->changed);
  pthread_mutex_unlock(&worker->lock);
  wake(worker);
}

static void wake_readers(struct sonde_worker *worker) {
  sonde_wake_signal(&worker->events->wake);
  sonde_wake_signal(worker->export_wake);
}

static void sleep_ns(long wait_ns) {
  nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
}

/* No packets can arrive: sleep until a command, at most 100 ms to keep the heartbeat. */
static void wait_for_command(struct sonde_worker *worker) {
  struct timespec until = sonde_clock_deadline(100);
  pthread_mutex_lock(&worker->lock);
  if (!worker->command && !atomic_load(&worker->draining))
    pthread_cond_timedwait(&worker->changed, &worker->lock, &until);
  pthread_mutex_unlock(&worker->lock);
}

/* File replay waits until consumers have drained enough records. */
static bool ring_has_room(struct sonde_worker *worker) {
  if (worker->live || !worker->metering)
    return true;
  return sonde_ring_room(&worker->ring, RECORDS_PER_BATCH_MAX) >= RECORDS_PER_BATCH_MAX;
}

/* ---- the loop ------------------------------------------------------------------------- */

static void handle_failure(struct sonde_worker *worker, int status,
                           const struct sonde_error *error) {
  if (status == SONDE_END) {
    if (atomic_load(&worker->ended))
      return;
    snprintf(worker->cut, sizeof worker->cut, "%.*s", (int)sizeof worker->cut - 1, error->detail);
    if (error->detail[0])
      sonde_events_push(worker->events, SONDE_EVENT_FILE_TRUNCATED, 0, error->detail);
    sonde_packet_clock_finish(&worker->clock);
    sonde_flow_table_expire(worker->table, worker->clock.now_ns);
    publish(worker);
    atomic_store(&worker->ended, true);
    sonde_events_push(worker->events, SONDE_EVENT_FINISHED, 0, "");
  } else if (status != SONDE_LINK_DOWN) {
    struct sonde_source *source = worker->feed->source;
    sonde_worker_feed_drop(worker, source); /* until the monitor has reopened it */
    if (!atomic_exchange(&source->broken, true))
      sonde_events_push(worker->events, SONDE_EVENT_BACKEND_ERROR, status, error->detail);
  }
}

/* True if more packets may be available. */
static bool receive_batch(struct sonde_worker *worker) {
  if (atomic_load_explicit(&worker->ended, memory_order_relaxed) || worker->feed_count == 0) {
    wait_for_command(worker);
    worker->complete_ns = 0; /* no packets are pending: timers expire flows without a source */
    sonde_packet_clock_tick(&worker->clock);
    return false;
  }
  if (!ring_has_room(worker)) {
    wake_readers(worker);
    sleep_ns(RING_WAIT_NS);
    return !atomic_load_explicit(&worker->draining, memory_order_relaxed);
  }
  struct sonde_error error = {0};
  int received = sonde_worker_receive(worker, &error);
  sonde_packet_clock_tick(&worker->clock);
  if (received > 0) {
    meter_received(worker, (uint32_t)received);
    return true;
  }
  if (received == 0)
    return false;
  handle_failure(worker, received, &error);
  return false;
}

static void note_clock_step(struct sonde_worker *worker) {
  if (worker->clock.stepped_ns == 0)
    return;
  sonde_flow_table_epoch_set(worker->table, worker->clock.epoch_offset);
  if (worker->number == 0)
    sonde_events_push(worker->events, SONDE_EVENT_CLOCK_STEP, worker->clock.stepped_ns, "");
  worker->clock.stepped_ns = 0;
}

static bool drained(struct sonde_worker *worker) {
  if (!atomic_load_explicit(&worker->draining, memory_order_acquire))
    return false;
  if (!worker->live || worker->feed_count == 0)
    return true;
  if (worker->draining_since_ns == 0)
    worker->draining_since_ns = worker->clock.now_ns;
  return worker->clock.now_ns - worker->draining_since_ns >= (uint64_t)DRAIN_MIN_MS * 1000000;
}

/* Reports the time until which every packet has been handed to the taps. empty: the sources had no
 * packet at before_ns. Else the queue may hold older packets of another source. */
static void turn_taps(struct sonde_worker *worker, bool empty, uint64_t before_ns) {
  uint64_t behind_ns = worker->feed_count > 1 ? SEVERAL_SOURCES_NS : 0;
  uint64_t turned_ns = empty ? before_ns : worker->tapped_ns - behind_ns;
  for (uint32_t i = 0; i < worker->tap_count; i++)
    sonde_tap_writer_turn(worker->taps[i]->writer, worker->taps[i]->ring, turned_ns);
}

static void *run(void *argument) {
  struct sonde_worker *worker = argument;
  char name[16];
  snprintf(name, sizeof name, "sonde-cap-%u", worker->number);
  pthread_setname_np(pthread_self(), name);
  for (;;) {
    struct sonde_flow_counters before = *sonde_flow_table_counters(worker->table);
    uint64_t before_ns = epoch_now(worker);
    bool more = receive_batch(worker);
    note_clock_step(worker);
    sonde_worker_expire(worker);
    if (worker->metering_ends)
      flush_some(worker);
    if (worker->appender)
      sonde_appender_turn(worker->appender);
    if (worker->tap_count)
      turn_taps(worker, !more, before_ns);
    publish(worker);
    raise_alarms(worker, &before);
    if (sonde_flow_table_counters(worker->table)->records != before.records)
      wake_readers(worker);
    if (atomic_load_explicit(&worker->command, memory_order_acquire))
      run_command(worker);
    if (!more && drained(worker))
      break;
  }
  if (worker->appender)
    sonde_appender_cut(worker->appender, 0);
  return NULL;
}

void sonde_worker_init(struct sonde_worker *worker) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&worker->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&worker->lock, NULL);
  worker->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  worker->joined = true;
}

void sonde_worker_release(struct sonde_worker *worker) {
  sonde_own_reader_leave(&worker->own);
  sonde_filter_set_release(&worker->filters);
  sonde_decoder_destroy(worker->decoder);
  sonde_flow_table_destroy(worker->table);
  sonde_labeler_destroy(worker->labeler);
  if (worker->wake_fd >= 0)
    close(worker->wake_fd);
  pthread_cond_destroy(&worker->changed);
  pthread_mutex_destroy(&worker->lock);
}

int sonde_worker_start(struct sonde_worker *worker) {
  sonde_packet_clock_start(&worker->clock, worker->live);
  int failed = sonde_thread_start(&worker->thread, run, worker);
  worker->joined = failed != 0;
  return failed;
}
