/* tracker.h - keeps the owners of this host's sockets, and joins them to flows.
 *
 * A thread reads the programs' events into the index. A worker asks when a record leaves; no packet
 * does. Without a privilege or the kernel's part create fails, and the capture works without.
 */
#ifndef SONDE_OWNER_TRACKER_H
#define SONDE_OWNER_TRACKER_H

#include <stdbool.h>

#include "counters.h"
#include "owner.h"
#include "owner_hook.h"
#include "status.h"

struct sonde_owner_tracker;

struct sonde_owner_config {
  const char *plugin_dir;
  uint32_t sockets;    /* in the index; 0: 131,072 */
  uint32_t ring_bytes; /* 0: 1 MiB */
};

struct sonde_owner_counters {
  SONDE_OWNER_COUNTER_LIST(SONDE_COUNTER_MEMBER)
};

/* How far the index is, for one reader. Begins as zero. */
struct sonde_owner_progress {
  uint64_t position;   /* in the programs' ring … */
  uint64_t noted_ns;   /* … and when it was there, since the epoch */
  uint64_t through_ns; /* each socket that was reported until then is in the index */
};

int sonde_owner_tracker_create(const struct sonde_owner_config *config,
                               struct sonde_owner_tracker **tracker, struct sonde_error *error);
void sonde_owner_tracker_destroy(struct sonde_owner_tracker *tracker); /* NULL is allowed */
/* Names what the kernel lacks, although owners are found. Returns "" if it lacks nothing. */
const char *sonde_owner_tracker_missing(const struct sonde_owner_tracker *tracker);
struct sonde_owner_hook sonde_owner_tracker_hook(struct sonde_owner_tracker *tracker);
struct sonde_owner_source sonde_owner_tracker_source(struct sonde_owner_tracker *tracker);
/* While a reader follows, UDP sockets are reported before their first packet, and the ports of
 * connected ones are looked up sooner. Any thread. Only a begin can fail; then nothing follows. */
int sonde_owner_tracker_follow(struct sonde_owner_tracker *tracker, bool follows,
                               struct sonde_error *error);
/* Whether the index has the sockets that existed at `time_ns`, since the epoch. */
bool sonde_owner_tracker_knows(struct sonde_owner_tracker *tracker,
                               struct sonde_owner_progress *progress, uint64_t time_ns);
void sonde_owner_tracker_counters(const struct sonde_owner_tracker *tracker,
                                  struct sonde_owner_counters *counters);

#endif
