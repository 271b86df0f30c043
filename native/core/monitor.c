/* monitor.c - the thread that keeps a live session attached.
 *
 * It follows the interface through rtnetlink, because sockets do not tell an interface that
 * is down from one that is gone. When one of the same name is back, or a source broke, it
 * holds the workers still and opens the source again; the flows in the tables live on. It also
 * looks when packets were dropped, for the capture buffer to know its gaps.
 */
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/session_buffer.h"
#include "core/session_state.h"
#include "host/link_watch.h"

enum { LOOK_MS = 250, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 5000 };

struct watch {
  struct sonde_session *session;
  bool gone;      /* the interface was deleted and is not back */
  bool reopen;    /* the source must be opened again */
  int backoff_ms; /* before the next try */
};

static bool any_broken(const struct sonde_session *session) {
  for (uint32_t i = 0; i < session->worker_count; i++)
    if (atomic_load(&session->workers[i].broken))
      return true;
  return false;
}

static void describe_anew(struct sonde_session *session) {
  struct sonde_backend_info info;
  session->ops->info(session->backend, &info);
  pthread_mutex_lock(&session->describing);
  session->info.ifindex = info.ifindex;
  memcpy(session->info.attach, info.attach, sizeof session->info.attach);
  pthread_mutex_unlock(&session->describing);
}

static void reopen(struct watch *watch) {
  struct sonde_session *session = watch->session;
  struct sonde_error error = {0};
  pthread_mutex_lock(&session->control);
  for (uint32_t i = 0; i < session->worker_count; i++)
    sonde_worker_park(&session->workers[i]);
  int status = session->ops->reopen(session->backend, &error);
  if (status == SONDE_OK)
    describe_anew(session);
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

static void follow(struct watch *watch, const struct sonde_link_change *change) {
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
    watch->gone = true;
    watch->reopen = false;
    atomic_store(&session->link_up, false);
    sonde_events_push(&session->events, SONDE_EVENT_LINK_DELETED, change->ifindex, change->name);
    break;
  case SONDE_LINK_CHANGE_RETURNED:
    watch->gone = false;
    watch->reopen = session->ops->reopen != NULL;
    watch->backoff_ms = BACKOFF_MIN_MS;
    break;
  default: /* renamed: a socket stays with its interface */
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
    int ready = poll(fds, 2, watch.reopen ? watch.backoff_ms : LOOK_MS);
    if (ready > 0 && fds[0].revents)
      return NULL;
    struct sonde_link_change change;
    struct sonde_error error;
    while (session->link && sonde_link_watch_read(session->link, &change, &error) == 1)
      follow(&watch, &change);
    if (atomic_load(&session->state) == SONDE_SESSION_RUNNING)
      sonde_session_buffer_note_drops(session);
    if (!watch.gone && !watch.reopen && session->ops->reopen && any_broken(session))
      watch.reopen = true;
    if (watch.reopen)
      reopen(&watch);
  }
}

int sonde_monitor_start(struct sonde_session *session, struct sonde_error *error) {
  if (session->info.ifindex > 0) {
    char name[IF_NAMESIZE]; /* a backend may know it by more than that: "zc:eth0" */
    const char *known = if_indextoname((unsigned)session->info.ifindex, name);
    int status = sonde_link_watch_open(known ? known : session->interface, &session->link, error);
    if (status < 0)
      return status;
    atomic_store(&session->link_up, sonde_link_watch_is_up(session->link) != 0);
  }
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  int failed = pthread_create(&session->monitor, NULL, run, session);
  pthread_sigmask(SIG_SETMASK, &previous, NULL);
  session->monitor_running = failed == 0;
  if (!failed)
    return SONDE_OK;
  error->status = SONDE_SYSTEM;
  error->system_errno = failed;
  strncpy(error->detail, strerror(failed), sizeof error->detail - 1);
  sonde_monitor_stop(session);
  return SONDE_SYSTEM;
}

void sonde_monitor_stop(struct sonde_session *session) {
  pthread_mutex_lock(&session->monitor_ending);
  if (session->monitor_running) {
    uint64_t one = 1;
    ssize_t written = write(session->monitor_wake_fd, &one, sizeof one);
    (void)written; /* EAGAIN: the counter is full, so the thread wakes up anyway */
    pthread_join(session->monitor, NULL);
  }
  session->monitor_running = false;
  sonde_link_watch_close(session->link);
  session->link = NULL;
  pthread_mutex_unlock(&session->monitor_ending);
}
