/* chunk.h - one piece of the capture buffer: an index and packets of one worker, in order.
 *
 *   | struct sonde_chunk | extent 0: packets … | extent 1: packets … | open extent … |
 *
 * The worker that has it open appends and moves `committed`; bytes below never change but by
 * sealing. An extent is what is sealed or spilled as a whole: it ends when the chunk is full,
 * or a second old while sealing or spilling is on.
 *
 * Who may touch what: links, serial, pins, extent_count and an extent's bounds change under
 * the store's lock; an extent's state, tag and bytes under data_lock. data_lock comes first.
 * The worker takes the store's lock alone, and a pinned chunk is never given to it again.
 */
#ifndef SONDE_STORE_CHUNK_H
#define SONDE_STORE_CHUNK_H

#include <pthread.h>
#include <stdatomic.h>

#include "bloom.h"
#include "packet_layout.h"

enum {
  SONDE_CHUNK_BYTES = 1 << 20,
  SONDE_CHUNK_BYTES_MIN = 512 << 10, /* of small buffers; holds the largest packet */
  SONDE_CHUNK_INDEX_BYTES = 24 << 10,
  SONDE_CHUNK_EXTENTS_MAX = 64,
};

struct sonde_sealkey;

enum sonde_extent_state {
  SONDE_EXTENT_CLEAR = 0,
  SONDE_EXTENT_SEALED,
  SONDE_EXTENT_LOST, /* could not be sealed: the bytes are zero */
};

struct sonde_extent {
  uint32_t start; /* in the chunk's data */
  uint32_t end;
  uint32_t packets;
  uint32_t state; /* enum sonde_extent_state */
  uint64_t first_ns;
  uint64_t last_ns;
  struct sonde_sealkey *key; /* sealed with; holds a reference */
  uint64_t nonce;
  uint8_t tag[16];
};

struct sonde_chunk {
  struct sonde_chunk *next; /* all full chunks of the store, first closed first */
  struct sonde_chunk *previous;
  struct sonde_chunk *newer; /* the same worker's, the open one last */
  struct sonde_chunk *older;
  uint64_t serial;       /* 1, 2, … of its worker */
  uint64_t first_packet; /* number of its first packet among its worker's, from 0 */
  uint32_t worker;
  uint32_t pins; /* readers, sealer and writer; none: may be overwritten */
  bool open;
  bool queued; /* waits for the sealer, pinned */
  bool write_queued;
  struct sonde_chunk *queue_next;
  struct sonde_chunk *write_next;
  uint32_t extents_ready;   /* the sealer is through with them; under the writer's lock … */
  uint32_t extents_written; /* … as is this: they are on disk, or given up */
  pthread_mutex_t data_lock;

  /* The worker's, for all to read: of the packets below `committed`. */
  _Atomic uint32_t committed;
  _Atomic uint32_t packets;
  _Atomic uint64_t first_ns; /* the smallest and the largest time, not the first and last packet's
                              */
  _Atomic uint64_t last_ns;

  uint32_t extent_count; /* closed ones; the open extent begins where the last of them ends */
  struct sonde_extent extents[SONDE_CHUNK_EXTENTS_MAX];
  struct sonde_bloom bloom; /* for readers only when the chunk is full */
};
_Static_assert(sizeof(struct sonde_chunk) <= SONDE_CHUNK_INDEX_BYTES, "the index fits");

static inline uint8_t *sonde_chunk_data(struct sonde_chunk *chunk) {
  return (uint8_t *)chunk + SONDE_CHUNK_INDEX_BYTES;
}

static inline uint32_t sonde_chunk_open_start(const struct sonde_chunk *chunk) {
  return chunk->extent_count ? chunk->extents[chunk->extent_count - 1].end : 0;
}

#endif
