/* segment_fuzz.c - libFuzzer target of the segment reader: untrusted files, clear and sealed.
 *
 * Build: CC=clang cmake -S native -B build/fuzz -DSONDE_FUZZ=ON. The corpus holds one file in
 * clear and one sealed with the key of 32 zero bytes. Digests reject most inputs, so clear frames
 * are also walked without that check: the walk over packets must be safe on any bytes.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "netsonde.h"
#include "store/segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const uint8_t *data, uint32_t bytes) {
  uint32_t offset = 0;
  struct sonde_packet packet;
  volatile uint8_t last;
  while (sonde_packet_layout_next(data, bytes, &offset, &packet))
    if (packet.caplen)
      last = packet.data[packet.caplen - 1];
  (void)last;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t buffer[SONDE_PACKETS_READ_MIN];
  static const uint8_t key[SONDE_ENCRYPTION_KEY_BYTES];
  struct sonde_segment *segment;
  struct sonde_error error;
  walk(data, (uint32_t)size);
  int fd = memfd_create("segment", MFD_CLOEXEC);
  if (fd < 0 || write(fd, data, size) != (ssize_t)size)
    return 0;
  if (sonde_segment_open(fd, key, "fuzz", &segment, &error) == SONDE_OK) {
    while (sonde_segment_read(segment, buffer, sizeof buffer, &error) >= 0) {
    }
    sonde_segment_close(segment);
  }
  close(fd);
  return 0;
}
