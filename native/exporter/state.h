/* state.h - shared by exporter.c (control) and thread.c (the loop). */
#ifndef SONDE_EXPORTER_STATE_H
#define SONDE_EXPORTER_STATE_H

#include "core/session_state.h"
#include "exporter/collector.h"

struct sonde_exporter {
  struct sonde_session *session;
  uint64_t start_ns; /* since the epoch */

  pthread_mutex_t control; /* one add, remove or look at a time */
  pthread_t thread;
  bool running; /* guarded by control */

  pthread_mutex_t lock; /* guards what follows, up to the thread's own */
  pthread_cond_t changed;
  void (*command)(struct sonde_exporter *exporter, void *argument);
  void *argument;
  bool ending;
  bool ended;            /* there is no thread */
  uint64_t flush_wanted; /* how many flushes have been asked for, … */
  uint64_t flush_done;   /* … and up to which the thread had sent everything */
  _Atomic bool urgent;   /* a flush waits: do not linger */
  _Atomic bool called;   /* command or ending is set */

  /* The thread's own; another's while there is none. */
  struct sonde_collector *collectors[SONDE_COLLECTORS_MAX];
  uint32_t collector_count;
};

void *sonde_exporter_run(void *exporter);
/* On the export thread, or while there is none: from the next record on. */
void sonde_exporter_place(struct sonde_exporter *exporter, struct sonde_collector *collector);

#endif
