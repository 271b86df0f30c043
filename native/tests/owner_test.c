/* owner_test.c - from events of sockets to the owners of records, and the parts in between.
 *
 * A test double gives the events, so that no privilege is needed: tests/live/test_owner.py has the
 * kernel's. Times are the machine's; each check waits for the owner's thread.
 */
#include <dlfcn.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "host/clock.h"
#include "ip_protocol.h"
#include "owner/state.h"
#include "owner/tracker.h"
#include "owner_double.h"

enum {
  OTHER = 4711 /* cookie of another network namespace */,
  WAIT_MS = 20000,
  SECOND_NS = 1000000000
};
enum { CLIENT = 40000, SERVER = 443 };

static struct sonde_owner_tracker *tracker;
static void *plugin;
static sonde_owner_put *put;
static sonde_owner_lose *lose;
static uint64_t last_cookie;

static void open_tracker(void) {
  struct sonde_owner_config config = {.plugin_dir = SONDE_DOUBLE_DIR, .sockets = 1024};
  struct sonde_error error = {0};
  CHECK_EQ(sonde_owner_tracker_create(&config, &tracker, &error), SONDE_OK);
  plugin = dlopen(SONDE_DOUBLE_DIR "/owner.so", RTLD_NOW | RTLD_NOLOAD);
  CHECK(plugin);
  *(void **)&put = dlsym(plugin, "sonde_owner_double_put");
  *(void **)&lose = dlsym(plugin, "sonde_owner_double_lose");
}

static void close_tracker(void) {
  sonde_owner_tracker_destroy(tracker);
  dlclose(plugin);
}

/* A socket of 10.9.0.LOCAL that belongs to a process which does not exist. */
static struct sonde_owner_event event_of(uint8_t kind, uint8_t protocol, uint8_t local,
                                         uint16_t local_port, uint32_t pid) {
  struct sonde_owner_event event = {
      .cookie = ++last_cookie,
      .netns = OTHER,
      .time_ns = sonde_clock_ns(CLOCK_MONOTONIC),
      .pid = pid,
      .name = "test",
      .local = {10, 9, 0, local},
      .remote = {10, 9, 0, 99},
      .local_port = local_port,
      .remote_port = SERVER,
      .ip_version = 4,
      .protocol = protocol,
      .how = SONDE_OWNER_CONNECT,
      .kind = kind,
      .told = 1,
  };
  return event;
}

static struct sonde_record record_of(const struct sonde_owner_event *event, int64_t after_ns) {
  struct sonde_record record = {
      .flow_start_ns = sonde_clock_ns(CLOCK_REALTIME) + (uint64_t)after_ns,
      .source_port = event->local_port,
      .dest_port = SERVER,
      .ip_version = 4,
      .protocol = event->protocol,
      .tcp_flags = {2, 2},
      .dest_ip = {10, 9, 0, 99},
      .total_packets = {1, 1},
  };
  memcpy(record.source_ip, event->local, 4);
  record.first_ns = record.last_ns = record.flow_start_ns;
  return record;
}

static struct sonde_owner owner_of_record(struct sonde_record *record) {
  struct sonde_owner_hook hook = sonde_owner_tracker_hook(tracker);
  struct sonde_owner_source source = sonde_owner_tracker_source(tracker);
  uint32_t owners[2] = {0};
  struct sonde_owner owner;
  hook.record(hook.context, owners, record);
  source.read(source.context, record->process, &owner);
  return owner;
}

/* The owner of the flow of an event's socket. */
static struct sonde_owner owner_of(const struct sonde_owner_event *event, int64_t after_ns) {
  struct sonde_record record = record_of(event, after_ns);
  return owner_of_record(&record);
}

static void nap(void) {
  nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Waits until the flow has this process; UINT32_MAX: none. Returns the owner. */
static struct sonde_owner await_owner(const struct sonde_owner_event *event, uint32_t pid,
                                      int64_t after_ns) {
  struct sonde_owner owner;
  for (int i = 0; i < WAIT_MS; i++) {
    owner = owner_of(event, after_ns);
    if (owner.pid == pid)
      break;
    nap();
  }
  CHECK_EQ(owner.pid, pid);
  return owner;
}

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

/* A packet belongs to the socket that existed, also if another one got the port at once. */
static void check_port_changes_hands(void) {
  enum { APART_NS = 200000 };
  struct sonde_owner_event one =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, 8, CLIENT, (1u << 30) + 8);
  struct sonde_owner_event gone = one, other;
  gone.kind = SONDE_SOCKET_GONE;
  gone.time_ns += APART_NS / 2;
  other = one;
  other.cookie = ++last_cookie;
  other.pid++;
  other.time_ns += APART_NS;
  put(&one);
  put(&gone);
  put(&other);
  uint64_t offset = sonde_clock_epoch_offset();
  struct sonde_owner owner = await_owner(&other, other.pid, 0);
  const uint64_t after_ns[] = {APART_NS / 4, APART_NS * 3 / 4, APART_NS * 5 / 4};
  const uint32_t expected[] = {one.pid, one.pid, other.pid};
  for (unsigned i = 0; i < sizeof expected / sizeof expected[0]; i++) {
    int64_t at_ns = (int64_t)(one.time_ns + offset + after_ns[i]);
    owner = owner_of(&one, at_ns - (int64_t)sonde_clock_ns(CLOCK_REALTIME));
    CHECK_EQ(owner.pid, expected[i]);
  }
}

enum { MS = 1000000 };

/* A flow from the event's socket, with times after start_ns; received: from the other end. */
static uint32_t pid_of(const struct sonde_owner_event *event, uint64_t start_ns, int first_ms,
                       int last_ms, bool received) {
  struct sonde_record record = record_of(event, 0);
  record.first_ns = record.flow_start_ns = start_ns + (uint64_t)(first_ms * (int64_t)MS);
  record.last_ns = start_ns + (uint64_t)(last_ms * (int64_t)MS);
  if (received) {
    memcpy(record.dest_ip, record.source_ip, sizeof record.dest_ip);
    memcpy(record.source_ip, (uint8_t[16]){10, 9, 0, 99}, sizeof record.source_ip);
    record.dest_port = record.source_port;
    record.source_port = SERVER;
  }
  return owner_of_record(&record).pid;
}

/* `one` has the port from 0 to 10 ms, and another socket that is reported at 20 ms. `alone` has
 * another address from 20 ms on. A late socket is reported after its first send. */
static void check_one_port(bool late) {
  uint8_t local = late ? 11 : 13;
  struct sonde_owner_event one =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, local, CLIENT, (1u << 30) + local);
  one.time_ns -= SECOND_NS;
  struct sonde_owner_event gone = one, other = one;
  gone.kind = SONDE_SOCKET_GONE;
  gone.time_ns += 10 * MS;
  other.cookie = ++last_cookie;
  other.pid++;
  other.late = late;
  other.time_ns += 20 * MS;
  struct sonde_owner_event alone = other;
  alone.local[3]++;
  put(&one);
  put(&gone);
  put(&other);
  put(&alone);
  await_owner(&alone, alone.pid, 0);
  const uint32_t none = UINT32_MAX, a = one.pid, b = other.pid, first = late ? b : a;
  const struct {
    int first_ms, last_ms;
    bool received;
    uint32_t pid, alone;
  } flows[] = {
      {5, 5, false, a, late ? b : none},
      {15, 15, false, first, late ? b : none},
      {25, 25, false, b, b},
      {5, 15, false, a, late ? b : none},
      {5, 25, false, a, b},
      {15, 25, false, b, b},
      {15, 15, true, a, none},
      {5, 15, true, a, none},
      {-300, -300, false, none, none},
  };
  uint64_t start_ns = one.time_ns + sonde_clock_epoch_offset();
  for (unsigned i = 0; i < sizeof flows / sizeof flows[0]; i++) {
    int first_ms = flows[i].first_ms, last_ms = flows[i].last_ms;
    CHECK_EQ(pid_of(&one, start_ns, first_ms, last_ms, flows[i].received), flows[i].pid);
    CHECK_EQ(pid_of(&alone, start_ns, first_ms, last_ms, flows[i].received), flows[i].alone);
  }
}

/* A closed socket had the address and port; an open one has the port at every address. */
static void check_wildcard_follows(void) {
  struct sonde_owner_event one =
      event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, 1, CLIENT, (1u << 30) + 13);
  one.netns = tracker->netns;
  memcpy(one.local, (uint8_t[4]){127, 0, 0, 9}, 4);
  one.time_ns -= SECOND_NS / 2;
  struct sonde_owner_event gone = one, other = one;
  gone.kind = SONDE_SOCKET_GONE;
  gone.time_ns += SECOND_NS / 4;
  other.cookie = ++last_cookie;
  other.pid++;
  other.time_ns = gone.time_ns + 1;
  memset(other.local, 0, sizeof other.local);
  put(&one);
  put(&gone);
  await_owner(&one, one.pid, 0);
  put(&other);
  await_owner(&one, other.pid, 0);
  await_owner(&one, one.pid, -SECOND_NS * 2ll / 5);
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
  check_port_changes_hands();
  check_one_port(false);
  check_one_port(true);
  check_wildcard_follows();
  check_progress();
  check_portless_is_unknown();
  check_two_namespaces();
  check_older_listener();
  check_many();
  close_tracker();
  open_tracker();
  check_loss();
  close_tracker();
  return check_report();
}
