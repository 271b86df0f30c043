/* names.h - the interface names of stored packets.
 *
 * A stored packet carries a number, and a number has one name. A slot of the session gets
 * another number with each new name, so a reused slot does not rename stored packets. A name
 * that returns gets its number again. After 65,536 names the oldest one that no slot uses is
 * replaced. A segment frame ends with the names of its packets: entries of u16 number, u16
 * length and the bytes, then zeros.
 */
#ifndef SONDE_STORE_NAMES_H
#define SONDE_STORE_NAMES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "packet.h"

enum {
  SONDE_NAME_BYTES = 192, /* "<host>/<interface>" and a zero; longer names are cut */
  SONDE_NAMES_MAX = 1 << 16,
  SONDE_NAMES_ALIGN = 64,
};

struct sonde_names {
  pthread_mutex_t lock;
  char (*name)[SONDE_NAME_BYTES]; /* by number; under the lock, like the next two */
  uint32_t count;
  uint32_t oldest;                               /* the next to replace, once all are in use */
  _Atomic uint16_t number_of[SONDE_SOURCES_MAX]; /* by slot; workers read it */
};

/* 0 is the number of the empty name. False without memory. */
bool sonde_names_init(struct sonde_names *names);
void sonde_names_release(struct sonde_names *names);
/* Call before the slot's first packet under this name. False without memory. */
bool sonde_names_set(struct sonde_names *names, uint32_t slot, const char *name);
/* Writes the number's name; "" if it has no name. */
void sonde_names_copy(struct sonde_names *names, uint16_t number, char into[SONDE_NAME_BYTES]);

/* Writes the names of the packets in `data` to `into`. Returns the bytes, a multiple of
 * SONDE_NAMES_ALIGN; 0 if no packet has a name. Names that do not fit are left out. */
uint32_t sonde_names_write(struct sonde_names *names, const uint8_t *data, uint32_t bytes,
                           uint8_t *into, uint32_t capacity);
/* Reads a frame's names. Writes "" if the number has none. */
void sonde_names_find(const uint8_t *block, uint32_t bytes, uint16_t number,
                      char into[SONDE_NAME_BYTES]);

#endif
