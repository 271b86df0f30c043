/* file_fuzz.c - libFuzzer target of the file backend over arbitrary bytes.
 *
 * Reads every byte of every packet, so that the sanitizer reports a read outside the file.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend.h"

const struct sonde_backend_ops *sonde_backend_ops_v4(void);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const struct sonde_backend_ops *ops = sonde_backend_ops_v4();
  struct sonde_backend_config config = {.interface = "fuzz", .queues = 1, .snaplen = 262144};
  struct sonde_backend *backend = NULL;
  struct sonde_packet packets[7];
  struct sonde_error error;
  static volatile uint8_t sum;

  config.file_fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (config.file_fd < 0 || write(config.file_fd, data, size) != (ssize_t)size)
    abort();
  if (ops->open(&config, &backend, &error) == 0) {
    int count;
    while ((count = ops->receive(backend, 0, packets, 7, 0, &error)) > 0) {
      for (int i = 0; i < count; i++) {
        assert(packets[i].caplen <= packets[i].wirelen && packets[i].caplen <= size);
        for (uint32_t j = 0; j < packets[i].caplen; j++)
          sum = (uint8_t)(sum + packets[i].data[j]);
      }
    }
    assert(count == SONDE_END);
    ops->close(backend);
  }
  return 0;
}
