/* engine_protocol.h - the messages between the agent's plugin and the DPDK process.
 *
 * The process's standard input is a SOCK_SEQPACKET socket. The first message is a struct
 * engine_setup with the descriptors of the shared area and of one doorbell per queue. Each
 * later message is one byte, an enum engine_command. The reply to each is a struct
 * engine_reply. The process exits when the socket closes, so it also ends with a killed agent.
 */
#ifndef SONDE_DPDK_ENGINE_PROTOCOL_H
#define SONDE_DPDK_ENGINE_PROTOCOL_H

#include <stdint.h>

#include "shm_ring.h"

enum engine_kind {
  ENGINE_DEVICE = 0, /* PCI address */
  ENGINE_VDEV,
  ENGINE_KERNEL, /* net_af_packet on a kernel interface */
  ENGINE_FILE,   /* net_pcap from a file: waits for space instead of dropping */
};

struct engine_setup {
  uint32_t abi; /* ENGINE_ABI */
  uint32_t kind;
  uint32_t queues;
  uint32_t snaplen;
  uint32_t ring_bytes; /* a hint for the size of the port or kernel ring */
  uint32_t promiscuous;
  uint32_t loopback;
  uint32_t flows; /* benchmark: make UDP of this many flows per queue; 0: off */
  uint64_t area_bytes;
  char device[512]; /* for EAL: "0000:03:00.0", "net_null0,size=64" */
};

enum { ENGINE_ABI = 1 };

enum engine_command { ENGINE_START = 'S', ENGINE_QUIESCE = 'Q' };

struct engine_reply {
  int32_t status;  /* enum sonde_status */
  uint32_t queues; /* reply to setup: the port's queues */
  char driver[32];
  char detail[256];
};

#endif
