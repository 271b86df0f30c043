/* receive.c - receives the next batch of a worker from one of its sources.
 *
 * A worker with one source waits inside the backend. With several, it waits for all their
 * descriptors at once, and then takes one batch from each ready source in turn until they are
 * empty. Every source is also read every SWEEP_MS: an aggregating source reports on time
 * only when it is read, and an error may have no event.
 */
#include <poll.h>
#include <sys/eventfd.h>

#include "core/worker.h"
#include "host/clock.h"

enum {
  RECEIVE_NOW = -1,
  RECEIVE_TIMEOUT_MS = 100, /* delays timers on a silent interface */
  SWEEP_MS = 100,
  POLL_BATCHES = 16, /* a busy source may delay the others by this many batches */
  REST_MS = 10,      /* after LINK_DOWN */
};

static int receive_from(struct sonde_worker *worker, struct sonde_feed *feed, int timeout_ms,
                        struct sonde_error *error) {
  struct sonde_source *source = feed->source;
  worker->feed = feed;
  int received = source->ops->receive(source->backend, worker->number, worker->packets,
                                      SONDE_WORKER_BATCH, timeout_ms, error);
  if (source->slot)
    for (int i = 0; i < received; i++)
      worker->packets[i].source = source->slot;
  if (received == SONDE_LINK_DOWN)
    feed->rest_ms = sonde_clock_ms() + REST_MS;
  return received;
}

static void await_wake(struct sonde_worker *worker, int timeout_ms) {
  struct pollfd wake = {.fd = worker->wake_fd, .events = POLLIN};
  eventfd_t ignored;
  if (poll(&wake, 1, timeout_ms) > 0)
    eventfd_read(worker->wake_fd, &ignored);
}

static int receive_single(struct sonde_worker *worker, struct sonde_error *error) {
  struct sonde_feed *feed = &worker->feeds[0];
  int received = receive_from(worker, feed, RECEIVE_TIMEOUT_MS, error);
  if (received == SONDE_LINK_DOWN || (received == 0 && atomic_load(&feed->source->leaving)))
    await_wake(worker, REST_MS);
  return received;
}

/* Marks the feeds that have packets as ready. Waits at most timeout_ms for the first. */
static void poll_feeds(struct sonde_worker *worker, int timeout_ms) {
  struct pollfd fds[SONDE_SOURCES_MAX + 1];
  uint64_t now_ms = sonde_clock_ms();
  uint32_t count = worker->feed_count;
  for (uint32_t i = 0; i < count; i++) {
    struct sonde_feed *feed = &worker->feeds[i];
    const struct sonde_source *source = feed->source;
    fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    if (feed->ready)
      continue;
    if (now_ms < feed->rest_ms) {
      timeout_ms = timeout_ms < REST_MS ? timeout_ms : REST_MS;
      continue;
    }
    fds[i].fd = source->ops->poll_fd(source->backend, worker->number, &timeout_ms);
    feed->ready = fds[i].fd < 0; /* after the time that it has set */
  }
  fds[count] = (struct pollfd){.fd = worker->wake_fd, .events = POLLIN};
  poll(fds, count + 1, timeout_ms);
  if (fds[count].revents) {
    eventfd_t ignored;
    eventfd_read(worker->wake_fd, &ignored);
  }
  now_ms = sonde_clock_ms();
  bool sweep = now_ms - worker->swept_ms >= SWEEP_MS;
  worker->swept_ms = sweep ? now_ms : worker->swept_ms;
  for (uint32_t i = 0; i < count; i++)
    worker->feeds[i].ready |= fds[i].revents || sweep;
  worker->unpolled = 0;
}

static struct sonde_feed *next_ready(struct sonde_worker *worker) {
  for (uint32_t i = 0; i < worker->feed_count; i++) {
    uint32_t at = worker->feed_next + 1 < worker->feed_count ? worker->feed_next + 1 : 0;
    worker->feed_next = at;
    if (worker->feeds[at].ready)
      return &worker->feeds[at];
  }
  return NULL;
}

static int receive_any(struct sonde_worker *worker, struct sonde_error *error) {
  if (++worker->unpolled > POLL_BATCHES)
    poll_feeds(worker, 0);
  for (bool waited = false;; waited = true) {
    struct sonde_feed *feed;
    while ((feed = next_ready(worker))) {
      int received = receive_from(worker, feed, RECEIVE_NOW, error);
      feed->ready = received > 0;
      if (received)
        return received;
    }
    if (waited)
      return 0;
    poll_feeds(worker, RECEIVE_TIMEOUT_MS);
  }
}

/* Every source is quiesced: each is read until it is empty. */
static int receive_rest(struct sonde_worker *worker, struct sonde_error *error) {
  for (uint32_t i = 0; i < worker->feed_count; i++) {
    int received = receive_from(worker, &worker->feeds[i], RECEIVE_TIMEOUT_MS, error);
    if (received && received != SONDE_LINK_DOWN)
      return received;
  }
  return 0;
}

int sonde_worker_receive(struct sonde_worker *worker, struct sonde_error *error) {
  if (worker->feed_count == 1)
    return receive_single(worker, error);
  if (atomic_load_explicit(&worker->draining, memory_order_acquire))
    return receive_rest(worker, error);
  return receive_any(worker, error);
}

int sonde_worker_receive_now(struct sonde_worker *worker, struct sonde_feed *feed) {
  struct sonde_error ignored;
  return receive_from(worker, feed, RECEIVE_NOW, &ignored);
}

void sonde_worker_feed_add(struct sonde_worker *worker, struct sonde_source *source) {
  if (worker->number >= source->info.queues || worker->feed_count == SONDE_SOURCES_MAX)
    return;
  worker->feeds[worker->feed_count++] = (struct sonde_feed){
      .source = source,
      .complete_ns = source->info.aggregated && !worker->joined ? worker->clock.now_ns : 0,
      .ready = true,
  };
}

void sonde_worker_feed_drop(struct sonde_worker *worker, const struct sonde_source *source) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < worker->feed_count; i++)
    if (worker->feeds[i].source != source)
      worker->feeds[kept++] = worker->feeds[i];
  worker->feed_count = kept;
  worker->feed_next = 0;
  worker->feed = NULL;
}

uint64_t sonde_worker_complete_ns(const struct sonde_worker *worker) {
  uint64_t complete_ns = 0;
  for (uint32_t i = 0; i < worker->feed_count; i++) {
    uint64_t one_ns = worker->feeds[i].complete_ns;
    if (one_ns && (complete_ns == 0 || one_ns < complete_ns))
      complete_ns = one_ns;
  }
  return complete_ns;
}
