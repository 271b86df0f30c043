/* address_test.c - addresses as text, compared with inet_ntop and the examples of RFC 5952.
 *
 * inet_ntop writes ::ffff:a.b.c.d and ::a.b.c.d with an IPv4 tail, records do not. Those are
 * checked by example.
 */
#include <arpa/inet.h>
#include <string.h>

#include "check.h"
#include "export/address.h"
#include "random_record.h"

enum { ROUNDS = 200000 };

static const char *const examples[] = {
    "::", "::1", "1::", "2001:db8::1", "2001:db8:0:1:1:1:1:1", "2001:0:0:1::1", "2001:db8::1:0:0:1",
    "ff02::1:ff00:0", "0:1:2:3:4:5:6:7", "1:2:3:4:5:6:7:0", "0:0:1::", "1:0:0:2::", "::2:0:0:0:3",
    "a:b00:c0:d::", "abcd:ef01:2345:6789:abcd:ef01:2345:6789",
    /* no IPv4 tails */
    "::ffff:c000:201", "::ffff:0:0", "::102:304", "64:ff9b::c000:201", "::ffff:0:102:304"};

static void check_text(int ip_version, const uint8_t address[16], const char *expected) {
  char text[SONDE_ADDRESS_TEXT_MAX + 4];
  char *end = sonde_address_put(text, (uint8_t)ip_version, address);
  CHECK(end > text && end <= text + SONDE_ADDRESS_TEXT_MAX);
  *end = 0;
  if (strcmp(text, expected) != 0)
    fprintf(stderr, "\"%s\" should be \"%s\"\n", text, expected);
  CHECK(strcmp(text, expected) == 0);
}

static int has_ipv4_tail(const char *text) {
  return strchr(text, '.') != NULL;
}

static void check_random(void) {
  uint32_t compared = 0;
  for (int round = 0; round < ROUNDS; round++) {
    uint8_t address[16];
    char expected[INET6_ADDRSTRLEN];
    randomize_address(address, 4);
    inet_ntop(AF_INET, address, expected, sizeof expected);
    check_text(4, address, expected);

    randomize_address(address, 6);
    for (int group = 0; group < 8; group++) /* runs of zero groups at every position */
      if (next_random() % 2)
        memset(address + 2 * group, 0, 2);
    inet_ntop(AF_INET6, address, expected, sizeof expected);
    if (!has_ipv4_tail(expected)) {
      check_text(6, address, expected);
      compared++;
    }
  }
  CHECK(compared > ROUNDS / 2);
}

int main(void) {
  for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
    uint8_t address[16];
    CHECK_EQ(inet_pton(AF_INET6, examples[i], address), 1);
    check_text(6, address, examples[i]);
  }
  check_random();
  return check_report();
}
