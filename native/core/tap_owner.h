/* tap_owner.h - lets a tap copy only the packets of some processes. */
#ifndef SONDE_CORE_TAP_OWNER_H
#define SONDE_CORE_TAP_OWNER_H

#include "netsonde.h"
#include "owner/tracker.h"
#include "tap/writer.h"

struct sonde_tap_owner;

/* Copies the patterns. */
int sonde_tap_owner_create(const struct sonde_owner_match *match,
                           struct sonde_owner_tracker *tracker, struct sonde_tap_owner **owner,
                           struct sonde_error *error);
void sonde_tap_owner_destroy(struct sonde_tap_owner *owner); /* NULL is allowed */
struct sonde_tap_choice sonde_tap_owner_choice(struct sonde_tap_owner *owner);

#endif
