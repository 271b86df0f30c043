/* session_buffer.c - a session's capture buffer: encryption and packet queries.
 *
 * Connects store/, which knows neither filters nor events, with both.
 */
#include "core/sources.h"

#include <stdlib.h>
#include <string.h>

#include "core/filter.h"
#include "failure.h"
#include "host/clock.h"
#include "store/appender.h"
#include "store/query.h"

struct sonde_packets {
  struct sonde_query *query;
  struct sonde_filter_set filters;
};

static void raise_event(void *context, enum sonde_store_event event, int64_t value,
                        const char *detail) {
  static const enum sonde_event_kind kinds[] = {
      [SONDE_STORE_SEAL_FAILED] = SONDE_EVENT_SEAL_FAILED,
      [SONDE_STORE_SPILL_FAILED] = SONDE_EVENT_SPILL_FAILED,
      [SONDE_STORE_SPILL_RESUMED] = SONDE_EVENT_SPILL_RESUMED,
  };
  struct sonde_session *session = context;
  sonde_events_push(&session->events, kinds[event], value, detail);
}

int sonde_session_buffer_open(struct sonde_session *session,
                              const struct sonde_session_config *config,
                              struct sonde_error *error) {
  if (config->buffer_bytes == 0)
    return SONDE_OK;
  struct sonde_store_config store = {
      .bytes = config->buffer_bytes,
      .workers = session->worker_count,
      .host = session->host[0] ? session->host : NULL,
      .dir = config->buffer_dir,
      .disk_bytes = config->buffer_disk_bytes,
      .raise = raise_event,
      .context = session,
  };
  session->drops_checked_ns = sonde_clock_ns(CLOCK_REALTIME);
  int status = sonde_store_open(&store, &session->store, error);
  for (uint32_t slot = 0; status == SONDE_OK && slot < session->slot_count; slot++)
    status = sonde_store_name_set(session->store, slot, session->names[slot], error);
  for (uint32_t i = 0; status == SONDE_OK && i < session->worker_count; i++)
    session->workers[i].appender = sonde_store_appender(session->store, i);
  return status;
}

/* Backends count drops without times, so a gap spans two checks. */
void sonde_session_buffer_note_drops(struct sonde_session *session) {
  struct sonde_backend_stats source;
  char attach[96];
  bool link_up;
  if (!session->store)
    return;
  pthread_mutex_lock(&session->drops_lock);
  uint64_t since_ns = session->drops_checked_ns;
  sonde_sources_stats(session, &source, &link_up, attach);
  session->drops_checked_ns = sonde_clock_ns(CLOCK_REALTIME);
  if (source.dropped > session->drops_seen)
    sonde_store_note_drops(session->store, since_ns, session->drops_checked_ns);
  session->drops_seen = source.dropped;
  pthread_mutex_unlock(&session->drops_lock);
}

void sonde_session_buffer_stats(struct sonde_session *session, struct sonde_stats *stats) {
  struct sonde_store_stats store;
  if (!session->store)
    return;
  sonde_store_stats(session->store, &store);
  stats->buffer_bytes_used = store.bytes_used;
  stats->buffer_bytes_capacity = store.bytes_capacity;
  stats->buffer_oldest_ns = store.oldest_ns;
  stats->buffer_newest_ns = store.newest_ns;
  stats->buffer_packets = store.packets;
#define COPY(name) stats->name = store.name;
  SONDE_STORE_COUNTER_LIST(COPY)
  stats->encrypted = atomic_load(&session->encrypted);
}

static void cut_extent(struct sonde_worker *worker, void *argument) {
  const int *seals = argument;
  sonde_appender_cut(worker->appender, 0);
  if (*seals)
    sonde_appender_wipe(worker->appender);
}

int sonde_session_encryption_set(struct sonde_session *session, int on, const char *cipher,
                                 const uint8_t *key, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  if (!session->store)
    return sonde_fail(error, SONDE_STATE, 0, "the session has no capture buffer");
  if (on && (!cipher || strcmp(cipher, "AES-256-GCM") != 0))
    return sonde_fail(error, SONDE_CIPHER_UNKNOWN, 0, "the only cipher suite is AES-256-GCM");
  if (on && !key)
    return sonde_fail(error, SONDE_INVALID, 0, "encryption needs a key");
  pthread_mutex_lock(&session->control);
  int status = sonde_store_key_set(session->store, on ? key : NULL, error);
  if (status == SONDE_OK) {
    atomic_store(&session->encrypted, on != 0);
    for (uint32_t i = 0; i < session->worker_count; i++)
      sonde_worker_call(&session->workers[i], cut_extent, &on);
  }
  pthread_mutex_unlock(&session->control);
  if (status == SONDE_OK && on)
    status = sonde_store_seal_all(session->store, error);
  return status;
}

static bool matches(void *context, const struct sonde_packet *packet) {
  return sonde_filter_set_match(context, packet);
}

int sonde_session_packets_open(struct sonde_session *session, const char *filter, uint64_t start_ns,
                               uint64_t end_ns, uint64_t max_bytes, uint64_t max_packets,
                               struct sonde_packets **packets, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  bool filters = filter && filter[0];
  if (!session->store)
    return sonde_fail(error, SONDE_STATE, 0, "the session has no capture buffer");
  struct sonde_packets *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the query");
  int status = filters ? sonde_filter_set_prepare(&made->filters, filter, true, error) : SONDE_OK;
  if (status < 0) {
    sonde_session_packets_close(made);
    return status;
  }
  if (atomic_load(&session->state) != SONDE_SESSION_OPEN)
    sonde_session_buffer_note_drops(session);
  struct sonde_query_config config = {
      .start_ns = start_ns,
      .end_ns = end_ns ? end_ns : UINT64_MAX,
      .max_bytes = max_bytes,
      .max_packets = max_packets,
      .expression = made->filters.expression,
      .match = filters ? matches : NULL,
      .context = &made->filters,
  };
  status = sonde_query_open(session->store, &config, &made->query, error);
  if (status < 0)
    sonde_session_packets_close(made);
  else
    *packets = made;
  return status;
}

int sonde_session_packets_read(struct sonde_packets *packets, uint8_t *buffer, uint32_t capacity) {
  return sonde_query_read(packets->query, buffer, capacity);
}

void sonde_session_packets_summary(const struct sonde_packets *packets,
                                   struct sonde_packets_summary *summary) {
  sonde_query_summary(packets->query, summary);
}

void sonde_session_packets_close(struct sonde_packets *packets) {
  if (!packets)
    return;
  sonde_query_close(packets->query);
  sonde_filter_set_release(&packets->filters);
  free(packets);
}
