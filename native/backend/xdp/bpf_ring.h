/* bpf_ring.h - the reader's side of one BPF ring buffer, without a call for each record.
 *
 * The kernel writes records in the order of reservation; one that is not committed yet holds
 * up those behind it. What was looked at is given back all at once, by bpf_ring_release.
 */
#ifndef SONDE_XDP_BPF_RING_H
#define SONDE_XDP_BPF_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "map_layout.h"
#include "status.h"

struct bpf_ring {
  int fd; /* readable for poll when there is something */
  uint64_t bytes;
  uint64_t position; /* everything before it was looked at */
  uint64_t *consumer;
  const uint64_t *producer;
  const uint8_t *data;
  void *reader_map;
  void *writer_map;
  uint64_t page_bytes;
};

int bpf_ring_open(struct bpf_ring *ring, uint32_t bytes,
                  struct sonde_error *error); /* a power of two */
void bpf_ring_close(struct bpf_ring *ring);
/* The next record, or NULL: there is none, or it is still being written. */
const struct xdp_record *bpf_ring_next(struct bpf_ring *ring);
void bpf_ring_release(struct bpf_ring *ring);
uint64_t bpf_ring_written(const struct bpf_ring *ring); /* how far the kernel has reserved */

#endif
