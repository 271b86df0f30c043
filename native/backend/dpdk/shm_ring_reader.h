/* shm_ring_reader.h - reads records of one ring that another process writes.
 *
 * The process may write anything, at any time. Each field is read once, and no byte outside the
 * ring is read: the first 8 bytes of a record are always inside, because positions are multiples
 * of 8; the rest only after `bytes` has been checked against the end of the ring.
 */
#ifndef SONDE_DPDK_SHM_RING_READER_H
#define SONDE_DPDK_SHM_RING_READER_H

#include "packet.h"
#include "shm_ring.h"

struct shm_ring_reader {
  uint64_t position; /* packets before it have been handed over; a multiple of 8 */
  uint64_t head;     /* the ring's head when last read */
  bool damaged;      /* there is no valid record at `position` */
};

/* Checks the record at `at`, `to_end` bytes before the end of the ring, and copies its head. */
static inline bool shm_ring_record_load(const uint8_t *at, uint64_t to_end, uint64_t written,
                                        uint32_t snaplen, struct shm_ring_record *head) {
  const volatile struct shm_ring_record *record = (const volatile void *)at;
  *head = (struct shm_ring_record){.bytes = record->bytes, .caplen = record->caplen};
  if (head->bytes < 8 || head->bytes % 8 || head->bytes > to_end || head->bytes > written)
    return false;
  if (head->caplen == SHM_RING_GAP)
    return true;
  if (head->caplen < 0 || (uint32_t)head->caplen > snaplen ||
      sizeof *head + (uint32_t)head->caplen > head->bytes)
    return false;
  head->wirelen = record->wirelen;
  head->direction = record->direction;
  head->time_ns = record->time_ns;
  return true;
}

/* Fills up to `max` packets with what lies before reader->head. Returns how many; fewer, with
 * `damaged` set, before a record that cannot be. ring_bytes: a power of two. */
static inline uint32_t shm_ring_read(struct shm_ring_reader *reader, const uint8_t *ring,
                                     uint64_t ring_bytes, uint32_t snaplen,
                                     struct sonde_packet *packets, uint32_t max) {
  uint32_t count = 0;
  while (count < max && reader->position != reader->head) {
    uint64_t at = reader->position & (ring_bytes - 1);
    uint64_t written = reader->head - reader->position;
    struct shm_ring_record head;
    if (written > ring_bytes ||
        !shm_ring_record_load(ring + at, ring_bytes - at, written, snaplen, &head)) {
      reader->damaged = true;
      break;
    }
    reader->position += head.bytes;
    if (head.caplen == SHM_RING_GAP)
      continue;
    uint32_t caplen = (uint32_t)head.caplen;
    packets[count++] = (struct sonde_packet){
        .data = ring + at + sizeof head,
        .time_ns = head.time_ns,
        .caplen = caplen,
        .wirelen = head.wirelen < caplen ? caplen : head.wirelen,
        .linktype = SONDE_LINKTYPE_ETHERNET,
        .direction = head.direction <= SONDE_DIRECTION_EGRESS ? (uint8_t)head.direction
                                                              : SONDE_DIRECTION_UNKNOWN,
    };
  }
  return count;
}

#endif
