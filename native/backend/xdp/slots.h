/* slots.h - taking what the programs in the kernel have added up.
 *
 * A scan looks once at every slot that was claimed since the last one, and takes those whose
 * first packet came before the scan began: everything that had come up the ring by then is
 * metered already, so that a flow's packets stay in order.
 */
#ifndef SONDE_XDP_SLOTS_H
#define SONDE_XDP_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "map_layout.h"
#include "status.h"

struct slots { /* of one queue */
  struct xdp_slot *slot;
  struct xdp_tags *tags;
  uint64_t *bits;
  uint32_t count;
  uint64_t before_ns; /* scanning: only what began before; 0: no scan is on */
  uint32_t word;      /* the next to be looked at */
  uint64_t left;      /* bits of the word before it, still to be seen */
  uint32_t taken;     /* in this scan */
};

/* Programs may still be adding, but no slot that they claim from here on is looked at. */
void slots_begin(struct slots *slots, uint64_t before_ns);
/* Up to `max`; fewer: the scan is over. */
uint32_t slots_take(struct slots *slots, struct sonde_delta *deltas, uint32_t max);
/* After a scan: fits the number in use to what was taken. A flow whose place moves is in two
 * slots for once, and both are taken. */
void slots_use(const struct slots *slots, uint32_t *used);
bool slots_any(const struct slots *slots); /* is anything claimed? */

#endif
