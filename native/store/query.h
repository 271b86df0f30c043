/* query.h - a query of the store. The answer is pcapng.
 *
 * The store must outlive the query. One thread at a time. Capture continues and may overwrite
 * packets before the query reads them. The summary lists them as gaps.
 */
#ifndef SONDE_STORE_QUERY_H
#define SONDE_STORE_QUERY_H

#include <stdbool.h>

#include "netsonde.h"
#include "packet.h"
#include "store.h"

struct sonde_query;

struct sonde_query_config {
  uint64_t start_ns;
  uint64_t end_ns;        /* included */
  uint64_t max_bytes;     /* 0: no limit */
  uint64_t max_packets;   /* 0: no limit */
  const char *expression; /* the same filter as BPF, to skip chunks; or NULL */
  bool (*match)(void *context, const struct sonde_packet *packet); /* NULL: all */
  void *context;
};

int sonde_query_open(struct sonde_store *store, const struct sonde_query_config *config,
                     struct sonde_query **query, struct sonde_error *error);
/* See sonde_session_packets_read. */
int sonde_query_read(struct sonde_query *query, uint8_t *buffer, uint32_t capacity);
void sonde_query_summary(const struct sonde_query *query, struct sonde_packets_summary *summary);
void sonde_query_close(struct sonde_query *query); /* NULL is allowed */

#endif
