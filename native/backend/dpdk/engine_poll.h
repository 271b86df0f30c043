/* engine_poll.h - one thread a receive queue: takes packets from the port and writes them into
 * the queue's ring, until it is told to stop.
 */
#ifndef SONDE_DPDK_ENGINE_POLL_H
#define SONDE_DPDK_ENGINE_POLL_H

#include <pthread.h>

#include "engine_port.h"

struct poller {
  const struct port *port;
  uint16_t queue;
  uint32_t snaplen;
  uint32_t flows; /* as in struct engine_setup */
  int doorbell;
  struct shm_ring_writer writer;
  struct port_clock clock;
  uint64_t flow_next;
  pthread_t thread;
  bool running;                 /* the thread has been started and not been joined */
  _Atomic bool draining;        /* nothing new is wanted: end when all is taken */
  _Atomic uint64_t drain_until; /* packets taken by then; UINT64_MAX: not known */
  _Atomic bool stopping;        /* end at once */
};

int poller_start(struct poller *poller);
/* Waits until the thread has taken what was there, for so long at most. */
void poller_drain(struct poller *poller, uint64_t accepted, int patience_ms);
void poller_stop(struct poller *poller);

#endif
