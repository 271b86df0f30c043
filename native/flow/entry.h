/* entry.h - how a flow lies in memory; private to flow/.
 *
 * A packet of a known flow touches one index line and the two hot lines, nothing else:
 * what only a flow's beginning, its records and rare packets need lies apart, cold. With
 * the timer links (8 bytes) and the index (about 11), a flow costs 251 bytes, and 8
 * more where its packets had something for `headers`.
 *
 *   index  ▸ bucket: 8 tags, 8 entry numbers              1 line
 *   hot    ▸ key, last, TCP sequence │ counters, first    2 lines
 *   cold   ▸ id, totals, MACs, TCP events                 104 bytes
 *   headers ▸ IPv6 flow label and extensions, fragment offset          8 bytes, lazily
 *   tunnel ▸ outer addresses, id                          40 bytes, only in tunnel mode inner
 */
#ifndef SONDE_FLOW_ENTRY_H
#define SONDE_FLOW_ENTRY_H

#include "flow_config.h"
#include "hash.h"
#include "wheel.h"

enum { SONDE_BUCKET_SLOTS = 8, SONDE_PROBE_MAX = 64, SONDE_FLOW_TCP = 6 };

struct sonde_flow_bucket {
  uint16_t tag[SONDE_BUCKET_SLOTS]; /* 0: the slot is free */
  uint32_t entry[SONDE_BUCKET_SLOTS];
  uint32_t displaced; /* entries whose home is here and that live further on */
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
  SONDE_STATE_SYN = 1 << 8,      /* handshake: the source's SYN */
  SONDE_STATE_SYN_ACK = 1 << 9,  /* … and its answer */
  SONDE_STATE_RTT = 1 << 10,     /* … and the ACK: handshake_us is the result */
  SONDE_STATE_CLOSING = 1 << 11, /* RST, or FIN both ways */
};

struct sonde_flow_hot {
  struct sonde_key key; /* ip_version 0: the entry is free */
  uint64_t last_ns;     /* largest packet time of the flow */
  uint32_t tcp_next[2]; /* next expected sequence number */

  uint64_t packets[2]; /* this segment */
  uint64_t bytes[2];
  uint64_t l2_bytes[2];
  uint64_t first_ns; /* of this segment */
  uint16_t state;    /* enum sonde_flow_state */
  uint8_t tcp_flags[2];
  uint8_t ttl_min;
  uint8_t ttl_max;
  uint8_t tos;
  uint8_t retransmitted; /* not yet added to cold.retransmissions: spares the cold line */
} __attribute__((aligned(64)));

struct sonde_flow_cold {
  uint64_t flow_id;
  uint64_t start_ns;
  uint64_t packets[2]; /* before this segment */
  uint64_t bytes[2];
  uint64_t l2_bytes[2];
  uint32_t segment;
  uint32_t handshake_us; /* SYN: offset of the last SYN from start_ns; RTT: the round trip */
  uint32_t mpls_label;
  uint32_t fragments; /* this segment, like the next two */
  uint32_t retransmissions;
  uint32_t out_of_order;
  uint8_t source_mac[6];
  uint8_t dest_mac[6];
  uint8_t icmp_type;
  uint8_t icmp_code;
  uint8_t direction : 2;
  uint8_t vlan_priority : 3;
  uint8_t has_mac : 1;
  uint8_t has_headers : 1; /* else they are all 0, whatever lies there */
  uint8_t fragment_flags;
};

/* As in struct sonde_record. Memory that nothing was written to does not exist. */
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
  uint64_t bucket_count;
  uint32_t probes; /* buckets to look through from a home with `displaced`: grows as needed */
  uint32_t flows_max;
  uint32_t fresh; /* entries from here on have never been used */
  uint32_t free;  /* first of the free list through the wheel's links, or SONDE_WHEEL_NONE */
  bool metering;
  int64_t idle_ns;
  int64_t active_ns;
  int64_t epoch_ns;
  uint64_t now_ns; /* the latest time that expire was given */
  uint64_t id_next;
  uint64_t id_seed;
  struct sonde_hash_secret secret;
  struct sonde_wheel wheel;
  struct sonde_record_sink sink;
  struct sonde_flow_counters counters;
};

_Static_assert(sizeof(struct sonde_flow_bucket) == 64, "one line");
_Static_assert(sizeof(struct sonde_flow_hot) == 128, "two lines");
_Static_assert(sizeof(struct sonde_flow_cold) == 104, "keeps a million flows in 256 MiB");

static inline bool sonde_flow_used(const struct sonde_flow_hot *hot) {
  return hot->key.ip_version != 0;
}

static inline uint64_t sonde_flow_segment_packets(const struct sonde_flow_hot *hot) {
  return hot->packets[0] + hot->packets[1];
}

/* index.c: where entries are found. A home bucket is a function of the hash; an entry
 * lives there or in one of the table's `probes` - 1 buckets behind it. That no insertion needs
 * more than SONDE_PROBE_MAX is as good as certain: at 70 % full, a stretch of 64 buckets has
 * 358 entries on average and 512 places, eight standard deviations away. With 16, one full table of
 * a million flows in three evicted a flow too early. */
struct sonde_flow_bucket *sonde_flow_index_home(const struct sonde_flow_table *table,
                                                uint64_t hash);
uint32_t sonde_flow_index_find(const struct sonde_flow_table *table, uint64_t hash,
                               const struct sonde_key *key); /* or SONDE_WHEEL_NONE */
/* The entry whose tag fits in the home bucket: a guess to prefetch by, or SONDE_WHEEL_NONE. */
uint32_t sonde_flow_index_guess(const struct sonde_flow_table *table, uint64_t hash);
/* False if there is no slot within reach. */
bool sonde_flow_index_insert(struct sonde_flow_table *table, uint64_t hash, uint32_t entry);
void sonde_flow_index_remove(struct sonde_flow_table *table, uint64_t hash, uint32_t entry);
/* The least recently used entry near the hash's home; the table must not be empty. */
uint32_t sonde_flow_index_oldest(const struct sonde_flow_table *table, uint64_t hash);

/* table.c: the entry that a packet belongs to, begun or begun anew if need be. */
uint32_t sonde_flow_enter(struct sonde_flow_table *table, uint32_t candidate, uint64_t hash,
                          const struct sonde_decoded *packet);
void sonde_flow_open_segment(struct sonde_flow_hot *hot, const struct sonde_decoded *packet);
extern const int64_t sonde_flow_reorder_ns; /* earlier packets move first_ns this far */

/* record.c */
void sonde_flow_record_fill(const struct sonde_flow_table *table, uint32_t entry,
                            struct sonde_record *record);
/* Sends the open segment's record, or loses and counts it; the segment is empty then. */
void sonde_flow_record_emit(struct sonde_flow_table *table, uint32_t entry,
                            enum sonde_end_reason reason, bool final);

/* tcp.c: the flow began earlier than its first packet said, at time_ns, before start_ns; what
 * is known of the handshake counts from there. */
void sonde_flow_move_start(const struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           uint64_t time_ns);
/* tcp.c, for deltas: what their packets would have done one by one. */
void sonde_flow_tcp_merge(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                          const struct sonde_delta *delta, unsigned side, unsigned direction);
/* tcp.c: sequence numbers, handshake, end. Returns true when the flow begins to close. */
bool sonde_flow_tcp_update(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           const struct sonde_decoded *packet, unsigned direction);

#endif
