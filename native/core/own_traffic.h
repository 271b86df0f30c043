/* own_traffic.h - a capture thread's view of the endpoints of this process.
 *
 * The set is an immutable snapshot, replaced at each change. A thread holds one snapshot from one
 * batch to the next. A replaced snapshot is freed when no thread uses it. The first test of a
 * packet is two bits of a table of local ports; only a hit compares endpoints.
 */
#ifndef SONDE_CORE_OWN_TRAFFIC_H
#define SONDE_CORE_OWN_TRAFFIC_H

#include <stdatomic.h>
#include <stdbool.h>

#include "own_endpoint.h"
#include "packet.h"

/* A bit stands for several ports, so that the table takes 512 bytes of the level 1 cache. */
enum { SONDE_OWN_PORT_BITS = 4096 };

struct sonde_own_entry {
  struct sonde_own_endpoint endpoint;
  uint64_t until_ns; /* monotonic; 0: the socket is open */
};

struct sonde_own_snapshot {
  uint64_t ports[SONDE_OWN_PORT_BITS / 64];
  struct sonde_own_snapshot *next; /* links replaced snapshots */
  uint32_t count;
  struct sonde_own_entry entries[];
};

struct sonde_own_reader {
  struct sonde_own_snapshot *_Atomic held; /* not freed while it is here; NULL: nothing is own */
  struct sonde_own_reader *next;
  bool joined;
};

/* A reader that has not joined holds nothing. join and leave: not during refresh. */
void sonde_own_reader_join(struct sonde_own_reader *reader);
void sonde_own_reader_leave(struct sonde_own_reader *reader);

extern struct sonde_own_snapshot *_Atomic sonde_own_current;
void sonde_own_reader_take(struct sonde_own_reader *reader);

/* Takes the newest snapshot. Packets received before this call are judged by it. */
static inline void sonde_own_reader_refresh(struct sonde_own_reader *reader) {
  if (reader->joined && atomic_load_explicit(&sonde_own_current, memory_order_acquire) !=
                            atomic_load_explicit(&reader->held, memory_order_relaxed))
    sonde_own_reader_take(reader);
}

/* Adds a connected UDP socket. Fills `endpoint`, for removal; its local_port is 0 on failure. */
void sonde_own_traffic_add_socket(int fd, struct sonde_own_endpoint *endpoint);

bool sonde_own_snapshot_match(const struct sonde_own_snapshot *own, const struct sonde_key *key);

/* The snapshot to compare a batch with; NULL: nothing is own. */
static inline const struct sonde_own_snapshot *
sonde_own_reader_held(const struct sonde_own_reader *reader) {
  return atomic_load_explicit(&reader->held, memory_order_relaxed);
}

static inline uint64_t sonde_own_port(const struct sonde_own_snapshot *own, uint16_t port) {
  return own->ports[port % SONDE_OWN_PORT_BITS / 64] >> (port % 64);
}

/* Can a packet of this key be own? Nearly always right. */
static inline bool sonde_own_may(const struct sonde_own_snapshot *own,
                                 const struct sonde_key *key) {
  return own && ((sonde_own_port(own, key->lo_port) | sonde_own_port(own, key->hi_port)) & 1);
}

/* Is the packet of this key sent or received by a socket of this process? */
static inline bool sonde_own_has(const struct sonde_own_snapshot *own,
                                 const struct sonde_key *key) {
  return sonde_own_may(own, key) && sonde_own_snapshot_match(own, key);
}

#endif
