/* session_state.h - struct sonde_session, and the functions that its files share.
 *
 * Private to session*.c, monitor.c and exporter/. Everybody else uses netsonde.h.
 */
#ifndef SONDE_CORE_SESSION_STATE_H
#define SONDE_CORE_SESSION_STATE_H

#include "core/worker.h"
#include "export/rendering.h"
#include "host/wake.h"
#include "netsonde.h"
#include "owner/tracker.h"
#include "store/store.h"

struct sonde_exporter;

enum sonde_session_state {
  SONDE_SESSION_OPEN,
  SONDE_SESSION_RUNNING,
  SONDE_SESSION_STOPPED,
};

/* A place for one interface name. The name changes only if no flow and no record refers to it:
 * under control and info_lock. */
struct sonde_slot {
  char name[SONDE_INTERFACE_NAME_MAX];
  struct sonde_slot_counters before; /* the workers' counters when it got this name */
  struct sonde_source *source;     /* NULL: not captured now. Written under control and info_lock */
  struct sonde_backend_stats past; /* counts of removed sources; under info_lock */
};

struct sonde_session {
  struct sonde_events events;
  const struct sonde_backend_ops *ops;
  struct sonde_backend_info info; /* the first source at open; the others are of its kind */
  pthread_mutex_t info_lock;      /* guards what other threads read of sources; the inner lock */
  struct sonde_slot slots[SONDE_SOURCES_MAX];
  _Atomic uint32_t slot_count;
  struct sonde_render_sources sources;
  struct sonde_owner_tracker *owners; /* NULL: off */
  char owners_missing[160];
  struct sonde_name_cache *name_cache;  /* shared by the labelers, or NULL */
  uint32_t renames;                     /* how many slots got another name; atomic */
  struct sonde_backend_stats past;      /* counts of sources under former names; under info_lock */
  const char *names[SONDE_SOURCES_MAX]; /* the slots' names; NULL: not used yet */
  struct sonde_backend_config source_config; /* for each interface; ring_bytes over all of them */
  char *filter;
  uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX];
  char host[128]; /* in the names of interfaces; "": none */
  struct sonde_worker *workers;
  uint32_t worker_count;
  struct sonde_filter_set filters; /* in user space, for the workers to share */
  struct sonde_store *store;       /* the capture buffer, or NULL */
  _Atomic bool encrypted;
  pthread_mutex_t drops_lock; /* guards the two fields below */
  uint64_t drops_seen;
  uint64_t drops_checked_ns; /* since the epoch */
  uint32_t flow_table_size;
  struct sonde_record *records; /* all rings, one mapping */
  uint64_t records_bytes;

  pthread_mutex_t control; /* one control call at a time; also held while reopening */
  _Atomic int state;       /* enum sonde_session_state */
  _Atomic bool metering;   /* the last value set */

  pthread_t monitor;            /* live sources only */
  pthread_mutex_t monitor_lock; /* one thread at a time stops it */
  bool monitor_running;
  _Atomic bool monitor_ends;
  int monitor_wake_fd;

  struct sonde_exporter *exporter;
  struct sonde_wake export_wake; /* signalled after each new record */

  pthread_mutex_t drain_lock; /* guards the stream's ring positions */
  uint32_t drain_next;
  uint64_t stream_fields;  /* bit set of rendered fields; 0: all */
  uint32_t *flush_cursors; /* after stop: flush position of each table; under the worker's lock */
};

/* monitor.c: watches the interfaces and reopens a source when its interface returns. */
int sonde_monitor_start(struct sonde_session *session, struct sonde_error *error);
/* The sources have changed. */
void sonde_monitor_refresh(struct sonde_session *session);
void sonde_monitor_stop(struct sonde_session *session);

/* session_read.c: call after stop, on any thread. True once every flow has its last record. */
bool sonde_session_empty_table(struct sonde_session *session, uint32_t number);

/* session.c: enables or disables one consumer of every ring; its reader does not read meanwhile.
 * disable takes no lock and never waits, enable waits for the workers and for reopening. */
void sonde_session_reader_enable(struct sonde_session *session, enum sonde_ring_reader reader);
void sonde_session_reader_disable(struct sonde_session *session, enum sonde_ring_reader reader);

/* session_buffer.c. Without a capture buffer `store` is NULL and workers have no appender.
 * open creates the store and every worker's appender. */
int sonde_session_buffer_open(struct sonde_session *session,
                              const struct sonde_session_config *config, struct sonde_error *error);
void sonde_session_buffer_stats(struct sonde_session *session, struct sonde_stats *stats);
/* Logs a gap if packets were dropped since the last call. Any thread, after start. */
void sonde_session_buffer_note_drops(struct sonde_session *session);

#endif
