/* tap_feed.h - a worker's part of a tap: which packets it copies.
 *
 * The worker's thread owns it from attach to detach. The user's filter comes first, so that a
 * packet that does not match costs one BPF program. Packets of this process's connections are left
 * out, also if the session records them: a tap that copied its own messages would never end.
 */
#ifndef SONDE_CORE_TAP_FEED_H
#define SONDE_CORE_TAP_FEED_H

#include "core/filter.h"
#include "core/own_traffic.h"
#include "tap/writer.h"

struct sonde_tap_feed {
  struct sonde_tap_writer *writer;
  struct sonde_tap_ring *ring;
  struct sonde_filter_set filters;
  struct sonde_filter_set exclude; /* expression NULL: excludes nothing */
  struct sonde_own_reader own;     /* joined if the source is live */
  uint64_t slots;
  uint32_t direction; /* 0: all */
};

/* decoded: NULL for a packet without a flow. In a tunnel the key can be that of an inner packet,
 * which no socket here sent. */
static inline void sonde_tap_feed_packet(struct sonde_tap_feed *feed,
                                         const struct sonde_packet *packet,
                                         const struct sonde_decoded *decoded, uint64_t time_ns) {
  if (!(feed->slots >> (packet->source & 63) & 1) ||
      (feed->direction && packet->direction != feed->direction))
    return;
  if (!sonde_filter_set_match(&feed->filters, packet))
    return;
  if (feed->exclude.expression && sonde_filter_set_match(&feed->exclude, packet))
    return;
  if (decoded && decoded->tunnel_type == SONDE_TUNNEL_NONE &&
      sonde_own_has(sonde_own_reader_held(&feed->own), &decoded->key))
    return;
  sonde_tap_ring_put(feed->ring, packet, time_ns);
}

#endif
