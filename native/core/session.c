/* session.c - a capture session: the only file that knows every stage.
 *
 * Builds the pipeline at open, starts and stops its threads, and passes commands to them.
 * Reading a session (statistics, lists, records) is in session_read.c.
 */
#include "core/sources.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "core/registry.h"
#include "exporter/exporter.h"
#include "failure.h"

static int check(const struct sonde_session_config *config, struct sonde_error *error) {
  struct {
    bool valid;
    const char *message;
  } rules[] = {
      {config->workers >= 1 && config->workers <= 64, "workers: 1 to 64"},
      {config->snaplen >= 64 && config->snaplen <= 262144, "snaplen: 64 to 262144"},
      {config->ring_bytes >= 1u << 20 && config->ring_bytes <= 1u << 30,
       "ring_bytes: 1 MiB to 1 GiB"},
      {config->flow_table_size >= 16 && config->flow_table_size <= 1u << 26,
       "flow_table_size: 16 to 2^26"},
      {config->record_ring_size >= 64 && config->record_ring_size <= 1u << 24,
       "record_ring_size: 64 to 2^24"},
      {config->idle_timeout_ns >= 1000000 && config->active_timeout_ns >= 1000000 &&
           config->idle_timeout_ns < 1ull << 60 && config->active_timeout_ns < 1ull << 60,
       "timeouts: from 1 ms"},
      {config->replay_speed >= 0, "replay_speed: not below 0"},
  };
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
    if (!rules[i].valid)
      return sonde_fail(error, SONDE_INVALID, 0, "%s", rules[i].message);
  return SONDE_OK;
}

/* ---- open ----------------------------------------------------------------------------- */

static uint32_t power_of_two_up(uint32_t number) {
  uint32_t power = 1;
  while (power < number)
    power <<= 1;
  return power;
}

/* A ring holds at least the records of one batch and an eighth more; see worker.c. */
static uint32_t ring_size(const struct sonde_session_config *config, uint32_t workers) {
  uint32_t min = 2 * SONDE_WORKER_BATCH * SONDE_FLOW_RECORDS_PER_PACKET_MAX;
  uint32_t each = config->record_ring_size / workers;
  return power_of_two_up(each > min ? each : min);
}

static bool build_labeler(struct sonde_session *session, const struct sonde_session_config *config,
                          struct sonde_worker *worker, struct sonde_label_hook *hook) {
  worker->labeler = sonde_labeler_create(&(struct sonde_labeler_config){
      .protocols = config->labels,
      .worker = worker->number,
      .bytes = config->label_bytes / session->worker_count,
      .quic_per_second = config->quic_per_second,
      .cache = session->name_cache,
      .progress = sonde_worker_progress(worker),
      .batch = worker->decoded,
      .payloads = worker->payloads,
  });
  if (!worker->labeler)
    return false;
  sonde_decoder_payloads_set(worker->decoder, true);
  *hook = sonde_labeler_hook(worker->labeler);
  return true;
}

static int read_label(void *context, uint32_t label, uint16_t generation,
                      struct sonde_app_label *into) {
  struct sonde_session *session = context;
  uint32_t worker = label >> SONDE_LABEL_WORKER_SHIFT;
  if (worker >= session->worker_count)
    return 0;
  sonde_labeler_read(session->workers[worker].labeler, label, generation, into);
  return 1;
}

/* Makes what all labelers share. */
static int build_labels(struct sonde_session *session, const struct sonde_session_config *config) {
  if (!config->labels)
    return SONDE_OK;
  session->sources.labels = (struct sonde_label_source){session, read_label};
  if (config->labels & SONDE_LABEL_DNS)
    session->name_cache = sonde_name_cache_create();
  return (config->labels & SONDE_LABEL_DNS) && !session->name_cache ? SONDE_NO_MEMORY : SONDE_OK;
}

/* A session that cannot have owners works without. */
static void build_owners(struct sonde_session *session, const struct sonde_session_config *config) {
  struct sonde_owner_config wanted = {.plugin_dir = config->plugin_dir,
                                      .ring_bytes = config->owner_ring_bytes};
  struct sonde_error error = {0};
  if (!config->owners || !session->info.live)
    return;
  if (sonde_owner_tracker_create(&wanted, &session->owners, &error) == SONDE_OK) {
    session->sources.owners = sonde_owner_tracker_source(session->owners);
    snprintf(session->owners_missing, sizeof session->owners_missing, "%s",
             sonde_owner_tracker_missing(session->owners));
  } else {
    memcpy(session->owners_missing, error.detail, sizeof session->owners_missing - 1);
  }
}

static int build_worker(struct sonde_session *session, const struct sonde_session_config *config,
                        uint32_t number, uint64_t id_seed) {
  struct sonde_worker *worker = &session->workers[number];
  bool inner = config->tunnel_mode == SONDE_TUNNEL_MODE_INNER;
  sonde_worker_init(worker);
  worker->number = number;
  worker->live = session->info.live;
  worker->events = &session->events;
  worker->export_wake = &session->export_wake;
  worker->decoder = sonde_decoder_create(inner, config->vxlan_ports);
  uint32_t flows = config->flow_table_size / session->worker_count;
  struct sonde_label_hook labels = {0};
  if (config->labels && worker->decoder && !build_labeler(session, config, worker, &labels))
    return SONDE_NO_MEMORY;
  worker->table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = flows < 16 ? 16 : flows,
      .tunnels = inner,
      .worker = (uint8_t)number,
      .id_seed = id_seed,
      .sink = sonde_worker_sink(worker),
      .labels = labels,
      .owners = session->owners ? sonde_owner_tracker_hook(session->owners)
                                : (struct sonde_owner_hook){0},
  });
  if (session->filters.expression &&
      sonde_filter_set_share(&worker->filters, &session->filters) < 0)
    return SONDE_NO_MEMORY;
  if (!worker->decoder || !worker->table)
    return SONDE_NO_MEMORY;
  if (config->exclude_own && session->info.live)
    sonde_own_reader_join(&worker->own);
  session->flow_table_size += flows < 16 ? 16 : flows;
  sonde_worker_metering_set(worker, config->metering, config->idle_timeout_ns,
                            config->active_timeout_ns);
  return SONDE_OK;
}

static int build_workers(struct sonde_session *session, const struct sonde_session_config *config,
                         struct sonde_error *error) {
  uint32_t count = session->worker_count = session->info.queues;
  uint32_t size = ring_size(config, count);
  session->workers = aligned_alloc(64, count * sizeof *session->workers);
  session->flush_cursors = calloc(count, sizeof *session->flush_cursors);
  if (session->workers)
    memset(session->workers, 0, count * sizeof *session->workers);
  session->records_bytes = (uint64_t)count * size * sizeof *session->records;
  void *records = mmap(NULL, session->records_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  uint64_t id_seed;
  if (records != MAP_FAILED)
    session->records = records;
  if (!session->workers || !session->flush_cursors || !session->records)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for workers and record rings");
  if (getrandom(&id_seed, sizeof id_seed, 0) != sizeof id_seed)
    return sonde_fail(error, SONDE_SYSTEM, errno, "%s", strerror(errno));
  build_owners(session, config);
  int status = build_labels(session, config);
  for (uint32_t i = 0; i < count; i++) { /* init all, so that close can release all */
    int built = build_worker(session, config, i, id_seed);
    sonde_ring_init(&session->workers[i].ring, session->records + (uint64_t)i * size, size);
    sonde_ring_enable(&session->workers[i].ring, SONDE_RING_STREAM);
    status = status ? status : built;
  }
  return status ? sonde_fail(error, status, 0, "no memory for the flow table") : SONDE_OK;
}

static int open_backend(struct sonde_session *session, const struct sonde_session_config *config,
                        struct sonde_error *error) {
  int file_fd = config->file_fd;
  int status = check(config, error);
  if (status == SONDE_OK)
    status = sonde_registry_load(config->plugin_dir, config->backend, &session->ops, error);
  if (status == SONDE_OK && config->filter && config->filter[0] && !session->ops->filters)
    status = sonde_filter_set_prepare(&session->filters, config->filter, file_fd >= 0, error);
  if (status < 0) {
    if (file_fd >= 0)
      close(file_fd);
    return status;
  }
  if (config->filter)
    session->filter = strdup(config->filter);
  memcpy(session->vxlan_ports, config->vxlan_ports, sizeof session->vxlan_ports);
  session->source_config = (struct sonde_backend_config){
      .filter = session->ops->filters ? session->filter : NULL,
      .file_fd = file_fd,
      .queues = config->workers,
      .snaplen = config->snaplen,
      .ring_bytes = config->ring_bytes,
      .promiscuous = config->promiscuous,
      .dedicated = config->dedicated,
      .aggregate = config->buffer_bytes == 0 && (!config->filter || !config->filter[0]),
      .labels = config->labels,
      .tunnels = config->tunnel_mode == SONDE_TUNNEL_MODE_INNER,
      .vxlan_ports = session->vxlan_ports,
      .replay_speed = config->replay_speed,
  };
  return sonde_sources_open(session, config->interfaces, config->interface_count, error);
}

int sonde_session_open(const struct sonde_session_config *config, struct sonde_session **session,
                       struct sonde_error *error) {
  *error = (struct sonde_error){0};
  struct sonde_session *made = calloc(1, sizeof *made);
  if (!made) {
    if (config->file_fd >= 0)
      close(config->file_fd);
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the session");
  }
  pthread_mutex_init(&made->control, NULL);
  pthread_mutex_init(&made->drain_lock, NULL);
  pthread_mutex_init(&made->drops_lock, NULL);
  pthread_mutex_init(&made->info_lock, NULL);
  pthread_mutex_init(&made->monitor_lock, NULL);
  if (config->host)
    strncpy(made->host, config->host, sizeof made->host - 1);
  atomic_store(&made->metering, config->metering);
  int status = open_backend(made, config, error);
  int events = sonde_events_init(&made->events);
  made->monitor_wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  made->export_wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (status == SONDE_OK && (events < 0 || made->monitor_wake_fd < 0 || made->export_wake.fd < 0))
    status = sonde_fail(error, SONDE_SYSTEM, errno, "%s", strerror(errno));
  if (status == SONDE_OK)
    status = build_workers(made, config, error);
  if (status == SONDE_OK)
    status = sonde_session_buffer_open(made, config, error);
  if (status == SONDE_OK)
    status = sonde_exporter_create(made, &made->exporter, error);
  if (status < 0) {
    sonde_session_close(made);
    return status;
  }
  *session = made;
  return SONDE_OK;
}

/* ---- start, stop, close --------------------------------------------------------------- */

static void join_workers(struct sonde_session *session) {
  for (uint32_t i = 0; i < session->worker_count; i++) {
    struct sonde_worker *worker = &session->workers[i];
    if (!worker->joined)
      pthread_join(worker->thread, NULL);
    worker->joined = true;
  }
}

static void end_threads(struct sonde_session *session) {
  sonde_sources_quiesce(session);
  for (uint32_t i = 0; i < session->worker_count; i++)
    sonde_worker_drain(&session->workers[i]);
  join_workers(session);
}

int sonde_session_start(struct sonde_session *session, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  pthread_mutex_lock(&session->control);
  int status = SONDE_OK;
  if (atomic_load(&session->state) != SONDE_SESSION_OPEN)
    status = sonde_fail(error, SONDE_STATE, 0, "the session was already started");
  if (status == SONDE_OK && session->info.live)
    status = sonde_monitor_start(session, error);
  if (status == SONDE_OK)
    status = sonde_sources_start(session, error);
  for (uint32_t i = 0; status == SONDE_OK && i < session->worker_count; i++) {
    int failed = sonde_worker_start(&session->workers[i]);
    if (failed) {
      status = sonde_fail(error, SONDE_SYSTEM, failed, "cannot start a capture thread: %s",
                          strerror(failed));
      end_threads(session);
    }
  }
  if (status == SONDE_OK)
    atomic_store(&session->state, SONDE_SESSION_RUNNING);
  pthread_mutex_unlock(&session->control);
  if (status < 0)
    sonde_monitor_stop(session);
  return status;
}

int sonde_session_stop(struct sonde_session *session, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  sonde_monitor_stop(session);
  pthread_mutex_lock(&session->control);
  int status = SONDE_OK;
  if (atomic_load(&session->state) != SONDE_SESSION_RUNNING) {
    status = sonde_fail(error, SONDE_STATE, 0, "the session is not running");
  } else {
    end_threads(session);
    sonde_session_buffer_note_drops(session);
    atomic_store(&session->state, SONDE_SESSION_STOPPED);
    sonde_wake_signal(&session->events.wake);
    sonde_wake_write(&session->export_wake);
  }
  pthread_mutex_unlock(&session->control);
  return status;
}

void sonde_session_close(struct sonde_session *session) {
  if (!session)
    return;
  if (atomic_load(&session->state) == SONDE_SESSION_RUNNING) {
    struct sonde_error error;
    sonde_session_stop(session, &error);
  }
  sonde_exporter_destroy(session->exporter);
  sonde_sources_close(session);
  for (uint32_t i = 0; session->workers && i < session->worker_count; i++)
    sonde_worker_release(&session->workers[i]);
  sonde_owner_tracker_destroy(session->owners);
  sonde_name_cache_destroy(session->name_cache);
  sonde_filter_set_release(&session->filters);
  sonde_store_close(session->store);
  free(session->workers);
  free(session->flush_cursors);
  free(session->filter);
  if (session->records)
    munmap(session->records, session->records_bytes);
  if (session->monitor_wake_fd >= 0)
    close(session->monitor_wake_fd);
  if (session->export_wake.fd >= 0)
    close(session->export_wake.fd);
  sonde_events_release(&session->events);
  pthread_mutex_destroy(&session->monitor_lock);
  pthread_mutex_destroy(&session->info_lock);
  pthread_mutex_destroy(&session->drops_lock);
  pthread_mutex_destroy(&session->drain_lock);
  pthread_mutex_destroy(&session->control);
  free(session);
}

/* ---- commands to the workers ---------------------------------------------------------- */

struct metering_request {
  bool on;
  uint64_t idle_ns;
  uint64_t active_ns;
};

static void apply_metering(struct sonde_worker *worker, void *argument) {
  const struct metering_request *request = argument;
  if (!request->on && worker->metering) {
    worker->idle_ns = request->idle_ns;
    worker->active_ns = request->active_ns;
    sonde_worker_metering_end(worker);
  } else {
    sonde_worker_metering_set(worker, request->on, request->idle_ns, request->active_ns);
  }
}

int sonde_session_metering_set(struct sonde_session *session, int on, uint64_t idle_timeout_ns,
                               uint64_t active_timeout_ns, struct sonde_error *error) {
  struct metering_request request = {on, idle_timeout_ns, active_timeout_ns};
  int status = SONDE_OK;
  *error = (struct sonde_error){0};
  pthread_mutex_lock(&session->control);
  if (atomic_load(&session->state) != SONDE_SESSION_RUNNING)
    status = sonde_fail(error, SONDE_STATE, 0, "the session is not running");
  for (uint32_t i = 0; status == SONDE_OK && i < session->worker_count; i++)
    sonde_worker_call(&session->workers[i], apply_metering, &request);
  if (status == SONDE_OK)
    atomic_store(&session->metering, on);
  pthread_mutex_unlock(&session->control);
  return status;
}

static void enable_reader(struct sonde_worker *worker, void *argument) {
  sonde_ring_enable(&worker->ring, *(const enum sonde_ring_reader *)argument);
}

void sonde_session_reader_enable(struct sonde_session *session, enum sonde_ring_reader reader) {
  pthread_mutex_lock(&session->control);
  for (uint32_t i = 0; i < session->worker_count; i++)
    sonde_worker_call(&session->workers[i], enable_reader, &reader);
  pthread_mutex_unlock(&session->control);
}

void sonde_session_reader_disable(struct sonde_session *session, enum sonde_ring_reader reader) {
  for (uint32_t i = 0; i < session->worker_count; i++)
    sonde_ring_disable(&session->workers[i].ring, reader);
}

int sonde_session_stream_set(struct sonde_session *session, int on, struct sonde_error *error) {
  *error = (struct sonde_error){0};
  pthread_mutex_lock(&session->drain_lock);
  if (on)
    sonde_session_reader_enable(session, SONDE_RING_STREAM);
  else
    sonde_session_reader_disable(session, SONDE_RING_STREAM);
  pthread_mutex_unlock(&session->drain_lock);
  return SONDE_OK;
}

int sonde_session_event_fd(const struct sonde_session *session) {
  return session->events.wake.fd;
}
