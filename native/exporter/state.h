/* state.h - shared by exporter.c (control) and thread.c (the loop). */
#ifndef SONDE_EXPORTER_STATE_H
#define SONDE_EXPORTER_STATE_H

#include "core/session_state.h"
#include "exporter/collector.h"
#include "host/seqlock.h"

struct sonde_collector_list {
  uint64_t count;
  struct sonde_collector_stats stats[SONDE_COLLECTORS_MAX];
};
_Static_assert(sizeof(struct sonde_collector_list) % sizeof(uint64_t) == 0,
               "a seqlock copies 64-bit words");

struct sonde_exporter {
  struct sonde_session *session;
  uint64_t start_ns; /* since the epoch */

  pthread_mutex_t control; /* serializes add, remove and list */
  pthread_t thread;
  bool running; /* guarded by control */

  pthread_mutex_t lock; /* guards the members below, up to collectors */
  pthread_cond_t changed;
  void (*command)(struct sonde_exporter *exporter, void *argument);
  void *argument;
  bool ending;
  bool ended;               /* no thread runs */
  uint64_t flush_requested; /* number of flush requests … */
  uint64_t flush_done;      /* … and of those whose records are sent */
  _Atomic bool urgent;      /* a flush waits: do not linger */
  _Atomic bool called;      /* command or ending is set */

  /* Owned by the thread while it runs, else by the holder of control. */
  struct sonde_collector *collectors[SONDE_COLLECTORS_MAX];
  uint32_t collector_count;
  struct sonde_collector_list list; /* scratch of sonde_exporter_publish */

  struct sonde_seqlock seqlock; /* guards `published` */
  struct sonde_collector_list published;
};

void *sonde_exporter_run(void *exporter);
/* Publishes the collectors' statistics. Only for the owner of collectors. */
void sonde_exporter_publish(struct sonde_exporter *exporter);
/* Sets the collector's positions to the next records. Only for the owner of collectors. */
void sonde_exporter_attach(struct sonde_exporter *exporter, struct sonde_collector *collector);

#endif
