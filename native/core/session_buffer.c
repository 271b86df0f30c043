/* session_buffer.c - see session_buffer.h; and the public calls about the capture buffer. */
#include "core/session_buffer.h"

#include <stdlib.h>
#include <string.h>

#include "core/filter.h"
#include "core/session_state.h"
#include "failure.h"
#include "host/clock.h"
#include "store/appender.h"
#include "store/query.h"

enum { FILTERS_MAX = 16, SNAPLEN_MAX = 262144 };

struct sonde_packets {
  struct sonde_query *query;
  char *expression; /* NULL: everything */
  uint32_t filter_count;
  struct {
    uint16_t linktype;
    struct sonde_filter *filter; /* NULL: the expression makes no sense for it */
  } filters[FILTERS_MAX];
};

/* ---- open and close ------------------------------------------------------------------- */

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
      .dir = config->buffer_dir,
      .disk_bytes = config->buffer_disk_bytes,
      .raise = raise_event,
      .context = session,
  };
  session->drops_looked_ns = sonde_clock_ns(CLOCK_REALTIME);
  int status = sonde_store_open(&store, &session->store, error);
  for (uint32_t i = 0; status == SONDE_OK && i < session->worker_count; i++)
    session->workers[i].appender = sonde_store_appender(session->store, i);
  return status;
}

/* A backend counts drops and does not time them, so a gap reaches from look to look. */
void sonde_session_buffer_note_drops(struct sonde_session *session) {
  struct sonde_backend_stats source = {0};
  if (!session->store)
    return;
  pthread_mutex_lock(&session->looking);
  uint64_t since_ns = session->drops_looked_ns;
  session->ops->stats(session->backend, &source);
  session->drops_looked_ns = sonde_clock_ns(CLOCK_REALTIME);
  if (source.dropped > session->drops_seen)
    sonde_store_note_drops(session->store, since_ns, session->drops_looked_ns);
  session->drops_seen = source.dropped;
  pthread_mutex_unlock(&session->looking);
}

void sonde_session_buffer_close(struct sonde_session *session) {
  sonde_store_close(session->store);
  session->store = NULL;
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

/* ---- encryption ----------------------------------------------------------------------- */

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
    return sonde_fail(error, SONDE_INVALID, 0, "a key is needed");
  pthread_mutex_lock(&session->control);
  int status = sonde_store_key_set(session->store, on ? key : NULL, error);
  if (status == SONDE_OK) {
    atomic_store(&session->encrypted, on != 0);
    for (uint32_t i = 0; i < session->worker_count; i++)
      sonde_worker_ask(&session->workers[i], cut_extent, &on);
  }
  pthread_mutex_unlock(&session->control);
  if (status == SONDE_OK && on)
    status = sonde_store_seal_all(session->store, error);
  return status;
}

/* ---- queries -------------------------------------------------------------------------- */

static const struct sonde_filter *filter_for(struct sonde_packets *packets, uint16_t linktype) {
  for (uint32_t i = 0; i < packets->filter_count; i++)
    if (packets->filters[i].linktype == linktype)
      return packets->filters[i].filter;
  if (packets->filter_count == FILTERS_MAX)
    return NULL;
  struct sonde_filter *filter = NULL;
  struct sonde_error error;
  if (sonde_filter_compile(linktype, SNAPLEN_MAX, packets->expression, &filter, &error) < 0)
    filter = NULL;
  packets->filters[packets->filter_count].linktype = linktype;
  packets->filters[packets->filter_count++].filter = filter;
  return filter;
}

static bool matches(void *context, const struct sonde_packet *packet) {
  const struct sonde_filter *filter = filter_for(context, sonde_filter_linktype(packet));
  return filter && sonde_filter_match(filter, packet->data, packet->caplen, packet->wirelen);
}

int sonde_session_packets_open(struct sonde_session *session, const char *filter, uint64_t start_ns,
                               uint64_t end_ns, uint64_t max_bytes, uint64_t max_packets,
                               struct sonde_packets **packets, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  bool filters = filter && filter[0];
  if (!session->store)
    return sonde_fail(error, SONDE_STATE, 0, "the session has no capture buffer");
  int status = filters ? sonde_filter_check_here(filter, error) : SONDE_OK;
  if (status < 0)
    return status;
  struct sonde_packets *made = calloc(1, sizeof *made);
  if (made && filters)
    made->expression = strdup(filter);
  if (!made || (filters && !made->expression)) {
    free(made);
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "query");
  }
  if (atomic_load(&session->state) != SONDE_SESSION_OPEN)
    sonde_session_buffer_note_drops(session);
  struct sonde_query_config config = {
      .start_ns = start_ns,
      .end_ns = end_ns ? end_ns : UINT64_MAX,
      .max_bytes = max_bytes,
      .max_packets = max_packets,
      .expression = made->expression,
      .interface = session->interface,
      .match = filters ? matches : NULL,
      .context = made,
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
  for (uint32_t i = 0; i < packets->filter_count; i++)
    sonde_filter_destroy(packets->filters[i].filter);
  free(packets->expression);
  free(packets);
}
