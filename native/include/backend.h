/* backend.h - the interface between the session loop and a packet source.
 *
 * A backend is a shared object in the package's backends/ directory. It exports one function,
 * SONDE_BACKEND_SYMBOL, which returns its const struct sonde_backend_ops. It handles packets
 * and queues, not flows, records or sessions.
 *
 * Life: probe* → open → start → receive* (one thread per queue) → quiesce → receive* until
 * 0 → stop → close. Only receive runs on capture threads. One control thread at a time calls
 * the rest, never during receive on the same queue, except quiesce and wake, which must be
 * safe then.
 */
#ifndef SONDE_BACKEND_H
#define SONDE_BACKEND_H

#include "packet.h"
#include "status.h"

#define SONDE_BACKEND_ABI 4u
#define SONDE_BACKEND_SYMBOL "sonde_backend_ops_v4"

enum sonde_feature {
  SONDE_FEATURE_BASIC_CAPTURE = 1 << 0,
  SONDE_FEATURE_FLOW_TRACKING = 1 << 1,
  SONDE_FEATURE_FLOW_METERING = 1 << 2,
  SONDE_FEATURE_NETFLOW_EXPORT = 1 << 3,
  SONDE_FEATURE_BUFFER_ENCRYPTION = 1 << 4,
};

struct sonde_backend; /* a backend's state, opaque to the session */

struct sonde_backend_config {
  const char *interface; /* interface name, device, or for `file` an open descriptor's path */
  const char *filter;    /* BPF expression, or NULL; only given to backends with `filters` */
  int file_fd;           /* `file` only: opened by the caller, owned by the backend; else -1 */
  uint32_t queues;       /* 1…64 requested; open may lower it, see info */
  uint32_t snaplen;      /* 64…262144 bytes of each frame */
  uint32_t ring_bytes;   /* kernel or device ring, over all queues; a hint */
  int promiscuous;       /* 0 or 1 */
  int dedicated;         /* 1: the caller confirms that the host does not need the interface */
  int aggregate;         /* 1: only flows are needed; packets may arrive as SONDE_LINKTYPE_DELTA */
  int tunnels;           /* 1: possible tunnel packets must still arrive as packets */
  uint32_t labels;       /* with aggregate: packets whose payload these read must still arrive as
                          * packets, enum sonde_label_protocol of app_label.h */
  const uint16_t *vxlan_ports; /* SONDE_VXLAN_PORTS_MAX UDP ports of VXLAN, ended by 0 */
  double replay_speed;         /* `file` only: 0 as fast as possible, 1.0 real time */
};

struct sonde_backend_info {
  uint32_t queues; /* receive may be called for 0…queues-1 */
  int aggregated;  /* 1: sends SONDE_LINKTYPE_DELTA, as config.aggregate allows */
  int live;        /* 1: a live source; 0: a file, receive ends with END */
  int ifindex;     /* the captured interface, 0 for a file */
  int checked;     /* `file`: it was read to its end before open returned */
  char cut[160];   /* `file`: where and how it is cut; "" if it is whole or unchecked */
  char attach[96]; /* how it is attached, for status: "tpacket_v3 ring 64 MiB, fanout 4" */
};

struct sonde_backend_stats {   /* cumulative since start, over all queues and reopenings */
  uint64_t dropped;            /* matching packets lost before receive handed them over */
  uint64_t freezes;            /* times the ring was full */
  uint64_t ring_used_permille; /* fill of the ring now, 0…1000 */
};

struct sonde_backend_ops {
  uint32_t abi; /* SONDE_BACKEND_ABI */
  uint32_t features;
  int filters; /* 0: the backend cannot filter, so the session does it in user space */
  const char *name;
  const char *description; /* one line for people */

  /* Checks that this process can use the backend on this host now. Attaches nothing. */
  int (*probe)(struct sonde_error *error);

  /* Checks the configuration and allocates everything. Captures no packet yet.
   * Errors: INTERFACE_INVALID, INTERFACE_SHARED, FILTER_INVALID, PERMISSION, NO_MEMORY,
   * SYSTEM, FORMAT. */
  int (*open)(const struct sonde_backend_config *config, struct sonde_backend **backend,
              struct sonde_error *error);
  void (*info)(const struct sonde_backend *backend, struct sonde_backend_info *info);

  /* From now on every packet is handed over or counted in stats.dropped. */
  int (*start)(struct sonde_backend *backend, struct sonde_error *error);

  /* Reads up to `max` packets of one queue. Waits at most timeout_ms for the first. Returns the
   * number, 0 on timeout or wake, or END (no more packets ever), LINK_DOWN (retry later),
   * SYSTEM (the source failed: reopen). Packets are valid until the next call for the queue.
   * timeout_ms < 0: never waits, also after quiesce, when it may then return 0 too early. */
  int (*receive)(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                 uint32_t max, int timeout_ms, struct sonde_error *error);
  void (*wake)(struct sonde_backend *backend); /* makes waiting receives return; any thread */

  /* For a thread that waits for several backends at once, after receive has returned 0 for the
   * queue. Returns a descriptor that is readable once there are packets. Or returns -1 and lowers
   * *timeout_ms: receive must be called again after that time. Either is valid until the next
   * receive. NULL: the thread can only wait in receive, so a session has one such backend. */
  int (*poll_fd)(struct sonde_backend *backend, uint32_t queue, int *timeout_ms);

  /* Rejects new packets. receive still hands over those already captured, then returns 0. */
  void (*quiesce)(struct sonde_backend *backend);
  void (*stats)(struct sonde_backend *backend, struct sonde_backend_stats *stats);

  /* Attaches again and keeps the counters, after the interface was recreated or receive returned
   * SYSTEM. Not called during receive on any queue. NULL for sources that cannot. */
  int (*reopen)(struct sonde_backend *backend, struct sonde_error *error);

  void (*stop)(struct sonde_backend *backend);
  void (*close)(struct sonde_backend *backend); /* releases all; NULL is allowed */
};

typedef const struct sonde_backend_ops *sonde_backend_entry(void);

#endif
