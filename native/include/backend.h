/* backend.h - the seam between the session loop and a packet source.
 *
 * A backend is a shared object in the package's backends/ directory that exports one
 * symbol, SONDE_BACKEND_SYMBOL, a function returning its const struct sonde_backend_ops.
 * It knows packets and queues; it knows nothing of flows, records or sessions.
 *
 * Life: probe* → open → start → receive* (one thread a queue) → quiesce → receive* until
 * 0 → stop → close. Only receive runs on capture threads; everything else is called from
 * one control thread at a time, and never at the same time as receive on the same queue
 * except quiesce and wake, which must be safe then.
 */
#ifndef SONDE_BACKEND_H
#define SONDE_BACKEND_H

#include "packet.h"
#include "status.h"

#define SONDE_BACKEND_ABI 1u
#define SONDE_BACKEND_SYMBOL "sonde_backend_ops_v1"

enum sonde_feature {
  SONDE_FEATURE_BASIC_CAPTURE = 1 << 0,
  SONDE_FEATURE_FLOW_TRACKING = 1 << 1,
  SONDE_FEATURE_FLOW_METERING = 1 << 2,
  SONDE_FEATURE_NETFLOW_EXPORT = 1 << 3,
  SONDE_FEATURE_BUFFER_ENCRYPTION = 1 << 4,
};

struct sonde_backend; /* a backend's own state, opaque to the session */

struct sonde_backend_config {
  const char *interface; /* interface name, device, or for `file` an open descriptor's path */
  const char *filter;    /* BPF expression, or NULL; only given to backends with `filters` */
  int file_fd;           /* `file` only: opened by the caller, owned by the backend; else -1 */
  uint32_t queues;       /* 1…64 wanted; open may lower it, see info */
  uint32_t snaplen;      /* 64…262144 bytes of each frame */
  uint32_t ring_bytes;   /* kernel or device ring, over all queues, a hint */
  int promiscuous;       /* 0 or 1 */
  int dedicated;         /* 1: the caller vouches that the host does not need the interface */
  int aggregate;         /* 1: only flows are wanted; packets may come as SONDE_LINKTYPE_DELTA */
  int tunnels;           /* 1: what may be a tunnel must come as packets even so */
  double replay_speed;   /* `file` only: 0 as fast as possible, 1.0 real time */
};

struct sonde_backend_info {
  uint32_t queues; /* receive may be called for 0…queues-1 */
  int aggregated;  /* 1: SONDE_LINKTYPE_DELTA will come, as config.aggregate allowed */
  int live;        /* 1: packets arrive when they like; 0: a file, receive ends with END */
  int ifindex;     /* of the interface captured on, 0 if none */
  char attach[96]; /* how it is attached, for status: "tpacket_v3 ring 64 MiB, fanout 4" */
};

struct sonde_backend_stats {   /* cumulative since start, over all queues and reopenings */
  uint64_t dropped;            /* wanted packets lost before receive could hand them over */
  uint64_t freezes;            /* times the ring was full */
  uint64_t ring_used_permille; /* fill of the ring now, 0…1000 */
};

struct sonde_backend_ops {
  uint32_t abi; /* SONDE_BACKEND_ABI */
  uint32_t features;
  int filters; /* 0: the backend cannot filter, so the session does it in user space */
  const char *name;
  const char *description; /* one line for people */

  /* Is it usable on this host by this process, now? Attaches nothing. */
  int (*probe)(struct sonde_error *error);

  /* Checks the configuration and allocates everything. No packet is taken yet.
   * Errors: INTERFACE_INVALID, INTERFACE_SHARED, FILTER_INVALID, PERMISSION, NO_MEMORY,
   * SYSTEM, FORMAT. */
  int (*open)(const struct sonde_backend_config *config, struct sonde_backend **backend,
              struct sonde_error *error);
  void (*info)(const struct sonde_backend *backend, struct sonde_backend_info *info);

  /* From here on every packet counts: it is handed over or in stats.dropped. */
  int (*start)(struct sonde_backend *backend, struct sonde_error *error);

  /* Up to `max` packets of one queue. Waits at most timeout_ms for the first. Returns how
   * many, 0 on timeout or wake, or END (nothing will ever come again), LINK_DOWN (come
   * back later), SYSTEM (the source is broken: reopen). Packets stay valid until the next
   * call for the same queue. */
  int (*receive)(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                 uint32_t max, int timeout_ms, struct sonde_error *error);
  void (*wake)(struct sonde_backend *backend); /* makes waiting receives return; any thread */

  /* New packets are refused; those already taken are still handed over by receive, which
   * returns 0 when there are none left. */
  void (*quiesce)(struct sonde_backend *backend);
  void (*stats)(struct sonde_backend *backend, struct sonde_backend_stats *stats);

  /* The interface was deleted and is back (or receive said SYSTEM): attach again, keep
   * the counters. Called with every queue's receive out. NULL for sources that cannot. */
  int (*reopen)(struct sonde_backend *backend, struct sonde_error *error);

  void (*stop)(struct sonde_backend *backend);
  void (*close)(struct sonde_backend *backend); /* releases all; NULL is allowed */
};

typedef const struct sonde_backend_ops *sonde_backend_entry(void);

#endif
