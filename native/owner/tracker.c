/* tracker.c - the thread that reads the programs' events; see tracker.h. */
#include "owner/tracker.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "failure.h"
#include "host/clock.h"
#include "host/thread.h"
#include "ip_protocol.h"
#include "netsonde.h"
#include "owner/state.h"

enum {
  SOCKETS_DEFAULT = 131072,
  RING_BYTES_DEFAULT = 1 << 20,
  RING_BYTES_MIN = 65536, /* whole pages, of any size */
  READ_MAX = 4096,
  TICK_MS = 1000,
  PENDING_MS = 100,
  FOLLOWED_PENDING_MS = 10,
  OPTION_NETNS_COOKIE = 71, /* SO_NETNS_COOKIE, of Linux 5.14 */
};
static const uint64_t LINGER_NS = 10000000000, DESCRIBED_NS = 200000000, LIST_NS = 500000000,
                      FOLLOWED_LIST_NS = 100000000, LIST_SHARE = 50; /* 1/50 of the time at most */
static const struct timespec GATHER = {.tv_nsec = 1000000};          /* events of one wake-up */

/* ---- owners of events -------------------------------------------------------------------- */

/* Whether the index has the socket, open. */
static bool is_indexed(const struct sonde_owner_tracker *tracker,
                       const struct sonde_socket *socket) {
  struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
  uint32_t count = sonde_owner_index_find(tracker->index, &socket->key, found);
  for (uint32_t i = 0; i < count; i++)
    if (found[i].cookie == socket->cookie && found[i].netns == socket->netns && !found[i].gone_ns)
      return true;
  return false;
}

void sonde_owner_add_socket(struct sonde_owner_tracker *tracker,
                            const struct sonde_socket *socket) {
  bool learnt = !socket->gone_ns && !is_indexed(tracker, socket);
  if (!sonde_owner_index_add(tracker->index, socket, tracker->now_ns - LINGER_NS))
    atomic_fetch_add_explicit(&tracker->evicted, 1, memory_order_relaxed);
  if (learnt)
    atomic_fetch_add_explicit(&tracker->sockets, 1, memory_order_relaxed);
}

void sonde_owner_describe(struct sonde_owner_tracker *tracker, uint64_t cgroup,
                          uint64_t seen_boot_ns, struct sonde_owner *owner) {
  char name[sizeof owner->name];
  memcpy(name, owner->name, sizeof name);
  memset(owner->name, 0, sizeof owner->name);
  sonde_process_copy_text(owner->name, sizeof owner->name, name, strnlen(name, sizeof name - 1));
  bool exists = tracker->same_pids && sonde_process_describe(seen_boot_ns, owner);
  sonde_cgroup_describe(tracker->paths, cgroup, exists, owner);
}

static uint32_t describe(struct sonde_owner_tracker *tracker,
                         const struct sonde_owner_event *event) {
  struct described_process *known = &tracker->described[event->pid % DESCRIBED];
  if (known->pid == event->pid && known->cgroup == event->cgroup && known->uid == event->uid &&
      known->how == event->how && memcmp(known->name, event->name, sizeof known->name) == 0 &&
      known->until_ns > tracker->now_ns)
    return sonde_owner_share(known->owner, event->shared);
  struct sonde_owner owner = {.pid = event->pid, .uid = event->uid, .how = event->how};
  memcpy(owner.name, event->name, sizeof owner.name);
  sonde_owner_describe(tracker, event->cgroup, event->time_ns + tracker->boot_offset, &owner);
  *known = (struct described_process){
      .cgroup = event->cgroup,
      .until_ns = tracker->now_ns + DESCRIBED_NS,
      .pid = event->pid,
      .uid = event->uid,
      .how = event->how,
      .owner = sonde_owner_table_add(tracker->table, &owner),
  };
  memcpy(known->name, event->name, sizeof known->name);
  return sonde_owner_share(known->owner, event->shared);
}

/* Whether the owner is the process of the event. */
static bool is_owner(struct sonde_owner_tracker *tracker, uint32_t reference,
                     const struct sonde_owner_event *event) {
  struct sonde_owner owner;
  sonde_owner_table_read(tracker->table, reference, &owner);
  return owner.pid == event->pid && owner.how == event->how;
}

/* ---- UDP sockets without a known port ---------------------------------------------------- */

static struct pending_socket *pending_of(struct sonde_owner_tracker *tracker, uint64_t cookie) {
  struct pending_socket *pending = &tracker->pending[cookie % PENDING];
  return pending->cookie == cookie ? pending : NULL;
}

static void add_pending(struct sonde_owner_tracker *tracker, const struct sonde_owner_event *event,
                        uint64_t time_ns) {
  tracker->pending[event->cookie % PENDING] = (struct pending_socket){
      .cookie = event->cookie,
      .netns = event->netns,
      .since_ns = time_ns,
      .owner = describe(tracker, event),
  };
  tracker->waits = true;
  if (!atomic_load_explicit(&tracker->portless_ns, memory_order_relaxed))
    atomic_store(&tracker->portless_ns, time_ns);
  if (event->netns != tracker->netns)
    sonde_owner_read_addresses(tracker, event->netns, event->pid);
}

/* Closed without a port: the kernel's own report follows. */
static void close_pending(struct sonde_owner_tracker *tracker,
                          const struct sonde_owner_event *event, uint64_t time_ns) {
  struct pending_socket *pending = pending_of(tracker, event->cookie);
  if (!pending)
    return;
  pending->gone_ns = time_ns;
  pending->owner = sonde_owner_share(pending->owner, event->shared);
}

/* The kernel names a UDP socket: when it was closed, or in a list. */
static void take_udp(struct sonde_owner_tracker *tracker, const struct sonde_listed_socket *listed,
                     bool closed) {
  struct pending_socket *pending = pending_of(tracker, listed->cookie);
  if (!pending || listed->key.local_port == 0)
    return;
  struct sonde_socket socket = {
      .key = listed->key,
      .owner = pending->owner,
      .cookie = pending->cookie,
      .netns = pending->netns,
      .since_ns = pending->since_ns,
      .gone_ns = closed ? tracker->now_ns : 0,
  };
  sonde_owner_unmap(&socket.key);
  sonde_owner_drop_remote(&socket.key);
  sonde_owner_add_socket(tracker, &socket);
  if (closed)
    pending->cookie = 0;
}

static void take_open(void *context, const struct sonde_owner_event *event);

static void take_closed(void *context, const struct sonde_listed_socket *listed) {
  take_udp(context, listed, true);
}

static void take_listed(void *context, const struct sonde_listed_socket *listed) {
  take_udp(context, listed, false);
}

static bool is_followed(struct sonde_owner_tracker *tracker) {
  return atomic_load_explicit(&tracker->followers, memory_order_relaxed) != 0;
}

static uint32_t pending_ms(struct sonde_owner_tracker *tracker) {
  return is_followed(tracker) ? FOLLOWED_PENDING_MS : PENDING_MS;
}

/* Lists UDP sockets if one is open without a known port for a while. */
static void list_pending(struct sonde_owner_tracker *tracker) {
  bool due = false;
  uint64_t wait_ns = pending_ms(tracker) * UINT64_C(1000000), portless_ns = 0;
  uint64_t between_ns = is_followed(tracker) ? FOLLOWED_LIST_NS : LIST_NS;
  if (between_ns < tracker->list_took_ns * LIST_SHARE)
    between_ns = tracker->list_took_ns * LIST_SHARE;
  if (!tracker->waits || tracker->listed_ns + between_ns > tracker->now_ns)
    return;
  for (uint32_t i = 0; i < PENDING; i++) {
    struct pending_socket *one = &tracker->pending[i];
    if (!one->cookie || one->listed || one->gone_ns)
      continue;
    if (one->since_ns + wait_ns > tracker->now_ns) {
      portless_ns = portless_ns && portless_ns < one->since_ns ? portless_ns : one->since_ns;
      continue;
    }
    due |= tracker->has_ports || one->netns == tracker->netns;
    one->listed = true;
  }
  tracker->waits = portless_ns != 0;
  if (due) {
    uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC);
    if (tracker->has_ports)
      tracker->ops->list(tracker->feed, false, take_open, tracker);
    else
      sonde_sockets_list(SONDE_IP_UDP, take_listed, tracker);
    tracker->listed_ns = tracker->now_ns;
    tracker->list_took_ns = sonde_clock_ns(CLOCK_MONOTONIC) - start_ns;
  }
  atomic_store(&tracker->portless_ns, portless_ns);
}

/* ---- events ------------------------------------------------------------------------------ */

/* Marks the socket as gone. */
static void take_gone(struct sonde_owner_tracker *tracker, const struct sonde_owner_event *event,
                      struct sonde_socket *socket) {
  struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
  struct pending_socket *pending = pending_of(tracker, event->cookie);
  uint32_t count = sonde_owner_index_find(tracker->index, &socket->key, found);
  socket->gone_ns = socket->since_ns;
  for (uint32_t i = 0; i < count; i++) {
    if (found[i].cookie != socket->cookie || found[i].netns != socket->netns)
      continue;
    found[i].gone_ns = socket->gone_ns;
    found[i].owner = sonde_owner_share(found[i].owner, event->shared);
    sonde_owner_add_socket(tracker, &found[i]);
    pending = NULL;
  }
  if (!pending)
    return;
  socket->since_ns = pending->since_ns; /* the port is known now */
  socket->owner = sonde_owner_share(pending->owner, event->shared);
  sonde_owner_add_socket(tracker, socket);
  pending->cookie = 0;
}

/* A socket that was reported before, perhaps with the port at any address, is as old as then. */
static void note_earlier_report(struct sonde_owner_tracker *tracker, struct sonde_socket *socket) {
  static const uint8_t any[16];
  struct sonde_socket_key keys[2] = {socket->key, socket->key};
  uint64_t reported_ns = socket->since_ns;
  memcpy(keys[1].local, any, sizeof any);
  for (uint32_t k = 0; k < 2; k++) {
    struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
    uint32_t count = sonde_owner_index_find(tracker->index, &keys[k], found);
    for (uint32_t i = 0; i < count; i++) {
      struct sonde_socket *same = &found[i];
      if (same->cookie != socket->cookie || same->netns != socket->netns || same->gone_ns ||
          same->since_ns >= socket->since_ns)
        continue;
      socket->since_ns = same->since_ns;
      socket->late = same->late;
      socket->checked_ns = reported_ns;
      if (memcmp(&same->key, &socket->key, sizeof same->key) == 0)
        continue;
      same->gone_ns = reported_ns;
      sonde_owner_add_socket(tracker, same);
    }
  }
}

/* Two open UDP sockets with one address and port: the kernel spreads datagrams over them. */
static void note_equal_sockets(struct sonde_owner_tracker *tracker, struct sonde_socket *socket) {
  struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
  uint32_t count = sonde_owner_index_find(tracker->index, &socket->key, found);
  for (uint32_t i = 0; i < count; i++) {
    struct sonde_socket *other = &found[i];
    if (other->netns != socket->netns || other->cookie == socket->cookie || other->gone_ns ||
        sonde_owner_is_same(tracker->table, other->owner, socket->owner))
      continue;
    socket->owner = sonde_owner_share(socket->owner, true);
    other->owner = sonde_owner_share(other->owner, true);
    sonde_owner_add_socket(tracker, other);
  }
}

/* Marks a socket that a second process used as shared. Keeps the description of the owner: that
 * process may have ended. Returns false if the index does not have the socket with this owner. */
static bool take_shared(struct sonde_owner_tracker *tracker, const struct sonde_owner_event *event,
                        const struct sonde_socket *socket) {
  struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
  uint32_t count = sonde_owner_index_find(tracker->index, &socket->key, found);
  for (uint32_t i = 0; i < count; i++) {
    if (found[i].cookie != socket->cookie || found[i].netns != socket->netns ||
        !is_owner(tracker, found[i].owner, event))
      continue;
    found[i].owner = sonde_owner_share(found[i].owner, true);
    if (tracker->checks)
      found[i].checked_ns = tracker->now_ns;
    if (socket->key.protocol == SONDE_IP_UDP)
      note_equal_sockets(tracker, &found[i]);
    sonde_owner_index_add(tracker->index, &found[i], tracker->now_ns - LINGER_NS);
    return true;
  }
  return false;
}

static void take_named(struct sonde_owner_tracker *tracker, const struct sonde_owner_event *event,
                       struct sonde_socket *socket) {
  struct pending_socket *pending = pending_of(tracker, event->cookie);
  if (event->kind == SONDE_SOCKET_ACCEPTED) {
    socket->owner = sonde_owner_find_listener(tracker, &socket->key);
    if (!socket->owner)
      socket->owner = sonde_owner_unknown(SONDE_OWNER_BEFORE_START);
    socket->gone_ns = socket->since_ns; /* no event reports its end */
  } else if (event->shared && take_shared(tracker, event, socket)) {
    return;
  } else if (pending && is_owner(tracker, pending->owner, event)) {
    pending->owner = sonde_owner_share(pending->owner, event->shared);
    socket->owner = pending->owner;
    socket->since_ns = pending->since_ns;
    pending->listed = true;
  } else {
    socket->owner = describe(tracker, event);
  }
  if (socket->key.protocol == SONDE_IP_UDP) {
    note_earlier_report(tracker, socket);
    note_equal_sockets(tracker, socket);
  }
  if (tracker->checks)
    socket->checked_ns = tracker->now_ns;
  if (event->pid && event->netns != tracker->netns)
    sonde_owner_read_addresses(tracker, event->netns, event->pid);
  sonde_owner_add_socket(tracker, socket);
}

static void take_event(void *context, const struct sonde_owner_event *event) {
  struct sonde_owner_tracker *tracker = context;
  uint64_t time_ns = event->time_ns + atomic_load(&tracker->clock_offset);
  struct sonde_socket socket = {
      .key = {.local_port = event->local_port,
              .remote_port = event->remote_port,
              .ip_version = event->ip_version,
              .protocol = event->protocol},
      .cookie = event->cookie,
      .netns = event->netns,
      .since_ns = time_ns,
      .late = event->late,
  };
  if (event->kind == SONDE_SOCKET_PORTLESS) {
    add_pending(tracker, event, time_ns);
    return;
  }
  if (event->local_port == 0) {
    close_pending(tracker, event, time_ns);
    return;
  }
  memcpy(socket.key.local, event->local, 16);
  memcpy(socket.key.remote, event->remote, 16);
  sonde_owner_unmap(&socket.key);
  if (event->protocol == SONDE_IP_UDP)
    sonde_owner_drop_remote(&socket.key);
  if (event->kind == SONDE_SOCKET_GONE)
    take_gone(tracker, event, &socket);
  else
    take_named(tracker, event, &socket);
}

/* A socket in a list was not closed meanwhile. */
static void take_open(void *context, const struct sonde_owner_event *event) {
  struct sonde_owner_tracker *tracker = context;
  tracker->checks = true;
  take_event(context, event);
  tracker->checks = false;
}

static void read_clock(struct sonde_owner_tracker *tracker) {
  uint64_t offset = sonde_clock_epoch_offset();
  uint64_t monotonic_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  tracker->now_ns = monotonic_ns + offset;
  tracker->boot_offset = sonde_clock_ns(CLOCK_BOOTTIME) - monotonic_ns;
  atomic_store(&tracker->clock_offset, offset);
}

static uint32_t read_events(struct sonde_owner_tracker *tracker) {
  read_clock(tracker);
  uint32_t events = tracker->ops->read(tracker->feed, READ_MAX, take_event, tracker);
  if (tracker->closed_fd >= 0)
    sonde_sockets_closed_read(tracker->closed_fd, take_closed, tracker);
  list_pending(tracker);
  return events;
}

static void tick(struct sonde_owner_tracker *tracker) {
  uint64_t lost = sonde_owner_lost(tracker);
  sonde_owner_refresh_addresses(tracker);
  if (lost != tracker->lost_seen && tracker->found_ns + 5 * SONDE_OWNER_SECOND < tracker->now_ns) {
    tracker->lost_seen = lost;
    if (tracker->has_ports)
      tracker->ops->list(tracker->feed, true, take_open, tracker);
    sonde_owner_find_open(tracker);
  }
}

static void *run(void *argument) {
  struct sonde_owner_tracker *tracker = argument;
  struct pollfd fds[] = {
      {.fd = tracker->stop_fd, .events = POLLIN},
      {.fd = tracker->ops->fd(tracker->feed), .events = POLLIN},
      {.fd = tracker->closed_fd, .events = POLLIN},
  };
  uint64_t ticked_ms = 0;
  while (!(fds[0].revents & POLLIN)) {
    uint64_t now_ms = sonde_clock_ms();
    uint32_t events = read_events(tracker);
    if (now_ms - ticked_ms >= TICK_MS) {
      tick(tracker);
      ticked_ms = now_ms;
    }
    if (events == READ_MAX)
      continue;
    if (events == 0) {
      tracker->ops->arm(tracker->feed);
      events = read_events(tracker); /* sent before it was armed */
    }
    poll(fds, 3, events ? 0 : tracker->waits ? (int)pending_ms(tracker) : TICK_MS);
    nanosleep(&GATHER, NULL);
  }
  return NULL;
}

/* ---- create and destroy ------------------------------------------------------------------ */

static int load_plugin(struct sonde_owner_tracker *tracker, const char *directory,
                       struct sonde_error *error) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/owner.so", directory ? directory : "");
  tracker->plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const struct sonde_owner_feed_ops *(*entry)(void) = NULL;
  if (tracker->plugin)
    *(void **)&entry = dlsym(tracker->plugin, "sonde_owner_feed");
  if (!entry)
    return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s", dlerror());
  tracker->ops = entry();
  if (tracker->ops->abi != SONDE_OWNER_FEED_ABI)
    return sonde_fail(error, SONDE_BACKEND_UNAVAILABLE, 0, "%s has another ABI", path);
  return SONDE_OK;
}

static uint64_t own_netns(void) {
  uint64_t cookie = 0;
  socklen_t bytes = sizeof cookie;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || getsockopt(fd, SOL_SOCKET, OPTION_NETNS_COOKIE, &cookie, &bytes) < 0)
    cookie = 0;
  if (fd >= 0)
    close(fd);
  return cookie;
}

static int start(struct sonde_owner_tracker *tracker, const struct sonde_owner_config *config,
                 struct sonde_error *error) {
  uint32_t bytes = config->ring_bytes ? config->ring_bytes : RING_BYTES_DEFAULT;
  tracker->index = sonde_owner_index_create(config->sockets ? config->sockets : SOCKETS_DEFAULT);
  tracker->table = sonde_owner_table_create();
  tracker->paths = sonde_cgroup_paths_create();
  tracker->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (!tracker->index || !tracker->table || !tracker->paths || tracker->stop_fd < 0)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for owners of flows");
  int status = tracker->ops->open(bytes, &tracker->feed, error);
  if (status < 0)
    return status;
  tracker->control = tracker->ops->control(tracker->feed);
  tracker->netns = own_netns();
  tracker->same_pids = sonde_process_ids_agree();
  tracker->has_ports = tracker->ops->has_ports(tracker->feed);
  if (!tracker->has_ports)
    tracker->closed_fd = sonde_sockets_closed_open();
  read_clock(tracker);
  tracker->started_ns = tracker->now_ns;
  sonde_owner_refresh_addresses(tracker);
  sonde_owner_find_open(tracker);
  int failed = sonde_thread_start(&tracker->thread, run, tracker);
  tracker->runs = failed == 0;
  return failed ? sonde_fail(error, SONDE_SYSTEM, failed, "cannot start the owner thread: %s",
                             strerror(failed))
                : SONDE_OK;
}

int sonde_owner_tracker_create(const struct sonde_owner_config *config,
                               struct sonde_owner_tracker **tracker, struct sonde_error *error) {
  struct sonde_owner_tracker *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for owners of flows");
  made->stop_fd = made->closed_fd = -1;
  pthread_mutex_init(&made->follow_lock, NULL);
  int status = load_plugin(made, config->plugin_dir, error);
  status = status ? status : start(made, config, error);
  if (status < 0)
    sonde_owner_tracker_destroy(made);
  else
    *tracker = made;
  return status;
}

void sonde_owner_tracker_destroy(struct sonde_owner_tracker *tracker) {
  if (!tracker)
    return;
  if (tracker->runs) {
    eventfd_write(tracker->stop_fd, 1);
    pthread_join(tracker->thread, NULL);
  }
  if (tracker->feed)
    tracker->ops->close(tracker->feed);
  if (tracker->plugin)
    dlclose(tracker->plugin);
  if (tracker->stop_fd >= 0)
    close(tracker->stop_fd);
  if (tracker->closed_fd >= 0)
    close(tracker->closed_fd);
  sonde_cgroup_paths_destroy(tracker->paths);
  sonde_owner_table_destroy(tracker->table);
  sonde_owner_index_destroy(tracker->index);
  pthread_mutex_destroy(&tracker->follow_lock);
  free(tracker);
}

static const char *missing_of(const struct sonde_owner_feed_ops *ops, void *feed) {
  if (ops->sees_uses(feed) && ops->has_ports(feed))
    return "";
  if (ops->sees_uses(feed))
    return "the kernel refuses a list of open sockets: after a loss of events, those of other "
           "network namespaces stay unknown";
  return ops->has_ports(feed)
             ? "without Linux 6.3 and its BTF, a second process that uses a socket is not noticed"
             : "without Linux 6.3 and its BTF, a second process that uses a socket is not noticed, "
               "and connected UDP sockets of other network namespaces are unknown";
}

int sonde_owner_probe(const char *plugin_dir, struct sonde_error *error) {
  struct sonde_owner_tracker probe = {0};
  void *feed = NULL;
  int status = load_plugin(&probe, plugin_dir, error);
  if (status == SONDE_OK)
    status = probe.ops->open(RING_BYTES_MIN, &feed, error);
  if (feed) {
    snprintf(error->detail, sizeof error->detail, "%s", missing_of(probe.ops, feed));
    probe.ops->close(feed);
  }
  if (probe.plugin)
    dlclose(probe.plugin);
  return status;
}

const char *sonde_owner_tracker_missing(const struct sonde_owner_tracker *tracker) {
  return missing_of(tracker->ops, tracker->feed);
}

static void read_owner(void *context, uint32_t reference, struct sonde_owner *into) {
  sonde_owner_table_read(((struct sonde_owner_tracker *)context)->table, reference, into);
}

struct sonde_owner_hook sonde_owner_tracker_hook(struct sonde_owner_tracker *tracker) {
  return (struct sonde_owner_hook){tracker, sonde_owner_record};
}

struct sonde_owner_source sonde_owner_tracker_source(struct sonde_owner_tracker *tracker) {
  return (struct sonde_owner_source){tracker, read_owner};
}

int sonde_owner_tracker_follow(struct sonde_owner_tracker *tracker, bool follows,
                               struct sonde_error *error) {
  int status = SONDE_OK;
  pthread_mutex_lock(&tracker->follow_lock);
  uint32_t others = atomic_load(&tracker->followers) - !follows;
  if (others == 0)
    status = tracker->ops->follow(tracker->feed, follows, error);
  if (status == SONDE_OK)
    atomic_store(&tracker->followers, others + follows);
  pthread_mutex_unlock(&tracker->follow_lock);
  return status;
}

bool sonde_owner_tracker_knows(struct sonde_owner_tracker *tracker,
                               struct sonde_owner_progress *progress, uint64_t time_ns) {
  uint64_t taken = tracker->ops->taken(tracker->feed);
  if (progress->noted_ns && taken >= progress->position)
    progress->through_ns = progress->noted_ns;
  if (taken >= progress->position) {
    progress->noted_ns = sonde_clock_ns(CLOCK_REALTIME);
    progress->position = tracker->ops->written(tracker->feed);
    if (taken >= progress->position)
      progress->through_ns = progress->noted_ns;
  }
  /* The order of a take: portless_ns first, then the position. */
  uint64_t portless_ns = atomic_load(&tracker->portless_ns);
  return time_ns <= progress->through_ns && (!portless_ns || time_ns < portless_ns);
}

void sonde_owner_tracker_counters(const struct sonde_owner_tracker *tracker,
                                  struct sonde_owner_counters *counters) {
  counters->owners_lost = sonde_owner_lost(tracker);
  counters->owners_evicted = atomic_load(&tracker->evicted);
  counters->owners_found = atomic_load(&tracker->sockets);
}
