/* dedicated_check.h - the pre-flight of every backend that takes packets away from the host.
 *
 * Such a backend starts only where the caller says so and the host shows that it can do
 * without the interface.
 */
#ifndef SONDE_HOST_DEDICATED_CHECK_H
#define SONDE_HOST_DEDICATED_CHECK_H

#include "status.h"

/* May `interface` be taken from the host? Not without `vouched` (the request's `dedicated`),
 * and not if it is a loopback, has an address other than a link-local one, belongs to a
 * bridge or bond, carries VLANs or the like, has an XDP program attached already, or if a
 * default route leaves by it. Returns 0, INTERFACE_INVALID, INTERFACE_SHARED with the reason,
 * or SYSTEM. */
int sonde_dedicated_check(const char *interface, int vouched, struct sonde_error *error);

#endif
