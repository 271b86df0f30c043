/* render.c - renders a batch of records in an encoding into a buffer.
 *
 * A JSON or MessagePack record is started only if the maximum of any record,
 * SONDE_RENDERED_RECORD_MAX, still fits, so their writers need no checks. IPFIX has separate
 * limits.
 */
#include "netsonde.h"

#include <assert.h>
#include <string.h>

#include "packet.h"
#include "rendering.h"

static const struct sonde_encoding_ops *const encodings[] = {
    [SONDE_ENCODING_JSON] = &sonde_encoding_json,
    [SONDE_ENCODING_MSGPACK] = &sonde_encoding_msgpack,
};

#define FIELD_NAME(name, ...) #name,
static const char *const field_names[SONDE_FIELDS] = {SONDE_FIELD_LIST(FIELD_NAME)};

const char *sonde_record_field_name(uint32_t field) {
  return field < SONDE_FIELDS ? field_names[field] : NULL;
}

void sonde_batch_count(struct sonde_batch *batch, const struct sonde_record *record) {
  if (batch->records == 0 || record->first_ns < batch->first_ns)
    batch->first_ns = record->first_ns;
  if (record->last_ns > batch->last_ns)
    batch->last_ns = record->last_ns;
  batch->packets += record->packets[0] + record->packets[1];
  batch->records++;
}

void sonde_render_label(const struct sonde_render_sources *sources,
                        const struct sonde_record *record, struct sonde_app_label *label) {
  const struct sonde_label_source *labels = &sources->labels;
  if (!labels->read ||
      !labels->read(labels->context, record->label, record->label_generation, label))
    *label = (struct sonde_app_label){0};
  else if (sources->hidden & SONDE_HIDE_NAME)
    label->name[0] = '\0', label->name_source = SONDE_NAME_NONE;
}

void sonde_render_owner(const struct sonde_render_sources *sources, uint32_t reference,
                        struct sonde_owner *owner) {
  if (reference && sources->owners.read && !(sources->hidden & SONDE_HIDE_PROCESS))
    sources->owners.read(sources->owners.context, reference, owner);
  else
    owner->how = SONDE_OWNER_NOTHING;
}

int sonde_records_render_named(const struct sonde_record *records, uint32_t count, int encoding,
                               uint64_t fields, const char *const *names,
                               const struct sonde_render_sources *sources, uint8_t *buffer,
                               uint32_t capacity, struct sonde_batch *batch) {
  static const struct sonde_render_sources nothing;
  sources = sources ? sources : &nothing;
  memset(batch, 0, sizeof *batch);
  fields &= SONDE_FIELDS_ALL;
  fields = fields ? fields : SONDE_FIELDS_ALL;
  if (encoding == SONDE_ENCODING_IPFIX)
    return sonde_ipfix_render(records, count, fields, names, buffer, capacity, batch);
  assert(encoding == SONDE_ENCODING_JSON || encoding == SONDE_ENCODING_MSGPACK);
  const struct sonde_encoding_ops *ops = encodings[encoding];
  if (capacity < ops->empty_bytes)
    return SONDE_TOO_SMALL;
  struct sonde_rendering rendering = {.fields = fields, .day = UINT64_MAX};
  sonde_community_hash_open(&rendering.community);
  char *(*put)(char *, const struct sonde_record *, struct sonde_rendering *) =
      fields == SONDE_FIELDS_ALL ? ops->put_record : ops->put_selection;

  char *start = (char *)buffer, *end = start + capacity, *p = start + ops->open_bytes;
  uint32_t source = SONDE_SOURCES_MAX;
  for (uint32_t i = 0; i < count && end - p >= SONDE_RENDERED_RECORD_MAX; i++) {
    if (records[i].source != source) {
      source = records[i].source;
      ops->prepare(&rendering, source < SONDE_SOURCES_MAX ? names[source] : NULL);
    }
    if (records[i].label)
      sonde_render_label(sources, &records[i], &rendering.label);
    if (records[i].process) {
      sonde_render_owner(sources, records[i].process, &rendering.process);
      sonde_render_owner(sources, records[i].peer_process, &rendering.peer_process);
    }
    p = put(p, &records[i], &rendering);
    sonde_batch_count(batch, &records[i]);
  }
  p = ops->put_array(start, p, batch->records);
  batch->bytes = (uint32_t)(p - start);
  sonde_community_hash_close(&rendering.community);
  return SONDE_OK;
}

int sonde_records_render_fields(const struct sonde_record *records, uint32_t count, int encoding,
                                uint64_t fields, const char *interface, uint8_t *buffer,
                                uint32_t capacity, struct sonde_batch *batch) {
  const char *names[SONDE_SOURCES_MAX];
  for (uint32_t i = 0; i < SONDE_SOURCES_MAX; i++)
    names[i] = interface;
  return sonde_records_render_named(records, count, encoding, fields, names, NULL, buffer, capacity,
                                    batch);
}

int sonde_records_render(const struct sonde_record *records, uint32_t count, int encoding,
                         const char *interface, uint8_t *buffer, uint32_t capacity,
                         struct sonde_batch *batch) {
  return sonde_records_render_fields(records, count, encoding, SONDE_FIELDS_ALL, interface, buffer,
                                     capacity, batch);
}
