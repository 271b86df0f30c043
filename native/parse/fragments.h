/* fragments.h - remembers the ports of first fragments for the later fragments.
 *
 * The table has a fixed size and belongs to one decoder. A full set evicts its least recently
 * used datagram. An entry is valid for 60 s of packet time before and after its last use, so
 * entries expire even if the clock jumps.
 */
#ifndef SONDE_PARSE_FRAGMENTS_H
#define SONDE_PARSE_FRAGMENTS_H

#include "layers.h"

struct sonde_fragments;

struct sonde_fragments *sonde_fragments_create(void); /* NULL without memory or random seed */
void sonde_fragments_destroy(struct sonde_fragments *fragments); /* NULL is allowed */

/* Stores the ports of a first fragment. */
void sonde_fragments_remember(struct sonde_fragments *fragments,
                              const struct sonde_network *network, const struct sonde_ports *ports,
                              uint64_t time_ns);

/* Sets the ports of a later fragment, or 0 if its first fragment is unknown. */
void sonde_fragments_recall(struct sonde_fragments *fragments, const struct sonde_network *network,
                            uint64_t time_ns, struct sonde_ports *ports);

#endif
