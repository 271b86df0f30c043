/* target.h - maps a session's `interface` to a DPDK device, and checks that it may be used.
 *
 *   eth0                       a kernel interface: shared, by net_af_packet
 *   0000:03:00.0, 03:00.0      a PCI device: dedicated
 *   net_null0[,size=…][,copy=…][;flows=N], net_ring0, net_af_packet0,iface=eth0,
 *   net_af_xdp0,iface=eth0[,start_queue=…][,queue_count=1]: dedicated,
 *   net_pcap0,rx_pcap=FILE     a virtual device of those that write nothing and do not remove
 *                              packets from the host without `dedicated`
 */
#ifndef SONDE_DPDK_TARGET_H
#define SONDE_DPDK_TARGET_H

#include "backend.h"
#include "engine_protocol.h"

struct target {
  enum engine_kind kind;
  char device[512];   /* device argument for EAL */
  char interface[16]; /* kernel interface, or "" */
  bool loopback;
  uint32_t flows;
};

int target_set(struct target *target, const struct sonde_backend_config *config,
               struct sonde_error *error);

#endif
