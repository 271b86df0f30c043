/* name_cache.h - which name a client asked for before it contacted an address.
 *
 * Holds DNS answers for (client, address). An answer enters only if the same client sent the query
 * with the same id and name. All workers of a session share one cache. Looked up once for each
 * record of an unnamed flow, under a lock; no packet of another flow waits for it.
 */
#ifndef SONDE_LABEL_NAME_CACHE_H
#define SONDE_LABEL_NAME_CACHE_H

#include "label/parsers.h"
#include "packet.h"

struct sonde_name_cache;

enum { SONDE_CACHED_NAME_MAX = 127 }; /* longer names are not kept */

struct sonde_name_cache *sonde_name_cache_create(void); /* NULL without memory or a random seed */
void sonde_name_cache_destroy(struct sonde_name_cache *cache);

/* client: 16 bytes, as in struct sonde_key, like every address here. */
void sonde_name_cache_query(struct sonde_name_cache *cache, const uint8_t *client, uint16_t port,
                            uint16_t id, const char *name, uint64_t now_ns);
/* Adds the answers of a response to a query that was seen within the last 10 s. */
void sonde_name_cache_answer(struct sonde_name_cache *cache, const uint8_t *client, uint16_t port,
                             const struct sonde_dns_message *message, const char *name,
                             uint64_t now_ns);
/* Copies the name that held the address for this client at that time. Returns false without. */
bool sonde_name_cache_find(struct sonde_name_cache *cache, const uint8_t *client,
                           const uint8_t *address, uint8_t ip_version, uint64_t at_ns,
                           char name[SONDE_CACHED_NAME_MAX + 1]);

#endif
