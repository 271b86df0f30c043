/* slots.h - reads the flow deltas that the programs in the kernel have added up.
 *
 * A scan visits each slot claimed since the last scan, and reads those whose first packet came
 * before the scan began. Every ring record up to then has been metered, so a flow's packets
 * stay in order.
 */
#ifndef SONDE_XDP_SLOTS_H
#define SONDE_XDP_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "map_layout.h"
#include "status.h"

struct slots { /* one queue's */
  struct xdp_slot *slot;
  struct xdp_tags *tags;
  uint64_t *bits;
  uint32_t count;
  uint64_t before_ns; /* the scan reads flows that began before; 0: no scan */
  uint32_t word;      /* the next one to scan */
  uint64_t left;      /* unread bits of the word before it */
  uint32_t taken;     /* slots read in this scan */
};

/* Starts a scan. Programs may run on, but slots that they claim from now on are not read. */
void slots_begin(struct slots *slots, uint64_t before_ns);
/* Reads up to `max` deltas. Fewer: the scan has ended. */
uint32_t slots_read(struct slots *slots, struct sonde_delta *deltas, uint32_t max);
/* Call after a scan: adapts the number of used slots to the number read. A flow whose slot moves
 * is in two slots once, and both are read. */
void slots_use(const struct slots *slots, uint32_t *used);
bool slots_any(const struct slots *slots); /* is anything claimed? */

#endif
