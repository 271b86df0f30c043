/* filter.h - BPF filters in user space, for backends that cannot filter themselves.
 *
 * A filter serves one link type. A compiled filter is read-only: any thread may match with
 * it. A set compiles its expression once for each link type. One thread uses a set. Prepare it
 * for Ethernet before capture: libpcap's optimizer may take seconds. A set compiles for the
 * other link types of a file when the first packet comes, and without the optimizer.
 */
#ifndef SONDE_CORE_FILTER_H
#define SONDE_CORE_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/filter_glance.h"
#include "packet.h"
#include "status.h"

struct sonde_filter;

enum { SONDE_FILTER_LINKTYPES = 16 };

struct sonde_filter_set {
  char *expression; /* owned; NULL: no filter */
  uint32_t count;
  struct {
    uint16_t linktype;
    struct sonde_filter *filter; /* NULL: the expression is invalid for this link type */
  } filters[SONDE_FILTER_LINKTYPES];
};

/* NULL or "" matches every packet. Errors: FILTER_INVALID, NO_MEMORY. */
int sonde_filter_compile(uint16_t linktype, uint32_t snaplen, const char *expression,
                         struct sonde_filter **filter, struct sonde_error *error);
/* Whether the expression compiles for the link type. kernel: also as what only a kernel can run. */
int sonde_filter_check_for(uint16_t linktype, bool kernel, const char *expression,
                           struct sonde_error *error);
bool sonde_filter_match(const struct sonde_filter *filter, const uint8_t *data, uint32_t caplen,
                        uint32_t wirelen);
/* The link type to compile for: LOOP for a NULL header in network order. */
uint16_t sonde_filter_linktype(const struct sonde_packet *packet);
void sonde_filter_destroy(struct sonde_filter *filter); /* NULL is allowed */

/* Compiles the expression for Ethernet, once. Unlike sonde_filter_check, rejects what only a kernel
 * can run. any: it may also be valid for another link type of a file; if it is invalid for all,
 * `error` says why for Ethernet. Release the set also after an error: FILTER_INVALID, NO_MEMORY. */
int sonde_filter_set_prepare(struct sonde_filter_set *set, const char *expression, bool any,
                             struct sonde_error *error);
/* Shares the program of `from`, a prepared set, for another thread. Returns 0 or NO_MEMORY. */
int sonde_filter_set_share(struct sonde_filter_set *set, const struct sonde_filter_set *from);
/* False for a link type that the expression is invalid for, or that is the 17th. */
bool sonde_filter_set_match(struct sonde_filter_set *set, const struct sonde_packet *packet);
/* For Ethernet frames. A frame that the glance does not reject needs sonde_filter_set_match. */
struct sonde_filter_glance sonde_filter_set_glance(const struct sonde_filter_set *set);
void sonde_filter_set_release(struct sonde_filter_set *set);

#endif
