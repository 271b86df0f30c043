/* table.h - the owners that sockets and flows refer to. Equal owners are stored once.
 *
 * One thread writes; any thread reads. A reference has a generation: if its owner was replaced
 * since, a reader gets an unknown owner with reason LOST. Owners that were read or added
 * lately are replaced last. `shared` is a bit of the reference, so that any thread can set it.
 */
#ifndef SONDE_OWNER_TABLE_H
#define SONDE_OWNER_TABLE_H

#include <stdbool.h>

#include "owner.h"

#define SONDE_OWNER_SHARED_BIT (UINT32_C(1) << 31)

struct sonde_owner_table;

struct sonde_owner_table *sonde_owner_table_create(void);
void sonde_owner_table_destroy(struct sonde_owner_table *table);
/* Returns the reference of an equal owner. Unused bytes and `shared` must be zero. */
uint32_t sonde_owner_table_add(struct sonde_owner_table *table, const struct sonde_owner *owner);
/* A reference to an unknown owner; no entry of a table. */
static inline uint32_t sonde_owner_unknown(enum sonde_owner_reason reason) {
  return (uint32_t)reason;
}
static inline bool sonde_owner_is_known(uint32_t reference) {
  return reference >= SONDE_OWNER_REASONS;
}
/* The same owner, with `shared` if it is true now or was. */
static inline uint32_t sonde_owner_share(uint32_t reference, bool shared) {
  bool marks = shared && sonde_owner_is_known(reference);
  return marks ? reference | SONDE_OWNER_SHARED_BIT : reference;
}
/* Whether both owners are one process, by its id and start. */
bool sonde_owner_is_same(struct sonde_owner_table *table, uint32_t one, uint32_t other);
void sonde_owner_table_read(struct sonde_owner_table *table, uint32_t reference,
                            struct sonde_owner *into);

#endif
