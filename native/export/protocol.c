/* protocol.c - the table of protocol names, as in docs/flow-record.md.
 *
 * A name is the common one, usually IANA's keyword. Protocols that are no longer in use have no row
 * and appear as numbers.
 */
#include "protocol.h"

#include "text.h"

/* X(number, "name") */
#define PROTOCOL_LIST(X)                                                                           \
  X(SONDE_IP_ICMP, "ICMP")                                                                         \
  X(2, "IGMP")                                                                                     \
  X(4, "IPIP")                                                                                     \
  X(SONDE_IP_TCP, "TCP")                                                                           \
  X(SONDE_IP_UDP, "UDP")                                                                           \
  X(33, "DCCP")                                                                                    \
  X(41, "IPv6")                                                                                    \
  X(46, "RSVP")                                                                                    \
  X(47, "GRE")                                                                                     \
  X(50, "ESP")                                                                                     \
  X(51, "AH")                                                                                      \
  X(SONDE_IP_ICMPV6, "ICMPv6")                                                                     \
  X(88, "EIGRP")                                                                                   \
  X(89, "OSPF")                                                                                    \
  X(97, "EtherIP")                                                                                 \
  X(103, "PIM")                                                                                    \
  X(108, "IPComp")                                                                                 \
  X(112, "VRRP")                                                                                   \
  X(115, "L2TP")                                                                                   \
  X(SONDE_IP_SCTP, "SCTP")                                                                         \
  X(135, "Mobility")                                                                               \
  X(136, "UDPLite")                                                                                \
  X(137, "MPLS")                                                                                   \
  X(139, "HIP")

struct row {
  uint8_t length; /* 0: no name */
  char name[SONDE_PROTOCOL_TEXT_MAX + 1];
};

static const struct row rows[256] = {
#define PROTOCOL_ROW(number, name) [number] = {sizeof name - 1, name},
    PROTOCOL_LIST(PROTOCOL_ROW)
#undef PROTOCOL_ROW
};

char *sonde_protocol_put(char *p, uint8_t protocol) {
  const struct row *row = &rows[protocol];
  if (row->length == 0)
    return put_octet(p, protocol);
  memcpy(p, row->name, SONDE_PROTOCOL_TEXT_MAX);
  return p + row->length;
}
