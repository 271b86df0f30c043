/* store.h - a session's capture buffer: chunks in memory, sealed and spilled on demand.
 *
 * Each worker has an appender that only its thread uses (appender.h). Queries block a worker
 * only for a few pointer updates. Control calls may come from any thread.
 */
#ifndef SONDE_STORE_STORE_H
#define SONDE_STORE_STORE_H

#include "status.h"
#include "store_config.h"

struct sonde_store;
struct sonde_appender;

/* Errors: NO_MEMORY, INVALID, SYSTEM (threads, directory). */
int sonde_store_open(const struct sonde_store_config *config, struct sonde_store **store,
                     struct sonde_error *error);
/* Call after the workers have ended. Spills the rest of memory if spilling is on. */
void sonde_store_close(struct sonde_store *store); /* NULL is allowed */

struct sonde_appender *sonde_store_appender(struct sonde_store *store, uint32_t worker);
/* Names the interface of a slot in answers and segments. Call before the slot's first packet
 * under this name. A stored packet keeps the name it was stored under. Errors: INVALID,
 * NO_MEMORY. */
int sonde_store_name_set(struct sonde_store *store, uint32_t slot, const char *name,
                         struct sonde_error *error);
/* Logs a gap: packets were dropped before they reached the store. Any thread. */
void sonde_store_note_drops(struct sonde_store *store, uint64_t from_ns, uint64_t to_ns);
void sonde_store_stats(struct sonde_store *store, struct sonde_store_stats *stats);

/* Seals future extents with `key` (NULL: not at all). The caller then makes every worker cut
 * its extent, and calls sonde_store_seal_all. */
int sonde_store_key_set(struct sonde_store *store, const uint8_t *key, struct sonde_error *error);
/* Seals every unsealed extent, and removes unencrypted segment files. Takes about 0.3 s per
 * GiB. Errors: SYSTEM (a file cannot be removed). */
int sonde_store_seal_all(struct sonde_store *store, struct sonde_error *error);

#endif
