/* engine_guard.h - restricts drivers' changes to the host's interface, and reads the packet
 * socket and ring that net_af_packet does not expose.
 */
#ifndef SONDE_DPDK_ENGINE_GUARD_H
#define SONDE_DPDK_ENGINE_GUARD_H

#include <linux/if_packet.h>
#include <stdint.h>

/* Stops drivers from changing kernel interfaces. Call once, before EAL starts. */
void guard_close(void);

/* The driver's capture socket, or -1. */
int guard_socket(void);

/* Adds the kernel's counts since the last call: packets put into the ring, and packets that
 * found it full. Reading resets the kernel's counts. */
int guard_count(uint64_t *accepted, uint64_t *dropped);

int guard_promiscuous(int ifindex); /* ends with the socket */
int guard_ignore_outgoing(void);
int guard_refuse_all(void); /* the ring gets no more packets */

/* Metadata of a frame that the driver does not pass on. */
struct guard_frame {
  uint64_t time_ns;
  uint32_t wirelen; /* including the tag */
  uint16_t tpid;    /* type of the tag that the driver reinserts; 0: no tag */
  uint8_t direction;
};

/* Finds the ring in this process's memory. */
int guard_find_ring(void);
/* Reads the metadata of the driver's next frames. After the driver has read some of them, call
 * guard_consume with their number. */
uint16_t guard_peek(struct guard_frame *frames, uint16_t max);
void guard_consume(uint16_t count);

#endif
