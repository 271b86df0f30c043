/* interface.c - writes an interface's name as a string; see interface.h. */
#include "interface.h"

#include <string.h>

#include "rendering.h"
#include "text.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

/* Returns the length of the UTF-8 sequence at s (RFC 3629 §4), 0 if it is malformed. Never reads
 * past a NUL. */
static uint32_t measure_sequence(const uint8_t *s) {
  static const struct {
    uint8_t first_low, first_high, second_low, second_high, length;
  } forms[] = {
      {0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
      {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
      {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
  };
  for (uint32_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    if (s[0] < forms[i].first_low || s[0] > forms[i].first_high)
      continue;
    if (forms[i].length > 1 && (s[1] < forms[i].second_low || s[1] > forms[i].second_high))
      return 0;
    for (uint32_t j = 2; j < forms[i].length; j++)
      if (s[j] < 0x80 || s[j] > 0xbf)
        return 0;
    return forms[i].length;
  }
  return 0;
}

/* Writes one character in JSON, RFC 8259 §7, at most six bytes. Returns the end. */
static char *put_json_character(char *p, const uint8_t *s, uint32_t length) {
  if (length == 1 && s[0] < 0x20) {
    memcpy(p, "\\u00", 4);
    return put_hex(p + 4, s, 1);
  }
  if (s[0] == '"' || s[0] == '\\')
    *p++ = '\\';
  memcpy(p, s, length);
  return p + length;
}

uint32_t sonde_interface_json(const char *name, char *out) {
  const uint8_t *s = (const uint8_t *)(name == NULL ? "" : name);
  char *p = out, *end = out + SONDE_INTERFACE_TOKEN_MAX - 1; /* the closing quote's place */
  *p++ = '"';
  while (*s != 0 && end - p >= 6) {
    uint32_t length = measure_sequence(s);
    p = length == 0 ? put_json_character(p, (const uint8_t *)replacement, 3)
                    : put_json_character(p, s, length);
    s += length == 0 ? 1 : length;
  }
  *p++ = '"';
  return (uint32_t)(p - out);
}

uint32_t sonde_interface_msgpack(const char *name, char *out) {
  const uint8_t *s = (const uint8_t *)(name == NULL ? "" : name);
  char *text = out + 2, *p = text;
  while (*s != 0) {
    uint32_t length = measure_sequence(s), bytes = length == 0 ? 3 : length;
    if (p + bytes > text + SONDE_INTERFACE_BYTES_MAX)
      break;
    memcpy(p, length == 0 ? (const uint8_t *)replacement : s, bytes);
    p += bytes;
    s += length == 0 ? 1 : length;
  }
  out[0] = (char)0xd9; /* str 8 */
  out[1] = (char)(p - text);
  return (uint32_t)(p - out);
}
