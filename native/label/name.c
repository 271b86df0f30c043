/* name.c - writes names as printable text; see parsers.h. */
#include <string.h>

#include "label/parsers.h"

static bool is_plain(uint8_t byte, bool dots) {
  return byte > ' ' && byte < 0x7f && byte != '"' && byte != '\\' && !(dots && byte == '.');
}

bool sonde_name_append(char text[SONDE_LABEL_NAME_MAX + 1], uint32_t *used, const uint8_t *from,
                       uint32_t bytes, bool dots) {
  for (uint32_t i = 0; i < bytes; i++) {
    bool plain = is_plain(from[i], dots);
    if (*used + (plain ? 1 : 4) > SONDE_LABEL_NAME_MAX)
      return false;
    char *p = text + *used;
    if (plain) {
      p[0] = (char)from[i];
    } else {
      p[0] = '\\';
      p[1] = (char)('0' + from[i] / 100);
      p[2] = (char)('0' + from[i] / 10 % 10);
      p[3] = (char)('0' + from[i] % 10);
    }
    *used += plain ? 1 : 4;
  }
  text[*used] = 0;
  return true;
}

void sonde_name_set(struct sonde_app_label *label, enum sonde_name_source source,
                    const uint8_t *name, uint32_t bytes) {
  uint32_t used = 0;
  bool fits = sonde_name_append(label->name, &used, name, bytes, false);
  if (!fits || used == 0) {
    memset(label->name, 0, sizeof label->name);
    label->name_source = SONDE_NAME_NONE;
    if (!fits)
      label->state = SONDE_LABEL_PARTIAL;
    return;
  }
  label->name_source = (uint8_t)source;
}
