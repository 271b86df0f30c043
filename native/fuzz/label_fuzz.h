/* label_fuzz.h - the checks that the fuzz targets of the labels' parsers share. */
#ifndef SONDE_FUZZ_LABEL_FUZZ_H
#define SONDE_FUZZ_LABEL_FUZZ_H

#include <stdlib.h>
#include <string.h>

#include "label/assembler.h"
#include "label/parsers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef enum sonde_parse_result (*fuzz_parser)(const uint8_t *data, size_t bytes,
                                               struct sonde_app_label *label);

static inline void fuzz_require(int holds) {
  if (!holds)
    abort();
}

static inline uint8_t *fuzz_copy(const uint8_t *data, size_t bytes) {
  uint8_t *copy = malloc(bytes ? bytes : 1);
  fuzz_require(copy != NULL);
  if (bytes)
    memcpy(copy, data, bytes);
  return copy;
}

static inline void fuzz_check_text(const char *text, size_t size) {
  size_t bytes = strnlen(text, size);
  fuzz_require(bytes < size);
  for (size_t i = 0; i < bytes; i++)
    fuzz_require(text[i] > ' ' && text[i] < 0x7f && text[i] != '"');
}

static inline void fuzz_check_label(const struct sonde_app_label *label) {
  fuzz_check_text(label->name, sizeof label->name);
  fuzz_require(label->alpns <= SONDE_LABEL_ALPNS);
  for (uint32_t i = 0; i < label->alpns; i++)
    fuzz_check_text(label->alpn[i], sizeof label->alpn[i]);
  fuzz_require((label->name[0] != 0) == (label->name_source != SONDE_NAME_NONE));
}

/* Parses the input, and a part of it that ends at a place which the input chooses. If the part is a
 * start of the same message, it has the same name or no name. */
static inline void fuzz_every_cut(const uint8_t *data, size_t size, fuzz_parser parse) {
  struct sonde_app_label whole = {0}, part = {0};
  enum sonde_parse_result result = parse(data, size, &whole);
  fuzz_check_label(&whole);
  if (size < 2)
    return;
  size_t cut = (data[size - 1] << 8 | data[size / 2]) % size;
  enum sonde_parse_result cut_result = parse(data, cut, &part);
  fuzz_check_label(&part);
  if (result == SONDE_PARSE_DONE && cut_result != SONDE_PARSE_NOT && part.name_source)
    fuzz_require(strcmp(part.name, whole.name) == 0);
}

#endif
