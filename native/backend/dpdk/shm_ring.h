/* shm_ring.h - the memory that the DPDK process and the agent share: one lane a queue, a ring of
 * bytes in which the process writes whole packets and the capture thread reads them in place.
 *
 *   area   ┌ struct area (counters, 64 lane heads) ┬ ring of lane 0 ┬ ring of lane 1 ┬ …
 *   ring   … │ head 24 │ frame, padded to 8 │ head 24 │ frame │ gap to the end │
 *
 * One writer and one reader a lane. Positions only grow; modulo the ring's size they are
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
  LANES_MAX = 64,
  LANE_BYTES_MIN = 1 << 20,
  LANE_GAP = -1, /* caplen of a gap record, of which only the first 8 bytes are there */
};

struct lane_record {
  uint32_t bytes; /* this head, the frame and the padding */
  int32_t caplen;
  uint32_t wirelen;
  uint32_t direction; /* enum sonde_direction */
  uint64_t time_ns;   /* since the epoch */
};

struct lane {
  _Alignas(64) _Atomic uint64_t head; /* the writer's: all before it is whole */
  _Atomic uint64_t dropped;           /* found no room */
  _Atomic uint64_t freezes;           /* times that the room ended */
  _Atomic uint32_t finished;          /* 1: nothing will follow */
  _Alignas(64) _Atomic uint64_t tail; /* the reader's: all before it is free */
  _Atomic uint32_t waiting;           /* 1: ring the doorbell */
};

struct area {
  uint64_t lane_bytes;     /* a power of two; for the process, the agent knows it */
  _Atomic uint64_t missed; /* by the port or the kernel below it, since the process began */
  struct lane lanes[LANES_MAX];
};

enum { AREA_HEAD_BYTES = (sizeof(struct area) + 4095) & ~4095 };

static inline uint8_t *lane_ring(struct area *area, uint64_t lane_bytes, uint32_t queue) {
  return (uint8_t *)area + AREA_HEAD_BYTES + lane_bytes * queue;
}

static inline uint64_t lane_room_needed(uint32_t caplen) {
  return (sizeof(struct lane_record) + caplen + 7) & ~UINT64_C(7);
}

/* The writer's view of a lane, with what it need not read from shared memory. */
struct lane_writer {
  struct lane *lane;
  uint8_t *ring;
  uint64_t mask;
  uint64_t head; /* ahead of lane->head until lane_publish */
  uint64_t tail; /* as last seen */
  bool full;
};

/* Room for a frame of caplen bytes, or NULL. */
static inline struct lane_record *lane_reserve(struct lane_writer *writer, uint32_t caplen) {
  uint64_t bytes = lane_room_needed(caplen);
  uint64_t to_end = writer->mask + 1 - (writer->head & writer->mask);
  uint64_t gap = bytes > to_end ? to_end : 0;
  if (writer->head + gap + bytes - writer->tail > writer->mask + 1) {
    writer->tail = atomic_load_explicit(&writer->lane->tail, memory_order_acquire);
    if (writer->head + gap + bytes - writer->tail > writer->mask + 1) {
      return 0;
    }
  }
  struct lane_record *record = (struct lane_record *)(writer->ring + (writer->head & writer->mask));
  if (gap) {
    record->bytes = (uint32_t)gap;
    record->caplen = LANE_GAP;
    writer->head += gap;
    record = (struct lane_record *)writer->ring;
  }
  record->bytes = (uint32_t)bytes;
  record->caplen = (int32_t)caplen;
  writer->head += bytes;
  return record;
}

/* Shows what was written. True if the reader sleeps and must be woken. */
static inline bool lane_publish(struct lane_writer *writer) {
  atomic_store_explicit(&writer->lane->head, writer->head, memory_order_release);
  atomic_thread_fence(memory_order_seq_cst);
  return atomic_load_explicit(&writer->lane->waiting, memory_order_relaxed) &&
         atomic_exchange(&writer->lane->waiting, 0);
}

#endif
