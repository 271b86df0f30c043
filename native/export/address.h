/* address.h - IP addresses as text.
 *
 * IPv6 follows RFC 5952: lower case, no leading zeros, the longest run of two or more zero
 * groups shortened, the first of equals. No address is written with an IPv4 tail: the
 * IPv4-mapped ::ffff:192.0.2.1 is "::ffff:c000:201" (RFC 5952 §5 leaves that to the
 * writer), so one address has one text.
 */
#ifndef SONDE_EXPORT_ADDRESS_H
#define SONDE_EXPORT_ADDRESS_H

#include <stdint.h>

enum { SONDE_ADDRESS_TEXT_MAX = 39 };

/* ip_version 4: the first four octets. Writes at most SONDE_ADDRESS_TEXT_MAX bytes and
 * scribbles up to three more. Returns the end. */
char *sonde_address_put(char *p, uint8_t ip_version, const uint8_t address[16]);

#endif
