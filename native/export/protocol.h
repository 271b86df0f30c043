/* protocol.h - IP protocol numbers, and the names that records show for them. */
#ifndef SONDE_EXPORT_PROTOCOL_H
#define SONDE_EXPORT_PROTOCOL_H

#include <stdint.h>

enum sonde_ip_protocol {
  SONDE_IP_PROTOCOL_ICMP = 1,
  SONDE_IP_PROTOCOL_TCP = 6,
  SONDE_IP_PROTOCOL_UDP = 17,
  SONDE_IP_PROTOCOL_ICMPV6 = 58,
  SONDE_IP_PROTOCOL_SCTP = 132,
};

enum { SONDE_PROTOCOL_TEXT_MAX = 8 };

/* Writes the name, or the number for protocols without one. Scribbles up to
 * SONDE_PROTOCOL_TEXT_MAX bytes; returns the end of the text. */
char *sonde_protocol_put(char *p, uint8_t protocol);

static inline int sonde_protocol_is_icmp(uint8_t protocol) {
  return protocol == SONDE_IP_PROTOCOL_ICMP || protocol == SONDE_IP_PROTOCOL_ICMPV6;
}

#endif
