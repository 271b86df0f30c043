/* table.h - the flow table of one capture thread.
 *
 * The capacity is fixed at create; pages are used as flows arrive. Packets enter in batches.
 * Records leave through a sink when flows time out, end or are flushed (docs/flow-record.md).
 * Time is always an argument, from a clock of the caller whose offset from the epoch is
 * set with epoch_set.
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

/* Timeouts in ns, effective immediately for all flows. With metering off, flows end without a
 * record and count as unmetered. Turning metering off does not flush. */
void sonde_flow_table_metering_set(struct sonde_flow_table *table, bool on, uint64_t idle_ns,
                                   uint64_t active_ns);
/* Sets the offset that is added to every time in later records. */
void sonde_flow_table_epoch_set(struct sonde_flow_table *table, int64_t offset_ns);

/* Sets the interface index in later records of packets with this source. */
void sonde_flow_table_interface_set(struct sonde_flow_table *table, uint32_t source,
                                    uint32_t ifindex);

/* A bit for each source that has flows in the table. */
uint64_t sonde_flow_table_sources(const struct sonde_flow_table *table);

/* count ≤ SONDE_FLOW_BATCH_MAX; packets of one flow in order of arrival. */
void sonde_flow_table_update(struct sonde_flow_table *table, const struct sonde_decoded *packets,
                             uint32_t count);
/* Merges a backend's sums; count ≤ SONDE_FLOW_BATCH_MAX. Timeouts are checked at a delta's first
 * packet only. Each delta makes at most SONDE_FLOW_RECORDS_PER_PACKET_MAX records. */
void sonde_flow_table_merge(struct sonde_flow_table *table, const struct sonde_delta *deltas,
                            uint32_t count);
/* Ends the flows and segments due at now_ns. Stops when the sink is full; the next call continues
 * from there. A now_ns before an earlier one does nothing. */
void sonde_flow_table_expire(struct sonde_flow_table *table, uint64_t now_ns);

/* Ends segments from *cursor on (0 to begin) until the sink is full. The reason is `forced`, or the
 * timeout's if the segment was due at the last expire. final: removes the flows. Returns true
 * when all are done. */
bool sonde_flow_table_flush(struct sonde_flow_table *table, bool final, uint32_t *cursor);

/* Writes the first query->limit flows in order, as records with cumulative counters. Returns their
 * number and adds the number of all matches to *matching. */
uint32_t sonde_flow_table_list(const struct sonde_flow_table *table,
                               const struct sonde_flow_query *query, struct sonde_record *records,
                               uint64_t *matching);
/* The order of a list: < 0 if a comes first. */
int sonde_flow_record_compare(const struct sonde_record *a, const struct sonde_record *b,
                              uint32_t sort);

const struct sonde_flow_counters *sonde_flow_table_counters(const struct sonde_flow_table *table);

#endif
