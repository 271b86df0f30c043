/* state.h - struct sonde_store. Private to this folder. */
#ifndef SONDE_STORE_STATE_H
#define SONDE_STORE_STATE_H

#include "chunk.h"
#include "gap_log.h"
#include "names.h"
#include "netsonde.h"
#include "sealkey.h"
#include "store_config.h"

struct sonde_appender;
struct sonde_disk_writer;

enum { SONDE_STORE_WORKERS_MAX = 64 };

/* One worker's chunks. */
struct sonde_chunk_list {
  struct sonde_chunk *oldest;
  struct sonde_chunk *newest;    /* the open one, if any */
  uint64_t serial;               /* the newest's */
  uint64_t next_packet;          /* number of the first packet after the full chunks */
  uint64_t overwritten_first_ns; /* times of overwritten packets; 0: none */
  uint64_t overwritten_last_ns;
};

struct sonde_chunk_queue {
  struct sonde_chunk *first, *last;
  uint32_t count;
};

struct sonde_store {
  struct sonde_store_config config;
  uint8_t *memory;
  uint64_t memory_bytes;
  uint32_t chunk_bytes;
  uint32_t chunk_count;
  uint64_t bloom_seed[3];
  struct sonde_names names;
  struct sonde_chunk_list *lists;
  struct sonde_appender *appenders; /* one per worker */

  pthread_mutex_t lock; /* see chunk.h */
  uint32_t fresh;       /* number of chunks that have been used */
  uint32_t populated;   /* number of chunks with pages; written by the sealer */
  struct sonde_chunk *first_full, *last_full;
  uint32_t full_count;
  uint64_t full_packets;
  struct sonde_gap_log gaps;
  struct sonde_store_stats totals; /* only its counters */
  struct sonde_sealkey *key;       /* NULL: extents are not sealed */

  _Atomic bool cuts_extents; /* sealing or spilling is on */

  /* The sealer; see sealer.c. */
  pthread_t sealer;
  pthread_cond_t sealer_work;
  struct sonde_chunk_queue to_seal;
  bool sealer_ends;
  bool sealer_runs;
  uint64_t seal_reported_ns;

  struct sonde_disk_writer *writer; /* NULL: no directory */
};

static inline struct sonde_chunk *sonde_store_chunk(const struct sonde_store *store,
                                                    uint32_t number) {
  return (struct sonde_chunk *)(store->memory + (uint64_t)number * store->chunk_bytes);
}

static inline uint32_t sonde_store_data_bytes(const struct sonde_store *store) {
  return store->chunk_bytes - SONDE_CHUNK_INDEX_BYTES;
}

/* chunk_alloc.c, on the worker's thread. open_chunk returns NULL if every chunk is pinned or
 * open. Close the last extent before its chunk. */
struct sonde_chunk *sonde_store_open_chunk(struct sonde_store *store, uint32_t worker);
void sonde_store_close_chunk(struct sonde_store *store, struct sonde_chunk *chunk);
void sonde_store_close_extent(struct sonde_store *store, struct sonde_chunk *chunk,
                              const struct sonde_extent *extent);

/* Any thread; `chunk` is pinned or the caller holds the lock. */
void sonde_store_unpin(struct sonde_store *store, struct sonde_chunk *chunk);
/* Adds a gap to the log, and its packets to the counters. */
void sonde_store_note_gap(struct sonde_store *store, uint64_t from_ns, uint64_t to_ns,
                          enum sonde_gap_reason reason, uint32_t packets);

/* sealer.c */
int sonde_sealer_start(struct sonde_store *store); /* 0 or an errno */
void sonde_sealer_stop(struct sonde_store *store); /* after all queued work is done */
/* Seals the chunk's unsealed closed extents with the current key, if any. `chunk` is pinned.
 * Returns the number of closed extents. */
uint32_t sonde_store_seal_chunk(struct sonde_store *store, struct sonde_chunk *chunk);
/* Writes the extent's plaintext to `into`. data_lock is held. Returns 0, DAMAGED, SYSTEM, or
 * END if the extent is lost. */
int sonde_extent_open(struct sonde_chunk *chunk, uint32_t number, uint8_t *into);

/* Pins the worker's chunk after `chunk` (NULL: the oldest), and unpins `chunk`. */
struct sonde_chunk *sonde_chunk_list_step(struct sonde_store *store, uint32_t worker,
                                          struct sonde_chunk *chunk);

#endif
