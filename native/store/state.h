/* state.h - what a store is made of; shared by the files of this folder only. */
#ifndef SONDE_STORE_STATE_H
#define SONDE_STORE_STATE_H

#include "chunk.h"
#include "gap_log.h"
#include "netsonde.h"
#include "sealkey.h"
#include "store_config.h"

struct sonde_appender;
struct sonde_disk_writer;

enum { SONDE_STORE_WORKERS_MAX = 64 };

/* One worker's chunks. */
struct sonde_chunk_list {
  struct sonde_chunk *oldest;
  struct sonde_chunk *newest;  /* the open one, if there is one */
  uint64_t serial;             /* the newest's */
  uint64_t next_packet;        /* number of the first packet that is in no full chunk */
  uint64_t forgotten_first_ns; /* of the packets that were overwritten; 0, 0: none */
  uint64_t forgotten_last_ns;
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
  struct sonde_chunk_list *lists;
  struct sonde_appender *appenders; /* one a worker */

  pthread_mutex_t lock; /* see chunk.h */
  uint32_t fresh;       /* chunks from here on have never been used */
  uint32_t populated;   /* chunks below have pages; the sealer's */
  struct sonde_chunk *first_full, *last_full;
  uint32_t full_count;
  uint64_t full_packets;
  struct sonde_gap_log gaps;
  struct sonde_store_stats totals; /* the counters of it */
  struct sonde_sealkey *key;       /* NULL: extents stay clear */

  _Atomic bool cuts_extents; /* sealing or spilling is on */

  /* The sealer: gives fresh chunks pages, seals, hands over to the writer. */
  pthread_t sealer;
  pthread_cond_t sealer_work;
  struct sonde_chunk_queue to_seal;
  bool sealer_ends;
  bool sealer_runs;
  uint64_t seal_told_ns;

  struct sonde_disk_writer *writer; /* NULL: no directory */
};

static inline struct sonde_chunk *sonde_store_chunk(const struct sonde_store *store,
                                                    uint32_t number) {
  return (struct sonde_chunk *)(store->memory + (uint64_t)number * store->chunk_bytes);
}

static inline uint32_t sonde_store_data_bytes(const struct sonde_store *store) {
  return store->chunk_bytes - SONDE_CHUNK_INDEX_BYTES;
}

/* chunk_alloc.c: the worker's thread. take: NULL if every chunk is pinned or open. close: the chunk
 * is full, its last extent is closed. */
struct sonde_chunk *sonde_store_take(struct sonde_store *store, uint32_t worker);
void sonde_store_close_chunk(struct sonde_store *store, struct sonde_chunk *chunk);
void sonde_store_close_extent(struct sonde_store *store, struct sonde_chunk *chunk,
                              const struct sonde_extent *extent);

/* Any thread; `chunk` is pinned or the caller holds the lock. */
void sonde_store_unpin(struct sonde_store *store, struct sonde_chunk *chunk);
/* Adds what was lost to the log and the counters; who drops packets counts them. */
void sonde_store_lose(struct sonde_store *store, const struct sonde_gap *gap);

/* sealer.c */
int sonde_sealer_start(struct sonde_store *store);
void sonde_sealer_stop(struct sonde_store *store); /* after all queued work */
/* Seals, with the current key if there is one, the closed extents that lie in clear. `chunk`
 * is pinned. Returns how many extents were closed. */
uint32_t sonde_store_seal_chunk(struct sonde_store *store, struct sonde_chunk *chunk);
/* The extent's clear bytes go into `into`. 0, DAMAGED, SYSTEM, or END: it is lost.
 * data_lock is held. */
int sonde_extent_open(struct sonde_chunk *chunk, uint32_t number, uint8_t *into);

/* Pins the chunk after `chunk` (NULL: the oldest) of a worker and unpins that. */
struct sonde_chunk *sonde_chunk_list_step(struct sonde_store *store, uint32_t worker,
                                          struct sonde_chunk *chunk);

#endif
