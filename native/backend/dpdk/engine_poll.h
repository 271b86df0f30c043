/* engine_poll.h - one thread per receive queue, which reads packets from the port and writes them
 * into the queue's ring until it is stopped.
 */
#ifndef SONDE_DPDK_ENGINE_POLL_H
#define SONDE_DPDK_ENGINE_POLL_H

#include <pthread.h>

#include "engine_port.h"

struct poller {
  const struct port *port;
  uint16_t queue;
  uint32_t snaplen;
  uint32_t flows; /* engine_setup.flows */
  int doorbell;
  struct shm_ring_writer writer;
  struct port_clock clock;
  uint64_t flow_next;
  pthread_t thread;
  bool running;                 /* started and not yet joined */
  _Atomic bool draining;        /* end after the packets already received */
  _Atomic uint64_t drain_until; /* number of packets to read; UINT64_MAX: unknown */
  _Atomic bool stopping;        /* end at once */
};

int poller_start(struct poller *poller);
/* Waits until the thread has read `accepted` packets, at most timeout_ms. */
void poller_drain(struct poller *poller, uint64_t accepted, int timeout_ms);
void poller_stop(struct poller *poller);

#endif
