/* store.h - the capture buffer of a session: chunks in memory, sealed and spilled on demand.
 *
 * Each worker has an appender that only its thread touches (appender.h). Queries read
 * without holding anything that a worker waits for longer than a few pointers take. Control
 * calls may come from any thread.
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
/* The workers have ended. What is in memory and was to be spilled is, before this returns. */
void sonde_store_close(struct sonde_store *store); /* NULL is allowed */

struct sonde_appender *sonde_store_appender(struct sonde_store *store, uint32_t worker);
/* Between the two times packets were dropped that should have come here: a gap. Any thread. */
void sonde_store_note_drops(struct sonde_store *store, uint64_t from_ns, uint64_t to_ns);
void sonde_store_stats(struct sonde_store *store, struct sonde_store_stats *stats);

/* From here on extents are sealed with `key` (NULL: left clear). The caller then has every
 * worker cut its extent, and calls sonde_store_seal_all. */
int sonde_store_key_set(struct sonde_store *store, const uint8_t *key, struct sonde_error *error);
/* Seals every extent that lies in clear, and removes the segment files that do. Takes about
 * 0.3 s per GiB. Errors: SYSTEM (a file cannot be removed). */
int sonde_store_seal_all(struct sonde_store *store, struct sonde_error *error);

#endif
