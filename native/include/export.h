/* export.h - flow records over NetFlow v5, v9 and IPFIX; part of netsonde.h.
 *
 * Four layers that can be used apart: collectors of a session (records reach them without
 * the caller), the encoder (records in, messages out, time is an argument, no sockets),
 * the decoder (a captured message in, JSON lines out), and columns (data records of one size
 * in, each field of all of them out).
 */
#ifndef SONDE_EXPORT_H
#define SONDE_EXPORT_H

#include "record.h"
#include "status.h"

enum sonde_export_profile {
  SONDE_PROFILE_COMPAT = 0, /* what every collector knows */
  SONDE_PROFILE_FULL = 1,   /* and what else the record holds; v9 and IPFIX */
};

enum {
  SONDE_EXPORT_MESSAGE_MIN = 512,
  SONDE_EXPORT_MESSAGE_MAX = 65507,
  SONDE_EXPORT_MESSAGE_DEFAULT = 1400,
  SONDE_COLLECTORS_MAX = 16,
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
  uint64_t pace_bytes_per_sec;        /* from 10000 [125000000, what a gigabit link takes] */
};

struct sonde_collector_stats {
  char address[64]; /* as given */
  uint16_t port;
  uint16_t version;
  int connected; /* 0: there is no way to the address; it is tried again every second */
  uint64_t messages_sent;
  uint64_t bytes_sent;
  uint64_t templates_sent;
  uint64_t records_sent; /* as a collector counts them: one a direction */
  uint64_t packets_sent; /* in those records */
  uint64_t octets_sent;
  uint64_t records_skipped_ipv6; /* v5 cannot say them */
  uint64_t records_lost_refused; /* in messages that an ICMP error answered */
  uint64_t records_lost_no_room; /* the socket took no more for 50 ms, or the ring ran over */
  uint64_t records_lost_error;   /* no route, no interface, not permitted, … */
  uint64_t packets_lost;         /* in lost records of any cause */
  uint64_t octets_lost;
  uint64_t refusals;      /* ICMP errors */
  uint64_t times_clamped; /* records with times that v5 and v9 cannot say */
  char last_error[128];   /* in the kernel's words, "" if there was none */
};

/* Definitions are in netsonde.h. */
struct sonde_session;

/* From the next record on. The same address and port again replaces the settings. INVALID
 * with the reason in words, STATE after stop. May block for one turn of the capture loop. */
int sonde_session_collector_add(struct sonde_session *session,
                                const struct sonde_collector_config *config,
                                struct sonde_error *error);
/* INVALID if there is none such. Messages not yet sent are lost. */
int sonde_session_collector_remove(struct sonde_session *session, const char *address,
                                   uint16_t port, struct sonde_error *error);
/* Fills in up to `max`, in the order of adding. Returns how many. */
int sonde_session_collectors(struct sonde_session *session, struct sonde_collector_stats *stats,
                             uint32_t max);
/* Blocks until the exporter has sent or lost, and counted, every record made so far; after
 * stop also every record still to come from the tables. OK at once without collectors;
 * STATE if timeout_ms passed first. */
int sonde_session_export_flush(struct sonde_session *session, uint32_t timeout_ms,
                               struct sonde_error *error);
/* 0: no record is kept for sonde_session_drain, which then finds none. On by default. */
int sonde_session_stream_set(struct sonde_session *session, int on, struct sonde_error *error);

/* ---- encoder ------------------------------------------------------------------------- */

struct sonde_encoder;

/* As in sonde_collector_config; no defaults here. */
struct sonde_encoder_config {
  int version;
  int profile;
  int biflow;
  uint32_t message_bytes_max;
  uint32_t template_refresh_sec;
  uint32_t template_refresh_messages;
  uint32_t observation_domain; /* not 0: that one is for statistics */
  uint32_t ifindex;            /* of the interface captured on, 0 if none */
  const char *interface;       /* its name; copied */
  int packet_time;             /* 1: v5 and v9 headers follow the records' times, not now_ns */
  uint64_t start_ns;           /* SysUptime counts from a minute before; packet_time: unused */
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

/* What options data tells of metering and export, cumulative. */
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
/* Goes on where the other stands: in the record that it broke off in, and with the sequence
 * numbers of the domain, each version's own. */
void sonde_encoder_continue(struct sonde_encoder *encoder, const struct sonde_encoder *before);
/* Appends whole messages. Stops when another message might not fit; returns how many records
 * are done with. Call again with the rest: a record may be half done. Room for two messages
 * makes progress certain. */
uint32_t sonde_encoder_add(struct sonde_encoder *encoder, const struct sonde_record *records,
                           uint32_t count, uint64_t now_ns, struct sonde_messages *messages);
/* Forgets a record that is half done: the next call begins with another one. */
void sonde_encoder_abandon(struct sonde_encoder *encoder);
/* Appends the message with options data, if the version has any and there is room. */
void sonde_encoder_statistics(struct sonde_encoder *encoder,
                              const struct sonde_export_totals *totals, uint64_t now_ns,
                              struct sonde_messages *messages);
void sonde_encoder_counters(const struct sonde_encoder *encoder,
                            struct sonde_encoder_counters *counters);

/* ---- decoder ------------------------------------------------------------------------- */

struct sonde_export_decoder;

struct sonde_decoded_message {
  uint32_t bytes; /* of the message: where the next one begins in a file of raw messages */
  int version;
  uint32_t domain;
  uint32_t sequence;
  uint64_t export_ns;
  uint32_t records;           /* rendered */
  uint32_t templates;         /* learnt or refreshed */
  uint32_t sets_unknown;      /* data sets whose template has not come yet */
  uint32_t malformed;         /* sets, templates and tails that contradict themselves */
  uint32_t templates_refused; /* a limit was reached */
  const char *text;           /* JSON, a line a record; valid until the next call */
  uint32_t text_bytes;
};

struct sonde_export_decoder *sonde_export_decoder_create(void);
void sonde_export_decoder_destroy(struct sonde_export_decoder *decoder); /* NULL is allowed */
/* Reads the message at the start of data. Templates are remembered for (source, version,
 * domain); source tells exporters apart, 0 if unknown. Any bytes may come. FORMAT: no
 * message begins here; NO_MEMORY. */
int sonde_export_decode(struct sonde_export_decoder *decoder, uint64_t source, const uint8_t *data,
                        uint32_t bytes, struct sonde_decoded_message *message);

/* ---- columns -------------------------------------------------------------------------- */

struct sonde_set { /* of one IPFIX message or many; the first of its kind, but see below */
  uint16_t id;     /* 2: templates; 256 and more: data records */
  uint32_t offset; /* of what follows its header */
  uint32_t bytes;
  uint32_t bytes_all; /* of all sets of this id */
};

/* Whole IPFIX messages one after the other: each set of templates, and for each id the first
 * set of data records. Returns how many, at most `max`; ends where no whole message begins. */
uint32_t sonde_ipfix_sets(const uint8_t *data, uint32_t bytes, struct sonde_set *sets,
                          uint32_t max);
enum sonde_column_kind {
  SONDE_COLUMN_IPV4 = 0, /* 4 octets, as text */
  SONDE_COLUMN_IPV6 = 1, /* 16 octets, RFC 5952 */
  SONDE_COLUMN_MAC = 2,  /* 6 octets, with colons */
  SONDE_COLUMN_HEX = 3,  /* 8 octets */
  SONDE_COLUMN_U8 = 4,   /* numbers of 1 to 8 octets, and this much of them */
  SONDE_COLUMN_U16 = 5,
  SONDE_COLUMN_U32 = 6,
  SONDE_COLUMN_U64 = 7,
  SONDE_COLUMN_SUM = 8, /* all of them added to the one uint64_t that is there, modulo 2^64 */
};

enum { SONDE_COLUMN_TEXT_MAX = 40 }; /* bytes a row, and as many once more to scribble on */

struct sonde_column { /* a field of a data record, and where all of them go */
  uint32_t offset;
  uint32_t width; /* octets, as the column's kind has them */
  int kind;       /* enum sonde_column_kind */
  void *values;   /* numbers in native order; or texts one after the other, as Arrow has them: */
  int32_t *ends;  /* row n is text[ends[n]] to text[ends[n + 1]], below 2^31; else NULL */
};

/* Reads the whole records of all sets `id` into the columns, from row `row` on, `rows_max` at
 * most; texts begin at ends[row], the caller's to set for the first. Returns how many, which
 * without columns is all it does: so the caller learns what room there must be. That the fields
 * lie in the record is the caller's to have checked. record_bytes is at least 1. */
uint32_t sonde_ipfix_columns(const uint8_t *data, uint32_t bytes, uint16_t id,
                             uint32_t record_bytes, const struct sonde_column *columns,
                             uint32_t count, uint32_t row, uint32_t rows_max);

#endif
