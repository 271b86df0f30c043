/* decode_tunnel_test.c - tunnels: which IP header makes the key, in both modes, and the result if
 * the inner packet does not decode.
 */
#include "check.h"
#include "packets.h"
#include "parse/decode.h"

enum { OUTER = 0, INNER = 1, FLOW = -1 };

static struct sonde_decoder *decoders[2];

static int decode(int mode, const struct crafted *crafted, uint32_t caplen,
                  struct sonde_decoded *out) {
  struct sonde_packet packet = {
      .data = crafted->data,
      .time_ns = 1,
      .caplen = caplen,
      .wirelen = crafted->bytes,
      .linktype = SONDE_LINKTYPE_ETHERNET,
  };
  memset(out, 0xa5, sizeof(*out));
  return sonde_decode(decoders[mode], &packet, out);
}

struct tunnel_row {
  const char *layers;
  int key_header; /* which IP header makes the key in inner mode, 0: the outermost */
  int type;
  uint32_t id;
  uint16_t lo_port; /* in inner mode */
  uint16_t hi_port;
  int vlan_depth;
  uint16_t vlan[SONDE_VLAN_DEPTH_MAX];
};

#define ETH "eth:0800 "
#define IN " ip4:6 tcp:9:80 pay:4"
#define IN6 " ip6:6 tcp:9:80 pay:4"
#define BRIDGED " eth:0800" IN

static const struct tunnel_row rows[] = {
    {ETH "ip4:2f x:00000800" IN, 1, SONDE_TUNNEL_GRE, 0, 9, 80, 0, {0}},
    {ETH "ip4:2f x:000086dd" IN6, 1, SONDE_TUNNEL_GRE, 0, 9, 80, 0, {0}},
    {ETH "ip4:2f x:b0000800aaaa000001020304ffffffff" IN,
     1,
     SONDE_TUNNEL_GRE,
     0x01020304,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:00006558" BRIDGED, 1, SONDE_TUNNEL_GRE, 0, 9, 80, 0, {0}},
    {ETH "ip4:2f x:0000884700012140" IN, 1, SONDE_TUNNEL_GRE, 0, 9, 80, 0, {0}},
    {ETH "ip4:2f x:3001880b0020000700000001ff030021" IN, 1, SONDE_TUNNEL_GRE, 7, 9, 80, 0, {0}},
    {ETH "ip4:2f x:3081880b002000070000000100000009ff030021" IN,
     1,
     SONDE_TUNNEL_GRE,
     7,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:3001880b002000070000000121" IN, 1, SONDE_TUNNEL_GRE, 7, 9, 80, 0, {0}},
    {ETH "ip4:2f x:2081880b0000000700000009", 0, 0, 0, 0, 0, 0, {0}}, /* only an ack */
    {ETH "ip4:2f x:40000800aaaa0000" IN, 0, 0, 0, 0, 0, 0, {0}},      /* source routes */
    {ETH "ip4:2f x:00020800" IN, 0, 0, 0, 0, 0, 0, {0}},              /* version 2 */
    {ETH "ip4:2f x:00000806 pay:28", 0, 0, 0, 0, 0, 0, {0}},
    {ETH "ip4:2f x:00000030" IN, 0, 0, 0, 0, 0, 0, {0}}, /* a length, not an ethertype */
    {ETH "ip4:2f x:000088be" BRIDGED, 1, SONDE_TUNNEL_ERSPAN, 0, 9, 80, 0, {0}},
    {ETH "ip4:2f x:100088be00000001100a0c2a00000000" BRIDGED,
     1,
     SONDE_TUNNEL_ERSPAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:100022eb00000001200a0c2a0000000000000000" BRIDGED,
     1,
     SONDE_TUNNEL_ERSPAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:100022eb00000001200a0c2a00000000000000010011223344556677" BRIDGED,
     1,
     SONDE_TUNNEL_ERSPAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:100022eb00000001200a0c2a0000000000000800" IN,
     1,
     SONDE_TUNNEL_ERSPAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:100088be00000001200a0c2a00000000" BRIDGED, 0, 0, 0, 0, 0, 0, {0}},
    {ETH "ip4:4" IN, 1, SONDE_TUNNEL_IPIP, 0, 9, 80, 0, {0}},
    {ETH "ip4:29" IN6, 1, SONDE_TUNNEL_IPIP, 0, 9, 80, 0, {0}},
    {"eth:86dd ip6:4" IN, 1, SONDE_TUNNEL_IPIP, 0, 9, 80, 0, {0}},
    {"eth:86dd ip6:29" IN6, 1, SONDE_TUNNEL_IPIP, 0, 9, 80, 0, {0}},
    {"eth:86dd ip6:3c x:0400040104010100" IN, 1, SONDE_TUNNEL_IPIP, 0, 9, 80, 0, {0}},
    {ETH "ip4:4 ip4:4 ip4:4" IN, 3, SONDE_TUNNEL_IPIP, 0, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:5000:4789 x:0800000000002a00" BRIDGED,
     1,
     SONDE_TUNNEL_VXLAN,
     42,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:4789 x:0000000000002a00" BRIDGED, 0, 0, 0, 4789, 5000, 0, {0}},
    {ETH "ip4:11 udp:5000:4789 x:0800000000002a00 eth:0806 pay:28", 0, 0, 0, 5000, 4789, 0, {0}},
    {"eth:8100 tag:5:0800 ip4:11 udp:5000:4789 x:0800000000002a00" BRIDGED,
     1,
     SONDE_TUNNEL_VXLAN,
     42,
     9,
     80,
     1,
     {5}},
    {"eth:8100 tag:5:0800 ip4:11 udp:5000:4789 x:0800000000002a00 eth:8100 tag:6:0800" IN,
     1,
     SONDE_TUNNEL_VXLAN,
     42,
     9,
     80,
     2,
     {5, 6}},
    {"eth:8100 tag:5:0800 ip4:11 udp:5000:4789 x:0800000000002a00 eth:8100 tag:6:0806 pay:28",
     0,
     0,
     0,
     5000,
     4789,
     1,
     {5}},
    {ETH "ip4:11 udp:5000:4790 x:0c00000100002a00" IN, 1, SONDE_TUNNEL_VXLAN, 0x2a, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:5000:4790 x:0c00000200002a00" IN6, 1, SONDE_TUNNEL_VXLAN, 0x2a, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:5000:4790 x:0c00000300002a00" BRIDGED,
     1,
     SONDE_TUNNEL_VXLAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:4790 x:0c00000400002a00 x:0fc20201000001ff" IN,
     1,
     SONDE_TUNNEL_VXLAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:4790 x:0c00000500002a00 x:00012140" IN,
     1,
     SONDE_TUNNEL_VXLAN,
     0x2a,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:4790 x:0c00000600002a00" IN, 0, 0, 0, 4790, 5000, 0, {0}},
    {ETH "ip4:11 udp:5000:6081 x:0000655800002a00" BRIDGED,
     1,
     SONDE_TUNNEL_GENEVE,
     42,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:6081 x:0240080000002a000102800100000000" IN,
     1,
     SONDE_TUNNEL_GENEVE,
     42,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:6081 x:4000655800002a00" BRIDGED, 0, 0, 0, 5000, 6081, 0, {0}},
    {ETH "ip4:11 udp:2152:2152 x:30ff002000000007" IN, 1, SONDE_TUNNEL_GTPU, 7, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:2152:2152 x:32ff00200000000700010000" IN6,
     1,
     SONDE_TUNNEL_GTPU,
     7,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:2152:2152 x:34ff002000000007000000850110ff40 x:0111ff00" IN,
     1,
     SONDE_TUNNEL_GTPU,
     7,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:2152:2152 x:34ff0020000000070000008500000000" IN, 0, 0, 0, 2152, 2152, 0, {0}},
    {ETH "ip4:11 udp:2152:2152 x:3201000400000000000100000e00", 0, 0, 0, 2152, 2152, 0, {0}},
    {ETH "ip4:11 udp:2152:2152 x:3001002000000007" IN, 0, 0, 0, 2152, 2152, 0, {0}},
    {ETH "ip4:11 udp:5000:3544" IN6, 1, SONDE_TUNNEL_TEREDO, 0, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:3544:5000" IN6, 1, SONDE_TUNNEL_TEREDO, 0, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:5000:3544 x:0000ffffffffffff" IN6, 1, SONDE_TUNNEL_TEREDO, 0, 9, 80, 0, {0}},
    {ETH "ip4:11 udp:5000:3544 x:00010202aaaabbbb000000000000000100 x:0000ffffffffffff" IN6,
     1,
     SONDE_TUNNEL_TEREDO,
     0,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:11 udp:5000:3544 x:60000000ffff0640 pay:60", 0, 0, 0, 3544, 5000, 0, {0}},
    {ETH "ip4:11 udp:5000:3544 pay:60", 0, 0, 0, 5000, 3544, 0, {0}},
    {ETH "ip4:2f x:200008000000000b ip4:11 udp:5000:4789 x:0800000000002a00" BRIDGED,
     2,
     SONDE_TUNNEL_VXLAN,
     42,
     9,
     80,
     0,
     {0}},
    {ETH "ip4:2f x:200008000000000b ip4:11 udp:5000:4789 x:0800000000002a00 eth:0806 pay:28",
     1,
     SONDE_TUNNEL_GRE,
     11,
     5000,
     4789,
     0,
     {0}},
    {ETH "ip4:4 x:4400001c pay:24", 0, 0, 0, 0, 0, 0, {0}}, /* IHL 4 inside */
};

static void check_inner(const struct tunnel_row *row, const struct crafted *crafted) {
  struct sonde_decoded out;
  uint32_t key_at = crafted->ip_offset[row->key_header];
  CHECK_EQ(decode(INNER, crafted, crafted->bytes, &out), FLOW);
  CHECK_EQ(out.ip_bytes, crafted->bytes - key_at);
  CHECK_EQ(out.l2_bytes, crafted->bytes);
  CHECK_EQ(out.key.ip_version, crafted->data[key_at] >> 4);
  CHECK_EQ(out.key.vlan_depth, row->vlan_depth);
  CHECK(memcmp(out.key.vlan, row->vlan, sizeof(row->vlan)) == 0);
  CHECK_EQ(out.tunnel_type, row->type);
  CHECK(out.flags & SONDE_DECODED_MAC && out.dest_mac == crafted->data);
  if (row->type != SONDE_TUNNEL_NONE) {
    uint32_t tunnel_at = crafted->ip_offset[row->key_header - 1];
    int version = crafted->data[tunnel_at] >> 4;
    CHECK_EQ(out.tunnel_id, row->id);
    CHECK_EQ(out.tunnel_ip_version, version);
    CHECK(out.tunnel_source_ip == crafted->data + tunnel_at + (version == 4 ? 12 : 8));
    CHECK(out.tunnel_dest_ip == crafted->data + tunnel_at + (version == 4 ? 16 : 24));
  }
  if (row->lo_port == 9) {
    CHECK_EQ(out.key.protocol, 6);
    CHECK_EQ(out.tcp_payload, 4);
    CHECK(out.flags & SONDE_DECODED_TCP);
  }
}

static void test_tunnels(void) {
  for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
    const struct tunnel_row *row = &rows[i];
    struct crafted crafted;
    struct sonde_decoded out;
    unsigned long failures = check_failures;
    packet_craft(&crafted, row->layers);
    check_inner(row, &crafted);
    CHECK_EQ(decode(OUTER, &crafted, crafted.bytes, &out), FLOW);
    CHECK_EQ(out.ip_bytes, crafted.bytes - crafted.ip_offset[0]);
    CHECK_EQ(out.tunnel_type, SONDE_TUNNEL_NONE);
    CHECK_EQ(out.tunnel_ip_version, 0);
    CHECK(!(out.flags & SONDE_DECODED_TCP));
    if (check_failures != failures)
      fprintf(stderr, "  in \"%s\"\n", row->layers);
  }
}

/* The packet quoted by an ICMP error is not a flow. */
static void test_icmp_quote(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, ETH "ip4:1 x:0303000000000000 ip4r:11 udp:53:9");
  CHECK_EQ(decode(INNER, &crafted, crafted.bytes, &out), FLOW);
  CHECK_EQ(out.key.protocol, 1);
  CHECK_EQ(out.tunnel_type, SONDE_TUNNEL_NONE);
  packet_craft(&crafted, "eth:86dd ip6:3a x:0104000000000000 ip6r:29 ip6:11 udp:53:9");
  CHECK_EQ(decode(INNER, &crafted, crafted.bytes, &out), FLOW);
  CHECK_EQ(out.key.protocol, 58);
}

/* More tunnels than the decoder walks: some inner header is the key, and decoding ends. */
static void test_depth(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, ETH "ip4:4 ip4:4 ip4:4 ip4:4 ip4:4 ip4:4 ip4:4 ip4:4 ip4:4 ip4:4" IN);
  CHECK_EQ(decode(INNER, &crafted, crafted.bytes, &out), FLOW);
  CHECK_EQ(out.ip_bytes, crafted.bytes - crafted.ip_offset[8]);
  CHECK_EQ(out.key.protocol, 4);
}

/* Cut at every byte: no key before the end of the first IP header, then the deepest whole header,
 * and ports as soon as they are included. */
static void test_cuts(void) {
  struct crafted crafted;
  packet_craft(&crafted, "eth:88a8 tag:1:8100 tag:2:8847 x:00012140 ip6:0 x:2f00050200000100 "
                         "x:200065580000000b eth:8100 tag:3:0800 ip4:11 udp:5000:4789 "
                         "x:0800000000002a00 eth:0800 ip4:6 tcp:9:80 pay:20");
  uint32_t first = crafted.ip_offset[0], second = crafted.ip_offset[1];
  uint32_t third = crafted.ip_offset[2];
  for (uint32_t caplen = 0; caplen <= crafted.bytes; caplen++) {
    struct sonde_decoded out;
    struct crafted cut;
    cut = crafted;
    memset(cut.data + caplen, 0xee, sizeof(cut.data) - caplen);
    int result = decode(INNER, &cut, caplen, &out);
    CHECK_EQ(result, caplen < first + 40 ? SONDE_NON_FLOW_TRUNCATED : FLOW);
    if (result != FLOW)
      continue;
    uint32_t key_at = caplen < second + 20 ? first : caplen < third + 20 ? second : third;
    CHECK_EQ(out.ip_bytes, crafted.bytes - key_at);
    CHECK_EQ(out.key.vlan_depth, key_at == first ? 2 : 3);
    CHECK_EQ(out.mpls_label, 0x12);
    CHECK_EQ(out.key.lo_port, key_at == third && caplen >= third + 24     ? 9
                              : key_at == second && caplen >= second + 24 ? 5000
                                                                          : 0);
    CHECK_EQ(!!(out.flags & SONDE_DECODED_TCP), caplen >= third + 34);
    CHECK(!(out.flags & SONDE_DECODED_CLAMPED));
    CHECK_EQ(decode(OUTER, &cut, caplen, &out), FLOW);
    CHECK_EQ(out.key.protocol, caplen >= first + 48 ? 47 : 0);
  }
}

int main(void) {
  for (int mode = 0; mode < 2; mode++)
    if ((decoders[mode] = sonde_decoder_create(mode, NULL)) == NULL)
      return 1;
  test_tunnels();
  test_icmp_quote();
  test_depth();
  test_cuts();
  for (int mode = 0; mode < 2; mode++)
    sonde_decoder_destroy(decoders[mode]);
  return check_report();
}
