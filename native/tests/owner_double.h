/* owner_double.h - a feed without a kernel: the test puts the events in. */
#ifndef SONDE_TESTS_OWNER_DOUBLE_H
#define SONDE_TESTS_OWNER_DOUBLE_H

#include "owner_feed.h"

/* Found in the plug-in with dlsym. */
typedef void sonde_owner_put(const struct sonde_owner_event *event);
typedef void sonde_owner_lose(uint64_t lost, uint64_t time_ns);
typedef void sonde_owner_lack(bool ports, bool uses); /* missing parts */

#endif
