/* address.h - IP addresses as text.
 *
 * IPv6 follows RFC 5952: lower case, no leading zeros, the first longest run of two or more zero
 * groups shortened. The IPv4-mapped ::ffff:192.0.2.1 is "::ffff:c000:201", a form that RFC 5952 §5
 * allows, so each address has exactly one text.
 */
#ifndef SONDE_EXPORT_ADDRESS_H
#define SONDE_EXPORT_ADDRESS_H

#include <stdint.h>

enum { SONDE_ADDRESS_TEXT_MAX = 39 };

/* ip_version 4 uses the first four octets. Writes at most SONDE_ADDRESS_TEXT_MAX bytes, may
 * overwrite three more, and returns the end. */
char *sonde_address_put(char *p, uint8_t ip_version, const uint8_t address[16]);

#endif
