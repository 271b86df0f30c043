/* tap_feed.c - see tap_feed.h. Handles the packets that the glance does not reject.
 *
 * Not inline: a tap that matches nothing then needs little code per packet.
 */
#include "core/tap_feed.h"

void sonde_tap_feed_packet(struct sonde_tap_feed *feed, const struct sonde_packet *packet,
                           const struct sonde_decoded *decoded, uint64_t time_ns) {
  if (!(feed->slots >> (packet->source & 63) & 1) ||
      (feed->direction && packet->direction != feed->direction))
    return;
  if (!sonde_filter_set_match(&feed->filters, packet))
    return;
  if (feed->exclude.expression && sonde_filter_set_match(&feed->exclude, packet))
    return;
  sonde_own_reader_refresh(&feed->own);
  if (decoded && decoded->tunnel_type == SONDE_TUNNEL_NONE &&
      sonde_own_has(sonde_own_reader_held(&feed->own), &decoded->key))
    return;
  sonde_tap_ring_put(feed->ring, packet, time_ns);
}
