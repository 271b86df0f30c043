/* label_table.h - the labels of one worker's flows. Equal labels are stored once.
 *
 * The worker's thread writes; any thread reads by index and generation. A label that no flow uses
 * stays until its place is needed, and until the records that name it have been read. Its
 * generation then changes, so a late reader finds nothing instead of another label.
 */
#ifndef SONDE_LABEL_LABEL_TABLE_H
#define SONDE_LABEL_LABEL_TABLE_H

#include <stdbool.h>

#include "app_label.h"

struct sonde_label_table;

/* The records on their way to readers. position: counts every record. read: have all records up to
 * this position been read? On the worker's thread. */
struct sonde_record_progress {
  void *context;
  uint32_t (*position)(void *context);
  bool (*read)(void *context, uint32_t position);
};

enum { SONDE_LABEL_NONE = 0 }; /* no label's index */

struct sonde_label_table *sonde_label_table_create(uint64_t bytes,
                                                   struct sonde_record_progress progress);
void sonde_label_table_destroy(struct sonde_label_table *table);

/* Returns the index of the label, which counts one more user, or NONE if every place is in use. */
uint32_t sonde_label_table_add(struct sonde_label_table *table,
                               const struct sonde_app_label *label);
void sonde_label_table_keep(struct sonde_label_table *table, uint32_t index); /* one more user */
void sonde_label_table_drop(struct sonde_label_table *table, uint32_t index);
/* The label of an index in use. Valid until it is dropped. On the worker's thread. */
const struct sonde_app_label *sonde_label_table_get(const struct sonde_label_table *table,
                                                    uint32_t index);
uint16_t sonde_label_table_generation(const struct sonde_label_table *table, uint32_t index);
/* Copies a label. Returns false if the index has another generation. Any thread. */
bool sonde_label_table_read(struct sonde_label_table *table, uint32_t index, uint16_t generation,
                            struct sonde_app_label *into);

#endif
