/* pcapng.h - writing pcapng blocks: one section, an interface a link type, nanoseconds.
 *
 * https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html
 * Blocks are written whole or not at all; an interface block goes before the first packet of
 * its link type. Host byte order, as the section header says.
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

/* Writes the section header, if it has not been written. Returns the bytes, 0 if no room. */
uint32_t sonde_pcapng_begin(struct sonde_pcapng *pcapng, uint8_t *buffer, uint32_t capacity);

/* How many bytes sonde_pcapng_packet would write; 0: more link types than there is room for. */
uint32_t sonde_pcapng_bytes(const struct sonde_pcapng *pcapng, const struct sonde_packet *packet);

/* Writes the packet, and its interface if it is new. Returns the bytes, 0 if no room. */
uint32_t sonde_pcapng_packet(struct sonde_pcapng *pcapng, const struct sonde_packet *packet,
                             uint8_t *buffer, uint32_t capacity);

#endif
