/* tls_fuzz.c - libFuzzer target of the TLS hellos, as a stream of records and as a handshake.
 *
 * Each parser gets a heap copy, so that the sanitizer reports a read past the end. Names must be
 * printable, and a shorter input must not give another whole name.
 */
#include "label_fuzz.h"

static enum sonde_parse_result parse(const uint8_t *data, size_t bytes,
                                     struct sonde_app_label *label) {
  uint8_t *stream = fuzz_copy(data, bytes), *handshake = fuzz_copy(data, bytes);
  bool other;
  uint32_t copied = sonde_tls_handshake(stream, (uint32_t)bytes, handshake, &other);
  fuzz_require(copied <= bytes);
  enum sonde_parse_result result = sonde_tls_client_hello(handshake, copied, label);
  sonde_tls_server_version(stream, (uint32_t)bytes);
  free(handshake);
  free(stream);
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_every_cut(data, size > SONDE_ASSEMBLER_BYTES ? SONDE_ASSEMBLER_BYTES : size, parse);
  struct sonde_app_label label = {0};
  uint8_t *handshake = fuzz_copy(data, size);
  sonde_tls_client_hello(handshake, (uint32_t)size, &label);
  fuzz_check_label(&label);
  free(handshake);
  return 0;
}
