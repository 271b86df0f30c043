/* worker.h - one capture thread: its queue, decoder, flow table and record ring.
 *
 * The thread owns all of them, and the list of sources that it receives from. Other threads read
 * its published counters and drain its ring. Everything else is a command that the thread runs
 * between two batches. After the thread has been joined, the joining thread owns the rest.
 */
#ifndef SONDE_CORE_WORKER_H
#define SONDE_CORE_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "backend.h"
#include "core/events.h"
#include "core/filter.h"
#include "core/own_traffic.h"
#include "core/packet_clock.h"
#include "core/ring.h"
#include "core/source.h"
#include "core/tap_feed.h"
#include "flow/table.h"
#include "host/seqlock.h"
#include "host/wake.h"
#include "label/labeler.h"
#include "parse/decode.h"
#include "store/appender.h"

enum { SONDE_WORKER_BATCH = SONDE_FLOW_BATCH_MAX };

/* Published as a whole after each batch. */
struct sonde_worker_counters {
  uint64_t turns;
  SONDE_WORKER_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  uint64_t non_flow[SONDE_NON_FLOW_COUNT];
  struct sonde_undecoded undecoded[SONDE_UNDECODED_MAX]; /* the first link types met */
  struct sonde_flow_counters flow;
  struct sonde_label_counters labels;
};

/* One source, as a worker receives from it. Owned by the worker's thread. */
struct sonde_feed {
  struct sonde_source *source;
  uint64_t complete_ns; /* the worker's complete_ns for this source alone */
  uint64_t rest_ms;     /* monotonic: the link is down, so do not wait for it before this time */
  bool ready;           /* it may have packets */
};

/* The part of the worker's counters that came from one source. */
struct sonde_slot_counters {
  uint64_t packets_captured;
  uint64_t bytes_captured;
  uint64_t packets_non_flow;
};

struct sonde_worker_slot {
  struct sonde_slot_counters counters;
  struct sonde_seqlock seqlock; /* guards `published` */
  struct sonde_slot_counters published;
};

struct sonde_worker {
  /* Set at open, constant after start. */
  uint32_t number;
  bool live;
  int wake_fd; /* wakes a wait for several sources */
  struct sonde_events *events;
  struct sonde_wake *export_wake;
  struct sonde_decoder *decoder;
  struct sonde_flow_table *table;
  struct sonde_labeler *labeler;   /* NULL: labels are off */
  struct sonde_appender *appender; /* NULL: the session has no capture buffer */
  struct sonde_ring ring;
  pthread_t thread;
  bool joined; /* set by stop: the thread has ended or was never started */

  /* Set by other threads. */
  _Atomic bool draining;           /* the sources are quiesced: end when they are empty */
  _Atomic bool ended;              /* the file has been read */
  char cut[SONDE_FILE_DETAIL_MAX]; /* where the file was cut; constant once `ended` */
  pthread_mutex_t lock;            /* guards `command` */
  pthread_cond_t changed;
  void (*_Atomic command)(struct sonde_worker *worker, void *argument);
  void *argument;

  /* Owned by the thread. */
  struct sonde_packet_clock clock;
  struct sonde_feed feeds[SONDE_SOURCES_MAX]; /* sources that can be received from */
  uint32_t feed_count;
  uint32_t feed_next;      /* the last one that receive tried */
  struct sonde_feed *feed; /* the source of the current batch */
  uint32_t unpolled;       /* batches since the sources were polled */
  uint64_t swept_ms;       /* when every source was last marked as ready */
  struct sonde_worker_counters counters;
  struct sonde_filter_set filters; /* user-space filter */
  struct sonde_own_reader own;     /* joined if the session excludes its process's traffic */
  struct sonde_tap_feed *taps[SONDE_TAPS_MAX]; /* live copies of packets */
  uint32_t tap_count;
  uint64_t tapped_ns; /* time of the last packet while a tap is open */
  bool metering;
  uint64_t idle_ns;
  uint64_t active_ns;
  bool metering_ends; /* flush every open flow, then switch metering off */
  uint32_t flush_cursor;
  uint64_t dropped_reported_ns; /* flow time of the last alarm; 0: never */
  uint64_t full_reported_ns;
  uint64_t draining_since_ns;
  uint64_t complete_ns; /* aggregating sources have delivered all packets up to here; else 0 */
  struct sonde_packet packets[SONDE_WORKER_BATCH];
  struct sonde_decoded decoded[SONDE_WORKER_BATCH];
  struct sonde_payload payloads[SONDE_WORKER_BATCH]; /* with a labeler: parallel to `decoded` */

  struct sonde_seqlock seqlock; /* guards `published` */
  struct sonde_worker_counters published;
  struct sonde_worker_slot slots[SONDE_SOURCES_MAX];
};

void sonde_worker_init(struct sonde_worker *worker);
/* Also frees the decoder, table and filter that the session set. */
void sonde_worker_release(struct sonde_worker *worker);
struct sonde_record_sink sonde_worker_sink(struct sonde_worker *worker);
/* Which records of the worker every reader has read. */
struct sonde_record_progress sonde_worker_progress(struct sonde_worker *worker);

/* Adds packets of SONDE_LINKTYPE_DELTA to the table, after all earlier packets. */
void sonde_worker_merge(struct sonde_worker *worker, const struct sonde_packet *packets,
                        uint32_t count);

int sonde_worker_start(struct sonde_worker *worker); /* 0 or an errno */
/* Every source is quiesced: the thread ends once all received packets are metered. */
void sonde_worker_drain(struct sonde_worker *worker);
void sonde_worker_counters(struct sonde_worker *worker, struct sonde_worker_counters *counters);

/* Runs `command` on the worker's thread between two batches, or on the caller's if the
 * thread has been joined. Returns when it has run. */
void sonde_worker_call(struct sonde_worker *worker,
                       void (*command)(struct sonde_worker *worker, void *argument),
                       void *argument);
/* The counters of one source, summed over all sources that had this slot. */
void sonde_worker_slot_counters(struct sonde_worker *worker, uint32_t slot,
                                struct sonde_slot_counters *counters);
/* Lets the worker receive from the source, or removes the source after the packets that wait in it.
 * Returns when it is done. */
void sonde_worker_attach(struct sonde_worker *worker, struct sonde_source *source);
void sonde_worker_detach(struct sonde_worker *worker, struct sonde_source *source);

/* receive.c: on the worker's thread. Reads the next batch and sets worker->feed. Returns the
 * number, 0 after about 0.1 s without packets or when woken, or the status of worker->feed. */
int sonde_worker_receive(struct sonde_worker *worker, struct sonde_error *error);
/* Reads a batch of this source, without waiting. */
int sonde_worker_receive_now(struct sonde_worker *worker, struct sonde_feed *feed);
void sonde_worker_feed_add(struct sonde_worker *worker, struct sonde_source *source);
void sonde_worker_feed_drop(struct sonde_worker *worker, const struct sonde_source *source);
/* All aggregating sources have delivered their packets up to here; 0 without such a source. */
uint64_t sonde_worker_complete_ns(const struct sonde_worker *worker);

/* Commands: run them on the worker's thread. */
void sonde_worker_metering_set(struct sonde_worker *worker, bool on, uint64_t idle_ns,
                               uint64_t active_ns);
void sonde_worker_metering_end(struct sonde_worker *worker);
/* Expires idle and long-lived flows. */
void sonde_worker_expire(struct sonde_worker *worker);

/* Call after the thread has been joined, on any thread. Ends flows from *cursor on while the
 * ring has room. True when all have ended. */
bool sonde_worker_final_flush(struct sonde_worker *worker, uint32_t *cursor);

#endif
