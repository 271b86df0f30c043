/* decode.h - from a frame to a flow key: link layer, VLAN, MPLS, PPPoE, IP, tunnels, L4.
 *
 * One decoder a capture thread; it owns the fragment table and nothing else. It reads only
 * packet->data[0…caplen), whatever the bytes say, and never allocates after create.
 * Semantics: docs/flow-record.md; which layers are known is listed there too.
 */
#ifndef SONDE_PARSE_DECODE_H
#define SONDE_PARSE_DECODE_H

#include "packet.h"

struct sonde_decoder;

/* inner: 1 = the innermost decodable IP header makes the key. NULL: no memory, or no random seed.
 */
struct sonde_decoder *sonde_decoder_create(int inner);
void sonde_decoder_destroy(struct sonde_decoder *decoder); /* NULL is allowed */

/* Returns -1 if `out` is filled and the packet belongs to a flow, else its
 * enum sonde_non_flow cause; then out's packets, l2_bytes and time_ns alone are set.
 * What a flag or tunnel_type says is not there is left as it was, but for tcp_flags,
 * icmp_* and tunnel_ip_version, which are then 0. Tunnels in tunnels: the record names the
 * innermost. VLAN ids of a tunnelled frame follow those of the frame around it. */
int sonde_decode(struct sonde_decoder *decoder, const struct sonde_packet *packet,
                 struct sonde_decoded *out);

#endif
