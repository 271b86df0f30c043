/* session_state.h - what a session is made of; shared by session.c, monitor.c, session_read.c,
 * session_buffer.c and exporter/. */
#ifndef SONDE_CORE_SESSION_STATE_H
#define SONDE_CORE_SESSION_STATE_H

#include "core/wake.h"
#include "core/worker.h"
#include "netsonde.h"

struct sonde_exporter;

enum sonde_session_state {
  SONDE_SESSION_OPEN,
  SONDE_SESSION_RUNNING,
  SONDE_SESSION_STOPPED,
};

struct sonde_session {
  struct sonde_events events;
  const struct sonde_backend_ops *ops;
  struct sonde_backend *backend;
  struct sonde_backend_info info;
  pthread_mutex_t describing; /* guards what reopening changes of it: ifindex and attach */
  char interface[256];
  struct sonde_worker *workers;
  uint32_t worker_count;
  struct sonde_store *store; /* the capture buffer, or NULL */
  _Atomic bool encrypted;
  pthread_mutex_t looking; /* guards what the last look for drops saw, and when */
  uint64_t drops_seen;
  uint64_t drops_looked_ns; /* since the epoch */
  uint32_t flow_table_size;
  struct sonde_record *records; /* all rings, one mapping */
  uint64_t records_bytes;

  pthread_mutex_t control; /* one control call at a time; also held while reopening */
  _Atomic int state;       /* enum sonde_session_state */
  bool metering;           /* as last asked for */

  pthread_t monitor;              /* live sources only */
  pthread_mutex_t monitor_ending; /* one at a time ends it */
  bool monitor_running;
  int monitor_wake_fd;
  struct sonde_link_watch *link; /* NULL for sources that are no interface of the kernel */
  _Atomic bool link_up;

  struct sonde_exporter *exporter;
  struct sonde_wake export_wake; /* signalled when records are made */

  pthread_mutex_t draining; /* held while the stream's place in the rings moves */
  uint32_t drain_next;
  uint64_t stream_fields;  /* that drain renders; 0: all */
  uint32_t *flush_cursors; /* after stop: how far each table is emptied; worker's lock */
};

/* monitor.c: watches the interface, reopens the source when it comes back. */
int sonde_monitor_start(struct sonde_session *session, struct sonde_error *error);
void sonde_monitor_stop(struct sonde_session *session);

/* session_read.c: after stop, on any thread. True when every flow has had its last record. */
bool sonde_session_empty_table(struct sonde_session *session, uint32_t number);

/* session.c: switches one consumer of every ring. */
void sonde_session_reader_set(struct sonde_session *session, enum sonde_ring_reader reader,
                              bool on);

#endif
