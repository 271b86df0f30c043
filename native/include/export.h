/* export.h - flow records over NetFlow v5, v9 and IPFIX; part of netsonde.h.
 *
 * Four independent layers: collectors of a session (the session sends them records), the
 * encoder (records in, messages out, time is an argument, no sockets), the decoder (a captured
 * message in, JSON lines out), and columns (data records of one size in, arrays of fields out).
 */
#ifndef SONDE_EXPORT_H
#define SONDE_EXPORT_H

#include "record.h"
#include "status.h"

enum sonde_export_profile {
  SONDE_PROFILE_COMPAT = 0, /* fields that every collector supports */
  SONDE_PROFILE_FULL = 1,   /* plus all other fields of the record; v9 and IPFIX */
};

enum {
  SONDE_EXPORT_MESSAGE_MIN = 512,
  SONDE_EXPORT_MESSAGE_MAX = 65507,
  SONDE_EXPORT_MESSAGE_DEFAULT = 1400,
  SONDE_COLLECTORS_MAX = 16,
  SONDE_ENTERPRISE_DEFAULT = 32473, /* for documentation, RFC 5612: this project has no number */
};

/* ---- collectors of a session ---------------------------------------------------------- */

/* 0 in a number means its default, named in brackets. */
struct sonde_collector_config {
  const char *address;                /* IPv4 or IPv6 literal, "fe80::1%eth0" for link-local ones */
  uint16_t port;                      /* 1…65535 */
  int version;                        /* 5, 9 or 10 (IPFIX) */
  int profile;                        /* enum sonde_export_profile */
  int biflow;                         /* 1: RFC 5103 records; IPFIX only, else ignored */
  uint32_t message_bytes_max;         /* SONDE_EXPORT_MESSAGE_MIN…MAX [1400] */
  uint32_t template_refresh_sec;      /* up to 86400 [60] */
  uint32_t template_refresh_messages; /* [20] */
  uint32_t observation_domain;        /* v9 source id, v5 engine id (low byte) [1] */
  uint32_t enterprise;                /* for labels and owners; profile full, IPFIX [32473] */
  uint64_t pace_bytes_per_sec;        /* from 10000 [125000000, what a gigabit link takes] */
};

struct sonde_collector_stats {
  char address[64]; /* the configured one */
  uint16_t port;
  uint16_t version;
  int connected; /* 0: the address is unreachable; retried every second */
  uint64_t messages_sent;
  uint64_t bytes_sent;
  uint64_t templates_sent;
  uint64_t records_sent; /* by a collector's count: one per direction */
  uint64_t packets_sent; /* in those records */
  uint64_t octets_sent;
  uint64_t records_skipped_ipv6; /* v5 has no IPv6 fields */
  uint64_t records_lost_refused; /* in messages that an ICMP error answered */
  uint64_t records_lost_no_room; /* the socket blocked for 50 ms, or the ring overflowed */
  uint64_t records_lost_error;   /* no route, no interface, not permitted, … */
  uint64_t packets_lost;         /* in lost records of any cause */
  uint64_t octets_lost;
  uint64_t refusals;      /* ICMP errors */
  uint64_t times_clamped; /* records with times outside the range of v5 and v9 */
  char last_error[128];   /* the kernel's text, or "" */
};

/* Definitions are in netsonde.h. */
struct sonde_session;

/* Sends from the next record on. For a known address and port, replaces the settings. INVALID
 * with the reason, STATE after stop. May block for one turn of the capture loop. */
int sonde_session_collector_add(struct sonde_session *session,
                                const struct sonde_collector_config *config,
                                struct sonde_error *error);
/* INVALID if no collector has this address and port. Unsent messages are lost. */
int sonde_session_collector_remove(struct sonde_session *session, const char *address,
                                   uint16_t port, struct sonde_error *error);
/* Fills in up to `max`, in the order they were added. Returns the number. Takes no lock. */
int sonde_session_collectors(struct sonde_session *session, struct sonde_collector_stats *stats,
                             uint32_t max);
/* Blocks until every record made so far has been sent or counted as lost; after stop also every
 * record still in the tables. OK at once without collectors; STATE on timeout. */
int sonde_session_export_flush(struct sonde_session *session, uint32_t timeout_ms,
                               struct sonde_error *error);
/* 0: keeps no records for sonde_session_drain. On by default. */
int sonde_session_stream_set(struct sonde_session *session, int on, struct sonde_error *error);

/* ---- encoder ------------------------------------------------------------------------- */

struct sonde_encoder;

struct sonde_render_sources; /* export/rendering.h */

/* The members of sonde_collector_config, without defaults. */
struct sonde_encoder_config {
  int version;
  int profile;
  int biflow;
  uint32_t message_bytes_max;
  uint32_t template_refresh_sec;
  uint32_t template_refresh_messages;
  uint32_t observation_domain;   /* not 0, which is for statistics */
  uint32_t ifindex;              /* index for records without one, or 0 */
  const char *interface;         /* the interface's name; copied */
  const char *const *interfaces; /* or the name for each `source` of records; must outlive it */
  const uint32_t *renames;       /* atomic: grows when a name in `interfaces` changes, or NULL */
  int interface_templates;       /* 1: each interface has templates, so a data set has one name */
  const struct sonde_render_sources *sources; /* labels and owners, or NULL; must outlive it */
  uint32_t enterprise;                        /* the one that defines their elements */
  int packet_time;   /* 1: v5 and v9 headers use the records' times, not now_ns */
  uint64_t start_ns; /* SysUptime counts from a minute before; unused with packet_time */
};

struct sonde_message { /* one datagram */
  uint32_t offset;     /* in the buffer */
  uint32_t bytes;
  uint32_t records; /* data records of flows in it */
  uint32_t templates;
  uint64_t packets; /* over the records */
  uint64_t octets;
};

struct sonde_messages {
  uint8_t *buffer; /* the caller's */
  uint32_t capacity;
  uint32_t bytes; /* used so far */
  struct sonde_message *list;
  uint32_t max;
  uint32_t count;
};

struct sonde_encoder_counters {
  uint64_t messages;
  uint64_t octets;
  uint64_t records;
  uint64_t templates;
  uint64_t records_skipped_ipv6;
  uint64_t times_clamped;
};

/* Cumulative metering and export totals for options data. */
struct sonde_export_totals {
  uint64_t packets_ignored; /* seen by the device, never metered */
  uint64_t octets_ignored;
  uint64_t records_lost; /* metered, never sent */
  uint64_t packets_lost;
  uint64_t octets_lost;
};

int sonde_encoder_create(const struct sonde_encoder_config *config, struct sonde_encoder **encoder,
                         struct sonde_error *error);
void sonde_encoder_destroy(struct sonde_encoder *encoder); /* NULL is allowed */
/* Continues at another encoder's position: inside an unfinished record, and with the domain's
 * sequence numbers of each version. */
void sonde_encoder_continue(struct sonde_encoder *encoder, const struct sonde_encoder *before);
/* Appends whole messages. Stops when another message might not fit. Returns the number of
 * finished records. Call again with the rest: a record may be half encoded. Space for two
 * messages guarantees progress. */
uint32_t sonde_encoder_add(struct sonde_encoder *encoder, const struct sonde_record *records,
                           uint32_t count, uint64_t now_ns, struct sonde_messages *messages);
/* Drops a half-encoded record: the next call starts with a new one. */
void sonde_encoder_abandon(struct sonde_encoder *encoder);
/* Appends the options data message, if the version has one and it fits. */
void sonde_encoder_statistics(struct sonde_encoder *encoder,
                              const struct sonde_export_totals *totals, uint64_t now_ns,
                              struct sonde_messages *messages);
void sonde_encoder_counters(const struct sonde_encoder *encoder,
                            struct sonde_encoder_counters *counters);

/* ---- decoder ------------------------------------------------------------------------- */

struct sonde_export_decoder;

struct sonde_decoded_message {
  uint32_t bytes; /* message length: the next one follows in a file of raw messages */
  int version;
  uint32_t domain;
  uint32_t sequence;
  uint64_t export_ns;
  uint32_t records;           /* rendered */
  uint32_t templates;         /* new or refreshed */
  uint32_t sets_unknown;      /* data sets without a known template */
  uint32_t malformed;         /* malformed sets, templates and tails */
  uint32_t templates_refused; /* a limit was reached */
  const char *text;           /* JSON, one line per record; valid until the next call */
  uint32_t text_bytes;
};

struct sonde_export_decoder *sonde_export_decoder_create(void);
/* Sets the enterprise of labels and owners, SONDE_ENTERPRISE_DEFAULT otherwise. */
void sonde_export_decoder_enterprise_set(struct sonde_export_decoder *decoder, uint32_t enterprise);
void sonde_export_decoder_destroy(struct sonde_export_decoder *decoder); /* NULL is allowed */
/* Decodes the message at the start of data, which may be any bytes. Templates are kept per
 * (source, version, domain). source identifies an exporter, 0 if unknown. Errors: FORMAT (not
 * a message), NO_MEMORY. */
int sonde_export_decode(struct sonde_export_decoder *decoder, uint64_t source, const uint8_t *data,
                        uint32_t bytes, struct sonde_decoded_message *message);

/* ---- columns -------------------------------------------------------------------------- */

struct sonde_set { /* a set of templates, or an id's first set of data records */
  uint16_t id;     /* 2: templates; 256 and more: data records */
  uint32_t offset; /* where the bytes after the set header begin */
  uint32_t bytes;
  uint32_t bytes_all; /* total of all sets with this id */
};

/* Lists the sets of consecutive IPFIX messages: each set of templates, and for each id the first
 * set of data records. Returns the number, at most `max`. Ends at an incomplete message. */
uint32_t sonde_ipfix_sets(const uint8_t *data, uint32_t bytes, struct sonde_set *sets,
                          uint32_t max);
enum sonde_column_kind {
  SONDE_COLUMN_IPV4 = 0, /* 4 octets, as text */
  SONDE_COLUMN_IPV6 = 1, /* 16 octets, RFC 5952 */
  SONDE_COLUMN_MAC = 2,  /* 6 octets, with colons */
  SONDE_COLUMN_HEX = 3,  /* 8 octets */
  SONDE_COLUMN_U8 = 4,   /* numbers of 1 to 8 octets, truncated to this type */
  SONDE_COLUMN_U16 = 5,
  SONDE_COLUMN_U32 = 6,
  SONDE_COLUMN_U64 = 7,
  SONDE_COLUMN_SUM = 8, /* adds all values to one uint64_t, modulo 2^64 */
};

enum {
  SONDE_COLUMN_TEXT_MAX = 40
}; /* bytes per row; the buffer needs as many again as scratch space */

struct sonde_column { /* a field of a data record, and its output */
  uint32_t offset;
  uint32_t width; /* octets, as required by `kind` */
  int kind;       /* enum sonde_column_kind */
  void *values;   /* numbers in native order, or concatenated texts (Arrow layout): */
  int32_t *ends;  /* row n is text[ends[n]] to text[ends[n + 1]], below 2^31; else NULL */
};

/* Reads the whole records of all sets `id` into the columns, from row `row` on, at most
 * `rows_max`. Texts begin at ends[row]; the caller sets the first. Returns the number of rows;
 * without columns it only counts them, to size the buffers. The caller must have checked that
 * the fields are inside the record. record_bytes is at least 1. */
uint32_t sonde_ipfix_columns(const uint8_t *data, uint32_t bytes, uint16_t id,
                             uint32_t record_bytes, const struct sonde_column *columns,
                             uint32_t count, uint32_t row, uint32_t rows_max);

#endif
