/* receive_test.c - a worker that receives from several simulated backends.
 *
 * Most cases call sonde_worker_receive without a thread, so each call's source is known. The last
 * ones run the worker's thread.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "core/worker.h"
#include "live.h"

enum { SOURCES = 3, TRIES = 20000 };

/* A simulated source. The test's thread adds packets and sets the status. */
struct sonde_backend {
  _Atomic int pending; /* packets to hand over */
  _Atomic int status;  /* returned instead, if not 0 */
  _Atomic uint32_t reads;
  int fd; /* readable with packets; -1: the source must be read often */
};

static struct live_frame frame;
static struct sonde_backend backends[SOURCES];
static struct sonde_source sources[SOURCES];
static struct sonde_events events;
static struct sonde_wake export_wake = {.fd = -1};

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  (void)queue;
  (void)error;
  atomic_fetch_add(&backend->reads, 1);
  if (timeout_ms > 0 && !atomic_load(&backend->pending))
    usleep(1000);
  if (atomic_load(&backend->status))
    return atomic_load(&backend->status);
  int count = atomic_load(&backend->pending);
  count = count < (int)max ? count : (int)max;
  for (int i = 0; i < count; i++)
    packets[i] = (struct sonde_packet){.data = frame.bytes,
                                       .caplen = (uint32_t)frame.length,
                                       .wirelen = (uint32_t)frame.length,
                                       .linktype = SONDE_LINKTYPE_ETHERNET};
  eventfd_t ignored;
  if (atomic_fetch_sub(&backend->pending, count) == count && backend->fd >= 0)
    eventfd_read(backend->fd, &ignored);
  return count;
}

static int poll_fd(struct sonde_backend *backend, uint32_t queue, int *timeout_ms) {
  (void)queue;
  if (backend->fd < 0)
    *timeout_ms = 1;
  return backend->fd;
}

static void wake(struct sonde_backend *backend) {
  (void)backend;
}

static const struct sonde_backend_ops ops = {.receive = receive, .poll_fd = poll_fd, .wake = wake};

static void add(uint32_t number, int packets) {
  atomic_fetch_add(&backends[number].pending, packets);
  if (backends[number].fd >= 0)
    eventfd_write(backends[number].fd, 1);
}

static struct sonde_worker *make(void) {
  struct sonde_worker *worker = aligned_alloc(64, sizeof *worker);
  memset(worker, 0, sizeof *worker);
  sonde_worker_init(worker);
  worker->live = true;
  worker->events = &events;
  worker->export_wake = &export_wake;
  worker->decoder = sonde_decoder_create(0, NULL);
  worker->table = sonde_flow_table_create(
      &(struct sonde_flow_config){.flows_max = 64, .sink = sonde_worker_sink(worker)});
  sonde_worker_metering_set(worker, false, 1000000000000, 1000000000000);
  for (uint32_t i = 0; i < SOURCES; i++) {
    backends[i] = (struct sonde_backend){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    sources[i] = (struct sonde_source){
        .ops = &ops, .backend = &backends[i], .slot = (uint16_t)(10 * i), .info = {.queues = 1}};
    sonde_worker_attach(worker, &sources[i]);
  }
  return worker;
}

static void release(struct sonde_worker *worker) {
  sonde_worker_release(worker);
  free(worker);
  for (uint32_t i = 0; i < SOURCES; i++)
    if (backends[i].fd >= 0)
      close(backends[i].fd);
}

static int receive_now(struct sonde_worker *worker) {
  struct sonde_error error = {0};
  return sonde_worker_receive(worker, &error);
}

/* Receives until the packets of source `number` come. Returns how many batches came before. */
static uint32_t batches_before(struct sonde_worker *worker, uint32_t number) {
  for (uint32_t batches = 0; batches < TRIES; batches++)
    if (receive_now(worker) > 0 && worker->feed->source == &sources[number])
      return batches;
  return TRIES;
}

static void packets_carry_their_source(void) {
  struct sonde_worker *worker = make();
  for (uint32_t i = 0; i < SOURCES; i++) {
    add(i, 5);
    CHECK_EQ(batches_before(worker, i), 0);
    for (uint32_t p = 0; p < 5; p++)
      CHECK_EQ(worker->packets[p].source, 10 * i);
  }
  CHECK_EQ(receive_now(worker), 0);
  release(worker);
}

/* A source that always has packets delays another one by a few batches. */
static void a_busy_source_lets_others_in(void) {
  struct sonde_worker *worker = make();
  add(0, 1 << 30);
  CHECK_EQ(batches_before(worker, 0), 0);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 40; i++)
      CHECK_EQ(receive_now(worker), SONDE_WORKER_BATCH);
    add(1, 1);
    add(2, 1);
    CHECK(batches_before(worker, 1) < 40);
    add(2, 1); /* source 2 may have come before source 1 */
    CHECK(batches_before(worker, 2) < 40);
    add(2, -atomic_load(&backends[2].pending));
  }
  release(worker);
}

static void every_source_is_read_again_and_again(void) {
  struct sonde_worker *worker = make();
  close(backends[2].fd);
  backends[2].fd = -1;
  uint32_t tries = 0;
  do {
    CHECK_EQ(receive_now(worker), 0);
  } while ((atomic_load(&backends[0].reads) < 3 || atomic_load(&backends[2].reads) < 20) &&
           ++tries < TRIES);
  CHECK(tries < TRIES);
  release(worker);
}

/* A source whose link is down reports once in a while and does not stop the others. */
static void a_link_that_is_down_delays_nothing(void) {
  struct sonde_worker *worker = make();
  atomic_store(&backends[1].status, SONDE_LINK_DOWN);
  add(1, 0);
  int status;
  for (int i = 0; i < TRIES && (status = receive_now(worker)) != SONDE_LINK_DOWN; i++)
    ;
  CHECK_EQ(status, SONDE_LINK_DOWN);
  CHECK(worker->feed->source == &sources[1]);
  add(0, 1);
  CHECK(batches_before(worker, 0) < 4);
  atomic_store(&backends[1].status, 0);
  add(1, 1);
  CHECK(batches_before(worker, 1) < TRIES);
  release(worker);
}

static void a_drain_reads_all(void) {
  struct sonde_worker *worker = make();
  for (uint32_t i = 0; i < SOURCES; i++)
    add(i, 100);
  atomic_store(&backends[1].status, SONDE_LINK_DOWN);
  atomic_store(&worker->draining, true);
  int packets = 0, received;
  while ((received = receive_now(worker)) > 0)
    packets += received;
  CHECK_EQ(received, 0);
  CHECK_EQ(packets, 200);
  release(worker);
}

static bool await_slot(struct sonde_worker *worker, uint32_t number, uint64_t packets) {
  struct sonde_slot_counters counters;
  for (int tries = 0; tries < TRIES; tries++) {
    sonde_worker_slot_counters(worker, sources[number].slot, &counters);
    if (counters.packets_captured == packets)
      return true;
    usleep(1000);
  }
  return false;
}

/* A failed source leaves the worker until it is attached again. The others continue. */
static void a_failed_source_leaves_the_others(void) {
  struct sonde_worker *worker = make();
  struct sonde_event event = {0};
  live_need(sonde_worker_start(worker) == 0, "thread");
  add(0, 7);
  add(1, 8);
  CHECK(await_slot(worker, 0, 7));
  CHECK(await_slot(worker, 1, 8));
  atomic_store(&backends[1].status, SONDE_SYSTEM);
  add(1, 0);
  for (int tries = 0; tries < TRIES && !atomic_load(&sources[1].broken); tries++)
    usleep(1000);
  CHECK(atomic_load(&sources[1].broken));
  CHECK_EQ(sonde_events_take(&events, &event, 1), 1);
  CHECK_EQ(event.kind, SONDE_EVENT_BACKEND_ERROR);
  add(0, 3);
  CHECK(await_slot(worker, 0, 10));
  atomic_store(&backends[1].status, 0);
  sonde_worker_attach(worker, &sources[1]);
  add(1, 100);
  CHECK(await_slot(worker, 1, 108));
  add(2, 1000);
  sonde_worker_detach(worker, &sources[2]); /* meters the backlog */
  CHECK(await_slot(worker, 2, 1000));
  add(2, 5);
  sonde_worker_drain(worker);
  pthread_join(worker->thread, NULL);
  CHECK(await_slot(worker, 2, 1000));
  CHECK_EQ(worker->counters.packets_captured, 10 + 108 + 1000);
  CHECK_EQ(worker->counters.flow.flows_active, 3); /* the same flow in three places */
  release(worker);
}

int main(void) {
  frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  live_need(sonde_events_init(&events) == 0, "events");
  packets_carry_their_source();
  a_busy_source_lets_others_in();
  every_source_is_read_again_and_again();
  a_link_that_is_down_delays_nothing();
  a_drain_reads_all();
  a_failed_source_leaves_the_others();
  sonde_events_release(&events);
  return check_report();
}
