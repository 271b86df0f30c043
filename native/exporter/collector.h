/* collector.h - a destination of flow records: encoder, socket, pace, losses.
 *
 * Owned by the export thread. A batch of messages is encoded, then sent as fast as the pace and the
 * socket allow. A message that the kernel rejects until a timeout is dropped and counted. No
 * function blocks.
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
  int fd;                        /* connected, or -1 */
  uint64_t retry_ns;             /* when to try connecting again */
  struct sonde_own_endpoint own; /* the socket fd; local_port 0: unknown */
  struct sonde_encoder *encoder;
  struct sonde_collector_stats stats;

  /* The batch: encoded messages. Those from `next` on are not sent yet. */
  struct sonde_messages messages;
  uint32_t next;
  struct sonde_message last; /* the last sent; an ICMP refusal counts as its loss */
  bool last_pending;         /* no refusal of `last` is known yet; not reported as sent */
  uint64_t last_ns;          /* when it was sent */
  bool failed_once;          /* the message at `next` failed once */
  uint64_t full_since_ns;    /* when the socket buffer became full, 0 if it is not */
  bool drop_when_full;       /* one message timed out: drop further ones without waiting */

  uint64_t pace; /* bytes per second */
  uint64_t credit_bytes;
  uint64_t credit_ns;

  uint64_t statistics_sec;
  uint64_t statistics_ns; /* due time */
  uint32_t statistics_sent;

  /* Used by the export thread: position in each worker's ring. */
  uint32_t positions[SONDE_COLLECTOR_RINGS];
  uint32_t ring_next;
  uint64_t linger_ns; /* since when a small batch waits for more records, or 0 */
  uint64_t behind_ns; /* since when more than half a ring is unsent, or 0 */
};

/* packet_time, start_ns, ifindex, interface: see struct sonde_encoder_config. */
int sonde_collector_create(const struct sonde_collector_config *config,
                           const struct sonde_encoder_config *session,
                           struct sonde_collector **collector, struct sonde_error *error);
void sonde_collector_destroy(struct sonde_collector *collector); /* NULL is allowed */
bool sonde_collector_is(const struct sonde_collector *collector, const char *address,
                        uint16_t port);
/* Takes over the socket, positions, counters and sequence numbers of `before`. */
void sonde_collector_supersede(struct sonde_collector *collector, struct sonde_collector *before);

static inline bool sonde_collector_idle(const struct sonde_collector *collector) {
  return collector->next == collector->messages.count;
}

/* Begins a batch. The collector must be idle. */
void sonde_collector_begin(struct sonde_collector *collector);
/* Adds the statistics message if it is due. */
void sonde_collector_report(struct sonde_collector *collector,
                            const struct sonde_export_totals *totals, uint64_t wall_ns,
                            uint64_t now_ns);
/* Counts records as lost without encoding them. */
void sonde_collector_skip(struct sonde_collector *collector, const struct sonde_record *records,
                          uint32_t count);
/* Sends messages as the pace allows at now_ns (monotonic). Returns when to call again, 0 if the
 * batch is done. */
uint64_t sonde_collector_send(struct sonde_collector *collector, uint64_t now_ns);
void sonde_collector_disconnect(struct sonde_collector *collector);
/* Checks the socket for a refusal of the last message. */
void sonde_collector_settle(struct sonde_collector *collector);
/* Settles, and then reports the last message as sent. Refusals that come later are no loss. */
void sonde_collector_confirm(struct sonde_collector *collector);
/* The same if the last message was sent long ago. */
void sonde_collector_confirm_old(struct sonde_collector *collector, uint64_t now_ns);
/* The socket that poll reports an error for when a refusal arrives, or -1. */
static inline int sonde_collector_error_fd(const struct sonde_collector *collector) {
  return collector->last_pending ? collector->fd : -1;
}
/* No counter ever decreases: the message that may still be refused is not counted as sent. */
void sonde_collector_stats(const struct sonde_collector *collector,
                           struct sonde_collector_stats *stats);

#endif
