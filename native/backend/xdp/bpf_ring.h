/* bpf_ring.h - the reader's side of one BPF ring buffer, without a call for each record.
 *
 * The kernel writes records in the order of reservation. An uncommitted record blocks those
 * after it. bpf_ring_release releases all records read so far at once.
 */
#ifndef SONDE_XDP_BPF_RING_H
#define SONDE_XDP_BPF_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "map_layout.h"
#include "status.h"

struct bpf_ring {
  int fd; /* poll: readable when records are ready */
  uint64_t bytes;
  uint64_t position; /* records before it have been read */
  uint64_t *consumer;
  const uint64_t *producer;
  const uint8_t *data;
  void *reader_map;
  void *writer_map;
  uint64_t page_bytes;
};

/* bytes: a power of two. */
int bpf_ring_open(struct bpf_ring *ring, uint32_t bytes, struct sonde_error *error);
void bpf_ring_close(struct bpf_ring *ring);
/* The next record, or NULL if the ring is empty or the record is still being written. */
const struct xdp_record *bpf_ring_next(struct bpf_ring *ring);
void bpf_ring_release(struct bpf_ring *ring);
uint64_t bpf_ring_written(const struct bpf_ring *ring); /* how far the kernel has reserved */

#endif
