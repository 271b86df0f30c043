/* shm_ring.h - the memory that the DPDK process and the agent share: for each queue a ring of
 * bytes in which the process writes whole packets and the capture thread reads them in place.
 *
 *   area   ┌ struct area (counters, 64 positions) ┬ ring of queue 0 ┬ ring of queue 1 ┬ …
 *   ring   … │ head 24 │ frame, padded to 8 │ head 24 │ frame │ gap to the end │
 *
 * One writer and one reader a ring. Positions only grow; modulo the ring's size they are
 * offsets. A record never wraps: a gap record fills what is left at the end. A full ring is
 * never waited for, but counted, unless the source is a file.
 *
 * The process may be mad: the agent believes no number in here that could lead it astray.
 */
#ifndef SONDE_DPDK_SHM_RING_H
#define SONDE_DPDK_SHM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
  SHM_RINGS_MAX = 64,
  SHM_RING_BYTES_MIN = 1 << 20,
  SHM_RING_GAP = -1, /* caplen of a gap record, of which only the first 8 bytes are there */
};

struct shm_ring_record {
  uint32_t bytes; /* this head, the frame and the padding */
  int32_t caplen;
  uint32_t wirelen;
  uint32_t direction; /* enum sonde_direction */
  uint64_t time_ns;   /* since the epoch */
};

struct shm_ring {
  _Alignas(64) _Atomic uint64_t head; /* the writer's: all before it is whole */
  _Atomic uint64_t dropped;           /* found no room */
  _Atomic uint64_t freezes;           /* times that the room ended */
  _Atomic uint32_t finished;          /* 1: nothing will follow */
  _Alignas(64) _Atomic uint64_t tail; /* the reader's: all before it is free */
  _Atomic uint32_t waiting;           /* 1: ring the doorbell */
};

struct area {
  uint64_t shm_ring_bytes; /* a power of two; for the process, the agent knows it */
  _Atomic uint64_t missed; /* by the port or the kernel below it, since the process began */
  struct shm_ring rings[SHM_RINGS_MAX];
};

enum { AREA_HEAD_BYTES = (sizeof(struct area) + 4095) & ~4095 };

static inline uint8_t *shm_ring_data(struct area *area, uint64_t shm_ring_bytes, uint32_t queue) {
  return (uint8_t *)area + AREA_HEAD_BYTES + shm_ring_bytes * queue;
}

static inline uint64_t shm_ring_room_needed(uint32_t caplen) {
  return (sizeof(struct shm_ring_record) + caplen + 7) & ~UINT64_C(7);
}

/* The writer's view of a ring, with what it need not read from shared memory. */
struct shm_ring_writer {
  struct shm_ring *shared;
  uint8_t *ring;
  uint64_t mask;
  uint64_t head; /* ahead of ring->head until shm_ring_publish */
  uint64_t tail; /* as last seen */
  bool full;
};

/* Room for a frame of caplen bytes, or NULL. */
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

/* Shows what was written. True if the reader sleeps and must be woken. */
static inline bool shm_ring_publish(struct shm_ring_writer *writer) {
  atomic_store_explicit(&writer->shared->head, writer->head, memory_order_release);
  atomic_thread_fence(memory_order_seq_cst);
  return atomic_load_explicit(&writer->shared->waiting, memory_order_relaxed) &&
         atomic_exchange(&writer->shared->waiting, 0);
}

#endif
