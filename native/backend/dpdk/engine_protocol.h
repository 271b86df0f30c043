/* engine_protocol.h - what the agent's plugin and the DPDK process say to each other.
 *
 * The process's standard input is a SOCK_SEQPACKET socket. First comes a struct
 * engine_setup with the descriptors of the shared area and of one doorbell a queue; then
 * single bytes, enum engine_command. Each is answered by a struct engine_reply. When the
 * socket is closed, the process ends: that is how it dies with the agent, also a killed one.
 */
#ifndef SONDE_DPDK_ENGINE_PROTOCOL_H
#define SONDE_DPDK_ENGINE_PROTOCOL_H

#include <stdint.h>

#include "shm_ring.h"

enum engine_kind {
  ENGINE_DEVICE = 0, /* PCI address */
  ENGINE_VDEV,
  ENGINE_KERNEL, /* net_af_packet upon an interface of the kernel */
  ENGINE_FILE,   /* net_pcap from a file: waits for room instead of dropping */
};

struct engine_setup {
  uint32_t abi; /* ENGINE_ABI */
  uint32_t kind;
  uint32_t queues;
  uint32_t snaplen;
  uint32_t ring_bytes; /* of the port or kernel ring, a hint */
  uint32_t promiscuous;
  uint32_t loopback;
  uint32_t flows; /* benchmark: frames become UDP of so many flows a queue; 0: they do not */
  uint64_t area_bytes;
  char device[512]; /* as EAL takes it: "0000:03:00.0", "net_null0,size=64" */
};

enum { ENGINE_ABI = 1 };

enum engine_command { ENGINE_START = 'S', ENGINE_QUIESCE = 'Q' };

struct engine_reply {
  int32_t status;  /* enum sonde_status */
  uint32_t queues; /* to setup: that the port really has */
  char driver[32];
  char detail[256];
};

#endif
