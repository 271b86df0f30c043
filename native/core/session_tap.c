/* session_tap.c - taps of a session: live copies of packets. See tap.h and tap/.
 *
 * Connects tap/, which knows neither filters nor workers, with both. A command of each worker
 * attaches and detaches its feed, so the packet path takes no lock.
 */
#include "core/session_state.h"
#include "core/tap_owner.h"

#include <stdlib.h>
#include <string.h>

#include "failure.h"

struct sonde_tap {
  struct sonde_session *session;
  struct sonde_tap_writer *writer;
  struct sonde_tap_owner *owner; /* NULL: of any process */
  uint32_t feed_count;
  bool attached; /* under the session's control lock */
  struct sonde_tap_feed feeds[];
};

static void attach(struct sonde_worker *worker, void *argument) {
  struct sonde_tap *tap = argument;
  struct sonde_tap_feed *feed = &tap->feeds[worker->number];
  if (worker->live)
    sonde_own_reader_join(&feed->own);
  worker->taps[worker->tap_count++] = feed;
}

static void detach(struct sonde_worker *worker, void *argument) {
  struct sonde_tap *tap = argument;
  struct sonde_tap_feed *feed = &tap->feeds[worker->number];
  uint32_t kept = 0;
  for (uint32_t i = 0; i < worker->tap_count; i++)
    if (worker->taps[i] != feed)
      worker->taps[kept++] = worker->taps[i];
  worker->tap_count = kept;
  sonde_own_reader_leave(&feed->own);
}

/* Compiles for each link type of the source now: on the packet path it would take too long. */
static int prepare(struct sonde_filter_set *set, const char *expression,
                   const struct sonde_tap_config *config, struct sonde_error *error) {
  int status = sonde_filter_set_prepare(set, expression, true, error);
  static const uint8_t nothing[64];
  for (uint32_t i = 0; status == SONDE_OK && i < config->interface_count; i++) {
    const struct sonde_packet packet = {
        .data = nothing, .caplen = 1, .wirelen = 1, .linktype = config->interfaces[i].linktype};
    sonde_filter_set_match(set, &packet);
  }
  return status;
}

static int choose_owners(struct sonde_tap *tap, const struct sonde_owner_match *match,
                         struct sonde_error *error) {
  struct sonde_session *session = tap->session;
  if (!session->owners)
    return sonde_fail(error, SONDE_STATE, 0, "the session has no owners");
  int status = sonde_tap_owner_create(match, session->owners, &tap->owner, error);
  if (status < 0)
    return status;
  sonde_tap_writer_choice_set(tap->writer, sonde_tap_owner_choice(tap->owner));
  return SONDE_OK;
}

static int build_feeds(struct sonde_tap *tap, const struct sonde_tap_config *config,
                       struct sonde_error *error) {
  bool excludes = config->exclude && config->exclude[0];
  int status = SONDE_OK;
  for (uint32_t i = 0; status == SONDE_OK && i < tap->feed_count; i++) {
    struct sonde_tap_feed *feed = &tap->feeds[i];
    feed->slots = config->slots;
    feed->direction = config->direction;
    status = prepare(&feed->filters, config->filter, config, error);
    if (status == SONDE_OK)
      feed->glance = sonde_filter_set_glance(&feed->filters);
    if (status == SONDE_OK && excludes)
      status = prepare(&feed->exclude, config->exclude, config, error);
  }
  if (status == SONDE_OK)
    status = sonde_tap_writer_create(config, tap->feed_count, tap->session->info.live, &tap->writer,
                                     error);
  if (status == SONDE_OK && config->owner)
    status = choose_owners(tap, config->owner, error);
  for (uint32_t i = 0; status == SONDE_OK && i < tap->feed_count; i++) {
    tap->feeds[i].writer = tap->writer;
    tap->feeds[i].ring = sonde_tap_writer_ring(tap->writer, i);
  }
  return status;
}

static int attach_feeds(struct sonde_tap *tap, struct sonde_error *error) {
  struct sonde_session *session = tap->session;
  int status = SONDE_OK;
  pthread_mutex_lock(&session->control);
  if (atomic_load(&session->state) != SONDE_SESSION_RUNNING)
    status = sonde_fail(error, SONDE_STATE, 0, "the session is not running");
  else if (session->workers[0].tap_count == SONDE_TAPS_MAX)
    status = sonde_fail(error, SONDE_INVALID, 0, "%d taps are open", SONDE_TAPS_MAX);
  for (uint32_t i = 0; status == SONDE_OK && i < tap->feed_count; i++)
    sonde_worker_call(&session->workers[i], attach, tap);
  tap->attached = status == SONDE_OK;
  pthread_mutex_unlock(&session->control);
  return status;
}

int sonde_tap_open(struct sonde_session *session, const struct sonde_tap_config *config,
                   struct sonde_tap **tap, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  if (!config->filter || config->snaplen == 0 || config->snaplen > SONDE_TAP_SNAPLEN_MAX)
    return sonde_fail(error, SONDE_INVALID, 0, "a tap needs a filter and a snaplen of 1 to %d",
                      SONDE_TAP_SNAPLEN_MAX);
  uint32_t count = session->worker_count;
  size_t size = sizeof(struct sonde_tap) + count * sizeof(struct sonde_tap_feed);
  struct sonde_tap *made = aligned_alloc(_Alignof(struct sonde_tap), size);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the tap");
  memset(made, 0, size);
  made->session = session;
  made->feed_count = count;
  int status = build_feeds(made, config, error);
  if (status == SONDE_OK)
    status = attach_feeds(made, error);
  if (status < 0) {
    sonde_tap_close(made);
    return status;
  }
  *tap = made;
  return SONDE_OK;
}

void sonde_tap_stop(struct sonde_tap *tap) {
  struct sonde_session *session = tap->session;
  pthread_mutex_lock(&session->control);
  for (uint32_t i = 0; tap->attached && i < tap->feed_count; i++)
    sonde_worker_call(&session->workers[i], detach, tap);
  if (tap->attached)
    sonde_tap_writer_finish(tap->writer);
  tap->attached = false;
  pthread_mutex_unlock(&session->control);
}

void sonde_tap_close(struct sonde_tap *tap) {
  if (!tap)
    return;
  sonde_tap_stop(tap);
  sonde_tap_writer_destroy(tap->writer);
  sonde_tap_owner_destroy(tap->owner);
  for (uint32_t i = 0; i < tap->feed_count; i++) {
    sonde_filter_set_release(&tap->feeds[i].filters);
    sonde_filter_set_release(&tap->feeds[i].exclude);
  }
  free(tap);
}

int sonde_tap_event_fd(const struct sonde_tap *tap) {
  return sonde_tap_writer_fd(tap->writer);
}

int sonde_tap_take(struct sonde_tap *tap, uint8_t *buffer, struct sonde_tap_message *message) {
  return sonde_tap_writer_take(tap->writer, buffer, message);
}

void sonde_tap_counts(struct sonde_tap *tap, struct sonde_tap_counts *counts) {
  sonde_tap_writer_counts(tap->writer, counts);
}

uint32_t sonde_tap_interfaces(struct sonde_tap *tap, struct sonde_tap_interface *out,
                              uint32_t max) {
  return sonde_tap_writer_interfaces(tap->writer, out, max);
}

void sonde_tap_rate_set(struct sonde_tap *tap, uint64_t rate) {
  sonde_tap_writer_rate_set(tap->writer, rate);
}
