/* ip_protocol.h - IP protocol numbers, and the ICMP types that answer each other.
 *
 * The pairs of types are those of the Community ID specification, not the RFCs'.
 */
#ifndef SONDE_IP_PROTOCOL_H
#define SONDE_IP_PROTOCOL_H

#include <stdint.h>

enum sonde_ip_protocol {
  SONDE_IP_ICMP = 1,
  SONDE_IP_IPV4 = 4,
  SONDE_IP_TCP = 6,
  SONDE_IP_UDP = 17,
  SONDE_IP_DCCP = 33,
  SONDE_IP_IPV6 = 41,
  SONDE_IP_GRE = 47,
  SONDE_IP_ICMPV6 = 58,
  SONDE_IP_SCTP = 132,
  SONDE_IP_UDPLITE = 136,
};

static inline int sonde_ip_is_icmp(uint8_t protocol) {
  return protocol == SONDE_IP_ICMP || protocol == SONDE_IP_ICMPV6;
}

/* Returns the type that answers `type`, or -1 if the type has no counterpart. */
static inline int sonde_icmp_counterpart(uint8_t protocol, uint8_t type) {
  /* Each type's counterpart + 1, 0 for a type without one. */
  static const uint8_t icmp[256] = {
      /* echo, router discovery (RFC 1256), timestamp, information, address mask (RFC 950) */
      [0] = 8 + 1,   [8] = 0 + 1,   [9] = 10 + 1,  [10] = 9 + 1,  [13] = 14 + 1,
      [14] = 13 + 1, [15] = 16 + 1, [16] = 15 + 1, [17] = 18 + 1, [18] = 17 + 1,
  };
  static const uint8_t icmpv6[256] = {
      /* echo (RFC 4443), listener query and report (RFC 2710), router and neighbor solicitation
       * (RFC 4861), node information (RFC 4620), home agent address discovery (RFC 6275) */
      [128] = 129 + 1, [129] = 128 + 1, [130] = 131 + 1, [131] = 130 + 1,
      [133] = 134 + 1, [134] = 133 + 1, [135] = 136 + 1, [136] = 135 + 1,
      [139] = 140 + 1, [140] = 139 + 1, [144] = 145 + 1, [145] = 144 + 1,
  };
  return (protocol == SONDE_IP_ICMP ? icmp[type] : icmpv6[type]) - 1;
}

#endif
