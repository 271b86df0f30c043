/* owner_test.c - from events of sockets to the owners of records, and the parts in between.
 *
 * A test double gives the events, so that no privilege is needed: tests/live/test_owner.py has the
 * kernel's. Times are the machine's; each check waits for the owner's thread.
 */
#include "owner_sockets.h"

static void check_connection(void) {
  struct sonde_owner_event event = event_of(SONDE_SOCKET_NAMED, SONDE_IP_TCP, 1, CLIENT, 1u << 30);
  CHECK_EQ(owner_of(&event, 0).how, SONDE_OWNER_UNKNOWN);
  put(&event);
  struct sonde_owner owner = await_owner(&event, event.pid, 0);
  CHECK_EQ(owner.how, SONDE_OWNER_CONNECT);
  CHECK_EQ(owner.shared, 0);
  CHECK(strcmp(owner.name, "test") == 0);
  struct sonde_owner_event gone = event;
  gone.kind = SONDE_SOCKET_GONE;
  gone.shared = 1;
  gone.time_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  put(&gone);
  for (int i = 0; i < WAIT_MS && !owner.shared; i++, nap())
    owner = owner_of(&event, 0);
  CHECK_EQ(owner.shared, 1);
  await_owner(&event, UINT32_MAX, 10ll * SECOND_NS); /* a flow that begins after the close */
}

static void check_portless(void) {
  struct sonde_owner_event event =
      event_of(SONDE_SOCKET_PORTLESS, SONDE_IP_UDP, 2, 0, (1u << 30) + 1);
  struct sonde_owner_event gone = event;
  put(&event);
  gone.kind = SONDE_SOCKET_GONE;
  gone.local_port = CLIENT;
  put(&gone);
  CHECK_EQ(await_owner(&gone, event.pid, 0).how, SONDE_OWNER_CONNECT);
}

static uint64_t sockets_found(void) {
  struct sonde_owner_counters counters;
  sonde_owner_tracker_counters(tracker, &counters);
  return counters.owners_found;
}

static void await_shared(const struct sonde_owner_event *event) {
  struct sonde_owner owner = {0};
  for (int i = 0; i < WAIT_MS && !owner.shared; i++, nap())
    owner = owner_of(event, 0);
  CHECK_EQ(owner.shared, 1);
  CHECK_EQ(owner.pid, event->pid);
  CHECK_EQ(owner.how, event->how);
}

/* The socket is reported again, although its first process may have ended. */
static void check_second_process(void) {
  struct sonde_owner_event event =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_TCP, 8, CLIENT, (1u << 30) + 8);
  put(&event);
  await_owner(&event, event.pid, 0);
  uint64_t found = sockets_found();
  event.shared = 1;
  put(&event);
  await_shared(&event);
  CHECK_EQ(sockets_found(), found);
  struct sonde_owner_event portless =
      event_of(SONDE_SOCKET_PORTLESS, SONDE_IP_UDP, 9, 0, (1u << 30) + 9);
  put(&portless);
  portless.kind = SONDE_SOCKET_NAMED;
  portless.local_port = CLIENT;
  portless.shared = 1;
  put(&portless);
  await_shared(&portless);
  event.pid++; /* connected again, by the second process */
  put(&event);
  CHECK_EQ(await_owner(&event, event.pid, 0).shared, 1);
}

static void check_equal_sockets(void) {
  struct sonde_owner_event one =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, 3, CLIENT, (1u << 30) + 2);
  struct sonde_owner_event other =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, 3, CLIENT, (1u << 30) + 3);
  put(&one);
  await_owner(&one, one.pid, 0);
  put(&other);
  CHECK_EQ(await_owner(&other, other.pid, 0).shared, 1);
}

/* The tracker knows a time as soon as its events are in the index. */
static void check_progress(void) {
  struct sonde_owner_progress progress = {0};
  struct sonde_owner_event event =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_TCP, 9, CLIENT, (1u << 30) + 10);
  for (uint32_t round = 0; round < 200; round++) {
    event.cookie = ++last_cookie;
    event.pid++;
    event.time_ns = sonde_clock_ns(CLOCK_MONOTONIC);
    put(&event);
    uint64_t sent_ns = sonde_clock_ns(CLOCK_REALTIME);
    int waits = 0;
    while (!sonde_owner_tracker_knows(tracker, &progress, sent_ns) && waits++ < WAIT_MS)
      nap();
    CHECK_EQ(owner_of(&event, 0).pid, event.pid);
  }
}

static void check_portless_is_unknown(void) {
  struct sonde_owner_progress progress = {0};
  struct sonde_owner_event event =
      event_of(SONDE_SOCKET_PORTLESS, SONDE_IP_UDP, 10, 0, (1u << 30) + 500);
  uint64_t before_ns = sonde_clock_ns(CLOCK_REALTIME) - SECOND_NS, sent_ns;
  put(&event);
  sent_ns = sonde_clock_ns(CLOCK_REALTIME);
  CHECK(!sonde_owner_tracker_knows(tracker, &progress, sent_ns));
  int waits = 0;
  while (!sonde_owner_tracker_knows(tracker, &progress, before_ns) && waits++ < WAIT_MS)
    nap();
  struct sonde_error error = {0};
  CHECK_EQ(sonde_owner_tracker_follow(tracker, true, &error), SONDE_OK);
  while (!sonde_owner_tracker_knows(tracker, &progress, sent_ns) && waits++ < WAIT_MS)
    nap();
  CHECK(waits < WAIT_MS); /* after the list */
  CHECK_EQ(sonde_owner_tracker_follow(tracker, false, &error), SONDE_OK);
}

/* The feed works, but the kernel has refused a part of it. */
static void check_missing(void) {
  sonde_owner_lack *lack;
  *(void **)&lack = dlsym(plugin, "sonde_owner_double_lack");
  CHECK(strcmp(sonde_owner_tracker_missing(tracker), "") == 0);
  lack(true, false);
  CHECK(strstr(sonde_owner_tracker_missing(tracker), "list of open sockets"));
  lack(false, true);
  const char *uses = sonde_owner_tracker_missing(tracker);
  CHECK(strstr(uses, "second process") && !strstr(uses, "namespaces"));
  lack(true, true);
  const char *both = sonde_owner_tracker_missing(tracker);
  CHECK(strstr(both, "second process") && strstr(both, "namespaces"));
  lack(false, false);
}

static void check_two_namespaces(void) {
  struct sonde_owner_event one =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_TCP, 4, CLIENT, (1u << 30) + 4);
  struct sonde_owner_event other = one;
  put(&one);
  await_owner(&one, one.pid, 0);
  other.netns = OTHER + 1;
  other.pid++;
  put(&other);
  await_owner(&one, UINT32_MAX, 0);
}

static void check_older_listener(void) {
  struct sonde_owner_event event = event_of(SONDE_SOCKET_ACCEPTED, SONDE_IP_TCP, 5, CLIENT, 0);
  uint8_t reason = 0;
  put(&event);
  for (int i = 0; i < WAIT_MS && reason != SONDE_OWNER_BEFORE_START; i++, nap())
    reason = owner_of(&event, 0).reason; /* FORWARDED at first: no address is local */
  CHECK_EQ(reason, SONDE_OWNER_BEFORE_START);
}

/* A socket that was reported before a loss is not believed for a flow that begins later. */
static void check_loss(void) {
  struct sonde_owner_event event =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, 6, CLIENT, (1u << 30) + 6);
  put(&event);
  await_owner(&event, event.pid, 0);
  lose(1, sonde_clock_ns(CLOCK_MONOTONIC) + 5);
  struct sonde_owner owner = await_owner(&event, UINT32_MAX, SECOND_NS);
  CHECK_EQ(owner.reason, SONDE_OWNER_LOST);
  struct sonde_owner_counters counters;
  sonde_owner_tracker_counters(tracker, &counters);
  CHECK_EQ(counters.owners_lost, 1);
}

/* Readers run while the thread writes: for TSan. */
static void check_many(void) {
  for (uint32_t i = 0; i < 4000; i++) {
    struct sonde_owner_event event =
        event_of(SONDE_SOCKET_NAMED, SONDE_IP_TCP, 7, (uint16_t)(10000 + i), (1u << 30) + 100 + i);
    put(&event);
    struct sonde_owner owner = owner_of(&event, 0);
    CHECK(owner.pid == event.pid || owner.how == SONDE_OWNER_UNKNOWN);
  }
  struct sonde_owner_counters counters = {0};
  for (int i = 0; i < WAIT_MS && !counters.owners_evicted; i++, nap())
    sonde_owner_tracker_counters(tracker, &counters);
  CHECK(counters.owners_evicted > 0); /* 1,024 sockets */
}

static void check_path(const char *path, const char *unit, const char *container, const char *pod) {
  struct sonde_owner owner = {0};
  snprintf(owner.cgroup, sizeof owner.cgroup, "%s", path);
  sonde_cgroup_read_path(&owner);
  CHECK(strcmp(owner.unit, unit) == 0);
  CHECK(strcmp(owner.container, container) == 0);
  CHECK(strcmp(owner.pod, pod) == 0);
}

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define POD "01234567-89ab-cdef-0123-456789abcdef"

static void check_paths(void) {
  check_path("", "", "", "");
  check_path("/", "", "", "");
  check_path("/system.slice/nginx.service", "nginx.service", "", "");
  check_path("/system.slice/docker-" ID ".scope", "docker-" ID ".scope", ID, "");
  check_path("/docker/" ID, "", ID, "");
  check_path("/kubepods/besteffort/pod" POD "/" ID, "", ID, POD);
  check_path("/kubepods.slice/kubepods-pod01234567_89ab_cdef_0123_456789abcdef.slice/cri-" ID
             ".scope",
             "cri-" ID ".scope", ID, POD);
  check_path("/podzzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz/0123456789abcdef", "", "", "");
  check_path("/.service/.scope", "", "", "");
}

static void check_table(void) {
  struct sonde_owner_table *table = sonde_owner_table_create();
  struct sonde_owner owner = {.pid = 1, .how = SONDE_OWNER_CREATE}, read;
  uint32_t first = sonde_owner_table_add(table, &owner);
  CHECK(sonde_owner_is_known(first));
  CHECK_EQ(sonde_owner_table_add(table, &owner), first);
  for (uint32_t i = 2; i < 50000; i++) {
    owner.pid = i;
    uint32_t reference = sonde_owner_table_add(table, &owner);
    sonde_owner_table_read(table, reference, &read);
    CHECK_EQ(read.pid, i);
  }
  sonde_owner_table_read(table, first, &read);
  CHECK_EQ(read.how, SONDE_OWNER_UNKNOWN);
  CHECK_EQ(read.reason, SONDE_OWNER_LOST);
  sonde_owner_table_destroy(table);
}

int main(void) {
  check_paths();
  check_table();
  open_tracker();
  check_connection();
  check_portless();
  check_second_process();
  check_equal_sockets();
  check_progress();
  check_portless_is_unknown();
  check_missing();
  check_two_namespaces();
  check_older_listener();
  check_many();
  close_tracker();
  open_tracker();
  check_loss();
  close_tracker();
  return check_report();
}
