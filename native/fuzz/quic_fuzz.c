/* quic_fuzz.c - libFuzzer target of QUIC datagrams.
 *
 * The input is datagrams, each with two bytes of length before it. Nearly every input fails to
 * authenticate. So each datagram is also read as the frames of an opened packet.
 */
#include "label/quic.h"
#include "label_fuzz.h"

static void check_stream(const struct sonde_assembler *stream) {
  struct sonde_app_label label = {0};
  fuzz_require(stream->contiguous <= stream->highest);
  fuzz_require(stream->highest <= SONDE_ASSEMBLER_BYTES);
  sonde_tls_client_hello(stream->data, stream->contiguous, &label);
  fuzz_check_label(&label);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct sonde_quic *quic;
  static struct sonde_assembler stream;
  struct sonde_quic_keys keys = {0};
  if (!quic)
    quic = sonde_quic_create();
  fuzz_require(quic != NULL);
  assembler_clear(&stream);
  while (size > 2) {
    size_t bytes = (size_t)(data[0] << 8 | data[1]) % (size - 1);
    uint8_t *datagram = fuzz_copy(data + 2, bytes);
    sonde_quic_begins(datagram, (uint32_t)bytes);
    sonde_quic_open(quic, datagram, (uint32_t)bytes, &keys, &stream);
    sonde_quic_read_frames(datagram, (uint32_t)bytes, &stream);
    check_stream(&stream);
    free(datagram);
    data += 2 + bytes;
    size -= 2 + bytes;
  }
  return 0;
}
