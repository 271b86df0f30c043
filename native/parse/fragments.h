/* fragments.h - the ports of first fragments, kept for the later ones.
 *
 * A table of fixed size: a full set forgets its least recently used datagram. An entry
 * counts for 60 s of packet time around its last use, in either direction, so that a clock
 * that jumps makes entries unseen at worst and never immortal. One decoder owns it.
 */
#ifndef SONDE_PARSE_FRAGMENTS_H
#define SONDE_PARSE_FRAGMENTS_H

#include "layers.h"

struct sonde_fragments;

struct sonde_fragments *sonde_fragments_create(void); /* NULL: no memory, or no random seed */
void sonde_fragments_destroy(struct sonde_fragments *fragments); /* NULL is allowed */

/* The packet is a first fragment with these ports. */
void sonde_fragments_remember(struct sonde_fragments *fragments,
                              const struct sonde_network *network, const struct sonde_ports *ports,
                              uint64_t time_ns);

/* The packet is a later fragment: its datagram's ports; if the first one was not seen,
 * false and ports 0. */
bool sonde_fragments_recall(struct sonde_fragments *fragments, const struct sonde_network *network,
                            uint64_t time_ns, struct sonde_ports *ports);

#endif
