/* table.h - the owners that sockets and flows refer to. Equal owners are stored once.
 *
 * One thread writes; any thread reads. A reference has a generation: if its owner was replaced
 * since, a reader gets an unknown owner with reason LOST. Owners that were read or added
 * lately are replaced last.
 */
#ifndef SONDE_OWNER_TABLE_H
#define SONDE_OWNER_TABLE_H

#include <stdbool.h>

#include "owner.h"

struct sonde_owner_table;

struct sonde_owner_table *sonde_owner_table_create(void);
void sonde_owner_table_destroy(struct sonde_owner_table *table);
/* Returns the reference of an equal owner. Unused bytes must be zero. */
uint32_t sonde_owner_table_add(struct sonde_owner_table *table, const struct sonde_owner *owner);
/* A reference to an unknown owner; no entry of a table. */
static inline uint32_t sonde_owner_unknown(enum sonde_owner_reason reason) {
  return (uint32_t)reason;
}
static inline bool sonde_owner_is_known(uint32_t reference) {
  return reference >= SONDE_OWNER_REASONS;
}
void sonde_owner_table_read(struct sonde_owner_table *table, uint32_t reference,
                            struct sonde_owner *into);

#endif
