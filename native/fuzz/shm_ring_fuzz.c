/* shm_ring_fuzz.c - libFuzzer target of the agent's side of a DPDK process's ring.
 *
 *   byte 0   where reading begins, in 8 bytes      byte 1   how much was written, in 64 bytes
 *   then     the ring's content; the rest is zero
 *
 * The ring is a heap block of its exact size, so that the sanitizer reports a read outside it.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/dpdk/shm_ring_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RING_BYTES = 2048, SNAPLEN = 1024, BATCH = 7 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2)
    return 0;
  struct sonde_packet packets[BATCH];
  static volatile uint8_t sum;
  uint8_t *ring = calloc(1, RING_BYTES);
  if (!ring)
    abort();
  memcpy(ring, data + 2, size - 2 < RING_BYTES ? size - 2 : RING_BYTES);
  struct shm_ring_reader reader = {.position = data[0] * 8u};
  reader.head = reader.position + data[1] * 64u;
  uint64_t read_bytes = 0;
  while (!reader.damaged && reader.position != reader.head) {
    uint64_t before = reader.position;
    uint32_t count = shm_ring_read(&reader, ring, RING_BYTES, SNAPLEN, packets, BATCH);
    for (uint32_t i = 0; i < count; i++) {
      if (packets[i].caplen > SNAPLEN || packets[i].caplen > packets[i].wirelen)
        abort();
      for (uint32_t j = 0; j < packets[i].caplen; j++)
        sum = (uint8_t)(sum + packets[i].data[j]);
    }
    read_bytes += reader.position - before;
    if (reader.position % 8 || read_bytes > RING_BYTES ||
        (count == 0 && before == reader.position && !reader.damaged))
      abort();
  }
  free(ring);
  return 0;
}
