/* rendering.h - the interface between render.c and the encoders.
 *
 * An encoder turns one record into bytes. render.c owns the batch and checks the bounds. A
 * struct sonde_rendering lives on the stack of one call, so rendering may run on any thread
 * and keeps no state between calls.
 */
#ifndef SONDE_EXPORT_RENDERING_H
#define SONDE_EXPORT_RENDERING_H

#include <string.h>

#include "app_label.h"
#include "community_id.h"
#include "fields.h"
#include "netsonde.h"

/* Where renderers find what a record only refers to. A member with read NULL is off. */
struct sonde_render_sources {
  uint32_t hidden; /* enum sonde_hidden: rendered as null */
  struct sonde_label_source labels;
  struct sonde_owner_source owners;
};

/* Limits of an interface name. A longer name is truncated, so that every record fits into
 * SONDE_RENDERED_RECORD_MAX. 255 plain characters fit. */
enum { SONDE_INTERFACE_TOKEN_MAX = 384, SONDE_INTERFACE_BYTES_MAX = 255 };

struct sonde_rendering {
  struct sonde_community_hash community;
  uint64_t fields;              /* the selection; see fields.h */
  uint64_t day;                 /* the day in `date`, since the epoch; UINT64_MAX: not set */
  char date[11];                /* "2026-11-22T" */
  struct sonde_app_label label; /* the record's, like the next two */
  struct sonde_owner process;
  struct sonde_owner peer_process;
  uint32_t interface_token_bytes;
  char interface_token[SONDE_INTERFACE_TOKEN_MAX]; /* encoded, with quotes or header */
};

struct sonde_encoding_ops {
  uint32_t open_bytes;  /* reserved for the array's opening, before the first record */
  uint32_t empty_bytes; /* size of an array without records */
  void (*prepare)(struct sonde_rendering *rendering, const char *interface);
  /* Writes a record and its separator: at most SONDE_RENDERED_RECORD_MAX bytes, including
   * bytes written behind the end. Returns the end. */
  char *(*put_record)(char *p, const struct sonde_record *record,
                      struct sonde_rendering *rendering);
  /* Writes only the fields in rendering->fields, which is not empty. */
  char *(*put_selection)(char *p, const struct sonde_record *record,
                         struct sonde_rendering *rendering);
  /* Opens and closes the array around the records from start + open_bytes to p. The array
   * needs no more room than the records, or empty_bytes. Returns the end. */
  char *(*put_array)(char *start, char *p, uint32_t records);
};

/* The field "interface", which both encoders prepare once per batch. */
static inline char *put_interface(char *p, const struct sonde_rendering *rendering) {
  memcpy(p, rendering->interface_token, rendering->interface_token_bytes);
  return p + rendering->interface_token_bytes;
}

extern const struct sonde_encoding_ops sonde_encoding_json;
extern const struct sonde_encoding_ops sonde_encoding_msgpack;

/* render.c: read what a record refers to; nothing if it is hidden or gone. A record without a label
 * leaves `label` as it is: labels are on for a whole session or off. */
void sonde_render_label(const struct sonde_render_sources *sources,
                        const struct sonde_record *record, struct sonde_app_label *label);
void sonde_render_owner(const struct sonde_render_sources *sources, uint32_t reference,
                        struct sonde_owner *owner);

/* render.c: renders like sonde_records_render_fields. names: the interface name for each `source`
 * of records: SONDE_SOURCES_MAX of them, or NULL. sources: NULL is allowed. */
int sonde_records_render_named(const struct sonde_record *records, uint32_t count, int encoding,
                               uint64_t fields, const char *const *names,
                               const struct sonde_render_sources *sources, uint8_t *buffer,
                               uint32_t capacity, struct sonde_batch *batch);

/* ipfix.c: renders whole IPFIX messages with their templates. batch->records may be less than
 * count, as in render.c. */
int sonde_ipfix_render(const struct sonde_record *records, uint32_t count, uint64_t fields,
                       const char *const *names, uint8_t *buffer, uint32_t capacity,
                       struct sonde_batch *batch);
/* Adds a record to the batch's counters. */
void sonde_batch_count(struct sonde_batch *batch, const struct sonde_record *record);

#endif
