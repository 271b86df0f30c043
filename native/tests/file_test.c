/* file_test.c - the file backend over files made here: every byte order, resolution and block
 * type, every truncation, lengths that lie, pacing, and the traces that tshark read.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "core/registry.h"
#include "packet.h"

enum { BATCH = 64, IMAGE_MAX = 4 << 20 };

static const struct sonde_backend_ops *ops;

/* A capture file under construction. */
static struct image {
  uint8_t *bytes;
  size_t length;
  bool swapped;
} image;

static void put(const void *bytes, size_t length) {
  if (image.length + length > IMAGE_MAX) {
    abort();
  }
  memcpy(image.bytes + image.length, bytes, length);
  image.length += length;
}

static void put16(uint32_t value) {
  uint16_t word = image.swapped ? __builtin_bswap16((uint16_t)value) : (uint16_t)value;
  put(&word, sizeof word);
}

static void put32(uint32_t value) {
  uint32_t word = image.swapped ? __builtin_bswap32(value) : value;
  put(&word, sizeof word);
}

static void image_begin(bool swapped) {
  image.length = 0;
  image.swapped = swapped;
}

static void put_pcap_head(uint32_t magic, uint32_t link) {
  put32(magic);
  put16(2);
  put16(4);
  put32(0);
  put32(0);
  put32(262144);
  put32(link);
}

static void put_pcap_packet(uint32_t sec, uint32_t fraction, uint32_t caplen, uint32_t wirelen) {
  put32(sec);
  put32(fraction);
  put32(caplen);
  put32(wirelen);
  for (uint32_t i = 0; i < caplen; i++) {
    put(&(uint8_t){(uint8_t)(i + sec)}, 1);
  }
}

static size_t block_begin(uint32_t type) {
  put32(type);
  put32(0);
  return image.length - 8;
}

static void block_end(size_t at) {
  while (image.length % 4) {
    put("", 1);
  }
  size_t end = image.length + 4;
  uint32_t length = (uint32_t)(end - at);
  put32(length);
  image.length = at + 4;
  put32(length);
  image.length = end;
}

static void put_section(void) {
  size_t at = block_begin(0x0a0d0d0a);
  put32(0x1a2b3c4d);
  put16(1);
  put16(0);
  put32(0xffffffff);
  put32(0xffffffff);
  block_end(at);
}

static void put_option(uint32_t code, const void *value, uint32_t length) {
  put16(code);
  put16(length);
  put(value, length);
  while (image.length % 4) {
    put("", 1);
  }
}

/* resolution < 0: the option is absent */
static void put_interface(uint32_t linktype, uint32_t snaplen, int resolution, int64_t offset) {
  size_t at = block_begin(1);
  put16(linktype);
  put16(0);
  put32(snaplen);
  put_option(2, "eth0", 5);
  if (resolution >= 0) {
    put_option(9, &(uint8_t){(uint8_t)resolution}, 1);
  }
  if (offset) {
    uint64_t raw = image.swapped ? __builtin_bswap64((uint64_t)offset) : (uint64_t)offset;
    put_option(14, &raw, sizeof raw);
  }
  put_option(0, "", 0);
  block_end(at);
}

/* flags < 0: no options */
static void put_enhanced(uint32_t id, uint64_t ticks, uint32_t caplen, uint32_t wirelen,
                         int64_t flags) {
  size_t at = block_begin(6);
  put32(id);
  put32((uint32_t)(ticks >> 32));
  put32((uint32_t)ticks);
  put32(caplen);
  put32(wirelen);
  for (uint32_t i = 0; i < caplen; i++) {
    put(&(uint8_t){(uint8_t)i}, 1);
  }
  while (image.length % 4) {
    put("", 1);
  }
  if (flags >= 0) {
    put_option(1, "a remark", 8);
    put16(2);
    put16(4);
    put32((uint32_t)flags);
    put_option(0, "", 0);
  }
  block_end(at);
}

static int memory_file(size_t length) {
  int fd = memfd_create("capture", MFD_CLOEXEC);
  if (fd < 0 || write(fd, image.bytes, length) != (ssize_t)length) {
    abort();
  }
  return fd;
}

static int open_fd(int fd, double speed, struct sonde_backend **backend,
                   struct sonde_error *error) {
  struct sonde_backend_config config = {.interface = "test.pcap",
                                        .file_fd = fd,
                                        .queues = 1,
                                        .snaplen = 262144,
                                        .replay_speed = speed};
  memset(error, 0, sizeof *error);
  return ops->open(&config, backend, error);
}

struct outcome {
  int status; /* of open, then of the last receive */
  uint32_t count;
  struct sonde_packet packets[BATCH]; /* the first ones; data is not valid any more */
  uint8_t sums[BATCH];                /* over their bytes, so that each byte is touched */
  char detail[SONDE_ERROR_DETAIL_MAX];
};

static struct outcome read_all_fd(int fd) {
  static struct outcome outcome;
  struct sonde_packet packets[BATCH];
  struct sonde_backend *backend = NULL;
  struct sonde_error error;
  memset(&outcome, 0, sizeof outcome);
  outcome.status = open_fd(fd, 0, &backend, &error);
  while (outcome.status >= 0) {
    error.detail[0] = 0;
    outcome.status = ops->receive(backend, 0, packets, BATCH, 0, &error);
    for (int i = 0; i < outcome.status; i++, outcome.count++) {
      uint8_t sum = 0;
      for (uint32_t j = 0; j < packets[i].caplen; j++) {
        sum = (uint8_t)(sum + packets[i].data[j]);
      }
      if (outcome.count < BATCH) {
        outcome.packets[outcome.count] = packets[i];
        outcome.sums[outcome.count] = sum;
      }
    }
  }
  memcpy(outcome.detail, error.detail, sizeof outcome.detail);
  ops->close(backend);
  CHECK(fcntl(fd, F_GETFD) == -1); /* owned by the backend, failed or not */
  return outcome;
}

static struct outcome read_all(void) {
  return read_all_fd(memory_file(image.length));
}

static void check_pcap_orders(void) {
  for (int swapped = 0; swapped < 2; swapped++) {
    for (int nano = 0; nano < 2; nano++) {
      image_begin(swapped);
      put_pcap_head(nano ? 0xa1b23c4d : 0xa1b2c3d4, 1);
      put_pcap_packet(1700000000, 999999, 60, 60);
      put_pcap_packet(1700000001, 7, 3, 1514);
      put_pcap_packet(1700000002, 0, 0, 0);
      put_pcap_packet(1700000003, 0, 60, 4); /* the writer left the wire length short */
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
  static const uint32_t links[][3] = {{12, 101, 60},  {14, 101, 60},           {101, 101, 60},
                                      {276, 276, 60}, {0x24000001 | 0, 1, 56}, {0x20000001, 1, 60}};
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
    at = block_begin(3); /* simple: cut at the snaplen of interface 0 */
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
    image.swapped = !swapped; /* a second section, in the other order, numbers anew */
    put_section();
    put_interface(276, 0, -1, 0);
    put_enhanced(0, 5, 20, 20, -1);
    struct outcome got = read_all();
    CHECK_EQ(got.status, SONDE_END);
    CHECK_EQ(got.detail[0], 0);
    CHECK_EQ(got.count, 5);
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
    CHECK_EQ(got.packets[4].time_ns, 5000);
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

/* Cut at every byte: what is whole is handed over, the rest is told, unless the cut falls
 * between two records. `ends` are the places where it does. */
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

/* One good packet, then 32-bit word `value` at `offset` of the block that follows. */
static void check_lie(uint32_t type, size_t offset, uint32_t value, const char *words) {
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

static void check_lies(void) {
  check_lie(6, 4, 8, "impossible length");
  check_lie(6, 4, 61, "impossible length");
  check_lie(6, 4, 0x7ffffffc, "longer than any");
  check_lie(6, 4, 56, "does not repeat");
  check_lie(6, 8, 1, "does not describe");
  check_lie(6, 20, 0xffffffff, "claims more");
  check_lie(6, 20, 262145, "claims more");
  check_lie(6, 20, 80, "claims more");
  check_lie(6, 48, 0xffff0001, "option");
  check_lie(3, 8, 9, "claims more");
  check_lie(1, 16, 0x80000002, "option");
  check_lie(0x0a0d0d0a, 8, 0, "no byte order");
  check_lie(0x0a0d0d0a, 12, 2, "version");

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

/* Records straddle the reader's window in every alignment, and the largest frame passes. */
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

static uint64_t clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void check_pace(void) {
  struct sonde_backend *backend = NULL;
  struct sonde_packet packets[BATCH];
  struct sonde_error error;
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(100, 0, 20, 20);
  put_pcap_packet(100, 400000, 20, 20); /* due after 200 ms at double speed */
  put_pcap_packet(100, 100000, 20, 20); /* backwards */
  put_pcap_packet(90000, 0, 20, 20);    /* a day later: not waited for */
  put_pcap_packet(90000, 200000, 20, 20);
  CHECK_EQ(open_fd(memory_file(image.length), 2.0, &backend, &error), 0);
  uint64_t begin_ms = clock_ms();
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 1000, &error), 1);
  CHECK_EQ(packets[0].caplen, 20);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 20, &error), 0);
  ops->wake(backend);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 1000, &error), 0);
  CHECK(clock_ms() - begin_ms < 150);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 1000, &error), 3);
  uint64_t waited_ms = clock_ms() - begin_ms;
  CHECK(waited_ms >= 199 && waited_ms < 1000);
  CHECK_EQ(packets[2].time_ns, UINT64_C(90000000000000));
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 1000, &error), 1);
  CHECK(clock_ms() - begin_ms >= waited_ms + 99);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 0, &error), SONDE_END);
  CHECK_EQ(error.detail[0], 0);
  ops->close(backend);
}

static void check_quiesce(void) {
  struct sonde_backend *backend = NULL;
  struct sonde_backend_info info;
  struct sonde_backend_stats stats;
  struct sonde_packet packets[1];
  struct sonde_error error;
  image_begin(false);
  put_pcap_head(0xa1b2c3d4, 1);
  put_pcap_packet(1, 0, 20, 20);
  put_pcap_packet(2, 0, 20, 20);
  CHECK_EQ(open_fd(memory_file(image.length), 0, &backend, &error), 0);
  ops->info(backend, &info);
  CHECK_EQ(info.live, 0);
  CHECK_EQ(info.queues, 1);
  CHECK_EQ(ops->start(backend, &error), 0);
  CHECK_EQ(ops->receive(backend, 0, packets, 1, 0, &error), 1);
  ops->quiesce(backend);
  CHECK_EQ(ops->receive(backend, 0, packets, 1, 0, &error), 0);
  ops->stats(backend, &stats);
  CHECK_EQ(stats.dropped, 0);
  ops->stop(backend);
  ops->close(backend);
}

/* Packets in the shared traces, as capinfos counts them. */
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
    } else { /* beside the repository */
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
  struct sonde_error error = {0};
  image.bytes = calloc(1, IMAGE_MAX);
  if (!image.bytes || sonde_registry_load(SONDE_PLUGIN_DIR, "file", &ops, &error)) {
    fprintf(stderr, "%s\n", error.detail);
    return 1;
  }
  check_pcap_orders();
  check_linktypes_and_fcs();
  check_pcapng_blocks();
  check_resolutions();
  check_truncations();
  check_lies();
  check_not_captures();
  check_windows();
  check_pace();
  check_quiesce();
  check_traces();
  free(image.bytes);
  return check_report();
}
