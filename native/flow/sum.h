/* sum.h - sums over the active flows, by chosen fields; see sonde_session_sum.
 *
 * Several flow tables add to one table of sums, one after the other.
 */
#ifndef SONDE_FLOW_SUM_H
#define SONDE_FLOW_SUM_H

#include "netsonde.h"
#include "table.h"

struct sonde_flow_sums;

struct sonde_flow_sums *sonde_flow_sums_create(void); /* NULL: no memory */
void sonde_flow_sums_destroy(struct sonde_flow_sums *sums);

/* by: enum sonde_flow_by bits. */
void sonde_flow_table_sum(const struct sonde_flow_table *table,
                          const struct sonde_flow_query *query, uint32_t by,
                          struct sonde_flow_sums *sums);
/* Writes the query->limit largest; call it once, after the last table. Returns how many. */
uint32_t sonde_flow_sums_take(struct sonde_flow_sums *sums, const struct sonde_flow_query *query,
                              struct sonde_flow_sum *taken, uint64_t *distinct, uint64_t *left_out);

#endif
