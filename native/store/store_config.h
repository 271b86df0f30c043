/* store_config.h - a store's settings, events and statistics.
 *
 * Separate from store.h, so that state.h need not include store.h: no include circle.
 */
#ifndef SONDE_STORE_STORE_CONFIG_H
#define SONDE_STORE_STORE_CONFIG_H

#include <stdint.h>

#include "counters.h"

enum sonde_store_event {
  SONDE_STORE_SEAL_FAILED = 1, /* value: packets lost; at most once a second */
  SONDE_STORE_SPILL_FAILED,    /* value: errno; first failure of a series */
  SONDE_STORE_SPILL_RESUMED,   /* value: packets not spilled since the failure */
};

struct sonde_store_config {
  uint64_t bytes; /* memory of all workers */
  uint32_t workers;
  const char *host;    /* before "/" in the names of interfaces, or NULL; kept by the caller */
  const char *dir;     /* for segment files, or NULL */
  uint64_t disk_bytes; /* limit of all segment files together */
  /* Called on the store's threads, without locks. */
  void (*raise)(void *context, enum sonde_store_event event, int64_t value, const char *detail);
  void *context;
};

struct sonde_store_stats {
  uint64_t bytes_used; /* capacity once wrapped */
  uint64_t bytes_capacity;
  uint64_t oldest_ns; /* oldest packet in memory; 0: none */
  uint64_t newest_ns;
  uint64_t packets; /* in memory */
  uint64_t bytes_overwritten;
  SONDE_STORE_COUNTER_LIST(SONDE_COUNTER_MEMBER)
};

#endif
