/* filter_test.c - user-space filters on each link type, and rejected expressions. */
#include <string.h>

#include "check.h"
#include "core/filter.h"
#include "netsonde.h"
#include "packet.h"

static const uint8_t ethernet[] = {
    2,  0,   0, 0,  0, 1,  2, 0, 0,  0,  0, 2, 0x08, 0x00,                    /* Ethernet */
    69, 0,   0, 32, 0, 1,  0, 0, 64, 17, 0, 0, 10,   0,    0, 1, 10, 0, 0, 2, /* IPv4 */
    4,  210, 0, 53, 0, 12, 0, 0, 1,  2,  3, 4,                                /* UDP 1234 > 53 */
};

static bool matches(uint16_t linktype, const char *expression, const uint8_t *data,
                    uint32_t length) {
  struct sonde_filter *filter = NULL;
  struct sonde_error error = {0};
  int status = sonde_filter_compile(linktype, 262144, expression, &filter, &error);
  CHECK_EQ(status, 0);
  if (status) {
    fprintf(stderr, "'%s': %s\n", expression, error.detail);
    return false;
  }
  bool match = sonde_filter_match(filter, data, length, length);
  sonde_filter_destroy(filter);
  return match;
}

static void check_ethernet(void) {
  uint8_t tagged[sizeof ethernet + 4];
  uint32_t length = sizeof ethernet;
  memcpy(tagged, ethernet, 12);
  memcpy(tagged + 12, "\x81\x00\x00\x2a", 4);
  memcpy(tagged + 16, ethernet + 12, sizeof ethernet - 12);
  CHECK(matches(SONDE_LINKTYPE_ETHERNET, NULL, ethernet, length));
  CHECK(matches(SONDE_LINKTYPE_ETHERNET, "", ethernet, length));
  CHECK(matches(SONDE_LINKTYPE_ETHERNET, "udp port 53", ethernet, length));
  CHECK(matches(SONDE_LINKTYPE_ETHERNET, "host 10.0.0.1 and not tcp", ethernet, length));
  CHECK(!matches(SONDE_LINKTYPE_ETHERNET, "port 54", ethernet, length));
  CHECK(!matches(SONDE_LINKTYPE_ETHERNET, "vlan", ethernet, length));
  CHECK(matches(SONDE_LINKTYPE_ETHERNET, "vlan 42 and port 53", tagged, length + 4));
  CHECK(!matches(SONDE_LINKTYPE_ETHERNET, "port 53", tagged, length + 4));
  CHECK(!matches(SONDE_LINKTYPE_ETHERNET, "udp port 53", ethernet, 30)); /* cut: no match */
  CHECK(matches(SONDE_LINKTYPE_ETHERNET, "less 46", ethernet, length));
}

static void check_linktypes(void) {
  const uint8_t *ip = ethernet + 14;
  uint32_t length = sizeof ethernet - 14;
  uint8_t cooked[20 + sizeof ethernet] = {8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 4, 6};
  memcpy(cooked + 20, ip, length);
  CHECK(matches(SONDE_LINKTYPE_RAW, "udp port 53", ip, length));
  CHECK(!matches(SONDE_LINKTYPE_RAW, "tcp", ip, length));
  CHECK(matches(SONDE_LINKTYPE_IPV4, "udp port 53", ip, length));
  CHECK(matches(SONDE_LINKTYPE_SLL2, "udp port 53", cooked, 20 + length));
  memcpy(cooked, "\xff\x03\x00\x21", 4);
  memcpy(cooked + 4, ip, length);
  CHECK(matches(SONDE_LINKTYPE_PPP, "udp port 53", cooked, 4 + length));
  CHECK(matches(SONDE_LINKTYPE_PPP_HDLC, "udp port 53", cooked, 4 + length));
  memcpy(cooked, "\0\0\0\x02", 4);
  CHECK(matches(SONDE_LINKTYPE_LOOP, "udp port 53", cooked, 4 + length));
}

/* The byte order of the family in a NULL header is unspecified. */
static void check_null(void) {
  uint8_t packet[4 + sizeof ethernet] = {0, 0, 0, 2};
  struct sonde_packet big = {
      .data = packet, .caplen = sizeof ethernet - 10, .linktype = SONDE_LINKTYPE_NULL};
  memcpy(packet + 4, ethernet + 14, sizeof ethernet - 14);
  CHECK(matches(sonde_filter_linktype(&big), "udp port 53", packet, big.caplen));
  memcpy(packet, "\2\0\0", 4);
  CHECK(matches(sonde_filter_linktype(&big), "udp port 53", packet, big.caplen));
  big.caplen = 0;
  CHECK_EQ(sonde_filter_linktype(&big), SONDE_LINKTYPE_NULL);
}

/* Capture threads share the program that was compiled before them, and release it in any order. */
static void check_sets(void) {
  struct sonde_filter_set one = {0}, two = {0};
  struct sonde_packet packet = {.data = ethernet,
                                .caplen = sizeof ethernet,
                                .wirelen = sizeof ethernet,
                                .linktype = SONDE_LINKTYPE_ETHERNET};
  struct sonde_error error = {0};
  CHECK_EQ(sonde_filter_set_prepare(&one, "udp port 53", false, &error), 0);
  CHECK_EQ(one.count, 1);
  CHECK_EQ(sonde_filter_set_share(&two, &one), 0);
  CHECK(one.filters[0].filter && one.filters[0].filter == two.filters[0].filter);
  CHECK(sonde_filter_set_match(&one, &packet));
  sonde_filter_set_release(&one);
  CHECK(sonde_filter_set_match(&two, &packet));
  CHECK_EQ(two.count, 1);
  packet.linktype = SONDE_LINKTYPE_RAW; /* a file's further link type */
  packet.data += 14;
  packet.caplen = packet.wirelen -= 14;
  CHECK(sonde_filter_set_match(&two, &packet));
  CHECK_EQ(two.count, 2);
  sonde_filter_set_release(&two);
}

/* Returns the status of a set for user space. */
static int prepare(const char *expression, bool any, struct sonde_error *error) {
  struct sonde_filter_set set = {0};
  int status = sonde_filter_set_prepare(&set, expression, any, error);
  sonde_filter_set_release(&set);
  return status;
}

static void check_rejected(void) {
  static char text[40000];
  struct sonde_error error = {0};
  CHECK_EQ(sonde_filter_check("vlan 7 and tcp port 80", &error), 0);
  CHECK_EQ(sonde_filter_check("", &error), 0);
  CHECK_EQ(sonde_filter_check(NULL, &error), 0);
  CHECK_EQ(sonde_filter_check("port (", &error), SONDE_FILTER_INVALID);
  CHECK(error.detail[0] != 0);
  CHECK_EQ(sonde_filter_check("host 10.0.0.300", &error), SONDE_FILTER_INVALID);
  memset(text, ' ', sizeof text - 1);
  CHECK_EQ(sonde_filter_check(text, &error), SONDE_FILTER_INVALID);
  memset(text, '(', sizeof text - 1);
  CHECK_EQ(sonde_filter_check(text, &error), SONDE_FILTER_INVALID);
  text[4000] = 0;
  CHECK_EQ(sonde_filter_check(text, &error), SONDE_FILTER_INVALID);

  size_t length = 0; /* short enough as text, too long as a compiled program */
  for (int i = 0; i < 330; i++)
    length += (size_t)sprintf(text + length, "%snet %d.%d", i ? "||" : "", i % 199, i % 97);
  CHECK(length <= 4096);
  CHECK_EQ(sonde_filter_check(text, &error), SONDE_FILTER_INVALID);
  struct sonde_filter *filter = NULL;
  CHECK_EQ(sonde_filter_compile(SONDE_LINKTYPE_RAW, 262144, "ether host 1", &filter, &error),
           SONDE_FILTER_INVALID);
  CHECK(filter == NULL);
  sonde_filter_destroy(NULL);
  /* A kernel knows the direction. In user space the expression would silently match nothing. */
  CHECK_EQ(sonde_filter_check("inbound and udp", &error), 0);
  CHECK_EQ(prepare("inbound and udp", false, &error), SONDE_FILTER_INVALID);
  CHECK_EQ(prepare("not outbound", false, &error), SONDE_FILTER_INVALID);
  CHECK(strstr(error.detail, "af_packet") != NULL);
  CHECK_EQ(prepare("vlan and ip6 and not tcp port 80", false, &error), 0);
  /* Valid for 802.11 only. */
  CHECK_EQ(prepare("type mgt", false, &error), SONDE_FILTER_INVALID);
  CHECK_EQ(prepare("type mgt", true, &error), 0);
}

int main(void) {
  check_ethernet();
  check_linktypes();
  check_null();
  check_sets();
  check_rejected();
  return check_report();
}
