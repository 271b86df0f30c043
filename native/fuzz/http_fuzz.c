/* http_fuzz.c - libFuzzer target of HTTP/1 requests; see label_fuzz.h. */
#include "label_fuzz.h"

static enum sonde_parse_result parse(const uint8_t *data, size_t bytes,
                                     struct sonde_app_label *label) {
  uint8_t *stream = fuzz_copy(data, bytes);
  enum sonde_parse_result result = sonde_http_request(stream, (uint32_t)bytes, label);
  fuzz_require(result == SONDE_PARSE_NOT || sonde_http_begins(stream, (uint32_t)bytes));
  free(stream);
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_every_cut(data, size, parse);
  return 0;
}
