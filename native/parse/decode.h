/* decode.h - decodes a frame into a flow key: link layer, VLAN, MPLS, PPPoE, IP, tunnels, L4.
 *
 * Each capture thread has one decoder, which owns the fragment table. A decoder reads only
 * packet->data[0…caplen) and never allocates after create. docs/flow-record.md lists the layers
 * and defines every field.
 */
#ifndef SONDE_PARSE_DECODE_H
#define SONDE_PARSE_DECODE_H

#include <stdbool.h>

#include "packet.h"

struct sonde_decoder;

/* inner: 1 takes the key from the innermost decodable IP header. vxlan_ports: UDP ports of VXLAN,
 * ended by 0; NULL: 4789 and 8472. Returns NULL without memory or a random seed. */
struct sonde_decoder *sonde_decoder_create(int inner,
                                           const uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX]);
/* Must be on before a packet is decoded whose payload is asked for. */
void sonde_decoder_payloads_set(struct sonde_decoder *decoder, bool on);
/* Finds the payload of the packet that was decoded last and belongs to a flow. Separate from
 * sonde_decode, which would take eleven instructions more for every packet. */
void sonde_decoder_payload(const struct sonde_decoder *decoder, const struct sonde_packet *packet,
                           struct sonde_payload *payload);
void sonde_decoder_destroy(struct sonde_decoder *decoder); /* NULL is allowed */

/* Fills `out` and returns -1 if the packet belongs to a flow. Otherwise returns the
 * enum sonde_non_flow cause and sets only packets, l2_bytes and time_ns. Members whose flag or
 * tunnel_type is not set keep their old value, except tcp_flags, icmp_* and tunnel_ip_version,
 * which become 0. With nested tunnels `out` names the innermost. The VLAN ids of an outer frame
 * come before those of the frame inside. */
int sonde_decode(struct sonde_decoder *decoder, const struct sonde_packet *packet,
                 struct sonde_decoded *out);

#endif
