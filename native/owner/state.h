/* state.h - struct sonde_owner_tracker, and the functions that its files share. */
#ifndef SONDE_OWNER_STATE_H
#define SONDE_OWNER_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "owner/cgroup.h"
#include "owner/index.h"
#include "owner/process.h"
#include "owner/socket_list.h"
#include "owner/table.h"
#include "owner_feed.h"
#include "owner_hook.h"

enum { PENDING = 4096, DESCRIBED = 1024, NAMESPACES = 64 };

static const uint64_t SONDE_OWNER_SECOND = 1000000000;

/* A connected UDP socket whose port is unknown. */
struct pending_socket {
  uint64_t cookie; /* 0: free */
  uint64_t netns;
  uint64_t since_ns;
  uint64_t gone_ns;
  uint32_t owner;
  bool listed; /* was asked for in a list */
};

/* A process that was described lately. */
struct described_process {
  uint64_t cgroup;
  uint64_t until_ns;
  char name[16];
  uint32_t pid;
  uint32_t uid;
  uint32_t owner;
  uint8_t how;
};

struct known_namespace {
  uint64_t cookie;
  uint64_t read_ns; /* when its addresses were read */
  uint32_t pid;     /* a process in it */
};

struct sonde_owner_tracker {
  const struct sonde_owner_feed_ops *ops;
  void *plugin;
  void *feed;
  const volatile struct sonde_owner_control *control;
  struct sonde_owner_index *index;
  struct sonde_owner_table *table;
  pthread_t thread;
  bool runs;
  bool same_pids; /* /proc has the process ids of events */
  bool has_ports; /* the programs read the ports of connected UDP sockets */
  int stop_fd;
  uint64_t netns;      /* the one of this process; 0: unknown */
  uint64_t started_ns; /* since the epoch, like all times but those of events */

  /* Written by the thread, read by others. */
  _Atomic uint64_t evicted;
  _Atomic uint64_t sockets;
  _Atomic uint64_t clock_offset; /* epoch - CLOCK_MONOTONIC */
  _Atomic uint64_t portless_ns;  /* since when a pending socket was not listed; 0: all were */

  pthread_mutex_t follow_lock; /* guards the feed's `follow` and changes of … */
  _Atomic uint32_t followers;

  /* Owned by the thread. */
  struct sonde_cgroup_paths *paths;
  int closed_fd;
  uint64_t now_ns;
  uint64_t boot_offset; /* CLOCK_BOOTTIME - CLOCK_MONOTONIC */
  uint64_t lost_seen;
  uint64_t listed_ns; /* when pending sockets were listed */
  uint64_t list_took_ns;
  uint64_t found_ns; /* when all sockets were listed */
  bool checks;       /* an event is from a list */
  bool waits;        /* some pending socket was not listed */
  struct pending_socket pending[PENDING];
  struct described_process described[DESCRIBED];
  struct known_namespace namespaces[NAMESPACES];
};

/* The events that the full ring did not take. Orders the read of lost_ns after it. */
static inline uint64_t sonde_owner_lost(const struct sonde_owner_tracker *tracker) {
  return __atomic_load_n(&tracker->control->lost, __ATOMIC_ACQUIRE);
}

/* An address of IPv4 in IPv6 becomes one of IPv4. */
static inline void sonde_owner_unmap(struct sonde_socket_key *key) {
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  static const uint8_t zero[16];
  bool local = memcmp(key->local, mapped, 12) == 0, remote = memcmp(key->remote, mapped, 12) == 0;
  bool no_remote = memcmp(key->remote, zero, 16) == 0;
  if (key->ip_version != 6 || !local || !(remote || no_remote))
    return;
  key->ip_version = 4;
  memmove(key->local, key->local + 12, 4);
  memset(key->local + 4, 0, 12);
  if (remote) {
    memmove(key->remote, key->remote + 12, 4);
    memset(key->remote + 4, 0, 12);
  }
}

/* A UDP socket is found by its local end alone. */
static inline void sonde_owner_drop_remote(struct sonde_socket_key *key) {
  memset(key->remote, 0, sizeof key->remote);
  key->remote_port = 0;
}

/* tracker.c: adds a socket to the index, and counts an eviction. */
void sonde_owner_add_socket(struct sonde_owner_tracker *tracker, const struct sonde_socket *socket);
/* tracker.c: completes an owner with the id of its control group, from /proc. */
void sonde_owner_describe(struct sonde_owner_tracker *tracker, uint64_t cgroup,
                          uint64_t seen_boot_ns, struct sonde_owner *owner);
/* found.c: adds the sockets that are open now; the index keeps what it knows better. */
void sonde_owner_find_open(struct sonde_owner_tracker *tracker);
/* addresses.c: reads the addresses of all known namespaces, or of one that a process is in, unless
 * they were read lately. */
void sonde_owner_refresh_addresses(struct sonde_owner_tracker *tracker);
void sonde_owner_read_addresses(struct sonde_owner_tracker *tracker, uint64_t netns, uint32_t pid);
/* lookup.c: the listener of an accepted connection in this namespace; 0: unknown. */
uint32_t sonde_owner_find_listener(struct sonde_owner_tracker *tracker,
                                   const struct sonde_socket_key *connection);
void sonde_owner_record(void *context, uint32_t owners[2], struct sonde_record *record);

#endif
