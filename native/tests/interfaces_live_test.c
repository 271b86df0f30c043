/* interfaces_live_test.c - one session on several interfaces of a separate network: exact counts
 * per interface, changes while it runs, and deletion of one under load.
 *
 * Interface x0 is captured, and frames are sent on its peer x1. In every case the packets of each
 * interface equal those in its records, which is the conservation law per interface.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "live.h"
#include "netsonde.h"

enum { TIMEOUT_MS = 20000, POLL_MS = 5, BURST = 500 };
static const uint64_t SECOND = 1000000000;

static uint32_t workers = 2, ring_bytes = 128 << 20;
static const char *const backends[] = {"af_packet", "pcap", "xdp"};

static void make_pair(const char *name) {
  char first[16];
  live_run("ip link add %s0 type veth peer name %s1 && ip link set %s0 up && ip link set %s1 up",
           name, name, name, name);
  for (int side = 0; side < 2; side++) {
    snprintf(first, sizeof first, "%s%d", name, side);
    live_wait_up(first);
  }
}

static int open_on(const char *backend, const char *const *names, uint32_t count, uint64_t buffer,
                   struct sonde_session **session, struct sonde_error *error) {
  struct sonde_session_config config = {
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = backend,
      .interfaces = names,
      .interface_count = count,
      .file_fd = -1,
      .workers = workers,
      .snaplen = 2048,
      .ring_bytes = ring_bytes,
      .flow_table_size = 4096,
      .record_ring_size = 4096,
      .metering = 1,
      .idle_timeout_ns = 60 * SECOND,
      .active_timeout_ns = 60 * SECOND,
      .buffer_bytes = buffer,
  };
  return sonde_session_open(&config, session, error);
}

static struct sonde_session *begin(const char *backend, const char *const *names, uint32_t count,
                                   uint64_t buffer) {
  struct sonde_session *session = NULL;
  struct sonde_error error;
  if (open_on(backend, names, count, buffer, &session, &error) ||
      sonde_session_start(session, &error)) {
    fprintf(stderr, "%s: %s\n", backend, error.detail);
    exit(1);
  }
  return session;
}

static void set(struct sonde_session *session, const char *const *names, uint32_t count) {
  struct sonde_error error;
  int status = sonde_session_interfaces_set(session, names, count, &error);
  if (status)
    fprintf(stderr, "%s\n", error.detail);
  CHECK_EQ(status, 0);
}

static struct sonde_interface_stats find(struct sonde_session *session, const char *name) {
  struct sonde_interface_stats all[SONDE_INTERFACES_MAX];
  int count = sonde_session_interface_stats(session, all, SONDE_INTERFACES_MAX);
  for (int i = 0; i < count; i++)
    if (strcmp(all[i].name, name) == 0)
      return all[i];
  return (struct sonde_interface_stats){.slot = UINT32_MAX};
}

static void send_frames(const char *interface, uint32_t count, uint16_t port) {
  struct live_frame frame = live_udp4(NULL, 1, 2, port, 4, 100, 0);
  int sender = live_sender(interface);
  for (uint32_t i = 0; i < count; i++)
    live_send(sender, frame.bytes, frame.length);
  close(sender);
}

static bool await_packets(struct sonde_session *session, const char *name, uint64_t wanted) {
  for (int waited_ms = 0; waited_ms < TIMEOUT_MS; waited_ms += POLL_MS) {
    if (find(session, name).packets_captured >= wanted)
      return true;
    usleep(POLL_MS * 1000);
  }
  return false;
}

/* The packets and records of each slot in all records, which are JSON objects of one batch. */
struct sums {
  uint64_t packets[SONDE_INTERFACES_MAX];
  uint64_t records[SONDE_INTERFACES_MAX];
};

static uint64_t number_after(const char *text, const char *key) {
  const char *at = strstr(text, key);
  return at ? strtoull(at + strlen(key), NULL, 10) : UINT64_MAX;
}

static void add_record(struct sonde_session *session, const char *text, struct sums *sums) {
  char name[SONDE_INTERFACE_NAME_MAX], key[SONDE_INTERFACE_NAME_MAX + 32];
  for (uint32_t slot = 0; !sonde_session_interface_name(session, slot, name); slot++) {
    snprintf(key, sizeof key, "\"interface\":\"%s\"", name);
    if (!strstr(text, key))
      continue;
    sums->packets[slot] += number_after(text, "\"packets\":");
    sums->records[slot]++;
    return;
  }
  CHECK(!"the record has no interface of the session");
}

/* Stops the session, adds up every record, and checks the law for each interface and in sum. */
static struct sums end(struct sonde_session *session) {
  static uint8_t buffer[1 << 20];
  struct sonde_interface_stats all[SONDE_INTERFACES_MAX];
  struct sonde_batch batch;
  struct sonde_error error;
  struct sonde_stats stats;
  struct sums sums = {0};
  CHECK_EQ(sonde_session_stop(session, &error), 0);
  while (!sonde_session_drain(session, SONDE_ENCODING_JSON, 1, buffer, sizeof buffer - 1, &batch) &&
         batch.records) {
    buffer[batch.bytes] = 0;
    add_record(session, (const char *)buffer, &sums);
  }
  int count = sonde_session_interface_stats(session, all, SONDE_INTERFACES_MAX);
  sonde_session_stats(session, &stats);
  uint64_t captured = 0, non_flow = 0, dropped = 0;
  for (int i = 0; i < count; i++) {
    CHECK_EQ(all[i].packets_captured, sums.packets[i] + all[i].packets_non_flow);
    captured += all[i].packets_captured;
    non_flow += all[i].packets_non_flow;
    dropped += all[i].packets_dropped;
  }
  CHECK_EQ(stats.packets_captured, captured);
  CHECK_EQ(stats.packets_non_flow, non_flow);
  CHECK_EQ(stats.packets_dropped, dropped);
  return sums;
}

/* The same flow on three interfaces is three flows. */
static void every_interface_is_counted(const char *backend) {
  static const char *const names[] = {"a0", "b0", "c0"};
  struct sonde_session *session = begin(backend, names, 3, 0);
  struct sonde_stats stats;
  send_frames("a1", 100, 7);
  send_frames("b1", 200, 7);
  send_frames("c1", 300, 7);
  for (uint32_t i = 0; i < 3; i++) {
    CHECK(await_packets(session, names[i], 100 * (i + 1)));
    CHECK_EQ(find(session, names[i]).packets_captured, 100 * (i + 1));
    CHECK_EQ(find(session, names[i]).ifindex, if_nametoindex(names[i]));
    CHECK_EQ(find(session, names[i]).slot, i);
    CHECK(find(session, names[i]).link_up);
  }
  sonde_session_stats(session, &stats);
  CHECK_EQ(stats.packets_dropped, 0);
  struct sums sums = end(session);
  for (uint32_t i = 0; i < 3; i++) {
    CHECK_EQ(sums.records[i], 1);
    CHECK_EQ(sums.packets[i], 100 * (i + 1));
  }
  sonde_session_close(session);
}

struct load {
  const char *interface;
  _Atomic bool ends;
  uint64_t sent;
};

static void *send_load(void *argument) {
  struct load *load = argument;
  struct live_frame frame = live_udp4(NULL, 1, 2, 9, 4, 200, 0);
  int sender = live_sender(load->interface);
  while (!atomic_load(&load->ends)) {
    for (int i = 0; i < 20; i++, load->sent++)
      live_send(sender, frame.bytes, frame.length);
    usleep(1000);
  }
  close(sender);
  return NULL;
}

/* An interface under load loses nothing while others are added, removed and added again. The
 * returning one has its old slot. */
static void others_change_under_load(const char *backend) {
  static const char *const one[] = {"a0"}, *const all[] = {"c0", "a0", "b0"};
  struct sonde_session *session = begin(backend, one, 1, 0);
  struct load load = {.interface = "a1"};
  pthread_t thread;
  live_need(pthread_create(&thread, NULL, send_load, &load) == 0, "thread");
  uint64_t expected = 0;
  for (int round = 0; round < 3; round++) {
    set(session, all, 3);
    send_frames("b1", BURST, 8);
    expected += BURST;
    set(session, one, 1); /* accepted packets count, even unread ones */
    CHECK(!find(session, "b0").captured);
    CHECK_EQ(find(session, "b0").packets_captured + find(session, "b0").packets_dropped, expected);
    CHECK_EQ(find(session, "b0").packets_dropped, 0);
    send_frames("b1", BURST, 8); /* not captured */
    CHECK_EQ(find(session, "c0").slot, 1);
    CHECK_EQ(find(session, "b0").slot, 2);
  }
  atomic_store(&load.ends, true);
  pthread_join(thread, NULL);
  CHECK(await_packets(session, "a0", load.sent));
  CHECK_EQ(find(session, "a0").packets_captured, load.sent);
  CHECK_EQ(find(session, "a0").packets_dropped, 0);
  end(session);
  sonde_session_close(session);
}

/* One of three is deleted and made again while the others are under load. */
static void one_is_recreated_under_load(const char *backend) {
  static const char *const names[] = {"a0", "b0", "c0"};
  struct sonde_session *session = begin(backend, names, 3, 1 << 24);
  struct load loads[2] = {{.interface = "a1"}, {.interface = "c1"}};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++)
    live_need(pthread_create(&threads[i], NULL, send_load, &loads[i]) == 0, "thread");
  for (int round = 0; round < 2; round++) {
    uint32_t before = find(session, "b0").ifindex;
    live_run("ip link del b0");
    for (int i = 0; i < TIMEOUT_MS / POLL_MS && find(session, "b0").link_up; i++)
      usleep(POLL_MS * 1000);
    CHECK(!find(session, "b0").link_up);
    make_pair("b");
    for (int i = 0; i < TIMEOUT_MS / POLL_MS && find(session, "b0").ifindex == before; i++)
      usleep(POLL_MS * 1000);
    CHECK_EQ(find(session, "b0").ifindex, if_nametoindex("b0"));
    uint64_t had = find(session, "b0").packets_captured;
    send_frames("b1", BURST, 8);
    CHECK(await_packets(session, "b0", had + BURST));
  }
  for (int i = 0; i < 2; i++) {
    atomic_store(&loads[i].ends, true);
    pthread_join(threads[i], NULL);
    CHECK(await_packets(session, names[2 * i], loads[i].sent));
    CHECK_EQ(find(session, names[2 * i]).packets_captured, loads[i].sent);
    CHECK_EQ(find(session, names[2 * i]).packets_dropped, 0);
  }
  CHECK_EQ(find(session, "b0").slot, 1);
  CHECK_EQ(end(session).packets[1], 2 * BURST);
  sonde_session_close(session);
}

/* A session may lose its last interface and get another one. */
static void all_interfaces_leave(const char *backend) {
  static const char *const first[] = {"a0"}, *const second[] = {"b0"};
  struct sonde_session *session = begin(backend, first, 1, 0);
  struct sonde_error error;
  send_frames("a1", 10, 5);
  CHECK(await_packets(session, "a0", 10));
  set(session, NULL, 0);
  send_frames("a1", 10, 5);
  set(session, second, 1);
  send_frames("b1", 20, 5);
  CHECK(await_packets(session, "b0", 20));
  CHECK_EQ(find(session, "a0").packets_captured, 10);
  const char *const absent[] = {"b0", "nosuch0"}, *const twice[] = {"b0", "b0"};
  CHECK_EQ(sonde_session_interfaces_set(session, absent, 2, &error), SONDE_INTERFACE_INVALID);
  CHECK(strstr(error.detail, "nosuch0"));
  CHECK_EQ(sonde_session_interfaces_set(session, twice, 2, &error), SONDE_INTERFACE_INVALID);
  CHECK(find(session, "b0").captured);
  CHECK_EQ(find(session, "nosuch0").slot, UINT32_MAX);
  end(session);
  CHECK_EQ(sonde_session_interfaces_set(session, second, 1, &error), SONDE_STATE);
  sonde_session_close(session);
}

/* 64 names fill the slots. Then a new name takes the slot of a removed interface, but not while a
 * flow refers to it. */
static void names_replace_removed_ones(void) {
  enum { PAIRS = 33 };
  char name[2 * PAIRS][16];
  const char *names[1 + 2 * PAIRS] = {"a0"};
  workers = 1;
  ring_bytes = 1 << 20;
  for (uint32_t i = 0; i < 2 * PAIRS; i++) {
    snprintf(name[i], sizeof name[i], "m%u%u", i / 2, i % 2);
    names[1 + i] = name[i];
    if (i % 2)
      live_run("ip link add %s type veth peer name %s && ip link set %s up && ip link set %s up",
               name[i - 1], name[i], name[i - 1], name[i]);
  }
  live_wait_up("m00");
  live_wait_up("m01");
  struct sonde_session *session = begin("af_packet", names, 1, 1 << 24);
  struct sonde_error error;
  CHECK_EQ(sonde_session_interfaces_set(session, names, 65, &error), SONDE_INTERFACE_INVALID);
  set(session, names, 64);
  send_frames(names[2], 3, 5); /* arrives at names[1], in slot 1, and leaves at slot 2 */
  CHECK(await_packets(session, names[1], 3));
  CHECK(await_packets(session, names[2], 3));
  set(session, names, 1);
  const char *const new_names[] = {"a0", names[65], names[66]};
  set(session, new_names, 3);
  CHECK_EQ(find(session, names[65]).slot, 3);
  CHECK_EQ(find(session, names[66]).slot, 4);
  CHECK_EQ(find(session, names[1]).packets_captured, 3);
  CHECK_EQ(find(session, names[3]).slot, UINT32_MAX);
  live_wait_up(names[65]);
  send_frames(names[66], 9, 5);
  CHECK(await_packets(session, names[65], 9));
  CHECK(await_packets(session, names[66], 9));
  struct sums sums = end(session);
  CHECK_EQ(sums.packets[1] + sums.packets[2], 6);
  CHECK_EQ(sums.packets[3] + sums.packets[4], 18);
  sonde_session_close(session);
}

static void other_backends_have_one_interface(void) {
  const char *const names[] = {"a0", "b0"};
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(open_on("file", names, 2, 0, &session, &error), SONDE_INTERFACE_INVALID);
  CHECK(strstr(error.detail, "backend file captures from one interface"));
  CHECK_EQ(open_on("af_packet", names, 0, 0, &session, &error), SONDE_INTERFACE_INVALID);
}

int main(void) {
  live_begin();
  make_pair("a");
  make_pair("b");
  make_pair("c");
  for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {

    every_interface_is_counted(backends[i]);
    others_change_under_load(backends[i]);
    one_is_recreated_under_load(backends[i]);
    all_interfaces_leave(backends[i]);
  }
  other_backends_have_one_interface();
  names_replace_removed_ones();
  return check_report();
}
