/* file_test.c - the file backend over files made here: every byte order, resolution and block
 * type, every truncation, false lengths, and the traces with counts from tshark.
 */
#include "capture_file.h"

static void check_pcap_orders(void) {
  for (int swapped = 0; swapped < 2; swapped++) {
    for (int nano = 0; nano < 2; nano++) {
      image_begin(swapped);
      put_pcap_head(nano ? 0xa1b23c4d : 0xa1b2c3d4, 1);
      put_pcap_packet(1700000000, 999999, 60, 60);
      put_pcap_packet(1700000001, 7, 3, 1514);
      put_pcap_packet(1700000002, 0, 0, 0);
      put_pcap_packet(1700000003, 0, 60, 4); /* the writer stored a wire length that is too short */
      struct outcome got = read_all();
      CHECK_EQ(got.status, SONDE_END);
      CHECK_EQ(got.detail[0], 0);
      CHECK_EQ(got.count, 4);
      CHECK_EQ(got.packets[0].time_ns, UINT64_C(1700000000000000000) + (nano ? 999999 : 999999000));
      CHECK_EQ(got.packets[1].time_ns, UINT64_C(1700000001000000000) + (nano ? 7 : 7000));
      CHECK_EQ(got.packets[1].caplen, 3);
      CHECK_EQ(got.packets[1].wirelen, 1514);
      CHECK_EQ(got.packets[1].linktype, SONDE_LINKTYPE_ETHERNET);
      CHECK_EQ(got.packets[1].direction, SONDE_DIRECTION_UNKNOWN);
      CHECK_EQ(got.sums[1], (uint8_t)(3 * 1700000001u + 3));
      CHECK_EQ(got.packets[3].wirelen, 60);
    }
  }
}

static void check_linktypes_and_fcs(void) {
  static const uint32_t links[][3] = {
      {12, 101, 60},       {14, 101, 60},        {101, 101, 60},
      {276, 276, 60},      {0xffff, 0xfffe, 60}, /* a private number of this project */
      {0x24000001, 1, 56}, {0x20000001, 1, 60}};
  for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
    image_begin(i % 2);
    put_pcap_head(0xa1b2c3d4, links[i][0]);
    put_pcap_packet(1, 0, 60, 60);
    struct outcome got = read_all();
    CHECK_EQ(got.count, 1);
    CHECK_EQ(got.packets[0].linktype, links[i][1]);
    CHECK_EQ(got.packets[0].wirelen, links[i][2]);
    CHECK_EQ(got.packets[0].caplen, links[i][2]);
  }
}

/* The packet's bytes count up from `second`. A 4 in the header marks a sent packet. */
static void check_cooked_directions(void) {
  static const struct {
    uint32_t link, second, direction;
  } cases[] = {
      {113, 3, SONDE_DIRECTION_EGRESS},   {113, 255, SONDE_DIRECTION_INGRESS},
      {276, 250, SONDE_DIRECTION_EGRESS}, {276, 246, SONDE_DIRECTION_INGRESS},
      {1, 3, SONDE_DIRECTION_UNKNOWN},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    image_begin(false);
    put_pcap_head(0xa1b2c3d4, cases[i].link);
    put_pcap_packet(cases[i].second, 0, 60, 60);
    put_pcap_packet(cases[i].second, 0, 1, 60); /* cut before the direction field */
    struct outcome got = read_all();
    CHECK_EQ(got.packets[0].direction, cases[i].direction);
    CHECK_EQ(got.packets[1].direction, SONDE_DIRECTION_UNKNOWN);
  }
}

static void check_pcapng_blocks(void) {
  for (int swapped = 0; swapped < 2; swapped++) {
    image_begin(swapped);
    put_section();
    put_interface(1, 96, -1, 0);
    put_interface(101, 0, 9, 0);
    put_enhanced(0, UINT64_C(1700000000123456), 61, 1514, -1);
    size_t at = block_begin(0x0bad); /* unknown */
    put("skipped", 7);
    block_end(at);
    put_enhanced(1, UINT64_C(1700000000123456789), 64, 64, 1 | 4 << 5);
    at = block_begin(3); /* simple packet: cut at the snaplen of interface 0 */
    put32(1000);
    image.length += 96;
    block_end(at);
    at = block_begin(2); /* obsolete */
    put16(1);
    put16(65535);
    put32((uint32_t)(UINT64_C(1700000001000000000) >> 32));
    put32((uint32_t)UINT64_C(1700000001000000000));
    put32(8);
    put32(8);
    put("12345678", 8);
    put16(2);
    put16(4);
    put32(2);
    block_end(at);
    image.swapped = !swapped; /* a second section in the other byte order restarts the ids */
    put_section();
    put_interface(276, 0, -1, 0);
    put_interface(SONDE_LINKTYPE_DELTA, 0, -1, 0);
    put_enhanced(0, 5, 20, 20, -1);
    put_enhanced(1, 6, 20, 20, -1);
    struct outcome got = read_all();
    CHECK_EQ(got.status, SONDE_END);
    CHECK_EQ(got.detail[0], 0);
    CHECK_EQ(got.count, 6);
    CHECK_EQ(got.packets[0].time_ns, UINT64_C(1700000000123456000));
    CHECK_EQ(got.packets[0].caplen, 61);
    CHECK_EQ(got.packets[0].wirelen, 1514);
    CHECK_EQ(got.packets[1].time_ns, UINT64_C(1700000000123456789));
    CHECK_EQ(got.packets[1].direction, SONDE_DIRECTION_INGRESS);
    CHECK_EQ(got.packets[1].linktype, SONDE_LINKTYPE_RAW);
    CHECK_EQ(got.packets[1].wirelen, 60);
    CHECK_EQ(got.packets[2].caplen, 96);
    CHECK_EQ(got.packets[2].wirelen, 1000);
    CHECK_EQ(got.packets[2].time_ns, UINT64_C(1700000000123456789));
    CHECK_EQ(got.packets[3].direction, SONDE_DIRECTION_EGRESS);
    CHECK_EQ(got.packets[3].time_ns, UINT64_C(1700000001000000000));
    CHECK_EQ(got.packets[4].linktype, SONDE_LINKTYPE_SLL2);
    CHECK_EQ(got.packets[4].direction, SONDE_DIRECTION_INGRESS);
    CHECK_EQ(got.packets[4].time_ns, 5000);
    CHECK(got.packets[5].linktype != SONDE_LINKTYPE_DELTA);
  }
}

static void check_resolutions(void) {
  static const struct {
    int resolution;
    int64_t offset;
    uint64_t ticks;
    uint64_t time_ns;
  } cases[] = {
      {0, 0, 17, UINT64_C(17000000000)},
      {3, 0, 17, 17000000},
      {6, 100, 17, UINT64_C(100000017000)},
      {9, -1, UINT64_C(3000000005), UINT64_C(2000000005)},
      {9, -10, 5, 0},
      {12, 0, 17999, 17},
      {28, 0, UINT64_MAX, 1},
      {127, 0, UINT64_MAX, 1},
      {0x80 | 10, 0, 1536, 1500000000},
      {0x80 | 32, 0, UINT64_C(0x180000000), 1500000000},
      {0x80 | 127, 0, UINT64_MAX, 0},
      {0x80, 0, 2, 2000000000},
      {0, 0, UINT64_MAX, UINT64_MAX},
      {6, 0, UINT64_MAX, UINT64_MAX},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    for (int swapped = 0; swapped < 2; swapped++) {
      image_begin(swapped);
      put_section();
      put_interface(1, 0, cases[i].resolution, cases[i].offset);
      put_enhanced(0, cases[i].ticks, 4, 4, -1);
      struct outcome got = read_all();
      CHECK_EQ(got.count, 1);
      CHECK_EQ(got.packets[0].time_ns, cases[i].time_ns);
    }
  }
}

/* Cut at every byte: whole packets are returned and the cut is reported, unless it falls between
 * two records. `ends` are those positions. */
static void check_cut(const size_t *ends, const uint32_t *whole, size_t end_count) {
  for (size_t length = 0; length <= image.length; length++) {
    struct outcome got = read_all_fd(memory_file(length));
    uint32_t packets = 0;
    bool clean = false;
    for (size_t i = 0; i < end_count; i++) {
      packets = length >= ends[i] ? whole[i] : packets;
      clean |= length == ends[i];
    }
    if (length < 4) {
      CHECK_EQ(got.status, SONDE_FORMAT);
      continue;
    }
    CHECK_EQ(got.status, SONDE_END);
    CHECK_EQ(got.count, packets);
    CHECK_EQ(got.detail[0] == 0, clean);
    if (!clean && length >= 28) {
      char expected[64];
      snprintf(expected, sizeof expected, "the last packet is cut off at byte %zu", length);
      CHECK(strcmp(got.detail, expected) == 0);
    }
  }
}

static void check_truncations(void) {
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(1, 0, 21, 60);
  put_pcap_packet(2, 0, 5, 60);
  check_cut((size_t[]){24, 24 + 37, 24 + 37 + 21}, (uint32_t[]){0, 1, 2}, 3);

  size_t ends[5];
  image_begin(true);
  put_section();
  ends[0] = image.length;
  put_interface(1, 0, 9, 0);
  ends[1] = image.length;
  put_enhanced(0, 1, 21, 60, 1);
  ends[2] = image.length;
  size_t at = block_begin(0x0bad);
  put("unknown blocks are cut as well", 30);
  block_end(at);
  ends[3] = image.length;
  put_enhanced(0, 2, 5, 60, -1);
  ends[4] = image.length;
  check_cut(ends, (uint32_t[]){0, 0, 1, 1, 2}, 5);
}

/* One good packet, then a block with the 32-bit word `value` at `offset`. */
static void check_false_length(uint32_t type, size_t offset, uint32_t value, const char *words) {
  image_begin(false);
  put_section();
  put_interface(1, 0, 9, 0);
  put_enhanced(0, 1, 20, 20, -1);
  size_t at = image.length;
  if (type == 1) {
    put_interface(1, 0, 9, 0);
  } else if (type == 3) {
    size_t block = block_begin(3);
    put32(8);
    put("12345678", 8);
    block_end(block);
  } else if (type == 6) {
    put_enhanced(0, 1, 20, 20, 1);
  } else {
    put_section();
  }
  size_t end = image.length;
  image.length = at + offset;
  put32(value);
  image.length = end;
  put_enhanced(0, 1, 20, 20, -1);
  struct outcome got = read_all();
  char place[32];
  snprintf(place, sizeof place, "at byte %zu", at);
  CHECK_EQ(got.status, SONDE_END);
  CHECK_EQ(got.count, 1);
  CHECK(strstr(got.detail, words) != NULL);
  CHECK(strstr(got.detail, place) != NULL);
}

static void check_false_lengths(void) {
  check_false_length(6, 4, 8, "invalid length");
  check_false_length(6, 4, 61, "invalid length");
  check_false_length(6, 4, 0x7ffffffc, "longer than the limit");
  check_false_length(6, 4, 56, "does not repeat");
  check_false_length(6, 8, 1, "does not describe");
  check_false_length(6, 20, 0xffffffff, "claims more");
  check_false_length(6, 20, 262145, "claims more");
  check_false_length(6, 20, 80, "claims more");
  check_false_length(6, 48, 0xffff0001, "option");
  check_false_length(3, 8, 9, "claims more");
  check_false_length(1, 16, 0x80000002, "option");
  check_false_length(0x0a0d0d0a, 8, 0, "no byte-order magic");
  check_false_length(0x0a0d0d0a, 12, 2, "version");

  image_begin(true);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(1, 0, 20, 20);
  put_pcap_packet(1, 0, 20, 20);
  image.length = 24 + 36 + 8;
  put32(262145);
  image.length = 24 + 72;
  struct outcome got = read_all();
  CHECK_EQ(got.status, SONDE_END);
  CHECK_EQ(got.count, 1);
  CHECK(strcmp(got.detail, "the packet at byte 60 claims 262145 captured bytes") == 0);
}

static void check_not_captures(void) {
  static const char *const texts[] = {"\x1f\x8b\x08 compressed", "hello world, this is text",
                                      "\x0a\x0d\x0d\x0a but no section", "abc"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    image_begin(false);
    put(texts[i], strlen(texts[i]));
    CHECK_EQ(read_all().status, SONDE_FORMAT);
  }
  struct outcome got = read_all_fd(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  CHECK_EQ(got.status, SONDE_INTERFACE_INVALID);
  CHECK(strstr(got.detail, "Is a directory") != NULL);
}

/* Records straddle the reader's window in every alignment. The largest frame fits. */
static void check_windows(void) {
  uint64_t bytes = 0;
  uint32_t packets = 0;
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  for (uint32_t size = 1; image.length + 300000 < IMAGE_MAX; size = size * 7 % 1531 + 1) {
    put_pcap_packet(7, 0, size, size);
    bytes += size;
    packets++;
  }
  put_pcap_packet(8, 0, 262144, 262144);
  struct outcome got = read_all();
  CHECK_EQ(got.status, SONDE_END);
  CHECK_EQ(got.detail[0], 0);
  CHECK_EQ(got.count, packets + 1);
  CHECK(bytes > 3 << 20);

  image_begin(false); /* an unknown block larger than the window */
  put_section();
  put_interface(1, 0, 9, 0);
  put_enhanced(0, 1, 20, 20, -1);
  size_t at = block_begin(0x0bad);
  image.length += 3 << 20;
  block_end(at);
  put_enhanced(0, 2, 20, 20, -1);
  got = read_all();
  CHECK_EQ(got.detail[0], 0);
  CHECK_EQ(got.count, 2);
}

/* The number of packets in the shared traces equals that of capinfos. */
static void check_traces(void) {
  static const struct {
    const char *name;
    uint32_t packets;
  } traces[] = {
      {"01-vlan-collisions.pcap", 42},
      {"02-q-in-q.pcap", 5},
      {"03-mixed-vlan-mpls.pcap", 47},
      {"04-pppoe.pcap", 65},
      {"05-dns_fragmented.pcap", 66},
      {"06-covert_send6.pcap", 37},
      {"07-gre-sample.pcap", 40},
      {"08-vxlan.pcap", 10},
      {"09-geneve.pcap", 6},
      {"10-gtp6_gtp_0x32.pcap", 31},
      {"11-4in6tunnel.pcap", 4},
      {"12-icmp6.pcap", 49},
      {"13-truncated-header.pcap", 24},
      {"14-synscan.pcap", 2011},
      {"15-kerberos_tso.pcapng", 314},
      {"16-bitcoin.pcap", 529},
      {"17-linux_dlt_sll2.pcap", 6},
      {"18-missing-syn.pcap", 21},
      {"19-badpackets.pcap", 93},
  };
  const char *folder = getenv("NETSONDE_TRACES");
  char path[1024];
  for (size_t i = 0; i < sizeof traces / sizeof traces[0]; i++) {
    if (folder) {
      snprintf(path, sizeof path, "%s/%s", folder, traces[i].name);
    } else { /* next to the repository */
      int here = (int)(strrchr(__FILE__, '/') - __FILE__);
      snprintf(path, sizeof path, "%.*s/../../../shared/traces/%s", here, __FILE__, traces[i].name);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      fprintf(stderr, "file_test: %s is absent (set NETSONDE_TRACES)\n", path);
      return;
    }
    struct outcome got = read_all_fd(fd);
    CHECK_EQ(got.status, SONDE_END);
    CHECK_EQ(got.detail[0], 0);
    CHECK_EQ(got.count, traces[i].packets);
  }
}

int main(void) {
  if (!capture_file_begin())
    return 1;
  check_pcap_orders();
  check_linktypes_and_fcs();
  check_cooked_directions();
  check_pcapng_blocks();
  check_resolutions();
  check_truncations();
  check_false_lengths();
  check_not_captures();
  check_windows();
  check_traces();
  free(image.bytes);
  return check_report();
}
