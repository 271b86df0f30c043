/* rendering.h - what JSON and MessagePack share while one batch of records is rendered.
 *
 * An encoding turns one record into bytes; render.c owns the batch around it and the
 * bounds. A struct sonde_rendering lives on the stack of one call: rendering may run on any
 * thread and keeps nothing between calls.
 */
#ifndef SONDE_EXPORT_RENDERING_H
#define SONDE_EXPORT_RENDERING_H

#include "community_id.h"
#include "fields.h"
#include "netsonde.h"

/* The interface's name is shortened so that its finished token fits, and with it every
 * record into SONDE_RENDERED_RECORD_MAX; 255 plain characters still fit. */
enum { SONDE_INTERFACE_TOKEN_MAX = 384, SONDE_INTERFACE_BYTES_MAX = 255 };

struct sonde_rendering {
  struct sonde_community_hash community;
  uint64_t fields; /* the selection; see fields.h */
  uint64_t day;    /* since the epoch, of `date`; UINT64_MAX: none yet */
  char date[11];   /* "2026-11-22T" */
  uint32_t interface_token_bytes;
  char interface_token[SONDE_INTERFACE_TOKEN_MAX]; /* in the encoding, quotes or header included */
};

struct sonde_encoding_ops {
  uint32_t open_bytes;  /* of the array's opening, left free before the first record */
  uint32_t empty_bytes; /* of an array of no records */
  void (*prepare)(struct sonde_rendering *rendering, const char *interface);
  /* A record and what separates it from the next take at most SONDE_RENDERED_RECORD_MAX
   * bytes, scribbling included. Returns the end. */
  char *(*put_record)(char *p, const struct sonde_record *record,
                      struct sonde_rendering *rendering);
  /* The same with only the fields that are in rendering->fields, at least one. */
  char *(*put_selection)(char *p, const struct sonde_record *record,
                         struct sonde_rendering *rendering);
  /* Opens and closes the array around the records in start + open_bytes … p; needs no room
   * beyond theirs, or empty_bytes. Returns the end. */
  char *(*put_array)(char *start, char *p, uint32_t records);
};

extern const struct sonde_encoding_ops sonde_encoding_json;
extern const struct sonde_encoding_ops sonde_encoding_msgpack;

/* ipfix.c: the records as whole IPFIX messages, with their templates. batch->records may be
 * fewer than count, as in render.c. */
int sonde_ipfix_render(const struct sonde_record *records, uint32_t count, uint64_t fields,
                       const char *interface, uint8_t *buffer, uint32_t capacity,
                       struct sonde_batch *batch);
/* Counts a record in. */
void sonde_batch_count(struct sonde_batch *batch, const struct sonde_record *record);

#endif
