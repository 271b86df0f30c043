/* netsonde.h - the C core's public interface: all that Python (through cffi) may call.
 *
 * Handles are opaque and owned by the caller until the matching close. A session has its
 * own capture threads; every function here is called from control threads, may be called
 * from any of them, and returns soon unless its comment says otherwise. Strings are
 * UTF-8. Times are nanoseconds since the epoch. Errors: see status.h.
 */
#ifndef NETSONDE_H
#define NETSONDE_H

#include "app_label.h"
#include "counters.h"
#include "export.h"
#include "own_endpoint.h"
#include "owner.h"
#include "record.h"
#include "status.h"
#include "tap.h"

enum { SONDE_ABI = 1 };

int sonde_abi(void);                       /* SONDE_ABI of the library that is loaded */
const char *sonde_status_name(int status); /* "FILTER_INVALID" */
const char *sonde_status_text(int status); /* one sentence, never NULL */

/* ---- backends ---------------------------------------------------------------------- */

struct sonde_backend_report {
  char name[16];
  char description[96];
  uint32_t features; /* enum sonde_feature */
  int compiled;      /* the plugin is in the package */
  int loadable;      /* dlopen and the ABI check succeeded */
  int usable;        /* probe succeeded: a session can be opened with it now */
  char reason[256];  /* the loader's or kernel's text if not usable, else "" */
};

/* Reports each known backend, in a fixed order. Returns the number (at most `max`).
 * plugin_dir: the directory of the backend plugins. */
int sonde_backend_probe(const char *plugin_dir, struct sonde_backend_report *reports, uint32_t max);
/* Reports the backend of this name and loads no other. BACKEND_UNKNOWN if the name is unknown. */
int sonde_backend_probe_one(const char *plugin_dir, const char *name,
                            struct sonde_backend_report *report);

/* Checks that it is a BPF expression. A backend may still reject it. Needs no privilege. */
int sonde_filter_check(const char *expression, struct sonde_error *error);

/* ---- session ----------------------------------------------------------------------- */

struct sonde_session;

enum { SONDE_INTERFACES_MAX = 64, SONDE_INTERFACE_NAME_MAX = 256 };

enum sonde_tunnel_mode { SONDE_TUNNEL_MODE_OUTER = 0, SONDE_TUNNEL_MODE_INNER = 1 };

struct sonde_session_config {
  const char *plugin_dir;
  const char *backend;           /* "af_packet" */
  const char *const *interfaces; /* names; for `file` one name to show */
  uint32_t interface_count; /* 1…SONDE_INTERFACES_MAX; more than 1 only in af_packet, pcap, xdp */
  const char *host;         /* before "/" in interface names of recordings, or NULL */
  const char *filter;       /* BPF expression or NULL */
  int file_fd;              /* `file`: the open capture file, owned by the session from open on,
                               also when open fails; else -1 */
  uint32_t workers;         /* 1…64 */
  uint32_t snaplen;         /* 64…262144 */
  uint32_t ring_bytes; /* kernel rings of all interfaces, 1 MiB…1 GiB; each has 16 MiB or more */
  uint32_t flow_table_size;  /* flows over all workers, 16…2^26 */
  uint32_t record_ring_size; /* records over all workers, 64…2^24 */
  int promiscuous;
  int dedicated;
  int tunnel_mode;                             /* enum sonde_tunnel_mode */
  uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX]; /* UDP ports of VXLAN, ended by 0 */
  double replay_speed;                         /* `file`: 0 as fast as possible, 1.0 real time */
  int metering;                                /* 1: make records from the first packet on */
  uint64_t idle_timeout_ns;
  uint64_t active_timeout_ns;
  uint64_t buffer_bytes;      /* capture buffer in memory; 0: no buffer */
  const char *buffer_dir;     /* directory of segment files, or NULL: memory only */
  uint64_t buffer_disk_bytes; /* all segment files together; at least 4 MiB */
  int exclude_own;            /* 1: leaves out the endpoints of own_endpoint.h, if live */
  uint32_t labels;            /* enum sonde_label_protocol: payloads to read; 0: none */
  uint64_t label_bytes;       /* memory for labels, over all workers */
  int owners;                 /* 1: find the owners of flows, if live and the host lets us */
  uint32_t owner_ring_bytes;  /* for tests: the kernel's ring; 0: 1 MiB */
  uint32_t quic_per_second;   /* QUIC connections whose first packets a worker opens */
};

/* Opens and allocates; captures no packet. Errors: those of backend.h's open, and
 * BACKEND_UNKNOWN, BACKEND_UNAVAILABLE, INVALID. */
int sonde_session_open(const struct sonde_session_config *config, struct sonde_session **session,
                       struct sonde_error *error);
int sonde_session_start(struct sonde_session *session, struct sonde_error *error);

/* Rejects new packets, meters those already captured, ends every flow with reason `forced`
 * (with metering on), stops the threads. Blocks up to about a second. The session keeps records
 * that do not fit the ring: drain until it returns 0. */
int sonde_session_stop(struct sonde_session *session, struct sonde_error *error);
void sonde_session_close(struct sonde_session *session); /* NULL is allowed */

/* Readable when records or events are queued. Owned by the session; read 8 bytes to re-arm,
 * then drain until empty. */
int sonde_session_event_fd(const struct sonde_session *session);

enum sonde_event_kind {
  SONDE_EVENT_FINISHED = 1,  /* the file has been read to its end */
  SONDE_EVENT_LINK_DOWN = 2, /* the interface was set down or lost its carrier */
  SONDE_EVENT_LINK_UP = 3,
  SONDE_EVENT_LINK_DELETED = 4,    /* interface deleted; the session waits for its name */
  SONDE_EVENT_LINK_RETURNED = 5,   /* an interface of that name exists and is attached */
  SONDE_EVENT_BACKEND_ERROR = 6,   /* the source failed; retried with backoff */
  SONDE_EVENT_CLOCK_STEP = 7,      /* the wall clock jumped; value: by how many ns */
  SONDE_EVENT_TABLE_FULL = 8,      /* flows leave with reason resources; once a minute at most */
  SONDE_EVENT_RECORDS_DROPPED = 9, /* the record ring overflowed; once a minute at most */
  SONDE_EVENT_FILE_TRUNCATED = 10, /* the file's last packet is cut off */
  SONDE_EVENT_SEAL_FAILED = 11,    /* libcrypto failed; value: packets lost to the buffer */
  SONDE_EVENT_SPILL_FAILED = 12,   /* segment files cannot be written; value: errno, or 0 */
  SONDE_EVENT_SPILL_RESUMED = 13,  /* they can again; value: packets not spilled meanwhile */
};

struct sonde_event {
  uint32_t kind; /* enum sonde_event_kind */
  uint32_t reserved;
  uint64_t time_ns;
  int64_t value;
  char detail[128];
};

/* Removes up to `max` events in order. Returns the number. */
int sonde_session_events(struct sonde_session *session, struct sonde_event *events, uint32_t max);

enum { SONDE_NON_FLOW_MAX = 16, SONDE_FILE_DETAIL_MAX = 160 };

/* Is a replayed file whole? UNKNOWN: a live source, or a large file that is not read to its end. */
enum sonde_file_state {
  SONDE_FILE_UNKNOWN = 0,
  SONDE_FILE_WHOLE = 1,
  SONDE_FILE_CUT = 2,
};

/* The sum of one consistent snapshot per worker. packets_captured = packets_recorded +
 * packets_active + packets_non_flow + packets_unmetered. */
struct sonde_stats {
  uint64_t time_ns;         /* snapshot time, ns since the epoch */
  uint64_t heartbeat;       /* grows while every capture thread runs its loop */
  uint64_t packets_dropped; /* by the kernel or device ring */
  SONDE_WORKER_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  SONDE_FLOW_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  SONDE_LABEL_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  SONDE_OWNER_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  SONDE_STORE_COUNTER_LIST(SONDE_COUNTER_MEMBER)
  uint64_t non_flow[SONDE_NON_FLOW_MAX]; /* by cause, order of sonde_non_flow_name */
  uint64_t records_by_reason[6];         /* enum sonde_end_reason */
  uint64_t records_waiting;              /* in the ring now */
  uint64_t flow_table_size;
  uint64_t ring_freezes;
  uint64_t ring_used_permille;
  uint64_t buffer_bytes_used; /* whole chunks; equals the capacity once it has wrapped */
  uint64_t buffer_bytes_capacity;
  uint64_t buffer_oldest_ns; /* oldest packet in memory; 0: empty */
  uint64_t buffer_newest_ns;
  uint64_t buffer_packets; /* frames in memory: a super-packet counts once */
  int encrypted;           /* 1: the capture buffer is sealed */
  int finished;            /* `file`: read to its end */
  int link_up;
  int metering;
  char attach[96];
  struct sonde_undecoded undecoded[SONDE_UNDECODED_MAX]; /* packets 0 ends the list */
  int owners;                                            /* 1: owners are found */
  char owners_missing[160]; /* why they are not, or what the kernel lacks; "": nothing, or off */
  int file_state;           /* enum sonde_file_state */
  char file_detail[SONDE_FILE_DETAIL_MAX]; /* `file`: where and how it was cut */
};

const char *sonde_non_flow_name(uint32_t cause); /* NULL past the last */
/* The names of a LINKTYPE_ value in libpcap: "USER0", "Private use 0"; NULL if it has no name. */
const char *sonde_linktype_name(uint32_t linktype);
const char *sonde_linktype_description(uint32_t linktype);
/* Loads and attaches the programs that find owners, and releases them. A failure has the reason why
 * sessions work without owners. On success error->detail has what the kernel lacks, or is empty. */
int sonde_owner_probe(const char *plugin_dir, struct sonde_error *error);
void sonde_session_stats(struct sonde_session *session, struct sonde_stats *stats);

/* ---- interfaces ---------------------------------------------------------------------- */

/* Captures from exactly these interfaces from the next batch on. Opens those that are not captured
 * yet, then removes those that are not named; the rest is not interrupted. The
 * names must exist; if one cannot be opened, nothing changes. An interface that is deleted without
 * this call keeps its place, and capture resumes when it returns. 0 names: captures nothing. Blocks
 * up to about 0.3 s. Errors: those of open, STATE. Once a session has had
 * SONDE_INTERFACES_MAX names, a new one replaces a removed one without active flows. */
int sonde_session_interfaces_set(struct sonde_session *session, const char *const *names,
                                 uint32_t count, struct sonde_error *error);

struct sonde_interface_stats {
  char name[SONDE_INTERFACE_NAME_MAX];
  uint32_t slot; /* `source` in struct sonde_record */
  uint32_t ifindex;
  int captured; /* 0: it was removed; the counters remain */
  int link_up;
  uint64_t packets_captured;
  uint64_t bytes_captured;
  uint64_t packets_dropped;
  uint64_t packets_non_flow;
};

/* Fills in every interface that the session has had, by slot, at most `max`. Returns the number.
 * The sums over all slots are those of sonde_session_stats, until a name replaces another one. */
int sonde_session_interface_stats(struct sonde_session *session, struct sonde_interface_stats *out,
                                  uint32_t max);
/* Copies the name that has this slot. INVALID if the slot is not used. */
int sonde_session_interface_name(struct sonde_session *session, uint32_t slot,
                                 char name[SONDE_INTERFACE_NAME_MAX]);

/* Applies from the next batch on. Turning metering off ends every segment with `forced`. */
int sonde_session_metering_set(struct sonde_session *session, int on, uint64_t idle_timeout_ns,
                               uint64_t active_timeout_ns, struct sonde_error *error);

enum sonde_flow_sort {
  SONDE_FLOW_SORT_BYTES = 0,
  SONDE_FLOW_SORT_PACKETS = 1,
  SONDE_FLOW_SORT_RECENT = 2,
};

/* Texts are patterns of fnmatch, without case and escapes; NULL: any. One owner of the flow matches
 * all of them. */
struct sonde_owner_match {
  const char *unit;      /* also without ".service" */
  const char *container; /* or the first characters of the id */
  const char *pod;
  const char *process; /* its name, or the file name of its program */
  int64_t pid;         /* -1: any */
};

struct sonde_flow_match { /* either side matches address and port */
  int ip_version;         /* 0: any address; 4 or 6 */
  uint8_t ip[16];
  int ip_bits_ignored; /* at the end of the address: 8 for IPv4 and /24 */
  int port;            /* -1: any */
  int protocol;        /* -1: any */
  const char *name;    /* a pattern of fnmatch for the flow's name, without case; NULL: any */
  const struct sonde_owner_match *owner; /* NULL: any */
};

struct sonde_flow_query {
  uint32_t limit;       /* 1…10000 */
  uint32_t sort;        /* enum sonde_flow_sort */
  uint64_t min_packets; /* over both directions */
  struct sonde_flow_match match;
  int excludes; /* 1: without the flows that `except` matches */
  struct sonde_flow_match except;
  const struct sonde_record *after; /* NULL, or only flows that come later in the order */
};

/* Lists cumulative totals of active flows (packets, bytes, l2_bytes since flow_start) without
 * changing them. Blocks for one turn of the capture loop. Fills `records` (space for
 * query.limit) in order; *matching: flows that match, before the limit. Returns the number. */
int sonde_session_list(struct sonde_session *session, const struct sonde_flow_query *query,
                       struct sonde_record *records, uint64_t *matching, uint64_t *active,
                       struct sonde_error *error);

enum sonde_flow_by {
  SONDE_FLOW_BY_SOURCE_IP = 1 << 0,
  SONDE_FLOW_BY_DEST_IP = 1 << 1,
  SONDE_FLOW_BY_SOURCE_PORT = 1 << 2,
  SONDE_FLOW_BY_DEST_PORT = 1 << 3,
  SONDE_FLOW_BY_PROTOCOL = 1 << 4,
};

enum { SONDE_FLOW_SUMS_MAX = 65536 };

struct sonde_flow_sum { /* the fields that are not in `by` are 0 */
  uint8_t source_ip[16];
  uint8_t dest_ip[16];
  uint16_t source_port;
  uint16_t dest_port;
  uint8_t ip_version;
  uint8_t protocol;
  uint64_t flows;
  uint64_t packets;
  uint64_t bytes;
};

/* Adds up the active flows that match, one sum for each value of the fields in `by` (enum
 * sonde_flow_by bits). Writes the query->limit largest sums, by bytes, or by packets if query->sort
 * says so. *distinct: how many sums there are, SONDE_FLOW_SUMS_MAX at most. *left_out: flows whose
 * values came after the table of sums was full. Returns how many were written. */
int sonde_session_sum(struct sonde_session *session, const struct sonde_flow_query *query,
                      uint32_t by, struct sonde_flow_sum *sums, uint64_t *distinct,
                      uint64_t *left_out, uint64_t *active, struct sonde_error *error);

/* ---- capture buffer ------------------------------------------------------------------ */

enum { SONDE_ENCRYPTION_KEY_BYTES = 32, SONDE_ENCRYPTION_KEY_ID_BYTES = 8 };

/* on: seals new packets, and before it returns also the plain packets in memory (about 0.3 s per
 * GiB). Drops plain segment files, also those of earlier sessions. A different key starts a new
 * period; packets in memory sealed with the old key stay readable. off: new packets are stored
 * plain. cipher: "AES-256-GCM". key: 32 bytes, copied; ignored when off.
 * Errors: CIPHER_UNKNOWN, STATE (no capture buffer), SYSTEM. */
int sonde_session_encryption_set(struct sonde_session *session, int on, const char *cipher,
                                 const uint8_t *key, struct sonde_error *error);
/* Computes the key id in a segment, see docs/segment.md. Errors: SYSTEM. */
int sonde_encryption_key_id(const uint8_t *key, uint8_t *id);

enum sonde_gap_reason {
  SONDE_GAP_OVERWRITTEN = 1, /* older than the buffer reaches, or overwritten while reading */
  SONDE_GAP_UNRECORDED = 2,  /* captured, but every chunk was busy */
  SONDE_GAP_UNSEALED = 3,    /* could not be sealed, so it was dropped */
  SONDE_GAP_UNOPENABLE = 4,  /* sealed with an unavailable key, or damaged */
  SONDE_GAP_SPILL_LOST = 5,  /* not written to a segment, and no longer in memory */
  SONDE_GAP_LIMIT = 6,       /* omitted: the answer has reached max_bytes or max_packets */
  SONDE_GAP_DROPPED = 7,     /* the source dropped packets in this time */
};

struct sonde_packets_gap {
  uint64_t from_ns;
  uint64_t to_ns;
  uint32_t reason; /* enum sonde_gap_reason */
  uint32_t reserved;
};

enum { SONDE_PACKETS_GAPS_MAX = 64 };

struct sonde_packets_summary {
  uint64_t packets;
  uint64_t bytes; /* pcapng bytes returned so far */
  uint64_t first_ns;
  uint64_t last_ns;
  uint64_t chunks_read; /* and chunks skipped by their index: */
  uint64_t chunks_skipped;
  int complete; /* 1: the answer is finished and has no gap */
  uint32_t gap_count;
  struct sonde_packets_gap gaps[SONDE_PACKETS_GAPS_MAX]; /* in order of time */
};

struct sonde_packets; /* an open query */

enum { SONDE_PACKETS_READ_MIN = 524288 }; /* minimum capacity for read */

/* Queries the matching packets from start_ns to end_ns, both included, as pcapng.
 * filter: BPF or NULL. end_ns 0: until now. max_bytes, max_packets: 0 = no limit. The
 * answer covers packets captured before this returns. Close it before the session. One thread
 * at a time reads it.
 * Errors: FILTER_INVALID, STATE (no capture buffer), NO_MEMORY. */
int sonde_session_packets_open(struct sonde_session *session, const char *filter, uint64_t start_ns,
                               uint64_t end_ns, uint64_t max_bytes, uint64_t max_packets,
                               struct sonde_packets **packets, struct sonde_error *error);
/* Writes the next whole blocks, in order of time over all workers. Each call returns within some
 * ten milliseconds; 0 means no match so far, call again. Errors: END after the last block,
 * TOO_SMALL. */
int sonde_session_packets_read(struct sonde_packets *packets, uint8_t *buffer, uint32_t capacity);
void sonde_session_packets_summary(const struct sonde_packets *packets,
                                   struct sonde_packets_summary *summary);
void sonde_session_packets_close(struct sonde_packets *packets); /* NULL is allowed */

/* ---- segment files ---------------------------------------------------------------------- */

struct sonde_segment; /* a segment file being read */

/* fd: the caller keeps it. key: 32 bytes, or NULL for a plain file. interface: the name in the
 * pcapng if the file has no names. Errors: FORMAT, KEY_WRONG, CIPHER_UNKNOWN, TRUNCATED (not even
 * a header), SYSTEM. */
int sonde_segment_open(int fd, const uint8_t *key, const char *interface,
                       struct sonde_segment **segment, struct sonde_error *error);
/* Writes the next whole pcapng blocks, in each worker's capture order. 0: call again. END: the
 * final frame was reached and no frame is missing. TRUNCATED: every whole frame has been
 * returned, and the file is cut off. DAMAGED, REORDERED: the rest cannot be trusted; the detail
 * names the frame. TOO_SMALL, SYSTEM. */
int sonde_segment_read(struct sonde_segment *segment, uint8_t *buffer, uint32_t capacity,
                       struct sonde_error *error);
void sonde_segment_close(struct sonde_segment *segment); /* NULL is allowed */

/* ---- rendering ---------------------------------------------------------------------- */

enum sonde_encoding {
  SONDE_ENCODING_JSON = 0,
  SONDE_ENCODING_MSGPACK = 1,
  SONDE_ENCODING_IPFIX = 2, /* whole messages, biflows; needs room for two of 512 bytes */
};

struct sonde_batch {
  uint32_t records;
  uint32_t bytes;    /* written to the buffer */
  uint64_t packets;  /* over the records */
  uint64_t first_ns; /* smallest first_ns, largest last_ns */
  uint64_t last_ns;
};

enum { SONDE_RENDERED_RECORD_MAX = 6144 }; /* upper bound of one record, any encoding */

/* Renders `count` records as one array ("[…]", or a MessagePack array). Stops before a
 * record that may not fit; batch->records is the number rendered. Returns 0, or TOO_SMALL if an
 * empty array does not fit. interface: the records' interface name. */
int sonde_records_render(const struct sonde_record *records, uint32_t count, int encoding,
                         const char *interface, uint8_t *buffer, uint32_t capacity,
                         struct sonde_batch *batch);

/* The same with only some fields. fields: bits in the order of sonde_record_field_name; 0: all.
 * IPFIX chooses the smallest profile that holds them. */
int sonde_records_render_fields(const struct sonde_record *records, uint32_t count, int encoding,
                                uint64_t fields, const char *interface, uint8_t *buffer,
                                uint32_t capacity, struct sonde_batch *batch);
const char *sonde_record_field_name(uint32_t field); /* NULL past the last */
/* Renders records of this session: the interface name is that of each record's source. hidden:
 * what is rendered as null, enum sonde_hidden. */
int sonde_session_records_render(struct sonde_session *session, const struct sonde_record *records,
                                 uint32_t count, int encoding, uint32_t hidden, uint8_t *buffer,
                                 uint32_t capacity, struct sonde_batch *batch);
/* Sets the fields that sonde_session_drain renders from now on. */
void sonde_session_stream_fields_set(struct sonde_session *session, uint64_t fields);

/* Removes up to records_max records from the ring and renders them. batch->records == 0: the
 * ring is empty. One caller at a time. */
int sonde_session_drain(struct sonde_session *session, int encoding, uint32_t records_max,
                        uint8_t *buffer, uint32_t capacity, struct sonde_batch *batch);
/* Drops up to records_max records from the ring without rendering and counts them in `batch`.
 * batch->records == 0: the ring is empty. One caller of this or drain at a time. Blocks for
 * about 0.1 us per record. */
void sonde_session_discard(struct sonde_session *session, uint32_t records_max,
                           struct sonde_batch *batch);

#endif
