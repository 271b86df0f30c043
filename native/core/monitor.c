/* monitor.c - the thread that keeps a live session attached to its interfaces.
 *
 * Watches them through rtnetlink, because a socket reports the same error for an interface that
 * is down and one that is deleted. When an interface of a source's name returns, or a source
 * fails, it detaches that source from the workers, reopens it and attaches it again. The other
 * sources continue, and flow tables keep their flows. It also notes drops for the capture
 * buffer's gap log.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/sources.h"
#include "failure.h"
#include "host/clock.h"
#include "host/link_watch.h"
#include "host/thread.h"

enum { CHECK_MS = 250, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 5000 };

static void refresh_info(struct sonde_session *session, struct sonde_source *source) {
  struct sonde_backend_info info;
  source->ops->info(source->backend, &info);
  pthread_mutex_lock(&session->info_lock);
  source->info.ifindex = info.ifindex;
  memcpy(source->info.attach, info.attach, sizeof source->info.attach);
  pthread_mutex_unlock(&session->info_lock);
}

static void reopen(struct sonde_session *session, struct sonde_slot *slot) {
  struct sonde_error error = {0};
  pthread_mutex_lock(&session->control);
  struct sonde_source *source = slot->source;
  if (source && source->reopen) {
    for (uint32_t i = 0; i < session->worker_count; i++)
      sonde_worker_detach(&session->workers[i], source);
    if (source->ops->reopen(source->backend, &error) == SONDE_OK) {
      refresh_info(session, source);
      atomic_store(&source->broken, false);
      for (uint32_t i = 0; i < session->worker_count; i++)
        sonde_worker_attach(&session->workers[i], source);
      source->reopen = false;
      source->backoff_ms = BACKOFF_MIN_MS;
      sonde_events_push(&session->events, SONDE_EVENT_LINK_RETURNED, source->info.ifindex,
                        slot->name);
    } else {
      int backoff_ms = source->backoff_ms * 2;
      source->backoff_ms = backoff_ms < BACKOFF_MAX_MS ? backoff_ms : BACKOFF_MAX_MS;
      source->retry_ms = sonde_clock_ms() + (uint64_t)source->backoff_ms;
    }
  }
  pthread_mutex_unlock(&session->control);
}

static void want_reopen(struct sonde_source *source) {
  source->reopen = true;
  source->backoff_ms = BACKOFF_MIN_MS;
  source->retry_ms = 0;
}

static void handle_change(struct sonde_session *session, struct sonde_source *source,
                          const struct sonde_link_change *change) {
  switch (change->kind) {
  case SONDE_LINK_CHANGE_DOWN:
    atomic_store(&source->link_up, false);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_DOWN, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_UP:
    atomic_store(&source->link_up, true);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_UP, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_DELETED:
    source->deleted = true;
    source->reopen = false;
    atomic_store(&source->link_up, false);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_DELETED, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_RETURNED:
    source->deleted = false;
    if (source->ops->reopen)
      want_reopen(source);
    break;
  default: /* renamed: the socket stays bound to it */
    break;
  }
}

/* Reads the link's changes. Returns whether the source must be reopened now. */
static bool check_source(struct sonde_session *session, struct sonde_source *source) {
  struct sonde_link_change change;
  struct sonde_error error;
  while (source->link && sonde_link_watch_read(source->link, &change, &error) == 1)
    handle_change(session, source, &change);
  if (!source->deleted && !source->reopen && source->ops->reopen && atomic_load(&source->broken))
    want_reopen(source);
  return source->reopen && sonde_clock_ms() >= source->retry_ms;
}

/* Adds the links' descriptors. Returns how many. Lowers *timeout_ms to the next retry. A source
 * that is removed meanwhile closes its descriptor, which then has no meaning. */
static uint32_t gather(struct sonde_session *session, struct pollfd *fds, int *timeout_ms) {
  uint32_t added = 0;
  uint64_t now_ms = sonde_clock_ms();
  pthread_mutex_lock(&session->info_lock);
  for (uint32_t i = 0; i < atomic_load(&session->slot_count); i++) {
    const struct sonde_source *source = session->slots[i].source;
    if (!source)
      continue;
    if (source->reopen) {
      int wait_ms = source->retry_ms > now_ms ? (int)(source->retry_ms - now_ms) : 0;
      *timeout_ms = wait_ms < *timeout_ms ? wait_ms : *timeout_ms;
    }
    if (source->link)
      fds[added++] = (struct pollfd){.fd = sonde_link_watch_fd(source->link), .events = POLLIN};
  }
  pthread_mutex_unlock(&session->info_lock);
  return added;
}

static void *run(void *argument) {
  struct sonde_session *session = argument;
  pthread_setname_np(pthread_self(), "sonde-monitor");
  for (;;) {
    struct pollfd fds[SONDE_SOURCES_MAX + 1];
    int timeout_ms = CHECK_MS;
    fds[0] = (struct pollfd){.fd = session->monitor_wake_fd, .events = POLLIN};
    uint32_t count = gather(session, fds + 1, &timeout_ms);
    eventfd_t ignored;
    if (poll(fds, count + 1, timeout_ms) > 0 && fds[0].revents)
      eventfd_read(session->monitor_wake_fd, &ignored);
    if (atomic_load(&session->monitor_ends))
      return NULL;
    if (atomic_load(&session->state) == SONDE_SESSION_RUNNING)
      sonde_session_buffer_note_drops(session);
    for (uint32_t i = 0; i < atomic_load(&session->slot_count); i++) {
      struct sonde_slot *slot = &session->slots[i];
      pthread_mutex_lock(&session->info_lock);
      bool due = slot->source && check_source(session, slot->source);
      pthread_mutex_unlock(&session->info_lock);
      if (due)
        reopen(session, slot);
    }
  }
}

int sonde_monitor_start(struct sonde_session *session, struct sonde_error *error) {
  for (uint32_t i = 0; i < session->slot_count; i++) {
    int status = sonde_source_watch(session->slots[i].source, session->slots[i].name, error);
    if (status < 0)
      return status;
  }
  int failed = sonde_thread_start(&session->monitor, run, session);
  session->monitor_running = failed == 0;
  return failed ? sonde_fail(error, SONDE_SYSTEM, failed, "cannot start the monitor thread: %s",
                             strerror(failed))
                : SONDE_OK;
}

void sonde_monitor_refresh(struct sonde_session *session) {
  eventfd_write(session->monitor_wake_fd, 1);
}

void sonde_monitor_stop(struct sonde_session *session) {
  pthread_mutex_lock(&session->monitor_lock);
  if (session->monitor_running) {
    atomic_store(&session->monitor_ends, true);
    sonde_monitor_refresh(session);
    pthread_join(session->monitor, NULL);
  }
  session->monitor_running = false;
  pthread_mutex_unlock(&session->monitor_lock);
}
