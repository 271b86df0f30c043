/* shared_receive.c - hands over the packets and flow deltas of a shared capture.
 *
 * While packets arrive, programs do not wake the reader: it sleeps briefly, not longer than the
 * ring can absorb, and then reads everything. After a quiet period it arms the programs, so
 * that the next packet wakes it, and sleeps until then.
 */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "host/clock.h"
#include "shared.h"

static const uint64_t SCAN_MIN_NS = 20000000;  /* from one scan of the slots to the next … */
static const uint64_t SCAN_MAX_NS = 900000000; /* … at least and at most */
static const uint64_t SCAN_SLOT_NS = 100000;   /* limits scans to a few percent of a core */
static const uint64_t QUIET_NS = 20000000;     /* arm after this long without packets */
static const uint64_t SLEEP_MAX_NS = 1000000;  /* between two reads of a ring that fills */
static const uint64_t SLEEP_SCAN_NS = 8000000; /* the same when few packets use the ring */

/* ---- from the kernel's records to packets -------------------------------------------------- */

static void fill_delta(const struct sonde_delta *from, uint64_t epoch_ns, struct sonde_delta *to,
                       struct sonde_packet *packet) {
  if (to != from)
    *to = *from;
  for (unsigned side = 0; side < 2; side++) {
    to->first_ns[side] += epoch_ns;
    to->last_ns[side] += epoch_ns;
  }
  *packet = (struct sonde_packet){
      .data = (const uint8_t *)to,
      .caplen = sizeof *to,
      .linktype = SONDE_LINKTYPE_DELTA,
      .time_ns = to->first_ns[to->first_side & 1],
  };
}

static uint32_t read_records(const struct shared *shared, struct shared_queue *queue,
                             uint64_t epoch_ns, struct sonde_packet *packets, uint32_t max) {
  const struct xdp_record *record;
  uint32_t count = 0;
  while (count < max && (record = bpf_ring_next(&queue->ring))) {
    const uint8_t *data = (const uint8_t *)(record + 1);
    __builtin_prefetch(data + 64);
    if (record->kind == XDP_RECORD_DELTA) {
      fill_delta((const void *)data, epoch_ns, &queue->deltas[count], &packets[count]);
      count++;
      continue;
    }
    packets[count++] = (struct sonde_packet){
        .data = data,
        .time_ns = record->time_ns + epoch_ns,
        .caplen = record->caplen,
        .wirelen = record->wirelen,
        .linktype = shared->interface.linktype,
        .gso_size = record->gso_size,
        .direction = record->direction,
    };
  }
  return count;
}

static uint64_t scan_pause(uint32_t taken) {
  uint64_t pause = taken * SCAN_SLOT_NS;
  return pause < SCAN_MIN_NS ? SCAN_MIN_NS : pause > SCAN_MAX_NS ? SCAN_MAX_NS : pause;
}

/* Ends a scan with a mark: every packet from before the scan has been handed over. */
static uint32_t read_slots(struct shared_queue *queue, struct xdp_control *control,
                           uint64_t epoch_ns, uint64_t now_ns, struct sonde_packet *packets,
                           uint32_t max) {
  uint32_t count = slots_read(&queue->slots, queue->deltas, max - 1);
  for (uint32_t i = 0; i < count; i++)
    fill_delta(&queue->deltas[i], epoch_ns, &queue->deltas[i], &packets[i]);
  if (count == max - 1)
    return count;
  if (queue->slots.taken)
    queue->busy_ns = now_ns;
  packets[count++] = (struct sonde_packet){
      .data = (const uint8_t *)queue->deltas,
      .linktype = SONDE_LINKTYPE_DELTA,
      .time_ns = queue->scan_asked_ns + epoch_ns,
  };
  queue->scan_due_ns = now_ns + scan_pause(queue->slots.taken);
  slots_use(&queue->slots, &control->slots_used);
  queue->slots.before_ns = 0;
  queue->scan_asked_ns = 0;
  return count;
}

/* Returns 0 if no scan is due, or if the ring must be read further first. */
static uint32_t scan(struct shared_queue *queue, struct xdp_control *control, bool last,
                     uint64_t epoch_ns, struct sonde_packet *packets, uint32_t max) {
  uint64_t now_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  if (queue->scan_asked_ns == 0) {
    if (!last && now_ns < queue->scan_due_ns)
      return 0;
    queue->scan_asked_ns = now_ns;
    queue->ring_target = bpf_ring_written(&queue->ring);
  }
  if (queue->slots.before_ns == 0) {
    if (queue->ring.position < queue->ring_target)
      return 0;
    slots_begin(&queue->slots, last ? UINT64_MAX : queue->scan_asked_ns);
  }
  return read_slots(queue, control, epoch_ns, now_ns, packets, max);
}

/* ---- waiting ------------------------------------------------------------------------------- */

static void sleep_for(const struct shared_queue *queue, bool armed, uint64_t sleep_ns) {
  struct pollfd fds[2] = {{.fd = queue->wake_fd, .events = POLLIN},
                          {.fd = queue->ring.fd, .events = POLLIN}};
  struct timespec timeout = {.tv_sec = (time_t)(sleep_ns / 1000000000),
                             .tv_nsec = (long)(sleep_ns % 1000000000)};
  if (ppoll(fds, armed ? 2 : 1, &timeout, NULL) > 0 && fds[0].revents) {
    eventfd_t ignored;
    eventfd_read(queue->wake_fd, &ignored);
  }
}

/* A running scan may hold claims that it has already removed from the bits. */
static bool is_quiet(const struct shared_queue *queue) {
  return queue->slots.before_ns == 0 && queue->ring.position == bpf_ring_written(&queue->ring) &&
         !slots_any(&queue->slots);
}

static bool was_busy(const struct shared_queue *queue) {
  return sonde_clock_ns(CLOCK_MONOTONIC) - queue->busy_ns < QUIET_NS || !is_quiet(queue);
}

/* How long a reader may sleep while programs do not wake it. */
static uint64_t busy_sleep_ns(const struct shared *shared, const struct shared_queue *queue) {
  uint64_t sleep_ns = shared->slot_count ? SLEEP_SCAN_NS : SLEEP_MAX_NS;
  uint64_t fills_ns = queue->ring.bytes / 4; /* 1 GB/s fills a quarter of the ring in this time */
  return fills_ns < sleep_ns ? fills_ns : sleep_ns;
}

/* Sleeps once, at most timeout_ns. */
static void wait(struct shared *shared, uint32_t number, uint64_t timeout_ns) {
  struct shared_queue *queue = &shared->queues[number];
  uint32_t *armed = &shared->control[number].armed;
  if (!was_busy(queue)) {
    __atomic_store_n(armed, 1, __ATOMIC_SEQ_CST);
    if (is_quiet(queue))
      sleep_for(queue, true, timeout_ns);
    __atomic_store_n(armed, 0, __ATOMIC_SEQ_CST);
    return;
  }
  uint64_t sleep_ns = busy_sleep_ns(shared, queue);
  sleep_for(queue, false, timeout_ns < sleep_ns ? timeout_ns : sleep_ns);
}

int shared_poll_fd(struct shared *shared, uint32_t number, int *timeout_ms) {
  struct shared_queue *queue = &shared->queues[number];
  uint32_t *armed = &shared->control[number].armed;
  if (!was_busy(queue) && !atomic_load(&shared->quiesced)) {
    __atomic_store_n(armed, 1, __ATOMIC_SEQ_CST);
    queue->armed = true;
    if (is_quiet(queue))
      return queue->ring.fd;
  }
  int sleep_ms = (int)((busy_sleep_ns(shared, queue) + 999999) / 1000000);
  *timeout_ms = *timeout_ms < sleep_ms ? *timeout_ms : sleep_ms;
  return -1;
}

int shared_receive(struct shared *shared, uint32_t number, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  (void)error;
  struct shared_queue *queue = &shared->queues[number];
  uint64_t begun_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  uint64_t epoch_ns = sonde_clock_epoch_offset();
  uint64_t timeout_ns = timeout_ms > 0 ? (uint64_t)timeout_ms * 1000000 : 0;
  max = max > SHARED_BATCH_MAX ? SHARED_BATCH_MAX : max;
  if (queue->armed)
    __atomic_store_n(&shared->control[number].armed, 0, __ATOMIC_SEQ_CST);
  queue->armed = false;
  bpf_ring_release(&queue->ring);
  for (;;) {
    bool last = atomic_load(&shared->quiesced);
    uint32_t count = 0;
    if (queue->slots.before_ns == 0)
      count = read_records(shared, queue, epoch_ns, packets, max);
    if (count) {
      queue->busy_ns = begun_ns;
      return (int)count;
    }
    if (shared->slot_count && !(last && is_quiet(queue)))
      count = scan(queue, &shared->control[number], last, epoch_ns, packets, max);
    uint64_t spent_ns = sonde_clock_ns(CLOCK_MONOTONIC) - begun_ns;
    if (count || last || spent_ns >= timeout_ns)
      return (int)count;
    wait(shared, number, timeout_ns - spent_ns);
  }
}
