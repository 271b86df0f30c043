/* monitor.c - the thread that keeps a live session attached.
 *
 * Watches the interface through rtnetlink, because a socket reports the same error for an
 * interface that is down and one that is deleted. When an interface of that name returns, or
 * a source fails, it parks the workers and reopens the source. Flow tables keep their flows.
 * It also notes drops for the capture buffer's gap log.
 */
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/session_state.h"
#include "failure.h"
#include "host/link_watch.h"
#include "host/thread.h"

enum { CHECK_MS = 250, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 5000 };

struct watch {
  struct sonde_session *session;
  bool deleted;   /* the interface is deleted */
  bool reopen;    /* the source must be reopened */
  int backoff_ms; /* before the next try */
};

static bool any_broken(const struct sonde_session *session) {
  for (uint32_t i = 0; i < session->worker_count; i++)
    if (atomic_load(&session->workers[i].broken))
      return true;
  return false;
}

static void refresh_info(struct sonde_session *session) {
  struct sonde_backend_info info;
  session->ops->info(session->backend, &info);
  pthread_mutex_lock(&session->info_lock);
  session->info.ifindex = info.ifindex;
  memcpy(session->info.attach, info.attach, sizeof session->info.attach);
  pthread_mutex_unlock(&session->info_lock);
}

static void reopen(struct watch *watch) {
  struct sonde_session *session = watch->session;
  struct sonde_error error = {0};
  pthread_mutex_lock(&session->control);
  for (uint32_t i = 0; i < session->worker_count; i++)
    sonde_worker_park(&session->workers[i]);
  int status = session->ops->reopen(session->backend, &error);
  if (status == SONDE_OK)
    refresh_info(session);
  for (uint32_t i = 0; i < session->worker_count; i++) {
    if (status == SONDE_OK)
      atomic_store(&session->workers[i].broken, false);
    sonde_worker_unpark(&session->workers[i]);
  }
  pthread_mutex_unlock(&session->control);
  if (status == SONDE_OK) {
    watch->reopen = false;
    watch->backoff_ms = BACKOFF_MIN_MS;
    sonde_events_push(&session->events, SONDE_EVENT_LINK_RETURNED, session->info.ifindex, "");
  } else {
    watch->backoff_ms =
        watch->backoff_ms * 2 < BACKOFF_MAX_MS ? watch->backoff_ms * 2 : BACKOFF_MAX_MS;
  }
}

static void handle_change(struct watch *watch, const struct sonde_link_change *change) {
  struct sonde_session *session = watch->session;
  switch (change->kind) {
  case SONDE_LINK_CHANGE_DOWN:
    atomic_store(&session->link_up, false);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_DOWN, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_UP:
    atomic_store(&session->link_up, true);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_UP, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_DELETED:
    watch->deleted = true;
    watch->reopen = false;
    atomic_store(&session->link_up, false);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_DELETED, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_RETURNED:
    watch->deleted = false;
    watch->reopen = session->ops->reopen != NULL;
    watch->backoff_ms = BACKOFF_MIN_MS;
    break;
  default: /* renamed: the socket stays bound to it */
    break;
  }
}

static void *run(void *argument) {
  struct watch watch = {.session = argument, .backoff_ms = BACKOFF_MIN_MS};
  struct sonde_session *session = watch.session;
  pthread_setname_np(pthread_self(), "sonde-monitor");
  struct pollfd fds[2] = {
      {.fd = session->monitor_wake_fd, .events = POLLIN},
      {.fd = session->link ? sonde_link_watch_fd(session->link) : -1, .events = POLLIN},
  };
  for (;;) {
    int ready = poll(fds, 2, watch.reopen ? watch.backoff_ms : CHECK_MS);
    if (ready > 0 && fds[0].revents)
      return NULL;
    struct sonde_link_change change;
    struct sonde_error error;
    while (session->link && sonde_link_watch_read(session->link, &change, &error) == 1)
      handle_change(&watch, &change);
    if (atomic_load(&session->state) == SONDE_SESSION_RUNNING)
      sonde_session_buffer_note_drops(session);
    if (!watch.deleted && !watch.reopen && session->ops->reopen && any_broken(session))
      watch.reopen = true;
    if (watch.reopen)
      reopen(&watch);
  }
}

int sonde_monitor_start(struct sonde_session *session, struct sonde_error *error) {
  if (session->info.ifindex > 0) {
    char name[IF_NAMESIZE]; /* the backend's name may have a prefix: "zc:eth0" */
    const char *known = if_indextoname((unsigned)session->info.ifindex, name);
    int status = sonde_link_watch_open(known ? known : session->interface, &session->link, error);
    if (status < 0)
      return status;
    atomic_store(&session->link_up, sonde_link_watch_is_up(session->link) != 0);
  }
  int failed = sonde_thread_start(&session->monitor, run, session);
  session->monitor_running = failed == 0;
  if (!failed)
    return SONDE_OK;
  sonde_monitor_stop(session);
  return sonde_fail(error, SONDE_SYSTEM, failed, "cannot start the monitor thread: %s",
                    strerror(failed));
}

void sonde_monitor_stop(struct sonde_session *session) {
  pthread_mutex_lock(&session->monitor_lock);
  if (session->monitor_running) {
    uint64_t one = 1;
    ssize_t written = write(session->monitor_wake_fd, &one, sizeof one);
    (void)written; /* EAGAIN: the counter is full, so the descriptor is readable */
    pthread_join(session->monitor, NULL);
  }
  session->monitor_running = false;
  sonde_link_watch_close(session->link);
  session->link = NULL;
  pthread_mutex_unlock(&session->monitor_lock);
}
