/* owner_ports_test.c - sockets that have one port at once, or one after the other: whose is a flow?
 */
#include "owner_sockets.h"

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

/* The owner of a flow from the event's socket, with times after start_ns; received: from the other
 * end. */
static struct sonde_owner owner_between(const struct sonde_owner_event *event, uint64_t start_ns,
                                        int first_ms, int last_ms, bool received) {
  struct sonde_record record = record_of(event, 0);
  record.first_ns = record.flow_start_ns = start_ns + (uint64_t)(first_ms * (int64_t)MS);
  record.last_ns = start_ns + (uint64_t)(last_ms * (int64_t)MS);
  if (received) {
    memcpy(record.dest_ip, record.source_ip, sizeof record.dest_ip);
    memcpy(record.source_ip, (uint8_t[16]){10, 9, 0, 99}, sizeof record.source_ip);
    record.dest_port = record.source_port;
    record.source_port = SERVER;
  }
  return owner_of_record(&record);
}

static uint32_t pid_of(const struct sonde_owner_event *event, uint64_t start_ns, int first_ms,
                       int last_ms, bool received) {
  return owner_between(event, start_ns, first_ms, last_ms, received).pid;
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

static const uint8_t LOOPBACK[16] = {127, 0, 0, 9}, ANY[16];
static uint32_t last_pid = 1u << 29;

/* A UDP socket of this namespace, at LOOPBACK or at any address. */
static struct sonde_owner_event socket_at(const uint8_t local[16], uint16_t port,
                                          uint64_t time_ns) {
  struct sonde_owner_event event = event_of(SONDE_SOCKET_NAMED, SONDE_IP_UDP, 0, port, ++last_pid);
  event.netns = tracker->netns;
  event.time_ns = time_ns;
  memcpy(event.local, local, sizeof event.local);
  return event;
}

static void close_at(const struct sonde_owner_event *event, uint64_t time_ns) {
  struct sonde_owner_event gone = *event;
  gone.kind = SONDE_SOCKET_GONE;
  gone.time_ns = time_ns;
  put(&gone);
}

/* Waits until all events so far are in the index. */
static void settle(void) {
  static uint16_t port = 50000;
  struct sonde_owner_event last =
      socket_at(LOOPBACK, port++, sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS);
  put(&last);
  await_owner(&last, last.pid, 0);
}

struct expected {
  int first_ms, last_ms;
  bool received;
  const struct sonde_owner_event *owner;
  bool shared;
};

/* Compares owners of flows of LOOPBACK. Times are after start_ns, of CLOCK_MONOTONIC. */
static void check_flows(const struct expected *flows, unsigned count, uint64_t start_ns) {
  start_ns += sonde_clock_epoch_offset();
  for (unsigned i = 0; i < count; i++) {
    struct sonde_owner_event end = *flows[i].owner;
    memcpy(end.local, LOOPBACK, sizeof end.local);
    struct sonde_owner owner =
        owner_between(&end, start_ns, flows[i].first_ms, flows[i].last_ms, flows[i].received);
    CHECK_EQ(owner.pid, flows[i].owner->pid);
    CHECK_EQ(owner.shared, flows[i].shared);
  }
}

#define CHECK_FLOWS(flows, start_ns) check_flows(flows, sizeof(flows) / sizeof(flows)[0], start_ns)

/* One process has the port from 0 to 10 ms, and another one from 20 ms on. */
static void check_two_processes(const uint8_t one_at[16], const uint8_t other_at[16]) {
  static uint16_t port = 45000;
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event one = socket_at(one_at, ++port, start_ns);
  struct sonde_owner_event other = socket_at(other_at, port, start_ns + 20 * MS);
  put(&one);
  close_at(&one, start_ns + 10 * MS);
  put(&other);
  settle();
  const struct expected flows[] = {
      {5, 8, false, &one, false},   {5, 15, false, &one, false},   {5, 25, false, &one, true},
      {5, 25, true, &one, true},    {15, 25, true, &other, false}, {25, 30, false, &other, false},
      {-300, 5, false, &one, true}, /* an unknown socket sent the first packet */
      {-300, 5, true, &one, false},
  };
  CHECK_FLOWS(flows, start_ns);
}

/* One process opens two sockets, one after the other. */
static void check_one_process(void) {
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event one = socket_at(LOOPBACK, 46000, start_ns);
  struct sonde_owner_event other = socket_at(LOOPBACK, 46000, start_ns + 20 * MS);
  other.pid = one.pid;
  other.how = SONDE_OWNER_CREATE;
  put(&one);
  close_at(&one, start_ns + 10 * MS);
  put(&other);
  settle();
  const struct expected flows[] = {{5, 25, false, &one, false}, {25, 30, false, &other, false}};
  CHECK_FLOWS(flows, start_ns);
}

/* A server receives at any address. From 10 ms on, a process has a socket with the address: bound
 * to it, or connected to another host. */
static void check_server_and_worker(uint16_t port, uint8_t how) {
  bool connected = how == SONDE_OWNER_CONNECT;
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event server = socket_at(ANY, port, start_ns);
  struct sonde_owner_event worker = socket_at(LOOPBACK, port, start_ns + 10 * MS);
  worker.how = how;
  put(&server);
  put(&worker);
  settle();
  const struct expected before[] = {
      {5, 8, true, &server, false},
      {5, 15, true, &server, true},
      {15, 20, true, &worker, connected},
  };
  CHECK_FLOWS(before, start_ns);
  close_at(&worker, start_ns + 30 * MS);
  settle();
  const struct expected after[] = {
      {15, 20, true, &worker, connected},
      {15, 35, true, &worker, true},
      {32, 35, true, &server, false},
      {5, 35, true, &server, true},
  };
  CHECK_FLOWS(after, start_ns);
  close_at(&server, start_ns + 40 * MS);
  settle();
  const struct expected last[] = {{5, 45, true, &server, true}};
  CHECK_FLOWS(last, start_ns);
}

/* A process is bound to the address from 0 to 40 ms, and a server to all from 10 to 30 ms. */
static void check_address_and_server(void) {
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event bound = socket_at(LOOPBACK, 47002, start_ns);
  struct sonde_owner_event server = socket_at(ANY, 47002, start_ns + 10 * MS);
  bound.how = SONDE_OWNER_CREATE;
  put(&bound);
  put(&server);
  close_at(&server, start_ns + 30 * MS);
  close_at(&bound, start_ns + 40 * MS);
  settle();
  const struct expected flows[] = {
      {15, 20, true, &bound, false},
      {5, 35, true, &bound, false},
      {15, 45, true, &bound, false},
  };
  CHECK_FLOWS(flows, start_ns);
}

/* The clocks of packets and events differ a little. */
static void check_just_reported(void) {
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event server = socket_at(ANY, 47003, start_ns);
  struct sonde_owner_event bound = socket_at(LOOPBACK, 47003, start_ns + 10 * MS + MS / 10);
  struct sonde_owner_event late = socket_at(ANY, 47004, start_ns + 20 * MS);
  struct sonde_owner_event connected = socket_at(LOOPBACK, 47004, start_ns);
  bound.how = SONDE_OWNER_CREATE;
  late.late = 1;
  put(&server);
  put(&bound);
  put(&late);
  put(&connected);
  settle();
  const struct expected flows[] = {
      {10, 20, false, &bound, false},
      {5, 15, false, &connected, false},
      {5, 25, false, &connected, true},
  };
  CHECK_FLOWS(flows, start_ns);
}

/* A flow continues with another process, which is reported after its first send. */
static void check_later_record(void) {
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event one = socket_at(LOOPBACK, 49000, start_ns);
  struct sonde_owner_event other = socket_at(LOOPBACK, 49000, start_ns + 20 * MS);
  other.late = 1;
  put(&one);
  close_at(&one, start_ns + 10 * MS);
  put(&other);
  settle();
  struct sonde_record record = record_of(&other, 0);
  uint64_t epoch_ns = start_ns + sonde_clock_epoch_offset();
  record.flow_start_ns = epoch_ns + 5 * MS;
  record.first_ns = epoch_ns + 19 * MS;
  record.last_ns = epoch_ns + 25 * MS;
  struct sonde_owner owner = owner_of_record(&record);
  CHECK_EQ(owner.pid, other.pid);
  CHECK_EQ(owner.shared, 0);
}

/* A socket that has sent is connected later, with its own address: it is one socket. */
static void check_reported_twice(void) {
  uint64_t start_ns = sonde_clock_ns(CLOCK_MONOTONIC) - SECOND_NS;
  struct sonde_owner_event sent = socket_at(ANY, 48000, start_ns), connected = sent;
  memcpy(connected.local, LOOPBACK, sizeof LOOPBACK);
  connected.time_ns += 20 * MS;
  put(&sent);
  put(&connected);
  close_at(&connected, start_ns + 30 * MS);
  struct sonde_owner_event next = socket_at(LOOPBACK, 48000, start_ns + 40 * MS);
  put(&next);
  settle();
  const struct expected flows[] = {
      {5, 25, false, &sent, false},
      {5, 45, false, &sent, true},
      {45, 50, false, &next, false},
  };
  CHECK_FLOWS(flows, start_ns);
}

int main(void) {
  open_tracker();
  check_port_changes_hands();
  check_one_port(false);
  check_one_port(true);
  check_wildcard_follows();
  check_two_processes(LOOPBACK, LOOPBACK);
  check_two_processes(LOOPBACK, ANY);
  check_two_processes(ANY, LOOPBACK);
  check_two_processes(ANY, ANY);
  check_one_process();
  check_server_and_worker(47000, SONDE_OWNER_CONNECT);
  check_server_and_worker(47001, SONDE_OWNER_CREATE);
  check_address_and_server();
  check_reported_twice();
  check_just_reported();
  check_later_record();
  close_tracker();
  return check_report();
}
