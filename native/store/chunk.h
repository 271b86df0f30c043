/* chunk.h - a chunk of the capture buffer: an index and packets of one worker, in order.
 *
 *   | struct sonde_chunk | extent 0: packets … | extent 1: packets … | open extent … |
 *
 * Its worker appends packets and advances `committed`. Only sealing changes bytes below it.
 * An extent is sealed or spilled as a whole. It ends when the chunk is full, or after a
 * second while sealing or spilling is on.
 *
 * Locks: the store's lock guards links, serial, pins, extent_count and an extent's bounds.
 * data_lock guards the state, loss_counted, tag and bytes of an extent. Take data_lock first.
 * Workers take the store's lock only. A pinned chunk is never reused.
 */
#ifndef SONDE_STORE_CHUNK_H
#define SONDE_STORE_CHUNK_H

#include <pthread.h>
#include <stdatomic.h>

#include "bloom.h"
#include "packet_layout.h"

enum {
  SONDE_CHUNK_BYTES = 1 << 20,
  SONDE_CHUNK_BYTES_MIN = 512 << 10, /* for small buffers; holds the largest packet */
  SONDE_CHUNK_INDEX_BYTES = 24 << 10,
  SONDE_CHUNK_EXTENTS_MAX = 64,
};

struct sonde_sealkey;

enum sonde_extent_state {
  SONDE_EXTENT_CLEAR = 0,
  SONDE_EXTENT_SEALED,
  SONDE_EXTENT_LOST, /* sealing failed: the bytes are zero */
};

struct sonde_extent {
  uint32_t start; /* in the chunk's data */
  uint32_t end;
  uint32_t packets;
  uint32_t state;    /* enum sonde_extent_state */
  bool loss_counted; /* its packets count once, whether the seal or the disk failed first */
  uint64_t first_ns;
  uint64_t last_ns;
  struct sonde_sealkey *key; /* the sealing key; a reference */
  uint64_t nonce;
  uint8_t tag[16];
};

/* data_lock is held. Returns the packets to count as lost: 0 if they are already counted. */
static inline uint32_t sonde_extent_count_loss(struct sonde_extent *extent) {
  uint32_t packets = extent->loss_counted ? 0 : extent->packets;
  extent->loss_counted = true;
  return packets;
}

struct sonde_chunk {
  struct sonde_chunk *next; /* full chunks of the store, in the order they were closed */
  struct sonde_chunk *previous;
  struct sonde_chunk *newer; /* chunks of the same worker, the open one last */
  struct sonde_chunk *older;
  uint64_t serial;       /* 1, 2, … per worker */
  uint64_t first_packet; /* number of its first packet, per worker, from 0 */
  uint32_t worker;
  uint32_t pins; /* held by readers, sealer and writer; 0: may be overwritten */
  bool open;
  bool queued; /* in the sealer's queue, pinned */
  bool write_queued;
  struct sonde_chunk *queue_next;
  struct sonde_chunk *write_next;
  uint32_t extents_ready;   /* processed by the sealer; under the writer's lock */
  uint32_t extents_written; /* on disk or dropped; under the writer's lock */
  pthread_mutex_t data_lock;

  /* Written by the worker, read by all; describe the packets below `committed`. */
  _Atomic uint32_t committed;
  _Atomic uint32_t packets;
  _Atomic uint64_t first_ns; /* smallest time */
  _Atomic uint64_t last_ns;  /* largest time */

  uint32_t extent_count; /* closed extents; the open one starts where the last of them ends */
  struct sonde_extent extents[SONDE_CHUNK_EXTENTS_MAX];
  struct sonde_bloom bloom; /* readers may use it once the chunk is full */
};
_Static_assert(sizeof(struct sonde_chunk) <= SONDE_CHUNK_INDEX_BYTES, "the index fits");

static inline uint8_t *sonde_chunk_data(struct sonde_chunk *chunk) {
  return (uint8_t *)chunk + SONDE_CHUNK_INDEX_BYTES;
}

static inline uint32_t sonde_chunk_open_start(const struct sonde_chunk *chunk) {
  return chunk->extent_count ? chunk->extents[chunk->extent_count - 1].end : 0;
}

#endif
