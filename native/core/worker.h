/* worker.h - one capture thread: its queue, decoder, flow table and record ring.
 *
 * The thread owns all of them; others see its published counters, drain its ring, and ask
 * for everything else by a command that the thread runs between two batches. After the
 * thread has ended, whoever joined it may touch the rest.
 */
#ifndef SONDE_CORE_WORKER_H
#define SONDE_CORE_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "backend.h"
#include "core/events.h"
#include "core/filter.h"
#include "core/packet_clock.h"
#include "core/ring.h"
#include "core/wake.h"
#include "flow/table.h"
#include "parse/decode.h"
#include "store/appender.h"

enum { SONDE_WORKER_BATCH = SONDE_FLOW_BATCH_MAX, SONDE_WORKER_LINKTYPES = 16 };

/* What a worker counts, published as a whole after each batch. */
struct sonde_worker_counters {
  uint64_t turns;
  SONDE_WORKER_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  uint64_t non_flow[SONDE_NON_FLOW_COUNT];
  struct sonde_flow_counters flow;
};

struct sonde_worker {
  /* Set at open, constant from start on. */
  uint32_t number;
  const struct sonde_backend_ops *ops;
  struct sonde_backend *backend;
  bool live;
  uint32_t snaplen;
  struct sonde_events *events;
  struct sonde_wake *export_wake;
  struct sonde_decoder *decoder;
  struct sonde_flow_table *table;
  struct sonde_appender *appender; /* NULL: the session has no capture buffer */
  struct sonde_ring ring;
  pthread_t thread;
  bool joined; /* by whoever stops: the thread is gone or never was */

  /* From other threads. */
  _Atomic bool draining; /* the backend is quiesced: end when nothing is left */
  _Atomic bool broken;   /* receive failed; cleared when the source is open again */
  _Atomic bool ended;    /* a file is at its end */
  pthread_mutex_t lock;  /* guards `command` and the parking */
  pthread_cond_t changed;
  void (*_Atomic command)(struct sonde_worker *worker, void *argument);
  void *argument;
  bool parked;

  /* The thread's own. */
  struct sonde_packet_clock clock;
  struct sonde_worker_counters counters;
  char *filter_expression; /* user-space filter, NULL if none */
  struct {
    uint16_t linktype;
    struct sonde_filter *filter;
  } filters[SONDE_WORKER_LINKTYPES];
  uint32_t filter_count;
  bool metering;
  uint64_t idle_ns;
  uint64_t active_ns;
  bool metering_ends; /* every open segment is sent, then metering is off */
  uint32_t flush_cursor;
  uint64_t dropped_told_ns; /* when the last alarm of each kind went out */
  uint64_t full_told_ns;
  uint64_t draining_since_ns;
  uint64_t complete_ns; /* a source that adds up has handed over all until here; else 0 */
  struct sonde_packet packets[SONDE_WORKER_BATCH];
  struct sonde_decoded decoded[SONDE_WORKER_BATCH];

  _Atomic uint32_t sequence; /* odd while `published` is being written */
  struct sonde_worker_counters published;
};

void sonde_worker_init(struct sonde_worker *worker);
/* What init made and what the session put in: decoder, table, filter. */
void sonde_worker_release(struct sonde_worker *worker);
struct sonde_record_sink sonde_worker_sink(struct sonde_worker *worker);

/* Adds packets of SONDE_LINKTYPE_DELTA to the table; what came before them is there already. */
void sonde_worker_merge(struct sonde_worker *worker, const struct sonde_packet *packets,
                        uint32_t count);

int sonde_worker_start(struct sonde_worker *worker);
/* The backend is quiesced: the thread ends once everything taken is metered. */
void sonde_worker_drain(struct sonde_worker *worker);
void sonde_worker_counters(struct sonde_worker *worker, struct sonde_worker_counters *counters);

/* Runs `command` on the worker's thread between two batches, or right here if the thread
 * has been joined; returns when it has run. */
void sonde_worker_ask(struct sonde_worker *worker,
                      void (*command)(struct sonde_worker *worker, void *argument), void *argument);
/* Holds the thread still, outside receive, until unpark. */
void sonde_worker_park(struct sonde_worker *worker);
void sonde_worker_unpark(struct sonde_worker *worker);

/* Commands; each must run on the worker's thread. */
void sonde_worker_metering_set(struct sonde_worker *worker, bool on, uint64_t idle_ns,
                               uint64_t active_ns);
void sonde_worker_metering_end(struct sonde_worker *worker);
/* Ends the flows whose time is up, as far as is known of them. */
void sonde_worker_expire(struct sonde_worker *worker);

/* After the thread has been joined: ends flows from *cursor on while the ring has room. True
 * when all have ended. Any thread; one at a time is let in. */
bool sonde_worker_final_flush(struct sonde_worker *worker, uint32_t *cursor);

#endif
