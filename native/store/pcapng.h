/* pcapng.h - writes pcapng blocks: one section, one interface per name and link type.
 *
 * Times are in nanoseconds.
 *
 * https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html
 * Blocks are written whole or not at all. An interface block precedes the first packet of
 * its name and link type. Host byte order, as the section header states.
 */
#ifndef SONDE_STORE_PCAPNG_H
#define SONDE_STORE_PCAPNG_H

#include <stdbool.h>

#include "names.h"
#include "packet.h"

enum { SONDE_PCAPNG_INTERFACES_MAX = 1024 };

struct sonde_pcapng_interface {
  uint16_t linktype;
  char name[SONDE_NAME_BYTES];
};

struct sonde_pcapng {
  bool begun; /* the section header has been written */
  uint32_t count;
  uint32_t last; /* the previous packet's interface */
  uint32_t room;
  struct sonde_pcapng_interface *interfaces; /* by interface number */
};

void sonde_pcapng_release(struct sonde_pcapng *pcapng); /* zero before first use */

/* Writes the section header once. Returns its bytes; 0 if it was written or does not fit. */
uint32_t sonde_pcapng_begin(struct sonde_pcapng *pcapng, uint8_t *buffer, uint32_t capacity);

/* Returns the bytes that sonde_pcapng_packet needs; 0 if there are too many interfaces.
 * name: of the packet's interface; "" if unknown. */
uint32_t sonde_pcapng_bytes(struct sonde_pcapng *pcapng, const struct sonde_packet *packet,
                            const char *name);

/* Writes a packet, and its interface block if new. Returns the bytes; 0 if they do not fit. */
uint32_t sonde_pcapng_packet(struct sonde_pcapng *pcapng, const struct sonde_packet *packet,
                             const char *name, uint8_t *buffer, uint32_t capacity);

#endif
