/* simulated_exporter.h - runs the loop of the export thread on the test's thread and clock.
 *
 * The linker redirects the core's ppoll, clock_gettime and pthread_mutex_lock to this file (see
 * CMakeLists.txt). Each sleep runs the next step of a test, which checks the length of the sleep,
 * adds records and advances the clock. Rings, collectors and sockets are real.
 */
#ifndef SONDE_TESTS_SIMULATED_EXPORTER_H
#define SONDE_TESTS_SIMULATED_EXPORTER_H

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "exporter/exporter.h"
#include "exporter/state.h"

enum {
  RING = 1024,
  WORKERS = 3,
  FOREIGN = WORKERS, /* behind the last worker: has a backlog, which the loop must not touch */
  ALLOCATED = WORKERS + 1,
  CLOCK_READS_MAX = 100000,
  V5_HEAD = 24,
  V5_RECORD = 48,
  V5_RECORDS = 28
};
static const uint64_t SECOND = 1000000000, MS = 1000000, WALL = 1700000000000000000;
static const uint64_t DISTANT_NS = 1000000000000;

static struct sonde_session *session;
static struct sonde_exporter *exporter;
static uint64_t now_ns, dropped;
static uint32_t clock_reads, locks, records_put;
static int receiver;
static uint16_t receiver_port;

/* The step of the sleep: `asked` nanoseconds. Returns after how many the thread wakes. */
static uint64_t (*step)(int number, uint64_t asked);
static int steps;

/* Runs once, when the thread locks its exporter for the second time after a sleep: when it finishes
 * a flush. */
static void (*at_second_lock)(void);

int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time);
int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);

int __wrap_clock_gettime(clockid_t clock, struct timespec *time) {
  uint64_t read_ns = clock == CLOCK_REALTIME ? WALL + now_ns : now_ns;
  if (++clock_reads > CLOCK_READS_MAX) {
    CHECK(!"the thread sleeps");
    exit(check_report());
  }
  *time = (struct timespec){(time_t)(read_ns / SECOND), (long)(read_ns % SECOND)};
  return 0;
}

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask) {
  const struct timespec at_once = {0};
  CHECK_EQ(count, 1 + exporter->collector_count);
  clock_reads = locks = 0;
  now_ns += step(steps++, (uint64_t)timeout->tv_sec * SECOND + (uint64_t)timeout->tv_nsec);
  return __real_ppoll(fds, count, &at_once, mask);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock) {
  if (exporter && lock == &exporter->lock && ++locks == 2 && at_second_lock) {
    void (*hook)(void) = at_second_lock;
    at_second_lock = NULL;
    hook();
  }
  return __real_pthread_mutex_lock(lock);
}

/* ---- the session ------------------------------------------------------------------------ */

static inline void source_stats(struct sonde_backend *backend, struct sonde_backend_stats *stats) {
  (void)backend;
  stats->dropped = dropped;
}

static const struct sonde_backend_ops source = {.stats = source_stats};

static inline void make_worker(uint32_t number) {
  struct sonde_worker *worker = &session->workers[number];
  sonde_worker_init(worker);
  worker->joined = true;
  worker->export_wake = &session->export_wake;
  sonde_ring_init(&worker->ring, session->records + number * RING, RING);
  sonde_ring_enable(&worker->ring, SONDE_RING_EXPORT);
  worker->table = sonde_flow_table_create(
      &(struct sonde_flow_config){.flows_max = 16, .sink = sonde_worker_sink(worker)});
  sonde_worker_metering_set(worker, true, SECOND, 60 * SECOND);
}

static inline void make_session(void) {
  now_ns = DISTANT_NS;
  dropped = records_put = 0;
  steps = 0;
  session = calloc(1, sizeof *session);
  static struct sonde_source first = {.ops = &source};
  session->ops = &source;
  session->slots[0].source = &first;
  session->slot_count = 1;
  session->info.live = true;
  session->state = SONDE_SESSION_RUNNING;
  session->worker_count = WORKERS;
  session->records = calloc(ALLOCATED * RING, sizeof *session->records);
  session->flush_cursors = calloc(WORKERS, sizeof *session->flush_cursors);
  session->workers = aligned_alloc(64, ALLOCATED * sizeof *session->workers);
  memset(session->workers, 0, ALLOCATED * sizeof *session->workers);
  pthread_mutex_init(&session->info_lock, NULL);
  session->export_wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  session->events.wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  for (uint32_t i = 0; i < ALLOCATED; i++)
    make_worker(i);
  atomic_store(&session->workers[FOREIGN].ring.producer.head, RING);
  struct sonde_error error;
  CHECK_EQ(sonde_exporter_create(session, &exporter, &error), SONDE_OK);
  exporter->ended = false;
}

static inline void release_session(void) {
  CHECK_EQ(sonde_ring_waiting(&session->workers[FOREIGN].ring), RING);
  sonde_exporter_destroy(exporter);
  for (uint32_t i = 0; i < ALLOCATED; i++)
    sonde_worker_release(&session->workers[i]);
  close(session->export_wake.fd);
  close(session->events.wake.fd);
  pthread_mutex_destroy(&session->info_lock);
  free(session->flush_cursors);
  free(session->workers);
  free(session->records);
  free(session);
}

static inline void listen_on_loopback(void) {
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t bytes = sizeof any;
  int room = 1 << 20;
  receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  CHECK_EQ(bind(receiver, (struct sockaddr *)&any, sizeof any), 0);
  CHECK_EQ(getsockname(receiver, (struct sockaddr *)&any, &bytes), 0);
  receiver_port = ntohs(any.sin_port);
}

static struct sonde_collector *add_collector(int version) {
  const struct sonde_collector_config config = {
      .address = "127.0.0.1", .port = receiver_port, .version = version};
  const struct sonde_encoder_config encoder = {.interface = "eth0", .start_ns = WALL};
  struct sonde_collector *collector = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_collector_create(&config, &encoder, &collector, &error), SONDE_OK);
  sonde_exporter_attach(exporter, collector);
  exporter->collectors[exporter->collector_count++] = collector;
  return collector;
}

/* A collector that sends no message for years. */
static inline void stall(struct sonde_collector *collector) {
  collector->pace = 1;
  collector->credit_bytes = 0;
  collector->credit_ns = now_ns;
}

static inline void run(uint64_t (*test)(int number, uint64_t asked), int steps_expected) {
  step = test;
  sonde_exporter_run(exporter);
  CHECK_EQ(steps, steps_expected);
  CHECK(exporter->ended);
}

static inline void end(void) {
  exporter->ending = true;
  atomic_store(&exporter->called, true);
}

/* ---- records ---------------------------------------------------------------------------- */

/* Adds records without waking the thread. Record n of a test has n as its source port. */
static inline void put_silently(uint32_t worker, uint32_t count) {
  struct sonde_ring *ring = &session->workers[worker].ring;
  for (uint32_t i = 0; i < count; i++) {
    struct sonde_record *record = sonde_ring_reserve(ring);
    CHECK(record != NULL);
    if (!record)
      return;
    records_put++;
    *record = (struct sonde_record){
        .flow_id = records_put,
        .first_ns = WALL,
        .last_ns = WALL,
        .packets = {1},
        .bytes = {100},
        .source_ip = {10, 0, 0, 1},
        .dest_ip = {192, 0, 2, 1},
        .source_port = (uint16_t)records_put,
        .dest_port = 53,
        .ip_version = 4,
        .protocol = 17,
        .end_reason = SONDE_END_IDLE,
        .mpls_label = UINT32_MAX,
        .sampling_interval = 1,
    };
    sonde_ring_commit(ring);
  }
}

static inline void put(uint32_t worker, uint32_t count) {
  put_silently(worker, count);
  sonde_wake_signal(&session->export_wake);
}

static inline uint32_t lag(const struct sonde_collector *collector, uint32_t worker) {
  return sonde_ring_head(&session->workers[worker].ring) - collector->positions[worker];
}

/* Returns the number of v5 records received since the last call, which follow each other. */
static inline uint32_t received(void) {
  uint8_t message[2048];
  uint32_t count = 0, port = 0;
  for (ssize_t bytes; (bytes = recv(receiver, message, sizeof message, 0)) > 0;) {
    CHECK_EQ(bytes, V5_HEAD + message[3] * V5_RECORD);
    for (uint32_t i = 0; i < message[3]; i++, count++) {
      const uint8_t *at = message + V5_HEAD + i * V5_RECORD + 32;
      uint32_t number = (uint32_t)at[0] << 8 | at[1];
      CHECK(count == 0 || number == port + 1);
      port = number;
    }
  }
  return count;
}

static inline bool signalled(struct sonde_wake *wake) {
  struct pollfd fd = {.fd = wake->fd, .events = POLLIN};
  return poll(&fd, 1, 0) == 1;
}

#endif
