/* collector.h - one place that flow records are sent to: encoder, socket, pace, losses.
 *
 * Belongs to the export thread once it is handed over. A batch of messages is encoded,
 * then sent as the pace and the socket allow; a message that the kernel will not take
 * within bounds is lost and counted, and the next one is tried. Nothing here waits.
 */
#ifndef SONDE_EXPORTER_COLLECTOR_H
#define SONDE_EXPORTER_COLLECTOR_H

#include <stdbool.h>
#include <sys/socket.h>

#include "netsonde.h"

enum { SONDE_COLLECTOR_RINGS = 64 };

struct sonde_collector {
  struct sockaddr_storage to;
  socklen_t to_bytes;
  int fd;            /* connected, or -1 */
  uint64_t retry_ns; /* when to try connecting again */
  struct sonde_encoder *encoder;
  struct sonde_collector_stats stats;

  /* The batch: messages encoded, those from `next` on not yet sent. */
  struct sonde_messages messages;
  uint32_t next;
  struct sonde_message last; /* sent last; what a refusal is charged to */
  bool unsettled;            /* no send has told yet whether `last` was refused */
  bool tried;                /* the message at `next` has failed once */
  uint64_t stuck_ns;         /* since when the socket takes nothing, 0 if it does */
  bool hopeless;             /* a message was given up for that: the next have no patience */

  uint64_t pace; /* bytes a second */
  uint64_t credit_bytes;
  uint64_t credit_ns;

  uint64_t statistics_sec;
  uint64_t statistics_ns; /* when they are due */
  uint32_t statistics_sent;

  /* The export thread's: place in each worker's ring. */
  uint32_t positions[SONDE_COLLECTOR_RINGS];
  uint32_t ring_next;
  uint64_t linger_ns; /* since when a few records wait for company, 0 if none do */
  uint64_t behind_ns; /* since when more than half a ring waits, 0 if less does */
};

/* packet_time, start_ns, ifindex, interface: see struct sonde_encoder_config. */
int sonde_collector_create(const struct sonde_collector_config *config,
                           const struct sonde_encoder_config *session,
                           struct sonde_collector **collector, struct sonde_error *error);
void sonde_collector_destroy(struct sonde_collector *collector); /* NULL is allowed */
bool sonde_collector_is(const struct sonde_collector *collector, const char *address,
                        uint16_t port);
/* Takes over the other's place, counters and sequence numbers. */
void sonde_collector_supersede(struct sonde_collector *collector, struct sonde_collector *before);

static inline bool sonde_collector_idle(const struct sonde_collector *collector) {
  return collector->next == collector->messages.count;
}

/* With an idle collector: begins a batch. */
void sonde_collector_begin(struct sonde_collector *collector);
/* Statistics, if they are due. */
void sonde_collector_report(struct sonde_collector *collector,
                            const struct sonde_export_totals *totals, uint64_t wall_ns,
                            uint64_t now_ns);
/* Adds to the batch; returns how many records it took. wall_ns: since the epoch. */
uint32_t sonde_collector_encode(struct sonde_collector *collector,
                                const struct sonde_record *records, uint32_t count,
                                uint64_t wall_ns);
/* Counts records as lost before they were encoded. */
void sonde_collector_skip(struct sonde_collector *collector, const struct sonde_record *records,
                          uint32_t count);
/* Sends what may be sent at now_ns (monotonic). Returns when to come again: 0 if the batch is
 * through. */
uint64_t sonde_collector_send(struct sonde_collector *collector, uint64_t now_ns);
/* Asks the socket whether the last message was refused. */
void sonde_collector_settle(struct sonde_collector *collector);
void sonde_collector_stats(struct sonde_collector *collector, struct sonde_collector_stats *stats);

#endif
