/* table.h - the flow table of one capture thread.
 *
 * Fixed capacity, allocated at create, touched as flows come. Packets go in by batches,
 * records come out through a sink as flows time out, end or are flushed. Semantics:
 * docs/flow-record.md. Time is an argument everywhere and only its differences count:
 * the caller says what clock it is, and how far that clock is from the epoch.
 *
 * Conservation: packets given to update = recorded + active + unmetered.
 */
#ifndef SONDE_FLOW_TABLE_H
#define SONDE_FLOW_TABLE_H

#include "flow_config.h"
#include "netsonde.h"
#include "packet.h"

struct sonde_flow_table;

struct sonde_flow_table *sonde_flow_table_create(const struct sonde_flow_config *config);
void sonde_flow_table_destroy(struct sonde_flow_table *table); /* NULL is allowed */

/* Timeouts in ns. With metering off flows end without a record and count as unmetered.
 * Takes effect at once for all flows; turning metering off does not flush. */
void sonde_flow_table_metering_set(struct sonde_flow_table *table, bool on, uint64_t idle_ns,
                                   uint64_t active_ns);
/* Added to every time in records made from now on. */
void sonde_flow_table_epoch_set(struct sonde_flow_table *table, int64_t offset_ns);

/* count ≤ SONDE_FLOW_BATCH_MAX; packets of one flow in order of arrival. */
void sonde_flow_table_update(struct sonde_flow_table *table, const struct sonde_decoded *packets,
                             uint32_t count);
/* Adds what a backend has added up; count ≤ SONDE_FLOW_BATCH_MAX. Whether a flow's time was
 * up is decided at a delta's first packet; the rest goes along. At most
 * SONDE_FLOW_RECORDS_PER_PACKET_MAX records each. */
void sonde_flow_table_merge(struct sonde_flow_table *table, const struct sonde_delta *deltas,
                            uint32_t count);
/* Ends what is due at now_ns; stops early when the sink has no room, and goes on from
 * there at the next call. A now_ns before an earlier one does nothing. */
void sonde_flow_table_expire(struct sonde_flow_table *table, uint64_t now_ns);

/* Ends segments with reason `forced`, or with their own where their time was up when expire
 * was last called; from *cursor on (0 to begin), as far as the sink has room. final: the flows
 * leave the table. Returns true when all are done. */
bool sonde_flow_table_flush(struct sonde_flow_table *table, bool final, uint32_t *cursor);

/* The best query->limit flows in order, as records with cumulative counters. Returns how
 * many, adds all that match to *matching. */
uint32_t sonde_flow_table_list(const struct sonde_flow_table *table,
                               const struct sonde_flow_query *query, struct sonde_record *records,
                               uint64_t *matching);
/* Order of a listing: < 0 if a comes first. */
int sonde_flow_record_compare(const struct sonde_record *a, const struct sonde_record *b,
                              uint32_t sort);

const struct sonde_flow_counters *sonde_flow_table_counters(const struct sonde_flow_table *table);

#endif
