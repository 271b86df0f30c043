/* counters.h - the counters of a session, each declared once.
 *
 * Each list gives members of struct sonde_stats and of the struct of the stage that counts.
 * sonde_session_stats copies or sums by the same list. A new counter is a line here and the
 * increment in the stage. To show it in status and metrics, add a line to
 * agent/netsonde/wire/counters.py.
 */
#ifndef SONDE_COUNTERS_H
#define SONDE_COUNTERS_H

#include <stdint.h>

/* Counted by each worker (core/worker.h), summed over workers. */
#define SONDE_WORKER_COUNTER_LIST(X)                                                               \
  X(packets_captured) /* wire packets */                                                           \
  X(bytes_captured)   /* frames on the wire, without FCS */                                        \
  X(frames_captured)  /* frames from the backend: a super-packet counts once */                    \
  X(packets_non_flow)                                                                              \
  X(fragments)                                                                                     \
  X(ip_length_clamped)                                                                             \
  X(timestamps_corrected)

/* Counted by each flow table (flow/table.h), summed over workers. */
#define SONDE_FLOW_COUNTER_LIST(X)                                                                 \
  X(packets_recorded)        /* in records made so far */                                          \
  X(packets_active)          /* in active flows, not yet in a record */                            \
  X(packets_unmetered)       /* in flows that ended while metering was off */                      \
  X(ip_bytes)                /* IP octets of packets in flows */                                   \
  X(records)                 /* made, over all reasons */                                          \
  X(records_dropped)         /* made but lost: the ring was full and could not wait */             \
  X(packets_records_dropped) /* packets in those */                                                \
  X(flows_active)                                                                                  \
  X(flows_created)                                                                                 \
  X(timestamps_late) /* packets too late to correct the flow's start */

/* Counted by each labeler (label/labeler.h), summed over workers; 0 without labels. */
#define SONDE_LABEL_COUNTER_LIST(X)                                                                \
  X(labels_complete) /* flows whose first message was read */                                      \
  X(labels_partial)  /* flows of which only a part of it was captured */                           \
  X(labels_skipped)  /* flows that were over a limit of memory or rate */

/* Counted by the owner index (owner/tracker.h); 0 without owners. */
#define SONDE_OWNER_COUNTER_LIST(X)                                                                \
  X(owners_found)   /* sockets whose owner was learnt */                                           \
  X(owners_lost)    /* events of sockets that found the kernel's ring full */                      \
  X(owners_evicted) /* sockets that a full index dropped while a flow could need them */

/* Counted by the capture buffer (store/store.h), 0 without one. */
#define SONDE_STORE_COUNTER_LIST(X)                                                                \
  X(chunks_overwritten)                                                                            \
  X(packets_overwritten) /* frames: a super-packet counts once, here and below */                  \
  X(packets_unrecorded)  /* captured, but every chunk was busy */                                  \
  X(seal_failures)                                                                                 \
  X(packets_seal_lost)                                                                             \
  X(segments)           /* files in buffer_dir */                                                  \
  X(segment_bytes)      /* size of those files */                                                  \
  X(spill_failures)     /* failed system calls and seals */                                        \
  X(packets_spill_lost) /* never written to a segment; they may still be in memory */

/* Packets of one link type that the decoder does not know. */
struct sonde_undecoded {
  uint64_t linktype; /* LINKTYPE_ value */
  uint64_t packets;
};

enum { SONDE_UNDECODED_MAX = 8 };

#define SONDE_COUNTER_MEMBER(name) uint64_t name;

#endif
