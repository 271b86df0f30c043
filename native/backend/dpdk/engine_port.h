/* engine_port.h - one DPDK port: set up for receiving only, started, counted, closed.
 *
 * Belongs to the DPDK process. Says what failed in a struct engine_reply.
 */
#ifndef SONDE_DPDK_ENGINE_PORT_H
#define SONDE_DPDK_ENGINE_PORT_H

#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <stdbool.h>

#include "engine_protocol.h"

/* Time stamps of the hardware. Each thread has its own, adjusted by itself. */
struct port_clock {
  uint64_t flag;          /* in ol_flags; 0: there are none */
  int at;                 /* where in the mbuf */
  bool is_us;             /* since the epoch already, as net_pcap gives them */
  uint64_t base;          /* the device's clock … */
  uint64_t epoch_base_ns; /* … and the time of day at the same moment */
  double tick_ns;         /* of the device's clock; 0: not known yet */
};

struct port {
  uint16_t id;
  uint16_t queues;
  uint32_t kind; /* enum engine_kind */
  bool promiscuous;
  bool loopback;
  bool started;
  int ifindex; /* of net_af_packet's interface, 0 if none */
  struct rte_mempool *pool;
  struct port_clock clock;
  uint64_t missed_before; /* by the port, before start */
  uint64_t accepted;      /* by the kernel into net_af_packet's ring, since start */
  uint64_t dropped;
};

/* The process's only port, with as many queues as it has of those wanted. */
int port_open(struct port *port, const struct engine_setup *setup, struct engine_reply *reply);
int port_start(struct port *port, struct engine_reply *reply);
/* Packets that the port or the kernel below it lost since start. */
uint64_t port_missed(struct port *port);
/* Nothing new is let in, where the port can: *accepted is then what it took since start in
 * all. False if it cannot tell: drained is what gives nothing more. */
bool port_refuse(struct port *port, uint64_t *accepted);
/* The clock of the device against the time of day; call it about every second. */
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
