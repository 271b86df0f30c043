/* ring.h - a ring of records from one capture thread to its consumers.
 *
 * Single producer, fixed size, no locks. Each consumer reads every record written after it
 * was enabled, at its own pace. The slowest enabled consumer limits the producer. Each side
 * owns its index and caches the other's. It reads the other's cache line only when its copy
 * says full or empty.
 */
#ifndef SONDE_CORE_RING_H
#define SONDE_CORE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "record.h"

enum sonde_ring_reader {
  SONDE_RING_STREAM = 0, /* sonde_session_drain */
  SONDE_RING_EXPORT = 1, /* the export thread */
  SONDE_RING_READERS = 2,
};

struct sonde_ring_consumer {
  _Atomic uint32_t tail; /* next to read */
  _Atomic bool enabled;
  uint32_t head_seen;
} __attribute__((aligned(64)));

struct sonde_ring {
  struct sonde_record *records;
  uint32_t mask;
  struct {
    _Atomic uint32_t head; /* next to write */
    uint32_t tail_seen;
  } __attribute__((aligned(64))) producer;
  struct sonde_ring_consumer consumers[SONDE_RING_READERS];
} __attribute__((aligned(64)));

/* size: a power of two. */
static inline void sonde_ring_init(struct sonde_ring *ring, struct sonde_record *records,
                                   uint32_t size) {
  *ring = (struct sonde_ring){.records = records, .mask = size - 1};
}

/* Enables a consumer from the next record on. Call on the producer's thread, or while it does
 * not run, and while the consumer does not read. */
static inline void sonde_ring_enable(struct sonde_ring *ring, enum sonde_ring_reader reader) {
  struct sonde_ring_consumer *consumer = &ring->consumers[reader];
  uint32_t head = atomic_load_explicit(&ring->producer.head, memory_order_relaxed);
  consumer->head_seen = head;
  atomic_store_explicit(&consumer->tail, head, memory_order_relaxed);
  atomic_store_explicit(&consumer->enabled, true, memory_order_release);
}

/* Call on any thread, while the consumer does not read. */
static inline void sonde_ring_disable(struct sonde_ring *ring, enum sonde_ring_reader reader) {
  atomic_store_explicit(&ring->consumers[reader].enabled, false, memory_order_release);
}

/* Records between the slowest enabled consumer and `head`; 0 without an enabled one. */
static inline uint32_t sonde_ring_lag(const struct sonde_ring *ring, uint32_t head) {
  uint32_t lag_max = 0;
  for (int i = 0; i < SONDE_RING_READERS; i++) {
    const struct sonde_ring_consumer *consumer = &ring->consumers[i];
    if (!atomic_load_explicit(&consumer->enabled, memory_order_acquire))
      continue;
    uint32_t lag = head - atomic_load_explicit(&consumer->tail, memory_order_acquire);
    if ((int32_t)lag > (int32_t)lag_max) /* below 0: it has passed `head`, which is stale */
      lag_max = lag;
  }
  return lag_max;
}

/* Free slots; exact if fewer than `needed`. */
static inline uint32_t sonde_ring_room(struct sonde_ring *ring, uint32_t needed) {
  uint32_t head = atomic_load_explicit(&ring->producer.head, memory_order_relaxed);
  uint32_t size = ring->mask + 1;
  if (size - (head - ring->producer.tail_seen) < needed)
    ring->producer.tail_seen = head - sonde_ring_lag(ring, head);
  return size - (head - ring->producer.tail_seen);
}

static inline struct sonde_record *sonde_ring_reserve(struct sonde_ring *ring) {
  uint32_t head = atomic_load_explicit(&ring->producer.head, memory_order_relaxed);
  return sonde_ring_room(ring, 1) ? &ring->records[head & ring->mask] : NULL;
}

static inline void sonde_ring_commit(struct sonde_ring *ring) {
  uint32_t head = atomic_load_explicit(&ring->producer.head, memory_order_relaxed);
  atomic_store_explicit(&ring->producer.head, head + 1, memory_order_release);
}

static inline uint32_t sonde_ring_head(const struct sonde_ring *ring) {
  return atomic_load_explicit(&ring->producer.head, memory_order_acquire);
}

/* Returns how many records from `position` to `head` are contiguous, at most `max`. */
static inline uint32_t sonde_ring_piece(const struct sonde_ring *ring, uint32_t position,
                                        uint32_t head, uint32_t max,
                                        const struct sonde_record **first) {
  uint32_t waiting = head - position;
  uint32_t piece = ring->mask + 1 - (position & ring->mask);
  *first = &ring->records[position & ring->mask];
  waiting = waiting < piece ? waiting : piece;
  return waiting < max ? waiting : max;
}

/* The same from the consumer's tail; 0 if it is disabled. */
static inline uint32_t sonde_ring_peek(struct sonde_ring *ring, enum sonde_ring_reader reader,
                                       uint32_t max, const struct sonde_record **first) {
  struct sonde_ring_consumer *consumer = &ring->consumers[reader];
  if (!atomic_load_explicit(&consumer->enabled, memory_order_acquire))
    max = 0;
  uint32_t tail = atomic_load_explicit(&consumer->tail, memory_order_relaxed);
  if (consumer->head_seen - tail < max)
    consumer->head_seen = sonde_ring_head(ring);
  return sonde_ring_piece(ring, tail, consumer->head_seen, max, first);
}

static inline void sonde_ring_release(struct sonde_ring *ring, enum sonde_ring_reader reader,
                                      uint32_t count) {
  struct sonde_ring_consumer *consumer = &ring->consumers[reader];
  uint32_t tail = atomic_load_explicit(&consumer->tail, memory_order_relaxed);
  atomic_store_explicit(&consumer->tail, tail + count, memory_order_release);
}

/* A bit for each source of a record that an enabled consumer has not released. Call on the
 * producer's thread, or while it does not run. */
static inline uint64_t sonde_ring_sources(const struct sonde_ring *ring) {
  uint32_t head = sonde_ring_head(ring);
  uint64_t sources = 0;
  for (uint32_t at = head - sonde_ring_lag(ring, head); at != head; at++)
    sources |= UINT64_C(1) << (ring->records[at & ring->mask].source % 64);
  return sources;
}

/* The backlog of the slowest enabled consumer. Any thread. */
static inline uint32_t sonde_ring_waiting(const struct sonde_ring *ring) {
  return sonde_ring_lag(ring, sonde_ring_head(ring));
}

#endif
