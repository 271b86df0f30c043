/* store_config.h - what a store is given, what it reports and what it counts.
 *
 * Apart from store.h, so that the store's inside (state.h) need not know its functions.
 */
#ifndef SONDE_STORE_STORE_CONFIG_H
#define SONDE_STORE_STORE_CONFIG_H

#include <stdint.h>

#include "counters.h"

enum sonde_store_event {
  SONDE_STORE_SEAL_FAILED = 1, /* value: packets lost with it; once a second at most */
  SONDE_STORE_SPILL_FAILED,    /* value: errno; at the first failure of a row */
  SONDE_STORE_SPILL_RESUMED,   /* value: packets that were not spilled in between */
};

struct sonde_store_config {
  uint64_t bytes; /* of memory, over all workers */
  uint32_t workers;
  const char *dir;     /* of segment files, or NULL */
  uint64_t disk_bytes; /* all segment files together */
  /* Called from the store's threads, with no lock held. */
  void (*raise)(void *context, enum sonde_store_event event, int64_t value, const char *detail);
  void *context;
};

struct sonde_store_stats {
  uint64_t bytes_used; /* capacity once wrapped */
  uint64_t bytes_capacity;
  uint64_t oldest_ns; /* of the packets in memory; 0: none */
  uint64_t newest_ns;
  uint64_t packets; /* in memory */
  uint64_t bytes_overwritten;
  SONDE_STORE_COUNTER_LIST(SONDE_COUNTER_MEMBER)
};

#endif
