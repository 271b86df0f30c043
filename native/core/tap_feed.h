/* tap_feed.h - a worker's part of a tap: which packets it copies.
 *
 * The worker's thread owns it from attach to detach. The glance comes first: it rejects most
 * packets that the filter rejects, and costs a few instructions and one cache line. Packets of this
 * process's connections are left out, also if the session records them: a tap that copied its own
 * messages would never end.
 */
#ifndef SONDE_CORE_TAP_FEED_H
#define SONDE_CORE_TAP_FEED_H

#include "core/filter.h"
#include "core/own_traffic.h"
#include "tap/writer.h"

struct sonde_tap_feed {
  _Alignas(64) struct sonde_filter_glance glance; /* made from `filters` */
  _Alignas(64) struct sonde_tap_writer *writer;
  struct sonde_tap_ring *ring;
  struct sonde_own_reader own; /* joined if the source is live */
  uint64_t slots;
  uint32_t direction; /* 0: all */
  struct sonde_filter_set filters;
  struct sonde_filter_set exclude; /* expression NULL: excludes nothing */
};

/* decoded: NULL for a packet without a flow. In a tunnel the key can be that of an inner packet,
 * which no socket here sent. */
void sonde_tap_feed_packet(struct sonde_tap_feed *feed, const struct sonde_packet *packet,
                           const struct sonde_decoded *decoded, uint64_t time_ns);

/* True: sonde_tap_feed_packet would do nothing. */
static inline bool sonde_tap_feed_rejects(const struct sonde_tap_feed *feed,
                                          const struct sonde_packet *packet) {
  return packet->linktype == SONDE_LINKTYPE_ETHERNET &&
         sonde_filter_glance_rejects(&feed->glance, packet->data, packet->caplen);
}

#endif
