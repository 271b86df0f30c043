/* protocol.h - the names of IP protocols in records. */
#ifndef SONDE_EXPORT_PROTOCOL_H
#define SONDE_EXPORT_PROTOCOL_H

#include "ip_protocol.h"

enum { SONDE_PROTOCOL_TEXT_MAX = 8 };

/* Writes the protocol's name, or its number if it has no name, and returns the end of the text. May
 * overwrite up to SONDE_PROTOCOL_TEXT_MAX bytes. */
char *sonde_protocol_put(char *p, uint8_t protocol);

#endif
