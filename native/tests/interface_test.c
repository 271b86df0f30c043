/* interface_test.c - interface names are arbitrary bytes in the kernel: records show them as valid
 * UTF-8, in JSON and in MessagePack, and shorten long ones at a whole character.
 */
#include <string.h>

#include "check.h"
#include "export/interface.h"

#define REPLACED "\xef\xbf\xbd" /* U+FFFD */

static void names(void) {
  static const struct {
    const char *name, *json, *msgpack;
  } rows[] = {
      {NULL, "\"\"", ""},
      {"", "\"\"", ""},
      {"eth0.100", "\"eth0.100\"", "eth0.100"},
      {"caf\xc3\xa9", "\"caf\xc3\xa9\"", "caf\xc3\xa9"},
      {"\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xe2\x82\xac\xf0\x9f\x98\x80\"",
       "\xe2\x82\xac\xf0\x9f\x98\x80"},
      {"a\xff"
       "b",
       "\"a" REPLACED "b\"", "a" REPLACED "b"},
      {"\xc3", "\"" REPLACED "\"", REPLACED},
      {"\xc0\xaf", "\"" REPLACED REPLACED "\"", REPLACED REPLACED},
      {"\xed\xa0\x80", "\"" REPLACED REPLACED REPLACED "\"", REPLACED REPLACED REPLACED},
      {"a\"b\\c", "\"a\\\"b\\\\c\"", "a\"b\\c"},
      {"a\tb\x01", "\"a\\u0009b\\u0001\"", "a\tb\x01"},
      {"a\x7f", "\"a\x7f\"", "a\x7f"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char out[2048];
    unsigned long failures = check_failures;
    uint32_t bytes = sonde_interface_json(rows[i].name, out);
    CHECK_EQ(bytes, strlen(rows[i].json));
    CHECK(memcmp(out, rows[i].json, strlen(rows[i].json)) == 0);
    bytes = sonde_interface_msgpack(rows[i].name, out);
    CHECK_EQ(bytes, 2 + strlen(rows[i].msgpack));
    CHECK_EQ((uint8_t)out[0], 0xd9);
    CHECK_EQ((uint8_t)out[1], strlen(rows[i].msgpack));
    CHECK(memcmp(out + 2, rows[i].msgpack, strlen(rows[i].msgpack)) == 0);
    if (check_failures > failures)
      fprintf(stderr, "  in row %zu: %.*s\n", i, (int)bytes, out);
  }
}

int main(void) {
  names();
  return check_report();
}
