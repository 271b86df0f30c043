/* decode_fragments_test.c - later fragments get the ports of the first one, or port 0. */
#include "check.h"
#include "packets.h"
#include "parse/decode.h"

enum { OUTER = 0, INNER = 1, FLOW = -1 };

#define SECOND_NS (1000ull * 1000 * 1000)
#define START_NS (1700000000ull * SECOND_NS)

static struct sonde_decoder *decoder;

static void decode_at(uint64_t time_ns, const char *layers, struct sonde_decoded *out) {
  static struct crafted crafted; /* static, because out points into it */
  packet_craft(&crafted, layers);
  struct sonde_packet packet = {
      .data = crafted.data,
      .time_ns = time_ns,
      .caplen = crafted.bytes,
      .wirelen = crafted.bytes,
      .linktype = layers[0] == 'e' ? SONDE_LINKTYPE_ETHERNET : SONDE_LINKTYPE_RAW,
  };
  CHECK_EQ(sonde_decode(decoder, &packet, out), FLOW);
}

static void check_ports(uint64_t time_ns, const char *layers, int protocol, int lo_port,
                        int hi_port) {
  struct sonde_decoded out;
  unsigned long failures = check_failures;
  decode_at(time_ns, layers, &out);
  CHECK_EQ(out.key.protocol, protocol);
  CHECK_EQ(out.key.lo_port, lo_port);
  CHECK_EQ(out.key.hi_port, hi_port);
  CHECK(out.flags & SONDE_DECODED_FRAGMENT);
  CHECK(!(out.flags & SONDE_DECODED_TCP));
  if (check_failures != failures)
    fprintf(stderr, "  in \"%s\"\n", layers);
}

#define FIRST4 "ip4:11:2000 udp:1000:53 pay:16"
#define LATER4 "ip4:11:0003 pay:16"
#define FIRST6 "ip6:2c x:11000001000000aa udp:1000:53 pay:8"
#define LATER6 "ip6:2c x:11000010000000aa pay:16"

static void test_in_order(void) {
  check_ports(START_NS, FIRST4, 17, 1000, 53);
  check_ports(START_NS, "ip4:11:2003 pay:16", 17, 1000, 53);
  check_ports(START_NS, LATER4, 17, 1000, 53);
  check_ports(START_NS, "eth:0800 ip4:11:0003 pay:40", 17, 1000, 53);
  check_ports(START_NS, FIRST6, 17, 1000, 53);
  check_ports(START_NS, LATER6, 17, 1000, 53);
}

static void test_out_of_order(void) {
  check_ports(START_NS, "ip4:11:0003:77 pay:16", 17, 0, 0);
  check_ports(START_NS, "ip4:11:2000:77 udp:1000:53 pay:16", 17, 1000, 53);
  check_ports(START_NS, "ip4:11:0003:77 pay:16", 17, 1000, 53);
}

/* Another id, protocol or direction means another datagram. */
static void test_other_datagrams(void) {
  check_ports(START_NS, FIRST4, 17, 1000, 53);
  check_ports(START_NS, "ip4:11:0003:1235 pay:16", 17, 0, 0);
  check_ports(START_NS, "ip4r:11:0003 pay:16", 17, 0, 0);
  check_ports(START_NS, "ip4:6:0003 pay:16", 6, 0, 0);
  check_ports(START_NS, FIRST6, 17, 1000, 53);
  check_ports(START_NS, "ip6:2c x:11000010000000ab pay:16", 17, 0, 0);
  check_ports(START_NS, "ip6r:2c x:11000010000000aa pay:16", 17, 0, 0);
}

/* After an option header only the first fragment shows the protocol. */
static void test_protocol_of_first(void) {
  check_ports(START_NS, "ip6:2c x:3c000010000000bb pay:16", 60, 0, 0);
  check_ports(START_NS, "ip6:2c x:3c000001000000bb x:1100050200000100 udp:1000:53", 17, 1000, 53);
  check_ports(START_NS, "ip6:2c x:3c000010000000bb pay:16", 17, 1000, 53);
}

static void test_icmp(void) {
  struct sonde_decoded first, later, back;
  decode_at(START_NS, "ip4:1:2000:5 x:08000000 pay:20", &first);
  decode_at(START_NS, "ip4:1:0003:5 pay:20", &later);
  CHECK(memcmp(&first.key, &later.key, sizeof(first.key)) == 0);
  CHECK(first.flags & SONDE_DECODED_ICMP);
  CHECK(!(later.flags & SONDE_DECODED_ICMP));
  decode_at(START_NS, "ip4:1:2000:6 x:03030000 pay:20", &first); /* one way */
  decode_at(START_NS, "ip4:1:0003:6 pay:20", &later);
  decode_at(START_NS, "ip4r:1:2000:6 x:03030000 pay:20", &back);
  CHECK(memcmp(&first.key, &later.key, sizeof(first.key)) == 0);
  CHECK(memcmp(&first.key, &back.key, sizeof(first.key)) != 0);
}

static void test_atomic(void) {
  struct sonde_decoded out;
  decode_at(START_NS, "ip6:2c x:11000000000000cc udp:7:9", &out);
  CHECK(!(out.flags & SONDE_DECODED_FRAGMENT));
  CHECK_EQ(out.key.lo_port, 7);
  check_ports(START_NS, "ip6:2c x:11000010000000cc pay:16", 17, 0, 0);
}

/* A datagram expires 60 s after its last use. Clock jumps do no harm. */
static void test_age(void) {
  check_ports(START_NS, FIRST4, 17, 1000, 53);
  check_ports(START_NS + 60 * SECOND_NS, LATER4, 17, 1000, 53);
  check_ports(START_NS + 120 * SECOND_NS, LATER4, 17, 1000, 53);
  check_ports(START_NS + 181 * SECOND_NS, LATER4, 17, 0, 0);
  static const uint64_t jumps_ns[] = {0, UINT64_MAX, 1, START_NS, UINT64_MAX - 1, START_NS / 2};
  for (size_t i = 0; i < sizeof(jumps_ns) / sizeof(jumps_ns[0]); i++) {
    check_ports(jumps_ns[i], FIRST4, 17, 1000, 53);
    check_ports(jumps_ns[i], LATER4, 17, 1000, 53);
  }
  check_ports(START_NS, FIRST4, 17, 1000, 53);
  check_ports(START_NS - SECOND_NS, LATER4, 17, 1000, 53); /* out of order */
}

/* A flood of datagrams evicts the oldest. The newest remain known. */
static void test_full(void) {
  char layers[64];
  struct sonde_decoded out;
  int known = 0, known_newest = 0;
  for (int id = 0; id < 65536; id++) {
    snprintf(layers, sizeof(layers), "ip4:11:2000:%x udp:1000:53 pay:16", (unsigned)id);
    decode_at(START_NS, layers, &out);
    snprintf(layers, sizeof(layers), "ip4:11:0003:%x pay:16", (unsigned)id);
    decode_at(START_NS, layers, &out);
    CHECK_EQ(out.key.lo_port, 1000);
  }
  for (int id = 0; id < 65536; id++) {
    snprintf(layers, sizeof(layers), "ip4:11:0003:%x pay:16", (unsigned)id);
    decode_at(START_NS, layers, &out);
    known += out.key.lo_port == 1000;
    known_newest += out.key.lo_port == 1000 && id >= 65536 - 1024;
  }
  CHECK(known > 14000 && known <= 16384);
  CHECK(known_newest > 1020);
}

/* Inner mode: the first fragment shows the inner header. Later ones count for the outer flow
 * with the outer ports. */
static void test_tunnel_fragments(void) {
  struct sonde_decoded out;
  sonde_decoder_destroy(decoder);
  decoder = sonde_decoder_create(INNER, NULL);
  decode_at(START_NS, "ip4:11:2000 udp:5000:2152 x:30ff002000000007 ip4:6 tcp:9:80 pay:20", &out);
  CHECK_EQ(out.key.protocol, 6);
  CHECK_EQ(out.key.lo_port, 9);
  CHECK(!(out.flags & SONDE_DECODED_FRAGMENT));
  check_ports(START_NS, "ip4:11:0008 pay:64", 17, 5000, 2152);
  check_ports(START_NS, "ip4:4 ip4:11:2000:9 udp:1000:53", 17, 1000, 53);
  check_ports(START_NS, "ip4:4 ip4:11:0001:9 pay:20", 17, 1000, 53);
}

/* Fields for the export's full profile that are not part of the record. */
static void test_full_profile_fields(void) {
  enum { LABEL = 0x54321, FIRST = SONDE_EXTENSION_FRAGMENT_FIRST };
  static const struct {
    const char *layers;
    uint32_t ipv6;
    uint16_t offset;
    uint8_t flags, priority;
  } packets[] = {
      {"eth:0800 ip4:6:4000 tcp:9:80", 0, 0, 64, 0},
      {"eth:0800 ip4:11:2000 udp:9:53 pay:16", 0, 0, 32, 0},
      {"eth:8100 tag:10:0800 ip4:11:2003 pay:16", 0, 3, 32, 7},
      {"eth:0800 ip4:11:1fff pay:16", 0, 0x1fff, 0, 0},
      {"eth:86dd ip6:6 tcp:9:80", LABEL, 0, 0, 0},
      {"eth:86dd ip6:2c x:1100000100000001 udp:9:53 pay:8", LABEL | FIRST, 0, 32, 0},
      {"eth:86dd ip6:2c x:1100000000000001 udp:9:53", LABEL | FIRST, 0, 0, 0},
      {"eth:86dd ip6:2c x:1100001800000001 pay:8", LABEL | SONDE_EXTENSION_FRAGMENT_LATER, 3, 0, 0},
      {"eth:86dd ip6:0 x:2b00000000000000 x:3c00000000000000 x:1100000000000000 udp:9:53",
       LABEL | SONDE_EXTENSION_HOP_BY_HOP | SONDE_EXTENSION_ROUTING | SONDE_EXTENSION_DESTINATION,
       0, 0, 0},
      {"eth:86dd ip6:33 x:3201000000000001 pay:16",
       LABEL | SONDE_EXTENSION_AUTHENTICATION | SONDE_EXTENSION_ESP, 0, 0, 0},
  };
  for (size_t i = 0; i < sizeof packets / sizeof packets[0]; i++) {
    struct crafted crafted;
    struct sonde_decoded out;
    packet_craft(&crafted, packets[i].layers);
    for (uint32_t at = 0; at < crafted.ip_headers; at++) {
      uint8_t *header = crafted.data + crafted.ip_offset[at];
      if (header[0] >> 4 == 6)
        memcpy(header + 1, "\x85\x43\x21", 3);
    }
    struct sonde_packet packet = {.data = crafted.data,
                                  .time_ns = START_NS,
                                  .caplen = crafted.bytes,
                                  .wirelen = crafted.bytes,
                                  .linktype = SONDE_LINKTYPE_ETHERNET};
    CHECK_EQ(sonde_decode(decoder, &packet, &out), -1);
    CHECK_EQ(out.ipv6, packets[i].ipv6);
    CHECK_EQ(out.fragment_offset, packets[i].offset);
    CHECK_EQ(out.fragment_flags, packets[i].flags);
    CHECK_EQ(out.vlan_priority, packets[i].priority);
  }
}

int main(void) {
  decoder = sonde_decoder_create(OUTER, NULL);
  if (decoder == NULL)
    return 1;
  test_in_order();
  test_out_of_order();
  test_other_datagrams();
  test_protocol_of_first();
  test_icmp();
  test_atomic();
  test_age();
  test_full();
  test_tunnel_fragments();
  test_full_profile_fields();
  sonde_decoder_destroy(decoder);
  return check_report();
}
