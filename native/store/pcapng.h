/* pcapng.h - writes pcapng blocks: one section, one interface per link type, nanoseconds.
 *
 * https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html
 * Blocks are written whole or not at all. An interface block precedes the first packet of
 * its link type. Host byte order, as the section header states.
 */
#ifndef SONDE_STORE_PCAPNG_H
#define SONDE_STORE_PCAPNG_H

#include <stdbool.h>

#include "packet.h"

enum { SONDE_PCAPNG_LINKTYPES_MAX = 16, SONDE_PCAPNG_NAME_MAX = 64 };

struct sonde_pcapng {
  bool begun; /* the section header has been written */
  uint32_t linktypes;
  uint16_t linktype[SONDE_PCAPNG_LINKTYPES_MAX]; /* by interface number */
  char interface[SONDE_PCAPNG_NAME_MAX];
};

void sonde_pcapng_init(struct sonde_pcapng *pcapng, const char *interface);

/* Writes the section header once. Returns its bytes; 0 if it was written or does not fit. */
uint32_t sonde_pcapng_begin(struct sonde_pcapng *pcapng, uint8_t *buffer, uint32_t capacity);

/* Returns the bytes that sonde_pcapng_packet needs; 0 if there are too many link types. */
uint32_t sonde_pcapng_bytes(const struct sonde_pcapng *pcapng, const struct sonde_packet *packet);

/* Writes a packet, and its interface block if new. Returns the bytes; 0 if they do not fit. */
uint32_t sonde_pcapng_packet(struct sonde_pcapng *pcapng, const struct sonde_packet *packet,
                             uint8_t *buffer, uint32_t capacity);

#endif
