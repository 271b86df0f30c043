/* engine_port.h - one DPDK port: set up for receiving only, started, counted, closed.
 *
 * Part of the DPDK process. Reports failures in a struct engine_reply.
 */
#ifndef SONDE_DPDK_ENGINE_PORT_H
#define SONDE_DPDK_ENGINE_PORT_H

#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <stdbool.h>

#include "engine_protocol.h"

/* Hardware timestamps. Each thread adjusts its own copy. */
struct port_clock {
  uint64_t flag;          /* in ol_flags; 0: no timestamps */
  int at;                 /* offset in the mbuf */
  bool is_us;             /* microseconds since the epoch (net_pcap) */
  uint64_t base;          /* the device's clock … */
  uint64_t epoch_base_ns; /* … and the time of day at the same moment */
  double tick_ns;         /* unit of the device's clock; 0: not yet known */
};

struct port {
  uint16_t id;
  uint16_t queues;
  uint32_t kind; /* enum engine_kind */
  bool promiscuous;
  bool loopback;
  bool started;
  int ifindex; /* net_af_packet's interface, or 0 */
  struct rte_mempool *pool;
  struct port_clock clock;
  uint64_t missed_before; /* by the port, before start */
  uint64_t accepted;      /* by the kernel into net_af_packet's ring, since start */
  uint64_t dropped;
};

/* Opens the process's only port, with the requested queues or as many as it has. */
int port_open(struct port *port, const struct engine_setup *setup, struct engine_reply *reply);
int port_start(struct port *port, struct engine_reply *reply);
/* Packets that the port or the kernel below it lost since start. */
uint64_t port_missed(struct port *port);
/* Rejects new packets and sets *accepted to the number received since start. Returns false if the
 * port cannot do so: it is drained when it returns no more packets. */
bool port_refuse(struct port *port, uint64_t *accepted);
/* Compares the device's clock with the time of day. Call about every second. */
void port_clock_adjust(const struct port *port, struct port_clock *clock);
void port_close(struct port *port);

static inline uint64_t port_stamp(const struct port_clock *clock, const struct rte_mbuf *mbuf,
                                  uint64_t now_ns) {
  if (!(mbuf->ol_flags & clock->flag))
    return now_ns;
  uint64_t stamp = *RTE_MBUF_DYNFIELD(mbuf, clock->at, uint64_t *);
  if (clock->is_us)
    return stamp * 1000;
  double since = (double)(int64_t)(stamp - clock->base) * clock->tick_ns;
  return clock->tick_ns > 0 ? clock->epoch_base_ns + (uint64_t)(int64_t)since : now_ns;
}

#endif
