/* selection_test.c - which filter expressions let a query skip a chunk.
 *
 * The chunk holds 10.0.0.1, 2001:db8::1 and port 53. Each row says whether it may match. A wrong
 * "no" would lose packets; a wrong "yes" only costs time.
 */
#include <arpa/inet.h>
#include <stdio.h>

#include "check.h"
#include "store/selection.h"

static const uint64_t seed[3] = {0x0123456789abcdef, 0xfedcba9876543210, 0x5bd1e995c2b2ae35};

static const struct row {
  const char *expression;
  bool may_match;
} rows[] = {
    {NULL, true},
    {"", true},
    {"  ", true},
    {"host 10.0.0.1", true},
    {"host 10.0.0.2", false},
    {"src host 10.0.0.2", false},
    {"dst 10.0.0.2", false},
    {"src or dst host 10.0.0.2", false},
    {"src and dst 10.0.0.1", true},
    {"host 2001:db8::1", true},
    {"host 2001:db8::2", false},
    {"ip host 10.0.0.2", false},
    {"ip6 host 2001:db8::2", false},
    {"port 53", true},
    {"port 54", false},
    {"tcp port 54", false},
    {"udp dst port 53", true},
    {"port 0", false},
    {"port 65535", false},
    {"port 053", true}, /* octal, which is not understood */
    {"port domain", true},
    {"host example.org", true},
    {"host 10.0.0", true},
    {"tcp", true},
    {"not host 10.0.0.1", true},
    {"! host 10.0.0.2", true},
    {"not host 10.0.0.2 and port 54", false},
    {"host 10.0.0.1 and port 53", true},
    {"host 10.0.0.1 and port 54", false},
    {"host 10.0.0.2 and port 53", false},
    {"host 10.0.0.1 && port 54", false},
    {"host 10.0.0.2 or port 53", true},
    {"host 10.0.0.1 or port 54", true},
    {"host 10.0.0.2 or port 54", false},
    {"host 10.0.0.2 || port 54", false},
    /* a bare address or port takes the kind of the primitive before */
    {"host 10.0.0.2 or 10.0.0.1", true},
    {"host 10.0.0.1 and 10.0.0.2", false},
    {"port 54 or 53", true},
    {"port 53 and 54", false},
    {"10.0.0.2", true},                     /* nothing to take it from: not understood */
    {"tcp or 54", true},                    /* no kind before it */
    {"not port 53 or 54", true},            /* no kind before it */
    {"host 10.0.0.2 and (10.0.0.2)", true}, /* no kind before it */
    {"(port 54) or 54", true},              /* no kind before it */
    {"src host 10.0.0.2 or dst host 10.0.0.1", true},
    {"src host 10.0.0.2 or dst host 10.0.0.3", false},
    {"src 10.0.0.2 or dst 10.0.0.3", false},
    /* the same precedence, from the left */
    {"host 10.0.0.1 or port 53 and port 54", false},
    {"host 10.0.0.1 or (port 53 and port 54)", true},
    {"(host 10.0.0.1 or port 54) and port 53", true},
    {"((host 10.0.0.2))", false},
    /* anything else may match */
    {"net 10.1.0.0/16", true},
    {"tcp[13] = 2", true},
    {"greater 1000 and host 10.0.0.2", true},
    {"portrange 100-200", true},
    {"vlan 10 and host 10.0.0.2", true},
    {"host 10.0.0.2 and", true},
    {"(host 10.0.0.2", true},
    {"host 10.0.0.2)", true},
    {"host", true},
    {"src", true},
    {"port port", true},
    {"host and", true},
};

static void fill(struct sonde_bloom *bloom) {
  uint8_t address[16] = {10, 0, 0, 1};
  sonde_bloom_add(bloom, sonde_bloom_address(seed, address));
  CHECK_EQ(inet_pton(AF_INET6, "2001:db8::1", address), 1);
  sonde_bloom_add(bloom, sonde_bloom_address(seed, address));
  sonde_bloom_add(bloom, sonde_bloom_port(seed, 53));
}

static void check_rows(void) {
  static struct sonde_bloom bloom;
  struct sonde_selection selection;
  fill(&bloom);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    sonde_selection_compile(&selection, rows[i].expression, seed);
    bool match = sonde_selection_may_match(&selection, &bloom);
    if (match != rows[i].may_match)
      fprintf(stderr, "in \"%s\":\n", rows[i].expression);
    CHECK_EQ(match, rows[i].may_match);
    bloom.anything = true;
    CHECK(sonde_selection_may_match(&selection, &bloom));
    bloom.anything = false;
  }
}

/* `depth` parentheses around a host that the chunk does not hold. */
static bool match_nested(int depth) {
  static struct sonde_bloom bloom;
  struct sonde_selection selection;
  char text[256];
  int length = snprintf(text, sizeof text, "%.*s host 10.0.0.2 %.*s", depth,
                        "((((((((((((((((((((((((", depth, "))))))))))))))))))))))))");
  CHECK(length < (int)sizeof text);
  sonde_selection_compile(&selection, text, seed);
  return sonde_selection_may_match(&selection, &bloom);
}

/* `count` alternatives that the chunk does not hold: 2 * count - 1 steps. */
static bool match_alternatives(int count) {
  static struct sonde_bloom bloom;
  struct sonde_selection selection;
  char text[2048] = "port 1000";
  size_t length = strlen(text);
  for (int i = 1; i < count; i++)
    length += (size_t)snprintf(text + length, sizeof text - length, " or port %d", 1000 + i);
  sonde_selection_compile(&selection, text, seed);
  return sonde_selection_may_match(&selection, &bloom);
}

static void check_limits(void) {
  CHECK(!match_nested(16));
  CHECK(match_nested(17));
  CHECK(!match_alternatives(32));
  CHECK(match_alternatives(33));
}

static void check_long_words(void) {
  static struct sonde_bloom bloom;
  struct sonde_selection selection;
  char text[128];
  for (int length = 62; length <= 65; length++) { /* an unknown name may match */
    snprintf(text, sizeof text, "host %0*d and port 54", length, 1);
    sonde_selection_compile(&selection, text, seed);
    CHECK_EQ(sonde_selection_may_match(&selection, &bloom), length >= 64);
  }
}

int main(void) {
  check_rows();
  check_limits();
  check_long_words();
  return check_report();
}
