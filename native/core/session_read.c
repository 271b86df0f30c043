/* session_read.c - reading a session: statistics, flow lists, records. The only state it
 * changes is the stream's position in the record rings.
 */
#include <stdlib.h>
#include <string.h>

#include "core/owner_filter.h"
#include "core/sources.h"
#include "export/rendering.h"
#include "failure.h"
#include "flow/sum.h"
#include "host/clock.h"

static void add_undecoded(struct sonde_stats *stats, const struct sonde_undecoded *more) {
  for (uint32_t i = 0; i < SONDE_UNDECODED_MAX; i++) {
    struct sonde_undecoded *slot = &stats->undecoded[i];
    if (slot->packets && slot->linktype != more->linktype)
      continue;
    slot->linktype = more->linktype;
    slot->packets += more->packets;
    return;
  }
}

static void add_worker(struct sonde_stats *stats, const struct sonde_worker_counters *counters) {
#define ADD(name) stats->name += counters->name;
#define ADD_FLOW(name) stats->name += counters->flow.name;
#define ADD_LABEL(name) stats->name += counters->labels.name;
  SONDE_WORKER_COUNTER_LIST(ADD)
  SONDE_FLOW_COUNTER_LIST(ADD_FLOW)
  SONDE_LABEL_COUNTER_LIST(ADD_LABEL)
  if (counters->turns < stats->heartbeat)
    stats->heartbeat = counters->turns;
  for (uint32_t cause = 0; cause < SONDE_NON_FLOW_COUNT; cause++)
    stats->non_flow[cause] += counters->non_flow[cause];
  for (uint32_t i = 0; i < SONDE_UNDECODED_MAX && counters->undecoded[i].packets; i++)
    add_undecoded(stats, &counters->undecoded[i]);
  for (uint32_t reason = 0; reason < 6; reason++)
    stats->records_by_reason[reason] += counters->flow.records_by_reason[reason];
}

_Static_assert((int)SONDE_NON_FLOW_COUNT <= (int)SONDE_NON_FLOW_MAX, "non_flow holds every cause");

/* Sets whether the file is cut: from the check at open, or once it has been read. */
static void read_file_state(const struct sonde_session *session, struct sonde_stats *stats) {
  const char *cut = session->info.cut;
  if (session->info.live)
    return;
  if (!session->info.checked && stats->finished)
    cut = session->workers[0].cut;
  else if (!session->info.checked)
    return;
  stats->file_state = cut[0] ? SONDE_FILE_CUT : SONDE_FILE_WHOLE;
  memcpy(stats->file_detail, cut, sizeof stats->file_detail);
}

static void read_owners(const struct sonde_session *session, struct sonde_stats *stats) {
#define COPY_OWNER(name) stats->name = counters.name;
  memcpy(stats->owners_missing, session->owners_missing, sizeof stats->owners_missing);
  if (!session->owners)
    return;
  struct sonde_owner_counters counters;
  sonde_owner_tracker_counters(session->owners, &counters);
  SONDE_OWNER_COUNTER_LIST(COPY_OWNER)
  stats->owners = 1;
}

void sonde_session_stats(struct sonde_session *session, struct sonde_stats *stats) {
  *stats = (struct sonde_stats){.heartbeat = UINT64_MAX};
  stats->time_ns = sonde_clock_ns(CLOCK_REALTIME);
  stats->finished = !session->info.live;
  for (uint32_t i = 0; i < session->worker_count; i++) {
    struct sonde_worker *worker = &session->workers[i];
    struct sonde_worker_counters counters;
    /* Read `ended` first: if it is set, the counters read next are final. */
    stats->finished &= atomic_load(&worker->ended);
    sonde_worker_counters(worker, &counters);
    add_worker(stats, &counters);
    stats->records_waiting += sonde_ring_waiting(&worker->ring);
  }
  read_file_state(session, stats);
  struct sonde_backend_stats backend;
  bool link_up;
  sonde_sources_stats(session, &backend, &link_up, stats->attach);
  stats->packets_dropped = backend.dropped;
  stats->ring_freezes = backend.freezes;
  stats->ring_used_permille = backend.ring_used_permille;
  stats->flow_table_size = session->flow_table_size;
  stats->link_up = link_up;
  stats->metering = atomic_load(&session->metering);
  sonde_session_buffer_stats(session, stats);
  read_owners(session, stats);
}

struct list_request {
  const struct sonde_flow_query *query;
  struct sonde_marks marks;
  struct sonde_record *records;
  uint32_t count;
  uint64_t matching;
  uint64_t active;
};

static void list_flows(struct sonde_worker *worker, void *argument) {
  struct list_request *request = argument;
  sonde_worker_expire(worker);
  sonde_flow_table_marks_set(worker->table, request->marks.list, request->marks.count);
  request->count =
      sonde_flow_table_list(worker->table, request->query, request->records, &request->matching);
  sonde_flow_table_marks_set(worker->table, NULL, 0);
  request->active += sonde_flow_table_counters(worker->table)->flows_active;
}

/* Merges two sorted lists into `records`, at most `limit`. */
static uint32_t merge(struct sonde_record *records, uint32_t count, struct sonde_record *more,
                      uint32_t more_count, uint32_t limit, uint32_t sort,
                      struct sonde_record *scratch) {
  uint32_t left = 0, right = 0, merged = 0;
  while (merged < limit && (left < count || right < more_count)) {
    bool take_left =
        right == more_count ||
        (left < count && sonde_flow_record_compare(&records[left], &more[right], sort) <= 0);
    scratch[merged++] = take_left ? records[left++] : more[right++];
  }
  memcpy(records, scratch, merged * sizeof *records);
  return merged;
}

int sonde_session_list(struct sonde_session *session, const struct sonde_flow_query *query,
                       struct sonde_record *records, uint64_t *matching, uint64_t *active,
                       struct sonde_error *error) {
  *error = (struct sonde_error){0};
  if (query->limit < 1 || query->limit > 10000)
    return sonde_fail(error, SONDE_INVALID, 0, "limit: 1 to 10000");
  struct sonde_record *scratch = calloc(2 * (size_t)query->limit, sizeof *scratch);
  if (!scratch)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the list");
  struct list_request request = {.query = query, .records = scratch};
  uint32_t count = 0;
  int status = SONDE_OK;
  pthread_mutex_lock(&session->control);
  if (atomic_load(&session->state) != SONDE_SESSION_OPEN) {
    for (uint32_t i = 0; status == SONDE_OK && i < session->worker_count; i++) {
      status = sonde_marks_make(session, &session->workers[i], query, &request.marks);
      if (status == SONDE_OK)
        sonde_worker_call(&session->workers[i], list_flows, &request);
      sonde_marks_release(&request.marks);
      count = merge(records, count, scratch, request.count, query->limit, query->sort,
                    scratch + query->limit);
    }
  }
  pthread_mutex_unlock(&session->control);
  free(scratch);
  *matching = request.matching;
  *active = request.active;
  return status < 0 ? sonde_fail(error, status, 0, "no memory for the owners") : (int)count;
}

struct sum_request {
  const struct sonde_flow_query *query;
  struct sonde_marks marks;
  uint32_t by;
  struct sonde_flow_sums *sums;
  uint64_t active;
};

static void sum_flows(struct sonde_worker *worker, void *argument) {
  struct sum_request *request = argument;
  sonde_worker_expire(worker);
  sonde_flow_table_marks_set(worker->table, request->marks.list, request->marks.count);
  sonde_flow_table_sum(worker->table, request->query, request->by, request->sums);
  sonde_flow_table_marks_set(worker->table, NULL, 0);
  request->active += sonde_flow_table_counters(worker->table)->flows_active;
}

int sonde_session_sum(struct sonde_session *session, const struct sonde_flow_query *query,
                      uint32_t by, struct sonde_flow_sum *sums, uint64_t *distinct,
                      uint64_t *left_out, uint64_t *active, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  struct sum_request request = {.query = query, .by = by, .sums = sonde_flow_sums_create()};
  if (!request.sums)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "sums");
  int status = SONDE_OK;
  pthread_mutex_lock(&session->control);
  if (atomic_load(&session->state) != SONDE_SESSION_OPEN)
    for (uint32_t i = 0; status == SONDE_OK && i < session->worker_count; i++) {
      status = sonde_marks_make(session, &session->workers[i], query, &request.marks);
      if (status == SONDE_OK)
        sonde_worker_call(&session->workers[i], sum_flows, &request);
      sonde_marks_release(&request.marks);
    }
  pthread_mutex_unlock(&session->control);
  int written = (int)sonde_flow_sums_take(request.sums, query, sums, distinct, left_out);
  sonde_flow_sums_destroy(request.sums);
  *active = request.active;
  return status < 0 ? sonde_fail(error, status, 0, "no memory for the owners") : written;
}

/* After stop, consumers flush the tables into the rings, as far as these have room, until
 * every flow has its last record. */
bool sonde_session_empty_table(struct sonde_session *session, uint32_t number) {
  return sonde_worker_final_flush(&session->workers[number], &session->flush_cursors[number]);
}

/* A batch holds records of one worker, in order. */
static int drain_ring(struct sonde_session *session, uint32_t number, int encoding,
                      uint32_t records_max, uint8_t *buffer, uint32_t capacity,
                      struct sonde_batch *batch) {
  struct sonde_ring *ring = &session->workers[number].ring;
  const struct sonde_record *first;
  uint32_t waiting = sonde_ring_peek(ring, SONDE_RING_STREAM, records_max, &first);
  int status =
      sonde_records_render_named(first, waiting, encoding, session->stream_fields, session->names,
                                 &session->sources, buffer, capacity, batch);
  if (status == SONDE_OK)
    sonde_ring_release(ring, SONDE_RING_STREAM, batch->records);
  return status;
}

static int drain_rings(struct sonde_session *session, int encoding, uint32_t records_max,
                       uint8_t *buffer, uint32_t capacity, struct sonde_batch *batch) {
  bool stopped = atomic_load(&session->state) == SONDE_SESSION_STOPPED;
  int status = SONDE_OK;
  for (uint32_t turn = 0; turn < session->worker_count; turn++) {
    uint32_t number = session->drain_next;
    if (stopped) {
      sonde_session_empty_table(session, number);
      sonde_wake_signal(&session->export_wake);
    }
    status = drain_ring(session, number, encoding, records_max, buffer, capacity, batch);
    session->drain_next = (number + 1) % session->worker_count;
    if (status < 0 || batch->records > 0)
      break;
  }
  return status;
}

/* Drops records of one ring until it is empty or the batch has records_max. */
static void discard_ring(struct sonde_session *session, uint32_t number, uint32_t records_max,
                         struct sonde_batch *batch) {
  struct sonde_ring *ring = &session->workers[number].ring;
  const struct sonde_record *first;
  for (;;) {
    if (atomic_load(&session->state) == SONDE_SESSION_STOPPED) {
      sonde_session_empty_table(session, number);
      sonde_wake_signal(&session->export_wake);
    }
    uint32_t count = sonde_ring_peek(ring, SONDE_RING_STREAM, records_max - batch->records, &first);
    if (count == 0)
      return;
    for (uint32_t i = 0; i < count; i++)
      sonde_batch_count(batch, &first[i]);
    sonde_ring_release(ring, SONDE_RING_STREAM, count);
  }
}

void sonde_session_discard(struct sonde_session *session, uint32_t records_max,
                           struct sonde_batch *batch) {
  *batch = (struct sonde_batch){0};
  pthread_mutex_lock(&session->drain_lock);
  for (uint32_t number = 0; number < session->worker_count; number++)
    discard_ring(session, number, records_max, batch);
  pthread_mutex_unlock(&session->drain_lock);
}

int sonde_session_records_render(struct sonde_session *session, const struct sonde_record *records,
                                 uint32_t count, int encoding, uint32_t hidden, uint8_t *buffer,
                                 uint32_t capacity, struct sonde_batch *batch) {
  struct sonde_render_sources sources = session->sources;
  sources.hidden = hidden;
  pthread_mutex_lock(&session->info_lock); /* a listing may be older than a slot's name */
  int status = sonde_records_render_named(records, count, encoding, 0, session->names, &sources,
                                          buffer, capacity, batch);
  pthread_mutex_unlock(&session->info_lock);
  return status;
}

void sonde_session_stream_fields_set(struct sonde_session *session, uint64_t fields) {
  pthread_mutex_lock(&session->drain_lock);
  session->stream_fields = fields;
  pthread_mutex_unlock(&session->drain_lock);
}

int sonde_session_drain(struct sonde_session *session, int encoding, uint32_t records_max,
                        uint8_t *buffer, uint32_t capacity, struct sonde_batch *batch) {
  pthread_mutex_lock(&session->drain_lock);
  int status = drain_rings(session, encoding, records_max, buffer, capacity, batch);
  if (status == SONDE_OK && batch->records == 0) {
    sonde_wake_arm(&session->events.wake);
    status = drain_rings(session, encoding, records_max, buffer, capacity, batch);
  }
  pthread_mutex_unlock(&session->drain_lock);
  return status;
}

int sonde_session_events(struct sonde_session *session, struct sonde_event *events, uint32_t max) {
  return (int)sonde_events_take(&session->events, events, max);
}
