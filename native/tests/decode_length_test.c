/* decode_length_test.c - octets and wire packets: false lengths, lengths of 0, padding,
 * and super-packets.
 */
#include "check.h"
#include "packets.h"
#include "parse/decode.h"

enum { OUTER = 0, INNER = 1, FLOW = -1 };

static struct sonde_decoder *decoders[2];

static int decode(int mode, const struct crafted *crafted, uint32_t wirelen, uint16_t gso_size,
                  struct sonde_decoded *out) {
  struct sonde_packet packet = {
      .data = crafted->data,
      .time_ns = 1,
      .caplen = crafted->bytes,
      .wirelen = wirelen,
      .linktype = SONDE_LINKTYPE_ETHERNET,
      .gso_size = gso_size,
  };
  return sonde_decode(decoders[mode], &packet, out);
}

struct octets_row {
  const char *layers;
  uint32_t length_at; /* position of the 16-bit length field */
  uint32_t length;
  uint32_t padding; /* bytes after the crafted packet */
  uint32_t ip_bytes;
  int clamped;
};

static const struct octets_row octets_rows[] = {
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 100, 0, 100, 0},
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 99, 0, 99, 0},
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 100, 6, 100, 0},
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 101, 0, 100, 1},
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 65535, 0, 100, 1},
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 0, 0, 100, 0},
    {"eth:0800 ip4:6 tcp:9:80 pay:60", 16, 0, 1400, 1500, 0},
    {"eth:0800 ip4:11 udp:9:80 pay:72", 16, 101, 0, 100, 1},
    {"eth:86dd ip6:6 tcp:9:80 pay:40", 18, 60, 0, 100, 0},
    {"eth:86dd ip6:6 tcp:9:80 pay:40", 18, 60, 6, 100, 0},
    {"eth:86dd ip6:6 tcp:9:80 pay:40", 18, 61, 0, 100, 1},
    {"eth:86dd ip6:6 tcp:9:80 pay:40", 18, 0, 0, 100, 0},
    /* BIG TCP: payload length 0, the real length in a hop-by-hop option */
    {"eth:86dd ip6:0 x:0600c20400010000 tcp:9:80 pay:32", 18, 0, 70000, 70100, 0},
};

static void test_octets(void) {
  for (size_t i = 0; i < sizeof(octets_rows) / sizeof(octets_rows[0]); i++) {
    const struct octets_row *row = &octets_rows[i];
    struct crafted crafted;
    struct sonde_decoded out;
    unsigned long failures = check_failures;
    packet_craft(&crafted, row->layers);
    packet_set_length(&crafted, row->length_at, row->length);
    uint32_t wirelen = crafted.bytes + row->padding;
    CHECK_EQ(decode(OUTER, &crafted, wirelen, 0, &out), FLOW);
    CHECK_EQ(out.ip_bytes, row->ip_bytes);
    CHECK_EQ(out.l2_bytes, wirelen);
    CHECK_EQ(!!(out.flags & SONDE_DECODED_CLAMPED), row->clamped);
    CHECK_EQ(out.packets, 1);
    CHECK_EQ(out.key.lo_port, 9);
    if (check_failures != failures)
      fprintf(stderr, "  in row %zu, \"%s\"\n", i, row->layers);
  }
}

/* A file may give a wire length below the captured length. Only the wire length counts. */
static void test_captured_past_wire(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, "eth:0800 ip4:6 tcp:9:80 pay:60");
  CHECK_EQ(decode(OUTER, &crafted, 14 + 22, 0, &out), FLOW);
  CHECK_EQ(out.ip_bytes, 22);
  CHECK_EQ(out.key.lo_port, 0);
  CHECK_EQ(decode(OUTER, &crafted, 14 + 19, 0, &out), SONDE_NON_FLOW_MALFORMED);
  CHECK_EQ(decode(OUTER, &crafted, 13, 0, &out), SONDE_NON_FLOW_MALFORMED);
  packet_craft(&crafted, "eth:8100 tag:5:0800 ip4:6 tcp:9:80");
  CHECK_EQ(decode(OUTER, &crafted, 16, 0, &out), SONDE_NON_FLOW_MALFORMED);
}

struct gso_row {
  const char *headers; /* repeated in each wire packet */
  int mode;
  int key_header;   /* index of the IP header that makes the key */
  int header_bytes; /* 0: all of `headers` */
};

#define VXLAN "eth:0800 ip4:11 udp:5000:4789 x:0800000000002a00 "

static const struct gso_row gso_rows[] = {
    {"eth:0800 ip4:6 tcp:9:80", OUTER, 0, 0},
    {"eth:0800 ip4:6 tcp:9:80", INNER, 0, 0},
    {"eth:86dd ip6:6 tcp:9:80", OUTER, 0, 0},
    {"eth:86dd ip6:0 x:0600c20400010000 tcp:9:80", OUTER, 0, 0},
    {"eth:8100 tag:10:0800 ip4:6 tcp:9:80", OUTER, 0, 0},
    {"eth:0800 ip4:11 udp:9:80", OUTER, 0, 0},
    {VXLAN "eth:0800 ip4:6 tcp:9:80", OUTER, 0, 0},
    {VXLAN "eth:0800 ip4:6 tcp:9:80", INNER, 1, 0},
    {VXLAN "eth:86dd ip6:11 udp:9:80", OUTER, 0, 0},
    {VXLAN "eth:86dd ip6:11 udp:9:80", INNER, 1, 0},
    {"eth:0800 ip4:2f x:00000800 ip4:6 tcp:9:80", OUTER, 0, 0},
    {"eth:0800 ip4:4 ip4:6 tcp:9:80", INNER, 1, 0},
    {"eth:0800 ip4:11 udp:9:4789 x:00", OUTER, 0, 42}, /* only the port suggests a tunnel */
};

static void check_segments(const struct gso_row *row, uint32_t payload, uint32_t gso_size) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, row->headers);
  uint32_t header = row->header_bytes ? (uint32_t)row->header_bytes : crafted.bytes;
  uint32_t ip = crafted.ip_offset[row->key_header];
  for (uint32_t i = 0; i < crafted.ip_headers; i++) {
    uint32_t at = crafted.ip_offset[i]; /* 0: longer than the field allows */
    packet_set_length(&crafted, at + (crafted.data[at] >> 4 == 6 ? 4 : 2), 0);
  }
  uint32_t wirelen = header + payload;
  uint32_t segments = payload == 0 ? 1 : (payload + gso_size - 1) / gso_size;
  CHECK_EQ(decode(row->mode, &crafted, wirelen, (uint16_t)gso_size, &out), FLOW);
  CHECK_EQ(out.packets, segments);
  CHECK_EQ(out.l2_bytes, payload + segments * header);
  CHECK_EQ(out.ip_bytes, payload + segments * (header - ip));
  if (out.flags & SONDE_DECODED_TCP)
    CHECK_EQ(out.tcp_payload, payload);
}

static void test_segments(void) {
  for (size_t i = 0; i < sizeof(gso_rows) / sizeof(gso_rows[0]); i++) {
    unsigned long failures = check_failures;
    check_segments(&gso_rows[i], 14480, 1448); /* exactly ten segments */
    check_segments(&gso_rows[i], 14481, 1448);
    check_segments(&gso_rows[i], 14479, 1448);
    check_segments(&gso_rows[i], 1448, 1448);
    check_segments(&gso_rows[i], 200, 65535);
    check_segments(&gso_rows[i], 180000, 1);
    if (check_failures != failures)
      fprintf(stderr, "  in row %zu, \"%s\"\n", i, gso_rows[i].headers);
  }
}

static void test_odd_segments(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, "eth:0800 ip4:6 tcp:9:80");
  CHECK_EQ(decode(OUTER, &crafted, crafted.bytes, 1448, &out), FLOW);
  CHECK_EQ(out.packets, 1);
  CHECK_EQ(out.l2_bytes, 54);
  crafted.data[14 + 20 + 12] = 0xf0; /* data offset past the frame's end */
  CHECK_EQ(decode(OUTER, &crafted, crafted.bytes, 1448, &out), FLOW);
  CHECK_EQ(out.packets, 1);
  CHECK_EQ(out.ip_bytes, 40);
  packet_craft(&crafted, VXLAN "eth:0800 ip4:1 x:08000000 pay:100"); /* counted by the outer UDP */
  CHECK_EQ(decode(INNER, &crafted, 42 + 3 * 142, 142, &out), FLOW);
  CHECK_EQ(out.packets, 3);
  CHECK_EQ(out.ip_bytes, 124);
  CHECK_EQ(out.l2_bytes, 3 * 184);
  packet_craft(&crafted, "eth:0800 ip4:32 pay:3000"); /* a protocol without segmentation */
  CHECK_EQ(decode(OUTER, &crafted, crafted.bytes, 1448, &out), FLOW);
  CHECK_EQ(out.packets, 1);
}

int main(void) {
  for (int mode = 0; mode < 2; mode++)
    if ((decoders[mode] = sonde_decoder_create(mode, NULL)) == NULL)
      return 1;
  test_octets();
  test_captured_past_wire();
  test_segments();
  test_odd_segments();
  for (int mode = 0; mode < 2; mode++)
    sonde_decoder_destroy(decoders[mode]);
  return check_report();
}
