/* packet_ring.h - one packet socket with its TPACKET_V3 ring, written by the kernel and read by
 * one queue's thread.
 *
 *   map:   block 0 | block 1 | … each RING_BLOCK_BYTES, filled in turn
 *   block: descriptor | packet | packet | …, ours while its status has TP_STATUS_USER
 *
 * Blocks are large because a packet never spans two: a GRO super-packet must fit whole.
 * Only the queue's thread calls packet_ring_read. The control thread calls the rest. Both may
 * call packet_ring_count, under the owner's lock.
 */
#ifndef SONDE_AF_PACKET_PACKET_RING_H
#define SONDE_AF_PACKET_PACKET_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"
#include "program.h"
#include "status.h"

enum {
  RING_BLOCK_BYTES = 1 << 20,
  RING_BLOCKS_MIN = 2, /* one to fill while the other is read */
  RING_RETIRE_MS = 10, /* the kernel hands over a block that is not full after this */
};

struct packet_ring {
  int fd; /* -1: closed */
  uint8_t *map;
  uint32_t block_count;
  uint32_t snaplen;
  uint16_t linktype;
  bool spent;        /* every packet of the block at head has been handed over */
  uint32_t head;     /* block being read */
  uint32_t left;     /* packets of it not handed over yet */
  uint8_t *packet;   /* the next of them */
  uint64_t read;     /* frames handed over */
  uint64_t accepted; /* frames the kernel put into the ring, as of packet_ring_count */
  uint64_t dropped;
  uint64_t freezes;
};

/* Creates the socket and the ring. No packet arrives before packet_ring_bind and before a
 * program is attached. */
int packet_ring_open(struct packet_ring *ring, uint32_t block_count, uint32_t snaplen,
                     uint16_t linktype, struct sonde_error *error);
int packet_ring_bind(const struct packet_ring *ring, int ifindex, struct sonde_error *error);
int packet_ring_promiscuous(const struct packet_ring *ring, int ifindex, struct sonde_error *error);
int packet_ring_attach(const struct packet_ring *ring, const struct program *program,
                       struct sonde_error *error);
void packet_ring_close(struct packet_ring *ring);

/* Releases the spent block and hands over packets of the next. Returns 0 if none is ready. */
uint32_t packet_ring_read(struct packet_ring *ring, struct sonde_packet *packets, uint32_t max);

/* Adds the kernel's counters to accepted, dropped and freezes. Reading resets them. */
void packet_ring_count(struct packet_ring *ring);
uint32_t ring_blocks_used(const struct packet_ring *ring);

#endif
