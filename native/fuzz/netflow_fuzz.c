/* netflow_fuzz.c - libFuzzer target of the export decoder.
 *
 * The input is a file of raw messages in a row, as `netsonde decode` reads it. Each message is
 * decoded from a heap copy of the rest, so that the sanitizer reports a read past the end. Stops
 * at the end of the file or at the first malformed message.
 */
#include <stdlib.h>
#include <string.h>

#include "export.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
  if (!holds)
    abort();
}

/* Checks that every line is whole and that there are as many as records. */
static void check_text(const struct sonde_decoded_message *message) {
  uint32_t lines = 0;
  for (uint32_t i = 0; i < message->text_bytes; i++) {
    uint8_t byte = (uint8_t)message->text[i];
    require(byte == '\n' || (byte >= 0x20 && byte < 0x7f));
    lines += byte == '\n';
    if (byte == '\n')
      require(i > 0 && message->text[i - 1] == '}');
  }
  require(lines == message->records);
  require(message->text_bytes == 0 || message->text[message->text_bytes - 1] == '\n');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  require(decoder != NULL);
  while (size > 0) {
    struct sonde_decoded_message message;
    uint8_t *copy = malloc(size);
    require(copy != NULL);
    memcpy(copy, data, size);
    int status = sonde_export_decode(decoder, 0, copy, (uint32_t)size, &message);
    check_text(&message);
    free(copy);
    if (status < 0)
      break;
    require(message.bytes > 0 && message.bytes <= size);
    data += message.bytes;
    size -= message.bytes;
  }
  sonde_export_decoder_destroy(decoder);
  return 0;
}
