/* engine_poll.c - see engine_poll.h.
 *
 * A busy queue is polled without pause. An empty one is polled a few hundred times more. Then
 * the thread sleeps: on the packet socket if there is one, which is free while no packet
 * arrives, otherwise for some microseconds at a time.
 */
#include "engine_poll.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "engine_guard.h"
#include "host/clock.h"

enum {
  BURST = 64,
  POLLS_MAX = 300,     /* empty polls before the first sleep */
  FILE_END_POLLS = 16, /* empty polls that mean the end of a file */
  DRAIN_POLLS = 64,    /* empty polls that mean a drained port */
  DRAIN_PACKETS_MAX = 4096,
  SLEEP_NS = 50000,
  SOCKET_SLEEP_MS = 50,
  CLOCK_EVERY_NS = 1000000000,
  /* Ethernet, IPv4, UDP */
  FLOW_HEAD_BYTES = 42,
  TAG_AT = 12,
};

static void sleep_ns(long wait_ns) {
  nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
}

/* ---- frames for benchmarks ------------------------------------------------------------- */

/* Turns frames of a generator (zeros or copies) into UDP packets of `flows` flows of this queue,
 * one packet per flow in each round. */
static void fill_flow(struct poller *poller, struct rte_mbuf *mbuf) {
  static const uint8_t head[FLOW_HEAD_BYTES] = {2, 0, 0,    0, 0, 2, 2, 0, 0, 0, 0,  1,
                                                8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17};
  uint8_t *frame = rte_pktmbuf_mtod(mbuf, uint8_t *);
  uint32_t flow = (uint32_t)(poller->flow_next++ % poller->flows);
  uint16_t bytes = mbuf->data_len;
  if (bytes < FLOW_HEAD_BYTES)
    return;
  uint16_t ip_bytes = htons((uint16_t)(bytes - 14));
  uint16_t udp_bytes = htons((uint16_t)(bytes - 34));
  uint32_t addresses[2] = {htonl(0x0a000000 | flow >> 4), htonl(0x0b000001 + poller->queue)};
  uint16_t ports[2] = {htons((uint16_t)(1024 + (flow & 15))), htons(53)};
  memcpy(frame, head, sizeof head);
  memcpy(frame + 16, &ip_bytes, sizeof ip_bytes);
  memcpy(frame + 26, addresses, sizeof addresses);
  memcpy(frame + 34, ports, sizeof ports);
  memcpy(frame + 38, &udp_bytes, sizeof udp_bytes);
}

/* ---- into the ring ---------------------------------------------------------------------- */

static void copy_segments(const struct rte_mbuf *mbuf, uint8_t *to, uint32_t caplen) {
  for (; mbuf && caplen; mbuf = mbuf->next) {
    uint32_t bytes = mbuf->data_len < caplen ? mbuf->data_len : caplen;
    memcpy(to, rte_pktmbuf_mtod(mbuf, const uint8_t *), bytes);
    to += bytes;
    caplen -= bytes;
  }
}

/* Reinserts a tag that the port stripped without being configured to. */
static struct rte_mbuf *restore_tag(struct rte_mbuf *mbuf) {
  if (unlikely(mbuf->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED))
    rte_vlan_insert(&mbuf);
  return mbuf;
}

static struct shm_ring_record *reserve(struct poller *poller, uint32_t caplen) {
  struct shm_ring_writer *writer = &poller->writer;
  struct shm_ring_record *record = shm_ring_reserve(writer, caplen);
  if (likely(record)) {
    writer->full = false;
    return record;
  }
  if (poller->port->kind == ENGINE_FILE) {
    while (!record && !atomic_load(&poller->stopping) && !atomic_load(&poller->draining)) {
      if (shm_ring_publish(writer))
        eventfd_write(poller->doorbell, 1);
      sleep_ns(SLEEP_NS);
      record = shm_ring_reserve(writer, caplen);
    }
    return record;
  }
  atomic_fetch_add_explicit(&writer->shared->dropped, 1, memory_order_relaxed);
  if (!writer->full)
    atomic_fetch_add_explicit(&writer->shared->freezes, 1, memory_order_relaxed);
  writer->full = true;
  return NULL;
}

/* Adds the metadata that net_af_packet omits. It reinserts every tag as type 0x8100. */
static void add_metadata(struct shm_ring_record *record, const struct guard_frame *frame) {
  uint8_t *data = (uint8_t *)(record + 1);
  record->wirelen = frame->wirelen;
  record->time_ns = frame->time_ns;
  record->direction = frame->direction;
  if (frame->tpid && record->caplen > TAG_AT + 1) {
    data[TAG_AT] = (uint8_t)(frame->tpid >> 8);
    data[TAG_AT + 1] = (uint8_t)frame->tpid;
  }
}

static void write_burst(struct poller *poller, struct rte_mbuf **mbufs,
                        const struct guard_frame *frames, uint16_t count) {
  uint64_t now_ns = sonde_clock_ns(CLOCK_REALTIME);
  for (uint16_t i = 0; i < count; i++) {
    struct rte_mbuf *mbuf = mbufs[i] = restore_tag(mbufs[i]);
    if (poller->flows)
      fill_flow(poller, mbuf);
    uint32_t caplen = mbuf->pkt_len < poller->snaplen ? mbuf->pkt_len : poller->snaplen;
    struct shm_ring_record *record = reserve(poller, caplen);
    if (unlikely(!record))
      continue;
    record->wirelen = mbuf->pkt_len;
    record->direction = 0;
    record->time_ns = port_stamp(&poller->clock, mbuf, now_ns);
    copy_segments(mbuf, (uint8_t *)(record + 1), caplen);
    if (frames)
      add_metadata(record, &frames[i]);
  }
  if (shm_ring_publish(&poller->writer))
    eventfd_write(poller->doorbell, 1);
  rte_pktmbuf_free_bulk(mbufs, count);
  if (now_ns - poller->clock.epoch_base_ns >= CLOCK_EVERY_NS)
    port_clock_adjust(poller->port, &poller->clock);
}

/* ---- the loop --------------------------------------------------------------------------- */

static void rest(void) {
  int fd = guard_socket();
  if (fd < 0) {
    sleep_ns(SLEEP_NS);
    return;
  }
  struct pollfd one = {.fd = fd, .events = POLLIN};
  int trouble;
  socklen_t length = sizeof trouble;
  if (poll(&one, 1, SOCKET_SLEEP_MS) > 0 && !(one.revents & POLLIN)) {
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &trouble, &length); /* the interface is down or gone */
    sleep_ns(10 * SLEEP_NS);
  }
}

/* Is polling over, after this many empty polls? */
static bool is_over(const struct poller *poller, uint64_t received, uint64_t drained,
                    unsigned polls) {
  if (atomic_load_explicit(&poller->stopping, memory_order_relaxed))
    return true;
  if (poller->port->kind == ENGINE_FILE && polls >= FILE_END_POLLS)
    return true;
  if (!atomic_load_explicit(&poller->draining, memory_order_acquire))
    return false;
  /* A source that never becomes empty is drained up to a limit. */
  uint64_t until = atomic_load(&poller->drain_until);
  return until == UINT64_MAX ? polls >= DRAIN_POLLS || drained >= DRAIN_PACKETS_MAX
                             : received >= until;
}

/* With net_af_packet, reads only frames whose metadata has been read. */
static uint16_t read_burst(struct poller *poller) {
  struct rte_mbuf *mbufs[BURST];
  struct guard_frame frames[BURST];
  bool kernel = poller->port->kind == ENGINE_KERNEL;
  uint16_t count = kernel ? guard_peek(frames, BURST) : BURST;
  count = count ? rte_eth_rx_burst(poller->port->id, poller->queue, mbufs, count) : 0;
  if (kernel)
    guard_consume(count);
  if (count)
    write_burst(poller, mbufs, kernel ? frames : NULL, count);
  return count;
}

static void *run(void *argument) {
  struct poller *poller = argument;
  uint64_t received = 0;
  uint64_t drained = 0; /* packets read while draining */
  unsigned polls = 0;
  rte_thread_register(); /* on failure, packet buffers work without a cache */
  while (!is_over(poller, received, drained, polls)) {
    uint16_t count = read_burst(poller);
    if (count) {
      received += count;
      drained += atomic_load_explicit(&poller->draining, memory_order_relaxed) ? count : 0;
      polls = 0;
    } else if (++polls >= POLLS_MAX && !atomic_load(&poller->draining)) {
      rest();
    }
  }
  atomic_store(&poller->writer.shared->finished, 1);
  eventfd_write(poller->doorbell, 1);
  rte_thread_unregister();
  return NULL;
}

int poller_start(struct poller *poller) {
  poller->clock = poller->port->clock;
  atomic_store(&poller->drain_until, UINT64_MAX);
  int failed = pthread_create(&poller->thread, NULL, run, poller);
  poller->running = failed == 0;
  return failed;
}

void poller_drain(struct poller *poller, uint64_t accepted, int timeout_ms) {
  atomic_store(&poller->drain_until, accepted);
  atomic_store(&poller->draining, true);
  for (int ms = 0; ms < timeout_ms && !atomic_load(&poller->writer.shared->finished); ms++)
    sleep_ns(1000000);
}

void poller_stop(struct poller *poller) {
  atomic_store(&poller->stopping, true);
  if (poller->running)
    pthread_join(poller->thread, NULL);
  poller->running = false;
}
