/* labeler.h - labels the flows of one worker from their first payloads.
 *
 * The flow table calls it through struct sonde_label_hook, for few packets of a flow. A message
 * that is whole in its packet is parsed there. Pieces wait in a fixed number of buffers; when all
 * are in use, the flow that waited longest becomes PARTIAL.
 */
#ifndef SONDE_LABEL_LABELER_H
#define SONDE_LABEL_LABELER_H

#include "counters.h"
#include "label/label_table.h"
#include "label/name_cache.h"
#include "label_hook.h"

struct sonde_labeler;

enum { SONDE_LABEL_WORKER_SHIFT = 24 }; /* in a record's label */

struct sonde_labeler_config {
  uint32_t protocols;             /* enum sonde_label_protocol */
  uint32_t worker;                /* 0…63: the upper bits of a record's label */
  uint64_t bytes;                 /* for pieces and labels together */
  uint32_t quic_per_second;       /* connections whose Initial is opened */
  struct sonde_name_cache *cache; /* the session's, or NULL */
  struct sonde_record_progress progress;
  const struct sonde_decoded *batch;    /* the packets given to the flow table … */
  const struct sonde_payload *payloads; /* … and the payload of each */
};

struct sonde_label_counters {
  SONDE_LABEL_COUNTER_LIST(SONDE_COUNTER_MEMBER)
};

struct sonde_labeler *sonde_labeler_create(const struct sonde_labeler_config *config);
void sonde_labeler_destroy(struct sonde_labeler *labeler); /* NULL is allowed */
struct sonde_label_hook sonde_labeler_hook(struct sonde_labeler *labeler);
const struct sonde_label_counters *sonde_labeler_counters(const struct sonde_labeler *labeler);
/* Copies the label of a record. A replaced one becomes SKIPPED. Any thread. */
void sonde_labeler_read(struct sonde_labeler *labeler, uint32_t label, uint16_t generation,
                        struct sonde_app_label *into);

#endif
