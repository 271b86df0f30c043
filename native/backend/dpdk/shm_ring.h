/* shm_ring.h - the memory shared by the DPDK process and the agent: one ring of bytes per queue.
 * The process writes whole packets and the capture thread reads them in place.
 *
 *   area   ┌ struct area (counters, 64 positions) ┬ ring of queue 0 ┬ ring of queue 1 ┬ …
 *   ring   … │ head 24 │ frame, padded to 8 │ head 24 │ frame │ gap to the end │
 *
 * Each ring has one writer and one reader. Positions only grow; modulo the ring's size they are
 * offsets. A record never wraps: a gap record fills the end. If the ring is full, the writer
 * drops and counts the packet, or waits if the source is a file.
 *
 * The process is not trusted: the agent checks every number before use.
 */
#ifndef SONDE_DPDK_SHM_RING_H
#define SONDE_DPDK_SHM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
  SHM_RINGS_MAX = 64,
  SHM_RING_BYTES_MIN = 1 << 20,
  SHM_RING_GAP = -1, /* caplen of a gap record, which has only the first 8 bytes */
};

struct shm_ring_record {
  uint32_t bytes; /* this head, the frame and the padding */
  int32_t caplen;
  uint32_t wirelen;
  uint32_t direction; /* enum sonde_direction */
  uint64_t time_ns;   /* since the epoch */
};

struct shm_ring {
  _Alignas(64) _Atomic uint64_t head; /* writer's: records before it are complete */
  _Atomic uint64_t dropped;           /* packets that found no space */
  _Atomic uint64_t freezes;           /* times the ring became full */
  _Atomic uint32_t finished;          /* 1: no packet follows */
  _Alignas(64) _Atomic uint64_t tail; /* reader's: bytes before it are free */
  _Atomic uint32_t waiting;           /* 1: ring the doorbell */
};

struct area {
  uint64_t shm_ring_bytes; /* a power of two; only the process reads it */
  _Atomic uint64_t missed; /* by the port or kernel since the process started */
  struct shm_ring rings[SHM_RINGS_MAX];
};

enum { AREA_HEAD_BYTES = (sizeof(struct area) + 4095) & ~4095 };

static inline uint8_t *shm_ring_data(struct area *area, uint64_t shm_ring_bytes, uint32_t queue) {
  return (uint8_t *)area + AREA_HEAD_BYTES + shm_ring_bytes * queue;
}

static inline uint64_t shm_ring_room_needed(uint32_t caplen) {
  return (sizeof(struct shm_ring_record) + caplen + 7) & ~UINT64_C(7);
}

/* The writer's view of a ring, with private copies of the positions. */
struct shm_ring_writer {
  struct shm_ring *shared;
  uint8_t *ring;
  uint64_t mask;
  uint64_t head; /* ahead of ring->head until shm_ring_publish */
  uint64_t tail; /* the shared tail when last read */
  bool full;
};

/* Reserves space for a frame of caplen bytes, or returns NULL. */
static inline struct shm_ring_record *shm_ring_reserve(struct shm_ring_writer *writer,
                                                       uint32_t caplen) {
  uint64_t bytes = shm_ring_room_needed(caplen);
  uint64_t to_end = writer->mask + 1 - (writer->head & writer->mask);
  uint64_t gap = bytes > to_end ? to_end : 0;
  if (writer->head + gap + bytes - writer->tail > writer->mask + 1) {
    writer->tail = atomic_load_explicit(&writer->shared->tail, memory_order_acquire);
    if (writer->head + gap + bytes - writer->tail > writer->mask + 1)
      return 0;
  }
  struct shm_ring_record *record =
      (struct shm_ring_record *)(writer->ring + (writer->head & writer->mask));
  if (gap) {
    record->bytes = (uint32_t)gap;
    record->caplen = SHM_RING_GAP;
    writer->head += gap;
    record = (struct shm_ring_record *)writer->ring;
  }
  record->bytes = (uint32_t)bytes;
  record->caplen = (int32_t)caplen;
  writer->head += bytes;
  return record;
}

/* Publishes the records written. True if the reader sleeps and must be woken. */
static inline bool shm_ring_publish(struct shm_ring_writer *writer) {
  atomic_store_explicit(&writer->shared->head, writer->head, memory_order_release);
  atomic_thread_fence(memory_order_seq_cst);
  return atomic_load_explicit(&writer->shared->waiting, memory_order_relaxed) &&
         atomic_exchange(&writer->shared->waiting, 0);
}

#endif
