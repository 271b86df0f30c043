/* exporter.c - adds, removes and lists collectors, and flushes; see exporter.h. */
#include "exporter/exporter.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "exporter/state.h"
#include "failure.h"
#include "host/clock.h"
#include "host/thread.h"

/* ---- calls to the thread -------------------------------------------------------------- */

static void call(struct sonde_exporter *exporter) {
  atomic_store(&exporter->called, true);
  sonde_wake_write(&exporter->session->export_wake);
}

/* Runs `command` on the thread between two rounds, or here if no thread runs. Under control. */
static void run(struct sonde_exporter *exporter,
                void (*command)(struct sonde_exporter *exporter, void *argument), void *argument) {
  if (!exporter->running) {
    command(exporter, argument);
    sonde_exporter_publish(exporter);
    return;
  }
  pthread_mutex_lock(&exporter->lock);
  exporter->argument = argument;
  exporter->command = command;
  call(exporter);
  while (exporter->command)
    pthread_cond_wait(&exporter->changed, &exporter->lock);
  pthread_mutex_unlock(&exporter->lock);
}

/* ---- the thread ----------------------------------------------------------------------- */

static int start_thread(struct sonde_exporter *exporter, struct sonde_error *error) {
  pthread_mutex_lock(&exporter->lock);
  int failed = sonde_thread_start(&exporter->thread, sonde_exporter_run, exporter);
  exporter->running = failed == 0;
  exporter->ending = false;
  exporter->ended = failed != 0;
  pthread_mutex_unlock(&exporter->lock);
  if (failed)
    return sonde_fail(error, SONDE_SYSTEM, failed, "cannot start the export thread");
  pthread_setname_np(exporter->thread, "sonde-export");
  return SONDE_OK;
}

static void end_thread(struct sonde_exporter *exporter) {
  if (!exporter->running)
    return;
  pthread_mutex_lock(&exporter->lock);
  exporter->ending = true;
  call(exporter);
  pthread_mutex_unlock(&exporter->lock);
  pthread_join(exporter->thread, NULL);
  exporter->running = false;
}

int sonde_exporter_create(struct sonde_session *session, struct sonde_exporter **exporter,
                          struct sonde_error *error) {
  struct sonde_exporter *made = calloc(1, sizeof *made);
  pthread_condattr_t attributes;
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "exporter");
  made->session = session;
  made->ended = true;
  made->start_ns = sonde_clock_ns(CLOCK_REALTIME);
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&made->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&made->control, NULL);
  pthread_mutex_init(&made->lock, NULL);
  *exporter = made;
  return SONDE_OK;
}

void sonde_exporter_destroy(struct sonde_exporter *exporter) {
  if (!exporter)
    return;
  end_thread(exporter);
  for (uint32_t i = 0; i < exporter->collector_count; i++)
    sonde_collector_destroy(exporter->collectors[i]);
  pthread_cond_destroy(&exporter->changed);
  pthread_mutex_destroy(&exporter->lock);
  pthread_mutex_destroy(&exporter->control);
  free(exporter);
}

/* ---- collectors ----------------------------------------------------------------------- */

struct change {
  struct sonde_collector *collector; /* to add; out: the removed one, or NULL */
  const char *address;
  uint16_t port;
  int status;
};

static uint32_t find(const struct sonde_exporter *exporter, const char *address, uint16_t port) {
  uint32_t i = 0;
  while (i < exporter->collector_count &&
         !sonde_collector_is(exporter->collectors[i], address, port))
    i++;
  return i;
}

static void add(struct sonde_exporter *exporter, void *argument) {
  struct change *change = argument;
  struct sonde_collector *collector = change->collector;
  uint32_t index = find(exporter, collector->stats.address, collector->stats.port);
  change->collector = NULL;
  if (index == SONDE_COLLECTORS_MAX) {
    change->collector = collector;
    change->status = SONDE_INVALID;
    return;
  }
  if (index < exporter->collector_count) {
    change->collector = exporter->collectors[index];
    sonde_collector_supersede(collector, change->collector);
  } else {
    sonde_exporter_attach(exporter, collector);
    exporter->collector_count++;
  }
  exporter->collectors[index] = collector;
}

static void remove_collector(struct sonde_exporter *exporter, void *argument) {
  struct change *change = argument;
  uint32_t index = find(exporter, change->address, change->port);
  if (index == exporter->collector_count) {
    change->status = SONDE_INVALID;
    return;
  }
  change->collector = exporter->collectors[index];
  exporter->collector_count--;
  for (uint32_t i = index; i < exporter->collector_count; i++)
    exporter->collectors[i] = exporter->collectors[i + 1];
}

static int add_under_control(struct sonde_exporter *exporter,
                             const struct sonde_collector_config *config,
                             struct sonde_error *error) {
  struct sonde_session *session = exporter->session;
  struct change change = {0};
  struct sonde_encoder_config encoder = {
      .interfaces = session->names,
      .renames = &session->renames,
      .sources = &session->sources,
      .packet_time = !session->info.live,
      .start_ns = exporter->start_ns,
  };
  if (atomic_load(&session->state) == SONDE_SESSION_STOPPED)
    return sonde_fail(error, SONDE_STATE, 0, "the session has been stopped");
  int status = sonde_collector_create(config, &encoder, &change.collector, error);
  if (status < 0)
    return status;
  if (!exporter->running) {
    /* Start the thread first: without a reader the rings would fill. */
    status = start_thread(exporter, error);
    if (status < 0) {
      sonde_collector_destroy(change.collector);
      return status;
    }
    sonde_session_reader_enable(session, SONDE_RING_EXPORT);
  }
  run(exporter, add, &change);
  sonde_collector_destroy(change.collector);
  if (change.status < 0)
    return sonde_fail(error, change.status, 0, "the session already has %d collectors",
                      SONDE_COLLECTORS_MAX);
  return SONDE_OK;
}

int sonde_session_collector_add(struct sonde_session *session,
                                const struct sonde_collector_config *config,
                                struct sonde_error *error) {
  struct sonde_exporter *exporter = session->exporter;
  *error = (struct sonde_error){0};
  pthread_mutex_lock(&exporter->control);
  int status = add_under_control(exporter, config, error);
  pthread_mutex_unlock(&exporter->control);
  return status;
}

int sonde_session_collector_remove(struct sonde_session *session, const char *address,
                                   uint16_t port, struct sonde_error *error) {
  struct sonde_exporter *exporter = session->exporter;
  struct change change = {.address = address, .port = port};
  *error = (struct sonde_error){0};
  pthread_mutex_lock(&exporter->control);
  run(exporter, remove_collector, &change);
  sonde_collector_destroy(change.collector);
  if (change.status == SONDE_OK && exporter->collector_count == 0) {
    end_thread(exporter);
    sonde_session_reader_disable(session, SONDE_RING_EXPORT);
  }
  pthread_mutex_unlock(&exporter->control);
  if (change.status < 0)
    return sonde_fail(error, change.status, 0, "no collector %.64s port %u", address ? address : "",
                      port);
  return SONDE_OK;
}

void sonde_exporter_publish(struct sonde_exporter *exporter) {
  struct sonde_collector_list *list = &exporter->list;
  uint32_t count = exporter->collector_count, published = (uint32_t)list->count;
  list->count = count;
  for (uint32_t i = 0; i < count; i++)
    sonde_collector_stats(exporter->collectors[i], &list->stats[i]);
  count = count > published ? count : published; /* unused entries need no copy */
  sonde_seqlock_write(&exporter->seqlock, &exporter->published, list,
                      offsetof(struct sonde_collector_list, stats) + count * sizeof *list->stats);
}

int sonde_session_collectors(struct sonde_session *session, struct sonde_collector_stats *stats,
                             uint32_t max) {
  struct sonde_collector_list list;
  struct sonde_exporter *exporter = session->exporter;
  sonde_seqlock_read(&exporter->seqlock, &exporter->published, &list, sizeof list);
  uint32_t count = list.count < max ? (uint32_t)list.count : max;
  memcpy(stats, list.stats, count * sizeof *stats);
  return (int)count;
}

/* ---- flush ---------------------------------------------------------------------------- */

int sonde_session_export_flush(struct sonde_session *session, uint32_t timeout_ms,
                               struct sonde_error *error) {
  struct sonde_exporter *exporter = session->exporter;
  struct timespec until = sonde_clock_deadline(timeout_ms);
  *error = (struct sonde_error){0};
  int waited = 0;
  pthread_mutex_lock(&exporter->lock);
  uint64_t request = ++exporter->flush_requested;
  atomic_store(&exporter->urgent, true);
  sonde_wake_write(&session->export_wake);
  while (!exporter->ended && exporter->flush_done < request && waited != ETIMEDOUT)
    waited = pthread_cond_timedwait(&exporter->changed, &exporter->lock, &until);
  bool done = exporter->ended || exporter->flush_done >= request;
  pthread_mutex_unlock(&exporter->lock);
  return done ? SONDE_OK
              : sonde_fail(error, SONDE_STATE, 0, "records still unsent after %u ms", timeout_ms);
}
