/* filter.h - BPF filters in user space, for backends that cannot filter themselves.
 *
 * One filter serves one link type; a file whose packets vary needs one for each. After
 * compiling a filter is read-only: any number of threads may match with it.
 */
#ifndef SONDE_CORE_FILTER_H
#define SONDE_CORE_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"
#include "status.h"

struct sonde_filter;

/* NULL or "" matches everything. Errors: FILTER_INVALID, NO_MEMORY. */
int sonde_filter_compile(uint16_t linktype, uint32_t snaplen, const char *expression,
                         struct sonde_filter **filter, struct sonde_error *error);
/* Would it compile for Ethernet? sonde_filter_check lets more pass: what a kernel can run. */
int sonde_filter_check_here(const char *expression, struct sonde_error *error);
bool sonde_filter_match(const struct sonde_filter *filter, const uint8_t *data, uint32_t caplen,
                        uint32_t wirelen);
/* The link type to compile for: the packet's own, unless its header is that of another. */
uint16_t sonde_filter_linktype(const struct sonde_packet *packet);
void sonde_filter_destroy(struct sonde_filter *filter); /* NULL is allowed */

#endif
