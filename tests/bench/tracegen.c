/* tracegen.c - makes the capture files that the benchmarks replay. Same seed, same bytes.
 *
 *   tracegen synthetic OUT PACKETS FLOWS SEED [EVERY]   TCP and UDP, 54 bytes, both directions
 *   tracegen mix OUT PACKETS SEED TRACE.pcap...         real packets under many addresses
 *
 * synthetic: every flow has at least one packet, in random order. mix: plays 64 copies of the
 * traces in parallel. Each copy gets the addresses of one of 100 sites (IPv4 and IPv6, behind
 * Ethernet and VLAN tags). Other packets repeat unchanged. Addresses change, transport checksums
 * do not, because no meter checks them. One packet every EVERY microseconds [1].
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAGIC = 0xa1b2c3d4,
  MAGIC_NS = 0xa1b23c4d,
  ETHERNET = 1,
  SNAPLEN = 262144,
  SYNTHETIC_FLOWS_MAX = 1 << 24,
  SYNTHETIC_BYTES = 54,
  COPIES = 64,
  TRACES_MAX = 64,
  SITES = 100, /* sets of addresses, used in rotation */
};

static const uint32_t start_sec = 1700000000;
static uint64_t random_state;
static uint64_t every_us = 1;

static uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void die(const char *what, const char *name) {
  fprintf(stderr, "tracegen: %s: %s\n", what, name);
  exit(1);
}

static void *allocate(size_t bytes) {
  void *memory = malloc(bytes);
  if (memory == NULL)
    die("no memory for", "the trace");
  return memory;
}

/* ---- writing ------------------------------------------------------------------------- */

struct writer {
  FILE *file;
  const char *path;
  uint64_t packets;
};

static void write_bytes(struct writer *out, const void *bytes, size_t length) {
  if (fwrite(bytes, 1, length, out->file) != length)
    die("cannot write", out->path);
}

static void open_writer(struct writer *out, const char *path) {
  const uint32_t header[6] = {MAGIC, 2 | 4 << 16, 0, 0, SNAPLEN, ETHERNET};
  *out = (struct writer){.file = fopen(path, "wb"), .path = path};
  if (out->file == NULL)
    die("cannot create", path);
  write_bytes(out, header, sizeof header);
}

static void write_packet(struct writer *out, const uint8_t *frame, uint32_t caplen,
                         uint32_t wirelen) {
  uint64_t time_us = out->packets * every_us;
  uint32_t header[4] = {start_sec + (uint32_t)(time_us / 1000000), (uint32_t)(time_us % 1000000),
                        caplen, wirelen};
  write_bytes(out, header, sizeof header);
  write_bytes(out, frame, caplen);
  out->packets++;
}

static void close_writer(struct writer *out) {
  if (fclose(out->file) != 0)
    die("cannot write", out->path);
}

/* ---- packets ------------------------------------------------------------------------- */

static void put16(uint8_t *p, uint32_t value) {
  p[0] = (uint8_t)(value >> 8);
  p[1] = (uint8_t)value;
}

static uint32_t load16(const uint8_t *p) {
  return (uint32_t)p[0] << 8 | p[1];
}

static void seal_ipv4_header(uint8_t *ip, uint32_t header_bytes) {
  uint32_t sum = 0;
  put16(ip + 10, 0);
  for (uint32_t i = 0; i < header_bytes; i += 2)
    sum += load16(ip + i);
  sum = (sum & 0xffff) + (sum >> 16);
  put16(ip + 10, ~(sum + (sum >> 16)));
}

/* Maps flow numbers to addresses one to one, so FLOWS is exact. */
static void build_synthetic(uint8_t frame[SYNTHETIC_BYTES], uint32_t flow, int reverse) {
  static const uint16_t services[] = {443, 53, 80, 8080};
  uint32_t host = flow * 0x9e3779b1u & (SYNTHETIC_FLOWS_MAX - 1);
  int tcp = flow & 1;
  uint16_t ports[2] = {(uint16_t)(1024 + host % 60000), services[flow >> 1 & 3]};
  uint8_t addresses[2][4] = {{10, (uint8_t)(host >> 16), (uint8_t)(host >> 8), (uint8_t)host},
                             {172, 16, (uint8_t)(flow >> 3), (uint8_t)(flow >> 11)}};
  memset(frame, 0, SYNTHETIC_BYTES);
  memcpy(frame, "\x02\0\0\0\0\2\x02\0\0\0\0\1\x08\0", 14);
  uint8_t *ip = frame + 14, *transport = ip + 20;
  ip[0] = 0x45;
  put16(ip + 2, SYNTHETIC_BYTES - 14);
  ip[8] = 64;
  ip[9] = tcp ? 6 : 17;
  memcpy(ip + 12, addresses[reverse], 4);
  memcpy(ip + 16, addresses[!reverse], 4);
  seal_ipv4_header(ip, 20);
  put16(transport, ports[reverse]);
  put16(transport + 2, ports[!reverse]);
  if (tcp) {
    transport[12] = 0x50;
    transport[13] = 0x10; /* ACK */
  } else {
    put16(transport + 4, SYNTHETIC_BYTES - 14 - 20);
  }
}

static int make_synthetic(const char *path, uint64_t packets, uint64_t flows) {
  if (flows == 0 || flows > SYNTHETIC_FLOWS_MAX || packets < flows || packets > UINT32_MAX)
    die("needs 1 to 2^24 flows, and at least as many packets", path);
  uint32_t *order = allocate(packets * sizeof *order);
  for (uint64_t i = 0; i < packets; i++)
    order[i] = (uint32_t)(i < flows ? i : next_random() % flows);
  for (uint64_t i = packets - 1; i > 0; i--) {
    uint64_t j = next_random() % (i + 1);
    uint32_t flow = order[i];
    order[i] = order[j];
    order[j] = flow;
  }
  struct writer out;
  open_writer(&out, path);
  for (uint64_t i = 0; i < packets; i++) {
    uint8_t frame[SYNTHETIC_BYTES];
    build_synthetic(frame, order[i], next_random() % 3 == 0);
    write_packet(&out, frame, sizeof frame, sizeof frame);
  }
  close_writer(&out);
  free(order);
  return 0;
}

/* ---- the mix ------------------------------------------------------------------------- */

struct trace {
  uint8_t *bytes; /* the whole file */
  size_t length;
};

struct playback { /* one copy of one trace being played */
  const struct trace *trace;
  size_t offset;
  uint32_t number; /* number of the copy; selects its addresses */
};

/* Returns 0 if the file is not a little-endian Ethernet pcap. The caller skips it. */
static int load_trace(const char *path, struct trace *trace) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0)
    die("cannot read", path);
  trace->length = (size_t)ftell(file);
  rewind(file);
  trace->bytes = allocate(trace->length + 1);
  if (fread(trace->bytes, 1, trace->length, file) != trace->length)
    die("cannot read", path);
  fclose(file);
  uint32_t header[6] = {0};
  memcpy(header, trace->bytes, trace->length < sizeof header ? trace->length : sizeof header);
  if ((header[0] == MAGIC || header[0] == MAGIC_NS) && header[5] == ETHERNET)
    return 1;
  free(trace->bytes);
  return 0;
}

/* Rewrites a packet for copy `number`: both addresses change alike, so conversations stay whole. */
static void rewrite_addresses(uint8_t *frame, uint32_t caplen, uint32_t number) {
  uint32_t offset = 12;
  while (offset + 6 <= caplen &&
         (load16(frame + offset) == 0x8100 || load16(frame + offset) == 0x88a8)) {
    offset += 4;
  }
  if (offset + 2 > caplen)
    return;
  uint8_t *ip = frame + offset + 2;
  uint32_t ethertype = load16(frame + offset), left = caplen - offset - 2;
  const uint8_t change[3] = {(uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number};
  if (ethertype == 0x0800 && left >= 20) {
    for (int i = 0; i < 3; i++) {
      ip[13 + i] ^= change[i];
      ip[17 + i] ^= change[i];
    }
    uint32_t header_bytes = (ip[0] & 15u) * 4;
    if (header_bytes >= 20 && header_bytes <= left)
      seal_ipv4_header(ip, header_bytes);
  } else if (ethertype == 0x86dd && left >= 40) {
    for (int i = 0; i < 3; i++) {
      ip[8 + 4 + i] ^= change[i];
      ip[24 + 4 + i] ^= change[i];
    }
  }
}

/* Writes the next packet of a copy. Returns 0 at the end of its trace. */
static int play(struct playback *playback, struct writer *out) {
  static uint8_t frame[SNAPLEN];
  uint32_t header[4];
  if (playback->trace->length - playback->offset < sizeof header)
    return 0;
  memcpy(header, playback->trace->bytes + playback->offset, sizeof header);
  uint32_t caplen = header[2];
  if (caplen > SNAPLEN || playback->trace->length - playback->offset - sizeof header < caplen)
    return 0;
  memcpy(frame, playback->trace->bytes + playback->offset + sizeof header, caplen);
  playback->offset += sizeof header + caplen;
  rewrite_addresses(frame, caplen, playback->number);
  write_packet(out, frame, caplen, header[3]);
  return 1;
}

static int make_mix(const char *path, uint64_t packets, char **names, int count) {
  static struct trace traces[TRACES_MAX];
  int usable = 0;
  for (int i = 0; i < count && usable < TRACES_MAX; i++)
    usable += load_trace(names[i], &traces[usable]);
  if (usable == 0)
    die("no Ethernet pcap among the traces", path);
  struct writer out;
  open_writer(&out, path);
  struct playback playbacks[COPIES] = {{0}};
  uint32_t copies = 0;
  while (out.packets < packets) {
    struct playback *playback = &playbacks[next_random() % COPIES];
    if (playback->trace == NULL || !play(playback, &out)) {
      *playback = (struct playback){.trace = &traces[copies % (uint32_t)usable], .offset = 24};
      playback->number = copies++ / (uint32_t)usable % SITES;
    }
  }
  close_writer(&out);
  for (int i = 0; i < usable; i++)
    free(traces[i].bytes);
  return 0;
}

int main(int argc, char **argv) {
  if ((argc == 6 || argc == 7) && strcmp(argv[1], "synthetic") == 0) {
    random_state = strtoull(argv[5], NULL, 10);
    every_us = argc == 7 ? strtoull(argv[6], NULL, 10) : 1;
    return make_synthetic(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
  }
  if (argc >= 6 && strcmp(argv[1], "mix") == 0) {
    random_state = strtoull(argv[4], NULL, 10);
    return make_mix(argv[2], strtoull(argv[3], NULL, 10), argv + 5, argc - 5);
  }
  fprintf(stderr, "usage: tracegen synthetic OUT PACKETS FLOWS SEED [EVERY]\n"
                  "       tracegen mix OUT PACKETS SEED TRACE.pcap...\n");
  return 2;
}
