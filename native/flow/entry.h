/* entry.h - the memory layout of a flow; private to flow/.
 *
 * A packet of a known flow touches only one index line and the two hot lines. The cold part serves
 * the first packet, records and rare packets. With the timer links (8 bytes) and the index (about
 * 11), a flow takes 259 bytes, and 8 more if `headers` is used.
 *
 *   index  ▸ bucket: 8 tags, 8 entry numbers              1 line
 *   hot    ▸ key, last, TCP sequence │ counters, first    2 lines
 *   cold   ▸ id, totals, MACs, TCP events                 112 bytes
 *   headers ▸ IPv6 flow label and extensions, fragment offset          8 bytes, lazily
 *   tunnel ▸ outer addresses, id                          40 bytes, only in tunnel mode inner
 *   label  ▸ the labeler's                                4 bytes, only with labels
 *   owners ▸ references, of source and dest               8 bytes, only with owners
 */
#ifndef SONDE_FLOW_ENTRY_H
#define SONDE_FLOW_ENTRY_H

#include "flow_config.h"
#include "hash.h"
#include "wheel.h"

enum { SONDE_BUCKET_SLOTS = 8, SONDE_PROBE_MAX = 64 };

struct sonde_flow_bucket {
  uint16_t tag[SONDE_BUCKET_SLOTS]; /* 0: the slot is free */
  uint32_t entry[SONDE_BUCKET_SLOTS];
  uint32_t displaced; /* entries with this home that are in a later bucket */
  uint32_t reserved[3];
} __attribute__((aligned(64)));

enum sonde_flow_state {
  SONDE_STATE_SOURCE_HI = 1 << 0, /* the source is the key's hi side */
  SONDE_STATE_FIN = 1 << 1,       /* forward; reverse is the next bit */
  SONDE_STATE_FIN_REVERSE = 1 << 2,
  SONDE_STATE_RST = 1 << 3,
  SONDE_STATE_SEQ = 1 << 4, /* tcp_next is known; reverse is the next bit */
  SONDE_STATE_SEQ_REVERSE = 1 << 5,
  SONDE_STATE_GAP = 1 << 6, /* bytes are missing before tcp_next; reverse is the next bit */
  SONDE_STATE_GAP_REVERSE = 1 << 7,
  SONDE_STATE_SYN = 1 << 8,          /* handshake: the client's SYN */
  SONDE_STATE_SYN_ACK = 1 << 9,      /* … the SYN-ACK */
  SONDE_STATE_RTT = 1 << 10,         /* handshake_us is the result */
  SONDE_STATE_CLOSING = 1 << 11,     /* RST, or FIN both ways */
  SONDE_STATE_ACK = 1 << 12,         /* handshake: the client's ACK, at ack_ns */
  SONDE_STATE_CLIENT_HI = 1 << 13,   /* … the client is the key's hi side */
  SONDE_STATE_REOPENED = 1 << 14,    /* a SYN began the flow right after another one ended */
  SONDE_STATE_AFTER_CLOSE = 1 << 15, /* a packet came after the one that closed the flow */
};

struct sonde_flow_hot {
  struct sonde_key key; /* ip_version 0: the entry is free */
  uint64_t last_ns;     /* largest packet time of the flow */
  uint32_t tcp_next[2]; /* next expected sequence number */

  uint64_t packets[2]; /* this segment's, up to first_ns */
  uint64_t bytes[2];
  uint64_t l2_bytes[2];
  uint64_t first_ns;
  uint16_t state; /* enum sonde_flow_state */
  uint8_t tcp_flags[2];
  uint8_t ttl_min;
  uint8_t ttl_max;
  uint8_t tos;
  uint8_t retransmitted : 4; /* not yet in cold.retransmissions, to avoid the cold line */
  uint8_t payloads_left : 4; /* for the labeler */
} __attribute__((aligned(64)));

struct sonde_flow_cold {
  uint64_t flow_id;
  uint64_t start_ns;
  uint64_t packets[2]; /* before this segment */
  uint64_t bytes[2];
  uint64_t l2_bytes[2];
  uint32_t segment;
  uint32_t handshake_us; /* SYN: the last SYN's offset from start_ns; RTT: round trip */
  uint32_t ack_ns;       /* with ACK: offset from start_ns, UINT32_MAX if it is larger */
  uint32_t mpls_label;
  uint32_t timestamps_late; /* this segment, like the next three */
  uint32_t fragments;       /* this segment's, like the next two */
  uint32_t retransmissions;
  uint32_t out_of_order;
  uint8_t source_mac[6];
  uint8_t dest_mac[6];
  uint8_t icmp_type;
  uint8_t icmp_code;
  uint8_t direction : 2;
  uint8_t vlan_priority : 3;
  uint8_t has_mac : 1;
  uint8_t has_headers : 1; /* else treat them as 0 */
  uint8_t fragment_flags;
};

/* The members of struct sonde_record. Pages never written take no memory. */
struct sonde_flow_headers {
  uint32_t ipv6;
  uint16_t fragment_offset;
  uint16_t reserved;
};

struct sonde_flow_tunnel {
  uint8_t source_ip[16];
  uint8_t dest_ip[16];
  uint32_t id;
  uint8_t type;
  uint8_t ip_version;
  uint8_t reserved[2];
};

struct sonde_flow_table {
  struct sonde_flow_bucket *buckets;
  struct sonde_flow_hot *hot;
  struct sonde_flow_cold *cold;
  struct sonde_flow_headers *headers;
  struct sonde_flow_tunnel *tunnels; /* NULL in tunnel mode outer */
  uint32_t *labels;                  /* NULL without a labeler */
  uint32_t (*owners)[2];             /* NULL without an owner index */
  uint64_t bucket_count;
  uint32_t probes; /* buckets to search from a home with `displaced`; grows as needed */
  uint32_t flows_max;
  uint32_t fresh; /* the first entry never used */
  uint32_t free;  /* head of the free list in the wheel's links, or SONDE_WHEEL_NONE */
  bool metering;
  int64_t idle_ns;
  int64_t active_ns;
  int64_t epoch_ns;
  uint64_t now_ns;                      /* the latest time given to expire */
  uint32_t flows_of[SONDE_SOURCES_MAX]; /* entries in use, by source */
  uint32_t ifindex[SONDE_SOURCES_MAX];  /* for records */
  uint64_t id_next;
  uint64_t id_seed;
  struct sonde_hash_secret secret;
  struct sonde_wheel wheel;
  struct sonde_record_sink sink;
  const struct sonde_owner_mark *marks; /* see owner_match.h */
  uint32_t mark_count;
  struct sonde_label_hook label_hook;
  struct sonde_owner_hook owner_hook;
  struct sonde_flow_counters counters;
};

_Static_assert(sizeof(struct sonde_flow_bucket) == 64, "one line");
_Static_assert(sizeof(struct sonde_flow_hot) == 128, "two lines");
_Static_assert(sizeof(struct sonde_flow_cold) == 112, "keeps a million flows in 256 MiB");

static inline bool sonde_flow_used(const struct sonde_flow_hot *hot) {
  return hot->key.ip_version != 0;
}

static inline uint64_t sonde_flow_segment_packets(const struct sonde_flow_hot *hot) {
  return hot->packets[0] + hot->packets[1];
}

/* index.c: the hash gives an entry's home bucket. The entry is there or in one of the next
 * `probes` - 1 buckets. SONDE_PROBE_MAX is practically always enough: at 70 % full, 64 buckets have
 * 512 slots and 358 entries on average, eight standard deviations below. With 16, one in three full
 * tables of a million flows evicted a flow too early. */
struct sonde_flow_bucket *sonde_flow_index_home(const struct sonde_flow_table *table,
                                                uint64_t hash);
uint32_t sonde_flow_index_find(const struct sonde_flow_table *table, uint64_t hash,
                               const struct sonde_key *key); /* SONDE_WHEEL_NONE if unknown */
/* Returns an entry of the home bucket with the hash's tag, to prefetch, or SONDE_WHEEL_NONE. */
uint32_t sonde_flow_index_guess(const struct sonde_flow_table *table, uint64_t hash);
/* Returns false if all SONDE_PROBE_MAX buckets are full. */
bool sonde_flow_index_insert(struct sonde_flow_table *table, uint64_t hash, uint32_t entry);
void sonde_flow_index_remove(struct sonde_flow_table *table, uint64_t hash, uint32_t entry);
/* Returns the least recently used entry near the home bucket. The table must not be empty. */
uint32_t sonde_flow_index_oldest(const struct sonde_flow_table *table, uint64_t hash);

/* table.c: returns the packet's entry; creates the flow or replaces an ended one. */
uint32_t sonde_flow_enter(struct sonde_flow_table *table, uint32_t candidate, uint64_t hash,
                          const struct sonde_decoded *packet);
void sonde_flow_open_segment(struct sonde_flow_table *table, uint32_t entry,
                             const struct sonde_decoded *packet);

/* late.c */
extern const int64_t sonde_flow_reorder_ns; /* how far a late packet moves first_ns back */
/* Sets what a flow's first packet decides, except the source and the times. */
void sonde_flow_note_first(struct sonde_flow_table *table, uint32_t entry,
                           const struct sonde_decoded *packet);
void sonde_flow_count_late(struct sonde_flow_table *table, uint32_t entry,
                           const struct sonde_decoded *packet);
/* The packet is older than the segment's first one: moves the start back, or counts it as late. */
void sonde_flow_begin_earlier(struct sonde_flow_table *table, uint32_t entry,
                              const struct sonde_decoded *packet);

/* owner_match.c: tests the marks, see owner_match.h. */
bool sonde_flow_is_marked(const struct sonde_flow_table *table, uint32_t entry, uint32_t bit);
bool sonde_flow_has_mark(const struct sonde_flow_table *table, uint32_t entry);

/* record.c */
void sonde_flow_record_fill(const struct sonde_flow_table *table, uint32_t entry,
                            struct sonde_record *record);
/* Sets the record's label and owners. last: the flow ends with it. */
void sonde_flow_record_label(const struct sonde_flow_table *table, uint32_t entry, bool last,
                             struct sonde_record *record);
/* Fills a record whose counters start with the flow. */
void sonde_flow_total_fill(const struct sonde_flow_table *table, uint32_t entry,
                           struct sonde_record *record);
struct sonde_flow_query;
/* Whether the entry is a flow and matches the query; not whether it comes after query->after. */
bool sonde_flow_matches(const struct sonde_flow_table *table, uint32_t entry,
                        const struct sonde_flow_query *query);
/* Commits the open segment's record, or counts it as dropped, and empties the segment. */
void sonde_flow_record_emit(struct sonde_flow_table *table, uint32_t entry,
                            enum sonde_end_reason reason, bool final);

/* tcp.c: moves the flow's start back to time_ns and adjusts the handshake's offset. */
void sonde_flow_move_start(const struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           uint64_t time_ns);
/* tcp.c: applies a delta as if its packets had come one by one. */
void sonde_flow_tcp_merge(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                          const struct sonde_delta *delta, unsigned side, unsigned direction);
/* tcp.c: tracks sequence numbers, handshake and end. Returns true when the flow begins to close. */
bool sonde_flow_tcp_update(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           const struct sonde_decoded *packet, unsigned direction);

#endif
