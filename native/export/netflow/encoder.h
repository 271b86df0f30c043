/* encoder.h - the parts of an encoder that v5.c, sets.c and options.c share; private to netflow/.
 *
 * A message is written into the caller's buffer as a draft. The draft is closed when the next
 * record does not fit and at the end of each call. Between calls the encoder keeps only sequence
 * numbers and when templates were last sent.
 */
#ifndef SONDE_NETFLOW_ENCODER_H
#define SONDE_NETFLOW_ENCODER_H

#include "layout.h"
#include "packet.h"
#include "tail.h"
#include "uptime.h"

enum { SONDE_STATISTICS_DOMAIN = 0, SONDE_TEMPLATE_REPEATS = 2 };

struct sonde_draft {
  uint8_t *start; /* NULL if no message is open */
  uint8_t *p;
  uint8_t *end;
  uint8_t *set; /* the open data set, or NULL */
  uint32_t set_id;
  uint16_t items; /* the header's count: records, in v9 also templates */
  struct sonde_window window;
  struct sonde_message note;
};

struct sonde_announcement { /* when a layout's template was sent */
  uint64_t sent_ns;
  uint32_t sent_message;
  uint32_t times;
};

struct sonde_encoder {
  struct sonde_encoder_config config;
  const struct sonde_protocol_ops *ops;
  uint32_t renames; /* when `name` was set */
  uint32_t source;  /* the interface whose name is in `name` */
  char name[SONDE_EXPORT_NAME_MAX];
  uint8_t name_bytes;
  uint32_t sequences[11];       /* by version: v5 flows, v9 messages, IPFIX data records */
  uint32_t statistics_sequence; /* IPFIX: sequence of the statistics domain */
  uint32_t messages;            /* messages with flows, for template_refresh_messages */
  uint32_t sampling_interval;   /* the last record's */
  uint64_t now_ns;              /* time of the call */
  uint64_t now_ms;              /* time for v5 and v9 headers */
  uint64_t pieces_done;         /* pieces of a record that the last call wrote in part */
  struct sonde_uptime uptime;
  struct sonde_announcement announcements[SONDE_SOURCES_MAX][SONDE_LAYOUTS];
  uint32_t record_bytes[SONDE_LAYOUTS];
  uint32_t template_bytes[SONDE_LAYOUTS];
  uint32_t tail_parts; /* 0: no tail; else for layouts that sonde_layout_has_name */
  uint32_t tail_bytes; /* the next record's */
  uint8_t tail[SONDE_TAIL_BYTES_MAX];
  struct sonde_draft draft;
  struct sonde_encoder_counters counters;
};

struct sonde_protocol_ops {
  int version;
  uint32_t header_bytes;
  /* Returns the number of data records for this record. */
  uint64_t (*pieces)(const struct sonde_encoder *encoder, const struct sonde_record *record);
  /* Writes one of them. Returns false if there is no room for another message. */
  bool (*put)(struct sonde_encoder *encoder, const struct sonde_record *record, uint64_t piece,
              struct sonde_messages *messages);
  /* Writes the header of a complete draft. */
  void (*close)(struct sonde_encoder *encoder);
};

extern const struct sonde_protocol_ops sonde_protocol_v5;
extern const struct sonde_protocol_ops sonde_protocol_v9;
extern const struct sonde_protocol_ops sonde_protocol_ipfix;

/* Starts a draft; the caller sets its window. Returns false if there is no room. */
bool sonde_draft_open(struct sonde_encoder *encoder, struct sonde_messages *messages);
void sonde_draft_close(struct sonde_encoder *encoder, struct sonde_messages *messages);
/* Adds a draft with a header to the messages and the counters. */
void sonde_draft_finish(struct sonde_encoder *encoder, struct sonde_draft *draft,
                        struct sonde_messages *messages);
void sonde_draft_count(struct sonde_encoder *encoder, const struct sonde_uniflow *uniflow);
/* Opens a message for the record's times if they do not fit the open one. Returns false if there is
 * no room. */
bool sonde_draft_ensure(struct sonde_encoder *encoder, const struct sonde_uniflow *uniflow,
                        uint32_t unit_ms, struct sonde_messages *messages);
/* Sets the uniflow's times on the draft's clock. */
void sonde_draft_set_times(struct sonde_encoder *encoder, struct sonde_uniflow *uniflow);

/* encoder.c: a message with one set of a template and one of a record, without the tail. */
uint32_t sonde_encoder_fixed_bytes(const struct sonde_encoder *encoder, uint32_t traits);
/* encoder.c: sets the name of the record's interface, and the sizes of records with it. */
void sonde_encoder_name(struct sonde_encoder *encoder, uint32_t source);

static inline uint32_t sonde_encoder_ifindex(const struct sonde_encoder *encoder,
                                             const struct sonde_record *record) {
  return record->ifindex ? record->ifindex : encoder->config.ifindex;
}

static inline bool sonde_encoder_biflows(const struct sonde_encoder *encoder) {
  return encoder->config.biflow && encoder->config.version == 10;
}

/* sets.c, also for options.c. set_end pads a set to a multiple of 4 and writes its length. */
void sonde_set_end(struct sonde_draft *draft, uint8_t *set);
void sonde_v9_put_header(const struct sonde_encoder *encoder, const struct sonde_draft *draft);
void sonde_ipfix_put_header(const struct sonde_encoder *encoder, const struct sonde_draft *draft,
                            uint32_t sequence, uint32_t domain);

#endif
