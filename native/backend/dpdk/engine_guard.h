/* engine_guard.h - what a driver may do to the host's interface, and the packet socket and its
 * ring that net_af_packet keeps to itself.
 */
#ifndef SONDE_DPDK_ENGINE_GUARD_H
#define SONDE_DPDK_ENGINE_GUARD_H

#include <linux/if_packet.h>
#include <stdint.h>

/* From here on drivers cannot change an interface of the kernel. Once, before EAL begins. */
void guard_close(void);

/* The socket that the driver captures with, -1 if there is none. */
int guard_socket(void);

/* The kernel's own count on it, since the last call: packets that went into the ring, and
 * those that found it full. The kernel forgets them by telling. */
int guard_count(uint64_t *accepted, uint64_t *dropped);

int guard_promiscuous(int ifindex); /* as long as the socket lives, not longer */
int guard_ignore_outgoing(void);
int guard_refuse_all(void); /* nothing more goes into the ring */

/* What the kernel says of a frame, and the driver does not pass on. */
struct guard_frame {
  uint64_t time_ns;
  uint32_t wirelen; /* with the tag, if there is one */
  uint16_t tpid;    /* of the tag that the driver puts back; 0: none */
  uint8_t direction;
};

/* Finds the ring in this process's memory. */
int guard_find_ring(void);
/* The frames that are next for the driver, as many as are there. Then it is told how many of
 * them the driver took. */
uint16_t guard_look(struct guard_frame *frames, uint16_t max);
void guard_took(uint16_t count);

#endif
