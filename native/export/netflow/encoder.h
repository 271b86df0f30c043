/* encoder.h - what v5.c, sets.c and options.c share of an encoder; private to this folder.
 *
 * A message grows in the caller's buffer as a draft, from its header on, and is closed when
 * the next record does not fit or there is none: nothing is kept from call to call but
 * sequence numbers and when templates were last sent.
 */
#ifndef SONDE_NETFLOW_ENCODER_H
#define SONDE_NETFLOW_ENCODER_H

#include "layout.h"
#include "uptime.h"

enum { SONDE_STATISTICS_DOMAIN = 0, SONDE_TEMPLATE_REPEATS = 2 };

struct sonde_draft {
  uint8_t *start; /* NULL: no message is open */
  uint8_t *p;
  uint8_t *end;
  uint8_t *set; /* the open data set, NULL if none */
  uint32_t set_traits;
  uint16_t items; /* header's count: v5 records; v9 records and templates */
  struct sonde_window window;
  struct sonde_message note;
};

struct sonde_announcement { /* of one layout's template */
  uint64_t sent_ns;
  uint32_t sent_message;
  uint32_t times;
};

struct sonde_encoder {
  struct sonde_encoder_config config;
  const struct sonde_protocol_ops *ops;
  char name[SONDE_EXPORT_NAME_MAX];
  uint8_t name_bytes;
  uint32_t sequences[11];       /* by version, as it counts: flows, messages, data records */
  uint32_t statistics_sequence; /* IPFIX: of the statistics' domain */
  uint32_t messages;            /* with flows, as template_refresh_messages counts them */
  uint32_t sampling_interval;   /* the last record's */
  uint64_t now_ns;              /* of the call */
  uint64_t now_ms;              /* what v5 and v9 headers go by */
  uint64_t pieces_done;         /* of the record that the last call broke off in */
  struct sonde_uptime uptime;
  struct sonde_announcement announcements[SONDE_LAYOUTS];
  uint32_t record_bytes[SONDE_LAYOUTS];
  uint32_t template_bytes[SONDE_LAYOUTS];
  struct sonde_draft draft;
  struct sonde_encoder_counters counters;
};

struct sonde_protocol_ops {
  int version;
  uint32_t header_bytes;
  /* How many data records this record makes. */
  uint64_t (*pieces)(const struct sonde_encoder *encoder, const struct sonde_record *record);
  /* Writes one of them. False: there is no room for another message. */
  bool (*put)(struct sonde_encoder *encoder, const struct sonde_record *record, uint64_t piece,
              struct sonde_messages *messages);
  /* The draft is complete but for its header. */
  void (*close)(struct sonde_encoder *encoder);
};

extern const struct sonde_protocol_ops sonde_protocol_v5;
extern const struct sonde_protocol_ops sonde_protocol_v9;
extern const struct sonde_protocol_ops sonde_protocol_ipfix;

/* False: no room. The window is the caller's to set. */
bool sonde_draft_open(struct sonde_encoder *encoder, struct sonde_messages *messages);
void sonde_draft_close(struct sonde_encoder *encoder, struct sonde_messages *messages);
void sonde_draft_count(struct sonde_encoder *encoder, const struct sonde_uniflow *uniflow);
/* Opens a message whose window holds the record, unless the open one's does. */
bool sonde_draft_provide(struct sonde_encoder *encoder, const struct sonde_uniflow *uniflow,
                         uint32_t unit_ms, struct sonde_messages *messages);
/* Sets the side's times on the draft's clock. */
void sonde_draft_place(struct sonde_encoder *encoder, struct sonde_uniflow *uniflow);

/* sets.c: headers, also for options.c. */
void sonde_v9_put_header(const struct sonde_encoder *encoder, const struct sonde_draft *draft);
void sonde_ipfix_put_header(const struct sonde_encoder *encoder, const struct sonde_draft *draft,
                            uint32_t sequence, uint32_t domain);

#endif
