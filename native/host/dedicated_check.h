/* dedicated_check.h - decides whether a backend may take an interface's packets from the host.
 *
 * Such a backend starts only if the caller requests it and the host does not need the
 * interface.
 */
#ifndef SONDE_HOST_DEDICATED_CHECK_H
#define SONDE_HOST_DEDICATED_CHECK_H

#include "status.h"

/* Returns INTERFACE_SHARED, with the reason, without `vouched` (the request's `dedicated`), or
 * if `interface` is a loopback, has an address other than a link-local one, belongs to a bridge
 * or bond, carries VLANs or the like, has an XDP program, or has a default route. Returns 0 if
 * it may be taken. Other errors: INTERFACE_INVALID, SYSTEM. */
int sonde_dedicated_check(const char *interface, int vouched, struct sonde_error *error);

#endif
