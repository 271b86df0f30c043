/* bpf_ring.c - see bpf_ring.h. The kernel defines the pages (Documentation/bpf/ringbuf.rst): one
 * with the reader's position, one with the writer's, and the data mapped twice in a row, so that
 * a record that wraps is contiguous. */
#include "bpf_ring.h"

#include <bpf/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include "failure.h"

enum { HEADER_BYTES = 8 };
static const uint32_t BUSY = 1u << 31;
static const uint32_t DISCARDED = 1u << 30;

int bpf_ring_open(struct bpf_ring *ring, uint32_t bytes, struct sonde_error *error) {
  long page = sysconf(_SC_PAGESIZE);
  *ring = (struct bpf_ring){.fd = -1, .bytes = bytes, .page_bytes = (uint64_t)page};
  ring->fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "sonde_ring", 0, 0, bytes, NULL);
  if (ring->fd < 0) {
    int status = errno == EPERM ? SONDE_PERMISSION : SONDE_NO_MEMORY;
    return sonde_fail(error, status, errno, "ring buffer of %u bytes: %s", bytes, strerror(errno));
  }
  void *reader = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
  void *writer =
      mmap(NULL, (size_t)page + 2 * (size_t)bytes, PROT_READ, MAP_SHARED, ring->fd, page);
  ring->reader_map = reader == MAP_FAILED ? NULL : reader;
  ring->writer_map = writer == MAP_FAILED ? NULL : writer;
  if (!ring->reader_map || !ring->writer_map) {
    int status = sonde_fail(error, SONDE_NO_MEMORY, errno, "ring buffer: %s", strerror(errno));
    bpf_ring_close(ring);
    return status;
  }
  ring->consumer = ring->reader_map;
  ring->producer = ring->writer_map;
  ring->data = (const uint8_t *)ring->writer_map + page;
  return 0;
}

void bpf_ring_close(struct bpf_ring *ring) {
  if (ring->reader_map)
    munmap(ring->reader_map, ring->page_bytes);
  if (ring->writer_map)
    munmap(ring->writer_map, ring->page_bytes + 2 * ring->bytes);
  if (ring->fd >= 0)
    close(ring->fd);
  *ring = (struct bpf_ring){.fd = -1};
}

uint64_t bpf_ring_written(const struct bpf_ring *ring) {
  return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
}

const struct xdp_record *bpf_ring_next(struct bpf_ring *ring) {
  uint64_t written = bpf_ring_written(ring);
  while (ring->position < written) {
    const uint8_t *at = ring->data + (ring->position & (ring->bytes - 1));
    uint32_t head = __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_ACQUIRE);
    if (head & BUSY)
      return NULL;
    uint32_t length = head & ~DISCARDED;
    ring->position += (length + HEADER_BYTES + 7) & ~7u;
    if (!(head & DISCARDED))
      return (const struct xdp_record *)(const void *)(at + HEADER_BYTES);
  }
  return NULL;
}

void bpf_ring_release(struct bpf_ring *ring) {
  __atomic_store_n(ring->consumer, ring->position, __ATOMIC_RELEASE);
}
