/* thread.c - the export thread's loop: encode, send, release ring space, sleep.
 *
 * Never blocks a live capture: the oldest records of a slow collector are dropped and counted
 * before the ring is full. A replayed file waits instead.
 */
#include <poll.h>
#include <time.h>

#include "exporter/state.h"
#include "host/clock.h"

enum {
  PIECE_RECORDS = 512,
  LINGER_RECORDS = 256, /* fewer records wait for more, … */
  POLL_MAX_MS = 1000,
};
static const uint64_t LINGER_NS = 20000000; /* … at most this long */
static const uint64_t BEHIND_NS = 1000000000;

static bool session_is(const struct sonde_exporter *exporter, enum sonde_session_state state) {
  return atomic_load(&exporter->session->state) == (int)state;
}

/* ---- positions in the rings ----------------------------------------------------------- */

static struct sonde_ring *ring_of(struct sonde_exporter *exporter, uint32_t number) {
  return &exporter->session->workers[number].ring;
}

void sonde_exporter_attach(struct sonde_exporter *exporter, struct sonde_collector *collector) {
  for (uint32_t i = 0; i < exporter->session->worker_count; i++)
    collector->positions[i] = sonde_ring_head(ring_of(exporter, i));
}

static uint32_t lag_of(struct sonde_exporter *exporter, const struct sonde_collector *collector,
                       uint32_t number) {
  return sonde_ring_head(ring_of(exporter, number)) - collector->positions[number];
}

static uint64_t total_lag(struct sonde_exporter *exporter,
                          const struct sonde_collector *collector) {
  uint64_t lag = 0;
  for (uint32_t i = 0; i < exporter->session->worker_count; i++)
    lag += lag_of(exporter, collector, i);
  return lag;
}

/* Releases the records that all collectors have passed. */
static void release_rings(struct sonde_exporter *exporter) {
  for (uint32_t i = 0; i < exporter->session->worker_count; i++) {
    struct sonde_ring *ring = ring_of(exporter, i);
    uint32_t tail =
        atomic_load_explicit(&ring->consumers[SONDE_RING_EXPORT].tail, memory_order_relaxed);
    uint32_t passed = UINT32_MAX;
    for (uint32_t c = 0; c < exporter->collector_count; c++) {
      uint32_t ahead = exporter->collectors[c]->positions[i] - tail;
      passed = ahead < passed ? ahead : passed;
    }
    if (exporter->collector_count > 0 && passed > 0)
      sonde_ring_release(ring, SONDE_RING_EXPORT, passed);
  }
}

static void skip_to(struct sonde_exporter *exporter, struct sonde_collector *collector,
                    uint32_t number, uint32_t keep) {
  struct sonde_ring *ring = ring_of(exporter, number);
  uint32_t target = sonde_ring_head(ring) - keep;
  while (collector->positions[number] != target) {
    const struct sonde_record *first;
    uint32_t count =
        sonde_ring_piece(ring, collector->positions[number], target, ring->mask + 1, &first);
    sonde_collector_skip(collector, first, count);
    collector->positions[number] += count;
  }
}

/* Skips records of a collector that is behind for BEHIND_NS, or by nearly a whole ring. */
static void drop_backlog(struct sonde_exporter *exporter, struct sonde_collector *collector,
                         uint64_t now_ns) {
  bool behind = false, long_behind;
  if (!exporter->session->info.live || !session_is(exporter, SONDE_SESSION_RUNNING))
    return;
  for (uint32_t i = 0; i < exporter->session->worker_count; i++)
    behind |= lag_of(exporter, collector, i) > ring_of(exporter, i)->mask / 2;
  if (!behind)
    collector->behind_ns = 0;
  else if (collector->behind_ns == 0)
    collector->behind_ns = now_ns;
  long_behind = behind && now_ns - collector->behind_ns >= BEHIND_NS;
  for (uint32_t i = 0; i < exporter->session->worker_count; i++) {
    uint32_t size = ring_of(exporter, i)->mask + 1, lag = lag_of(exporter, collector, i);
    if (lag > size - size / 16 || (long_behind && lag > size / 2))
      skip_to(exporter, collector, i, size / 4);
  }
}

/* ---- one collector -------------------------------------------------------------------- */

static void fill_totals(struct sonde_exporter *exporter, struct sonde_export_totals *totals) {
  struct sonde_stats stats;
  sonde_session_stats(exporter->session, &stats);
  uint64_t metered = stats.packets_captured - stats.packets_non_flow;
  *totals = (struct sonde_export_totals){
      .packets_ignored = stats.packets_dropped,
      /* Dropped packets have unknown sizes: assume the mean of the captured ones. */
      .octets_ignored = metered ? (uint64_t)((double)stats.packets_dropped *
                                             (double)stats.ip_bytes / (double)metered)
                                : 0,
      .records_lost = stats.records_dropped,
      .packets_lost = stats.packets_records_dropped,
  };
}

/* Returns true if a few records wait for more, because small messages cost more. */
static bool lingers(struct sonde_exporter *exporter, struct sonde_collector *collector,
                    uint64_t lag, uint64_t now_ns) {
  if (lag >= LINGER_RECORDS || atomic_load(&exporter->urgent) ||
      session_is(exporter, SONDE_SESSION_STOPPED))
    return false;
  if (collector->linger_ns == 0)
    collector->linger_ns = now_ns;
  return now_ns - collector->linger_ns < LINGER_NS;
}

static void encode_batch(struct sonde_exporter *exporter, struct sonde_collector *collector,
                         uint64_t wall_ns) {
  uint32_t rings = exporter->session->worker_count;
  for (uint32_t turn = 0; turn < rings; turn++) {
    uint32_t number = collector->ring_next;
    struct sonde_ring *ring = ring_of(exporter, number);
    const struct sonde_record *first;
    for (;;) {
      uint32_t count = sonde_ring_piece(ring, collector->positions[number], sonde_ring_head(ring),
                                        PIECE_RECORDS, &first);
      uint32_t taken =
          sonde_encoder_add(collector->encoder, first, count, wall_ns, &collector->messages);
      collector->positions[number] += taken;
      if (taken < count)
        return; /* the batch is full; continue with this ring next time */
      if (count < PIECE_RECORDS)
        break;
    }
    collector->ring_next = (number + 1) % rings;
  }
}

/* Returns when to call again, 0 if there is nothing to do. */
static uint64_t serve(struct sonde_exporter *exporter, struct sonde_collector *collector,
                      uint64_t now_ns) {
  sonde_collector_confirm_old(collector, now_ns);
  drop_backlog(exporter, collector, now_ns);
  if (!sonde_collector_idle(collector)) {
    uint64_t due_ns = sonde_collector_send(collector, now_ns);
    return due_ns ? due_ns : now_ns;
  }
  uint64_t lag = total_lag(exporter, collector);
  if (lag == 0 && now_ns < collector->statistics_ns) {
    sonde_collector_settle(collector);
    collector->linger_ns = 0;
    return 0;
  }
  if (lag > 0 && lingers(exporter, collector, lag, now_ns))
    return collector->linger_ns + LINGER_NS;
  uint64_t wall_ns = sonde_clock_ns(CLOCK_REALTIME);
  collector->linger_ns = 0;
  sonde_collector_begin(collector);
  if (now_ns >= collector->statistics_ns) {
    struct sonde_export_totals totals;
    fill_totals(exporter, &totals);
    sonde_collector_report(collector, &totals, wall_ns, now_ns);
  }
  encode_batch(exporter, collector, wall_ns);
  if (sonde_collector_idle(collector))
    return now_ns; /* only empty segments, but records may follow them */
  uint64_t due_ns = sonde_collector_send(collector, now_ns);
  return due_ns ? due_ns : now_ns;
}

static uint64_t serve_all(struct sonde_exporter *exporter, uint64_t now_ns) {
  uint64_t soonest_ns = 0;
  for (uint32_t i = 0; i < exporter->collector_count; i++) {
    uint64_t due_ns = serve(exporter, exporter->collectors[i], now_ns);
    if (due_ns && (soonest_ns == 0 || due_ns < soonest_ns))
      soonest_ns = due_ns;
  }
  release_rings(exporter);
  sonde_exporter_publish(exporter);
  return soonest_ns;
}

/* ---- the loop ------------------------------------------------------------------------- */

/* After stop, moves the tables' records to the rings. Returns false while records are left. */
static bool empty_tables(struct sonde_exporter *exporter) {
  bool done = true;
  if (!session_is(exporter, SONDE_SESSION_STOPPED))
    return true;
  for (uint32_t i = 0; i < exporter->session->worker_count; i++) {
    uint32_t before = sonde_ring_head(ring_of(exporter, i));
    done &= sonde_session_empty_table(exporter->session, i);
    if (sonde_ring_head(ring_of(exporter, i)) != before)
      sonde_wake_signal(&exporter->session->events.wake);
  }
  return done;
}

static bool has_backlog(struct sonde_exporter *exporter) {
  for (uint32_t i = 0; i < exporter->collector_count; i++)
    if (!sonde_collector_idle(exporter->collectors[i]) ||
        total_lag(exporter, exporter->collectors[i]) > 0)
      return true;
  return false;
}

/* Runs a pending command. Returns false when the thread must end. */
static bool handle_calls(struct sonde_exporter *exporter) {
  if (!atomic_load(&exporter->called))
    return true;
  pthread_mutex_lock(&exporter->lock);
  atomic_store(&exporter->called, false);
  if (exporter->command) {
    exporter->command(exporter, exporter->argument);
    sonde_exporter_publish(exporter);
    exporter->command = NULL;
  }
  exporter->ended = exporter->ending;
  bool running = !exporter->ended;
  pthread_cond_broadcast(&exporter->changed);
  pthread_mutex_unlock(&exporter->lock);
  return running;
}

static uint64_t flush_request(struct sonde_exporter *exporter) {
  pthread_mutex_lock(&exporter->lock);
  uint64_t request = exporter->flush_requested;
  pthread_mutex_unlock(&exporter->lock);
  return request;
}

static void finish_flush(struct sonde_exporter *exporter, uint64_t request) {
  for (uint32_t i = 0; i < exporter->collector_count; i++)
    sonde_collector_confirm(exporter->collectors[i]);
  sonde_exporter_publish(exporter);
  pthread_mutex_lock(&exporter->lock);
  exporter->flush_done = request;
  atomic_store(&exporter->urgent, exporter->flush_requested != request);
  pthread_cond_broadcast(&exporter->changed);
  pthread_mutex_unlock(&exporter->lock);
}

static void sleep_until(struct sonde_exporter *exporter, uint64_t due_ns, uint64_t now_ns) {
  uint64_t wait_ns = (uint64_t)POLL_MAX_MS * 1000000;
  if (due_ns)
    wait_ns = due_ns - now_ns < wait_ns ? due_ns - now_ns : wait_ns;
  struct timespec timeout = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
  struct pollfd fds[1 + SONDE_COLLECTORS_MAX] = {
      {.fd = exporter->session->export_wake.fd, .events = POLLIN}};
  for (uint32_t i = 0; i < exporter->collector_count; i++)
    fds[1 + i] = (struct pollfd){.fd = sonde_collector_error_fd(exporter->collectors[i])};
  if (ppoll(fds, 1 + exporter->collector_count, &timeout, NULL) <= 0)
    return;
  uint64_t edges;
  ssize_t got = fds[0].revents ? read(fds[0].fd, &edges, sizeof edges) : 0;
  (void)got;
  for (uint32_t i = 0; i < exporter->collector_count; i++)
    if (fds[1 + i].revents)
      sonde_collector_settle(exporter->collectors[i]);
}

void *sonde_exporter_run(void *argument) {
  struct sonde_exporter *exporter = argument;
  struct sonde_wake *wake = &exporter->session->export_wake;
  while (handle_calls(exporter)) {
    uint64_t request = flush_request(exporter), now_ns = sonde_clock_ns(CLOCK_MONOTONIC);
    bool emptied = empty_tables(exporter);
    uint64_t due_ns = serve_all(exporter, now_ns);
    if (due_ns) { /* not armed: the capture threads need not wake this thread */
      if (due_ns > now_ns)
        sleep_until(exporter, due_ns, now_ns);
      continue;
    }
    if (emptied && atomic_load(&exporter->urgent) && !has_backlog(exporter))
      finish_flush(exporter, request);
    sonde_wake_arm(wake);
    if (!has_backlog(exporter) && !atomic_load(&exporter->called) &&
        flush_request(exporter) == request)
      sleep_until(exporter, 0, now_ns);
    sonde_wake_disarm(wake);
  }
  return NULL;
}
