/* ring.h - a worker's packets on their way to a tap: one producer, one consumer, never waits.
 *
 * Entries are a head of 32 bytes and the packet, padded to 32. An entry does not wrap: a `skip`
 * head fills the end of the ring. A packet that finds no room is counted as lost. Inline, because
 * it runs on the packet path of a tapped session.
 */
#ifndef SONDE_TAP_RING_H
#define SONDE_TAP_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "packet.h"

enum { SONDE_TAP_ALIGN = 32, SONDE_TAP_BLOCK_BYTES = 32 + 12 };

struct sonde_tap_head {
  uint64_t time_ns; /* since the epoch */
  uint32_t bytes;   /* size of the entry with its head */
  uint32_t caplen;
  uint32_t wirelen;
  uint16_t linktype;
  uint16_t slot;
  uint8_t direction;
  uint8_t skip; /* 1: no packet, continue behind it */
  uint8_t reserved[6];
};

_Static_assert(sizeof(struct sonde_tap_head) == SONDE_TAP_ALIGN, "a skip head always fits");

struct sonde_tap_ring {
  uint8_t *data;
  uint32_t bytes; /* a power of two */
  uint32_t snaplen;
  /* Written by the worker. */
  _Alignas(64) _Atomic uint64_t head;
  uint64_t tail_seen; /* an earlier value of `tail` */
  _Atomic uint64_t matched_packets;
  _Atomic uint64_t matched_bytes;
  _Atomic uint64_t lost_packets;
  _Atomic uint64_t lost_bytes;
  _Atomic uint64_t turned_ns; /* packets captured before this time are in the ring; 0: unknown */
  /* Written by the consumer. */
  _Alignas(64) _Atomic uint64_t tail;
};

/* The size of a packet's block in pcapng: head, data, flags, end of options. */
static inline uint32_t sonde_tap_block_bytes(uint32_t caplen) {
  return SONDE_TAP_BLOCK_BYTES + ((caplen + 3) & ~3u);
}

/* Adds to a counter that has one writer. */
static inline void sonde_tap_count(_Atomic uint64_t *counter, uint64_t more) {
  uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
  atomic_store_explicit(counter, now + more, memory_order_relaxed);
}

static inline uint64_t sonde_tap_ring_used(const struct sonde_tap_ring *ring) {
  return atomic_load_explicit(&ring->head, memory_order_relaxed) -
         atomic_load_explicit(&ring->tail, memory_order_relaxed);
}

/* For the worker. A quiet ring costs it no look at what the consumer writes. */
static inline bool sonde_tap_ring_is_empty(struct sonde_tap_ring *ring) {
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  if (head != ring->tail_seen)
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
  return head == ring->tail_seen;
}

static inline bool sonde_tap_ring_fits(struct sonde_tap_ring *ring, uint64_t head, uint32_t need) {
  if (head + need - ring->tail_seen <= ring->bytes)
    return true;
  ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
  return head + need - ring->tail_seen <= ring->bytes;
}

/* Copies a packet that matches. */
static inline void sonde_tap_ring_put(struct sonde_tap_ring *ring,
                                      const struct sonde_packet *packet, uint64_t time_ns) {
  uint32_t caplen = packet->caplen < ring->snaplen ? packet->caplen : ring->snaplen;
  uint32_t need = (uint32_t)sizeof(struct sonde_tap_head) +
                  ((caplen + SONDE_TAP_ALIGN - 1) & ~(uint32_t)(SONDE_TAP_ALIGN - 1));
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  uint32_t at = (uint32_t)head & (ring->bytes - 1), left = ring->bytes - at;
  uint32_t skip = need > left ? left : 0, block = sonde_tap_block_bytes(caplen);
  sonde_tap_count(&ring->matched_packets, 1);
  sonde_tap_count(&ring->matched_bytes, block);
  if (!sonde_tap_ring_fits(ring, head, skip + need)) {
    sonde_tap_count(&ring->lost_packets, 1);
    sonde_tap_count(&ring->lost_bytes, block);
    return;
  }
  if (skip) {
    struct sonde_tap_head filler = {.bytes = skip, .skip = 1};
    memcpy(ring->data + at, &filler, sizeof filler);
    at = 0;
  }
  struct sonde_tap_head entry = {.time_ns = time_ns,
                                 .bytes = need,
                                 .caplen = caplen,
                                 .wirelen = packet->wirelen,
                                 .linktype = packet->linktype,
                                 .slot = packet->source,
                                 .direction = packet->direction};
  memcpy(ring->data + at, &entry, sizeof entry);
  memcpy(ring->data + at + sizeof entry, packet->data, caplen);
  atomic_store_explicit(&ring->head, head + skip + need, memory_order_release);
}

/* Returns the oldest packet's head, or NULL. Its bytes follow it in the ring. */
static inline const struct sonde_tap_head *sonde_tap_ring_peek(struct sonde_tap_ring *ring) {
  for (;;) {
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&ring->head, memory_order_acquire))
      return NULL;
    const void *at = ring->data + (tail & (ring->bytes - 1));
    const struct sonde_tap_head *head = at;
    if (!head->skip)
      return head;
    atomic_store_explicit(&ring->tail, tail + head->bytes, memory_order_release);
  }
}

static inline void sonde_tap_ring_drop(struct sonde_tap_ring *ring,
                                       const struct sonde_tap_head *head) {
  uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  atomic_store_explicit(&ring->tail, tail + head->bytes, memory_order_release);
}

#endif
