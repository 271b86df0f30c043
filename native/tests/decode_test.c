/* decode_test.c - every layer, every cause, every ICMP pairing, one table row each.
 *
 * Tunnels, lengths and fragments have separate test files.
 */
#include "check.h"
#include "packets.h"
#include "parse/decode.h"

enum { NO_LABEL = -1, FLOW = -1 };

static struct sonde_decoder *decoder;

static int decode(uint16_t linktype, const struct crafted *crafted, struct sonde_decoded *out) {
  struct sonde_packet packet = {
      .data = crafted->data,
      .time_ns = 1,
      .caplen = crafted->bytes,
      .wirelen = crafted->bytes,
      .linktype = linktype,
      .direction = SONDE_DIRECTION_INGRESS,
  };
  memset(out, 0xa5, sizeof(*out)); /* fields that decode leaves unset must look wrong */
  return sonde_decode(decoder, &packet, out);
}

static uint16_t source_port(const struct sonde_decoded *decoded) {
  return decoded->flags & SONDE_DECODED_REVERSED ? decoded->key.hi_port : decoded->key.lo_port;
}

static uint16_t dest_port(const struct sonde_decoded *decoded) {
  return decoded->flags & SONDE_DECODED_REVERSED ? decoded->key.lo_port : decoded->key.hi_port;
}

/* ---- link layers: the same UDP packet in each encapsulation -------------------------- */

struct link_row {
  uint16_t linktype;
  const char *layers; /* before the IP header */
  int vlan_depth;
  uint16_t vlan[SONDE_VLAN_DEPTH_MAX];
  long mpls_label;
};

#define LLC_IPV4 "x:aaaa030000000800"
#define WLAN_ADDRESSES "x:0000020000000001020000000002020000000003 x:1000 "
#define WLAN_DATA "x:0801 " WLAN_ADDRESSES
#define WLAN_QOS "x:8801 " WLAN_ADDRESSES
#define WLAN_BRIDGE "x:0803 " WLAN_ADDRESSES
#define PFLOG_REST                                                                                 \
  "x:000000000000000000000000000000000000000000000000000000000000"                                 \
  "000000000000000000000000000000000000000000000000000000000000"

static const struct link_row link_rows[] = {
    {SONDE_LINKTYPE_ETHERNET, "eth:0800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:10:0800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:0:0800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88a8 tag:0:8100 tag:20:0800", 1, {20}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88a8 tag:10:8100 tag:0:0800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88a8 tag:100:88e7 x:00001388 eth:0800", 1, {100}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88e7 x:00001388 eth:8100 tag:7:0800", 1, {7}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:894f x:0fc20201000100ff", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET,
     "eth:894f x:0fc60103000100ff00000000000000000000000000000000 eth:0800",
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:894f x:0fc20205000100ff x:00012140", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:893f x:0000000100000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:893f x:0000000100008100 tag:9:0800", 1, {9}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8903 x:0420 eth:0800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8909 x:0101000100050800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:22f3 x:003f00010002 eth:0800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:892f x:000a00010800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:f1c1 x:000000010800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88e5 x:0000000000010800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88e5 x:20000000000102000000000100010800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:88a8 tag:10:8100 tag:20:0800", 2, {10, 20}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:9100 tag:10:9200 tag:20:0800", 2, {10, 20}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET,
     "eth:8100 tag:1:8100 tag:2:8100 tag:3:8100 tag:4:8100 tag:5:0800",
     4,
     {1, 2, 3, 4},
     NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:12345140", 0, {0}, 0x12345},
    {SONDE_LINKTYPE_ETHERNET, "eth:8848 x:0001204000002140", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:7:8847 x:00012140", 1, {7}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:0001214000000000 eth:8100 tag:9:0800", 1, {9}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140 eth:0800", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:0001214000000000 eth:9200 tag:9:0800", 1, {9}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140 eth:8926 x:800100020800", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140 eth:8848 x:00013140", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:0001214000000000 llc:aaaa030000000800", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8864 x:11000001ffff0021", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8864 x:11000001ffff21", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8864 x:11000001ffff028100012140", 0, {0}, 0x12},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:7:8864 x:11000001ffff0021", 1, {7}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "llc:aaaa030000000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "llc:aaaa030000f88100 tag:10:0800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "llc:060603", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:10:0030 x:aaaa030000000800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8926 x:800100020800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8926 x:800100028100 tag:10:0800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_RAW, "", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_IPV4, "", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_NULL, "x:02000000", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_NULL, "x:00000002", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_LOOP, "x:00000002", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_SLL, "x:00000001000602000000000100000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_SLL, "x:00000001000602000000000100008100 tag:10:0800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_SLL, "x:00000001000602000000000100000004aaaa030000000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_SLL2, "x:0800000000000002000100060200000000010000", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP, "x:ff030021", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP, "x:0021", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP, "x:21", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP_HDLC, "x:ff030021", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP_HDLC, "x:0f000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP, "x:0f000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPP, "x:8f008100 tag:10:0800", 1, {10}, NO_LABEL},
    {SONDE_LINKTYPE_C_HDLC, "x:0f000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_C_HDLC, "x:8f008847 x:00012140", 0, {0}, 0x12},
    {SONDE_LINKTYPE_PPP_DIRECTION, "x:01ff030021", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_C_HDLC_DIRECTION, "x:000f000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:184103cc", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:18410300800000000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:18410300800080c20007 eth:0800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:18410800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FRAME_RELAY_DIRECTION, "x:01184103cc", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPPOE, "x:11000001ffff0021", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ATM_LLC, "x:aaaa030000000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_IPOIB, "x:08000000", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FIREWIRE, "x:000000000000000000000000000000000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_ENC, "x:020000000000000000000000", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_FDDI, "x:50020000000002020000000001 x:aaaa030000000800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_TOKEN_RING,
     "x:1040020000000002020000000001 x:aaaa030000000800",
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_TOKEN_RING,
     "x:1040020000000002820000000001 x:0270 x:aaaa030000000800",
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_WLAN, WLAN_DATA LLC_IPV4, 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_WLAN, WLAN_QOS "x:0000 " LLC_IPV4, 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_WLAN,
     WLAN_QOS "x:8000 x:0200000000010200000000020030 " LLC_IPV4,
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_WLAN, WLAN_BRIDGE "x:020000000004 " LLC_IPV4, 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_RADIOTAP, "x:0000080000000000 " WLAN_DATA LLC_IPV4, 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_RADIOTAP,
     "x:0000110003000000 x:0000000000000000 x:20 " WLAN_QOS "x:0000 x:0000 " LLC_IPV4,
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_PRISM,
     "x:80211001 x:00000010 x:0000000000000000 " WLAN_DATA LLC_IPV4,
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_AVS,
     "x:80211001 x:00000010 x:0000000000000000 " WLAN_DATA LLC_IPV4,
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_PRISM,
     "x:44000000 x:10000000 x:0000000000000000 " WLAN_DATA LLC_IPV4,
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_PPI, "x:0000080001000000 eth:0800", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPI, "x:00000c000c000000 x:00000000", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PPI, "x:0000080069000000 " WLAN_DATA LLC_IPV4, 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_NFLOG,
     "x:02000005 x:0800010008000100 x:09000a006c6f673a00000000 x:28000900",
     0,
     {0},
     NO_LABEL},
    {SONDE_LINKTYPE_NFLOG, "x:02000005 x:0008000108000100 x:00280009", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_NFLOG, "x:07000005 x:0800010008000100 x:28000900", 0, {0}, NO_LABEL},
    {SONDE_LINKTYPE_PFLOG, "x:3d020000 " PFLOG_REST, 0, {0}, NO_LABEL},
};

static void test_link_layers(void) {
  for (size_t i = 0; i < sizeof(link_rows) / sizeof(link_rows[0]); i++) {
    const struct link_row *row = &link_rows[i];
    struct crafted crafted;
    struct sonde_decoded out;
    char layers[256];
    snprintf(layers, sizeof(layers), "%s%sip4:11 udp:1000:53 pay:8", row->layers,
             row->layers[0] ? " " : "");
    packet_craft(&crafted, layers);
    int result = decode(row->linktype, &crafted, &out);
    unsigned long failures = check_failures;
    CHECK_EQ(result, FLOW);
    if (result == FLOW) {
      CHECK_EQ(source_port(&out), 1000);
      CHECK_EQ(dest_port(&out), 53);
      CHECK_EQ(out.key.protocol, 17);
      CHECK_EQ(out.key.ip_version, 4);
      CHECK_EQ(out.ip_bytes, 36);
      CHECK_EQ(out.l2_bytes, crafted.bytes);
      CHECK_EQ(out.tos, 0xb8);
      CHECK_EQ(out.ttl, 64);
      CHECK_EQ(out.direction, SONDE_DIRECTION_INGRESS);
      CHECK_EQ(out.tunnel_type, SONDE_TUNNEL_NONE);
      CHECK_EQ(out.key.vlan_depth, row->vlan_depth);
      CHECK(memcmp(out.key.vlan, row->vlan, sizeof(row->vlan)) == 0);
      CHECK_EQ((int32_t)out.mpls_label, row->mpls_label);
      CHECK_EQ(!!(out.flags & SONDE_DECODED_MAC), row->linktype == SONDE_LINKTYPE_ETHERNET);
      if (out.flags & SONDE_DECODED_MAC)
        CHECK(out.dest_mac == crafted.data && out.source_mac == crafted.data + 6);
    }
    if (check_failures != failures)
      fprintf(stderr, "  in link type %u, \"%s\"\n", row->linktype, row->layers);
  }
}

/* IPv6 from 2001:db8:800:4000::1 looks like an Ethernet header followed by IPv4. */
static void test_mpls_guess(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, "eth:8847 x:00012140 ip6:11 udp:1000:53");
  memcpy(crafted.data + 18 + 8 + 4, "\x08\x00\x40\x00", 4);
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), FLOW);
  CHECK_EQ(out.key.ip_version, 6);
  CHECK_EQ(out.ip_bytes, 48);
}

/* ---- packets without a flow ---------------------------------------------------------- */

struct cause_row {
  uint16_t linktype;
  const char *layers;
  int cause;
};

static const struct cause_row cause_rows[] = {
    {SONDE_LINKTYPE_ETHERNET, "eth:0806 pay:28", SONDE_NON_FLOW_ARP},
    {SONDE_LINKTYPE_ETHERNET, "eth:88e5 x:0c00000000010800", SONDE_NON_FLOW_ENCRYPTED},
    {SONDE_LINKTYPE_ETHERNET, "eth:894f x:0fc20206000100ff", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_ETHERNET, "eth:894f x:0fc10201000100ff", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_WLAN, "x:8000 " WLAN_ADDRESSES "pay:8", SONDE_NON_FLOW_WLAN_CONTROL},
    {SONDE_LINKTYPE_WLAN, "x:4801 " WLAN_ADDRESSES, SONDE_NON_FLOW_WLAN_CONTROL},
    {SONDE_LINKTYPE_WLAN, "x:0841 " WLAN_ADDRESSES "pay:8", SONDE_NON_FLOW_ENCRYPTED},
    {SONDE_LINKTYPE_C_HDLC, "x:8f002000 pay:20", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_FDDI, "x:41020000000002020000000001 pay:8", SONDE_NON_FLOW_OTHER_LLC},
    {SONDE_LINKTYPE_PPI, "x:0000080093000000", SONDE_NON_FLOW_OTHER_LINKTYPE},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:10:0806 pay:28", SONDE_NON_FLOW_ARP},
    {SONDE_LINKTYPE_ETHERNET, "eth:88cc pay:28", SONDE_NON_FLOW_LLDP},
    {SONDE_LINKTYPE_ETHERNET, "llc:424203 pay:35", SONDE_NON_FLOW_STP},
    {SONDE_LINKTYPE_ETHERNET, "llc:aaaa0300000c010b pay:35", SONDE_NON_FLOW_STP},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:0001214000000000 llc:424203 pay:35", SONDE_NON_FLOW_STP},
    {SONDE_LINKTYPE_ETHERNET, "eth:8863 x:11090000000400000000", SONDE_NON_FLOW_PPPOE_CONTROL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8864 x:110000010004c0210101", SONDE_NON_FLOW_PPPOE_CONTROL},
    {SONDE_LINKTYPE_ETHERNET, "eth:8864 x:11a70001ffff0021 ip4:11 udp:1:2",
     SONDE_NON_FLOW_PPPOE_CONTROL},
    {SONDE_LINKTYPE_PPP, "x:ff03c02101010004", SONDE_NON_FLOW_PPPOE_CONTROL},
    {SONDE_LINKTYPE_PPP, "x:002b01010004", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_ETHERNET, "eth:88f7 pay:44", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_ETHERNET, "eth:05f0 pay:44", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140 x:10000021", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_NULL, "x:07000000 pay:20", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_LOOP, "x:02000000 ip4:11", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_SLL, "x:0000000100060200000000010000000c pay:20",
     SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_SLL2, "x:0806000000000002000100060200000000010000 pay:28", SONDE_NON_FLOW_ARP},
    {SONDE_LINKTYPE_PPP_HDLC, "x:8f002000 pay:20", SONDE_NON_FLOW_OTHER_ETHERTYPE},
    {SONDE_LINKTYPE_SLL, "x:00000001000602000000000100000001ffff pay:20", SONDE_NON_FLOW_OTHER_LLC},
    {SONDE_LINKTYPE_ETHERNET, "llc:f0f003 pay:35", SONDE_NON_FLOW_OTHER_LLC},
    {SONDE_LINKTYPE_ETHERNET, "llc:aaaa0300000c2000 pay:35", SONDE_NON_FLOW_OTHER_LLC},
    {147, "ip4:11 udp:1:2", SONDE_NON_FLOW_OTHER_LINKTYPE},
    {SONDE_LINKTYPE_ETHERNET, "eth:0800 ip6:11 udp:1:2", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_ETHERNET, "eth:86dd ip4:11 udp:1:2 pay:20", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_RAW, "x:54 pay:40", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_RAW, "x:44000014 pay:16", SONDE_NON_FLOW_MALFORMED}, /* IHL 4 */
    {SONDE_LINKTYPE_RAW, "x:46000014 pay:16", SONDE_NON_FLOW_MALFORMED}, /* IHL past the wire */
    {SONDE_LINKTYPE_RAW, "x:45000013 pay:16", SONDE_NON_FLOW_MALFORMED}, /* shorter than IHL */
    {SONDE_LINKTYPE_RAW, "x:4500", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_RAW, "", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_ETHERNET, "x:020000000002", SONDE_NON_FLOW_MALFORMED},
    {SONDE_LINKTYPE_ETHERNET, "eth:8864 x:210000010004c0210101", SONDE_NON_FLOW_MALFORMED},
};

static void test_causes(void) {
  for (size_t i = 0; i < sizeof(cause_rows) / sizeof(cause_rows[0]); i++) {
    struct crafted crafted;
    struct sonde_decoded out;
    packet_craft(&crafted, cause_rows[i].layers);
    int result = decode(cause_rows[i].linktype, &crafted, &out);
    CHECK_EQ(result, cause_rows[i].cause);
    CHECK_EQ(out.packets, 1);
    CHECK_EQ(out.l2_bytes, crafted.bytes);
    CHECK_EQ(out.time_ns, 1);
    if (result != cause_rows[i].cause)
      fprintf(stderr, "  in \"%s\"\n", cause_rows[i].layers);
  }
}

/* Decoding ends even if every layer is a tag. */
static void test_endless_tags(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, "eth:8100");
  while (crafted.bytes < 1500)
    packet_put_hex(&crafted, "00018100");
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), SONDE_NON_FLOW_MALFORMED);
  packet_craft(&crafted, "eth:8847");
  while (crafted.bytes < 1500)
    packet_put_hex(&crafted, "00010000");
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), SONDE_NON_FLOW_MALFORMED);
}

/* ---- transport and extension headers ------------------------------------------------ */

struct transport_row {
  const char *layers; /* starting with the IP header */
  int protocol;
  int source_port;
  int dest_port;
};

static const struct transport_row transport_rows[] = {
    {"ip4:6 tcp:1000:80", 6, 1000, 80},
    {"ip4:21 x:03e80035 pay:12", 33, 1000, 53},
    {"ip4:84 x:03e80035 pay:12", 132, 1000, 53},
    {"ip4:88 x:03e80035 pay:12", 136, 1000, 53},
    {"ip4:2 x:16000000 pay:4", 2, 0, 0},
    {"ip4:32 x:03e80035 pay:12", 50, 0, 0},
    {"ip6:6 tcp:1000:80", 6, 1000, 80},
    {"ip6r:6 tcp:80:1000", 6, 80, 1000},
    {"ip6:0 x:1100050200000100 udp:1000:53", 17, 1000, 53},
    {"ip6:3c x:110105020000010000000000000000ff udp:1000:53", 17, 1000, 53},
    {"ip6:2b x:1100000000000000 udp:1000:53", 17, 1000, 53},
    {"ip6:87 x:1100000000000000 udp:1000:53", 17, 1000, 53},
    {"ip6:33 x:110400000000000100000001aabbccddaabbccddaabbccdd udp:1000:53", 17, 1000, 53},
    {"ip6:0 x:3c00050200000100 x:2b00050200000100 x:1100000000000000 udp:1000:53", 17, 1000, 53},
    {"ip6:2c x:1100000000000001 udp:1000:53", 17, 1000, 53}, /* an atomic fragment is whole */
    {"ip6:3b", 59, 0, 0},
    {"ip6:3c x:11ff0502", 60, 0, 0},                /* extension header cut off */
    {"ip6:3c x:11ff050200000100 pay:8", 17, 0, 0},  /* longer than the packet */
    {"ip6:32 x:0000000100000001 pay:8", 50, 0, 0},  /* ESP hides the rest */
    {"ip4:33 x:1104000000000001 pay:16", 51, 0, 0}, /* AH is walked in IPv6 only */
    {"ip4:11 x:03e8", 17, 0, 0},
    {"ip4:11 x:03e80035", 17, 1000, 53},
    {"ip4:6", 6, 0, 0},
};

static void test_transports(void) {
  for (size_t i = 0; i < sizeof(transport_rows) / sizeof(transport_rows[0]); i++) {
    const struct transport_row *row = &transport_rows[i];
    struct crafted crafted;
    struct sonde_decoded out;
    unsigned long failures = check_failures;
    packet_craft(&crafted, row->layers);
    CHECK_EQ(decode(SONDE_LINKTYPE_RAW, &crafted, &out), FLOW);
    CHECK_EQ(out.key.protocol, row->protocol);
    CHECK_EQ(source_port(&out), row->source_port);
    CHECK_EQ(dest_port(&out), row->dest_port);
    CHECK_EQ(out.ip_bytes, crafted.bytes);
    CHECK_EQ(out.tos, 0xb8);
    CHECK_EQ(out.ttl, 64);
    CHECK_EQ(out.key.one_way, 0);
    CHECK(!(out.flags & (SONDE_DECODED_FRAGMENT | SONDE_DECODED_CLAMPED | SONDE_DECODED_ICMP)));
    if (check_failures != failures)
      fprintf(stderr, "  in \"%s\"\n", row->layers);
  }
}

static void test_tcp(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, "eth:0800 ip4:6 tcp:1000:80 pay:100");
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), FLOW);
  CHECK(out.flags & SONDE_DECODED_TCP);
  CHECK_EQ(out.tcp_seq, 0x01020304);
  CHECK_EQ(out.tcp_flags, 0x18);
  CHECK_EQ(out.tcp_payload, 100);
  crafted.data[14 + 20 + 12] = 0x80; /* 12 bytes of options */
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), FLOW);
  CHECK_EQ(out.tcp_payload, 88);
  crafted.data[14 + 20 + 12] = 0x40; /* shorter than a TCP header */
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), FLOW);
  CHECK_EQ(out.tcp_payload, 100);
  crafted.data[14 + 20 + 12] = 0xf0; /* longer than the segment */
  crafted.data[14 + 3] = 44;
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), FLOW);
  CHECK_EQ(out.tcp_payload, 0);
}

/* Bytes after the IP packet are padding, regardless of their content. */
static void test_padding(void) {
  struct crafted crafted;
  struct sonde_decoded out;
  packet_craft(&crafted, "eth:0800 ip4:6 tcp:1000:80");
  crafted.data[14 + 3] = 22;
  CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &out), FLOW);
  CHECK_EQ(out.ip_bytes, 22);
  CHECK_EQ(source_port(&out), 0);
  CHECK_EQ(dest_port(&out), 0);
  CHECK(!(out.flags & (SONDE_DECODED_TCP | SONDE_DECODED_CLAMPED)));
}

/* The fast path and the general path agree. A super-packet of one segment uses the general one. */
static void test_fast_and_general_path_agree(void) {
  static const char *const lines[] = {
      "eth:0800 ip4:6 tcp:1000:80 pay:10",
      "eth:0800 ip4r:6 tcp:80:1000 pay:10",
      "eth:0800 ip4:6 x:03e800500102030400000000001800000000 pay:30", /* data offset 0 */
      "eth:0800 ip4:6 x:03e800500102030400000000801800000000 pay:30", /* 12 bytes of options */
      "eth:0800 ip4:11 udp:5000:53 pay:30",
      "eth:0800 ip4r:11 udp:53:5000 pay:30",
  };
  for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
    struct crafted crafted;
    packet_craft(&crafted, lines[i]);
    struct sonde_packet packet = {.data = crafted.data,
                                  .time_ns = 7,
                                  .caplen = crafted.bytes,
                                  .wirelen = crafted.bytes,
                                  .linktype = SONDE_LINKTYPE_ETHERNET};
    struct sonde_decoded plain, layered;
    memset(&plain, 0, sizeof(plain));
    memset(&layered, 0, sizeof(layered));
    CHECK_EQ(sonde_decode(decoder, &packet, &plain), FLOW);
    packet.gso_size = 60000;
    CHECK_EQ(sonde_decode(decoder, &packet, &layered), FLOW);
    CHECK(memcmp(&plain, &layered, sizeof(plain)) == 0);
    packet.gso_size = 5; /* two segments of 10 octets */
    CHECK_EQ(sonde_decode(decoder, &packet, &layered), FLOW);
    if (i < 2)
      CHECK_EQ(layered.packets, 2);
    packet.gso_size = 0;
    memset(&layered, 0xa5, sizeof(layered)); /* the last packet's fields must not remain */
    CHECK_EQ(sonde_decode(decoder, &packet, &layered), FLOW);
    CHECK(memcmp(&plain.key, &layered.key, sizeof(plain.key)) == 0);
    CHECK_EQ(layered.flags, plain.flags);
    CHECK_EQ(layered.packets, 1);
    CHECK_EQ(layered.mpls_label, UINT32_MAX);
    CHECK_EQ(layered.tcp_flags, plain.tcp_flags);
    CHECK_EQ(layered.icmp_type | layered.icmp_code, 0);
    CHECK_EQ(layered.tunnel_type | layered.tunnel_ip_version, SONDE_TUNNEL_NONE);
    CHECK_EQ(layered.fragment_flags | layered.fragment_offset, 0);
    CHECK_EQ(layered.ipv6 | layered.vlan_priority | layered.direction, 0);
  }
}

/* ---- direction ---------------------------------------------------------------------- */

static int decode_icmp(const char *ip, int type, int code, struct sonde_decoded *out) {
  struct crafted crafted;
  char layers[64];
  snprintf(layers, sizeof(layers), "%s x:%02x%02x0000 pay:28", ip, type, code);
  packet_craft(&crafted, layers);
  return decode(SONDE_LINKTYPE_RAW, &crafted, out);
}

/* Community ID v1. A type that is not listed has no counterpart. */
static const int pairs[2][6][2] = {
    {{8, 0}, {10, 9}, {13, 14}, {15, 16}, {17, 18}, {8, 0}},
    {{128, 129}, {130, 131}, {133, 134}, {135, 136}, {139, 140}, {144, 145}},
};

static int find_counterpart(int version6, int type) {
  for (int i = 0; i < 6; i++)
    for (int side = 0; side < 2; side++)
      if (pairs[version6][i][side] == type)
        return pairs[version6][i][!side];
  return -1;
}

static void test_icmp(void) {
  static const char *const there[2] = {"ip4:1", "ip6:3a"};
  static const char *const back[2] = {"ip4r:1", "ip6r:3a"};
  for (int version6 = 0; version6 < 2; version6++)
    for (int type = 0; type < 256; type++) {
      struct sonde_decoded first, answer;
      int counterpart = find_counterpart(version6, type);
      int answer_type = counterpart < 0 ? type : counterpart;
      for (int code = 0; code < 256; code += 3) {
        CHECK_EQ(decode_icmp(there[version6], type, code, &first), FLOW);
        CHECK_EQ(decode_icmp(back[version6], answer_type, code, &answer), FLOW);
        CHECK(first.flags & SONDE_DECODED_ICMP);
        CHECK_EQ(first.icmp_type, type);
        CHECK_EQ(first.icmp_code, code);
        CHECK_EQ(source_port(&first), type);
        CHECK_EQ(dest_port(&first), counterpart < 0 ? code : counterpart);
        CHECK_EQ(memcmp(&first.key, &answer.key, sizeof(first.key)) == 0, counterpart >= 0);
        CHECK_EQ(first.key.one_way != 0, counterpart < 0);
        CHECK((first.flags ^ answer.flags) & SONDE_DECODED_REVERSED);
      }
    }
}

/* One-way types whose type and code would turn into each other if swapped. */
static void test_icmp_one_way(void) {
  struct sonde_decoded first, second;
  CHECK_EQ(decode_icmp("ip4:1", 3, 3, &first), FLOW);
  CHECK_EQ(decode_icmp("ip4r:1", 3, 3, &second), FLOW);
  CHECK(memcmp(&first.key, &second.key, sizeof(first.key)) != 0);
  CHECK_EQ(decode_icmp("ip4:1", 5, 3, &first), FLOW);
  CHECK_EQ(decode_icmp("ip4r:1", 3, 5, &second), FLOW);
  CHECK(memcmp(&first.key, &second.key, sizeof(first.key)) != 0);
  CHECK_EQ(decode_icmp("ip4:1", 5, 3, &second), FLOW);
  CHECK(memcmp(&first.key, &second.key, sizeof(first.key)) == 0);
}

/* If both addresses are equal, the ports decide the direction. */
static void test_same_address(void) {
  struct crafted crafted;
  struct sonde_decoded request, reply;
  packet_craft(&crafted, "ip4:1 x:08000000 pay:28");
  crafted.data[19] = 1;
  CHECK_EQ(decode(SONDE_LINKTYPE_RAW, &crafted, &request), FLOW);
  crafted.data[20] = 0;
  CHECK_EQ(decode(SONDE_LINKTYPE_RAW, &crafted, &reply), FLOW);
  CHECK(memcmp(&request.key, &reply.key, sizeof(request.key)) == 0);
  CHECK(request.flags & SONDE_DECODED_REVERSED);
  CHECK(!(reply.flags & SONDE_DECODED_REVERSED));
  packet_craft(&crafted, "ip6:11 udp:500:500");
  crafted.data[39] = 1;
  CHECK_EQ(decode(SONDE_LINKTYPE_RAW, &crafted, &request), FLOW);
  CHECK(!(request.flags & SONDE_DECODED_REVERSED));
  packet_craft(&crafted, "ip6:11 udp:500:400");
  crafted.data[39] = 1;
  CHECK_EQ(decode(SONDE_LINKTYPE_RAW, &crafted, &request), FLOW);
  CHECK(request.flags & SONDE_DECODED_REVERSED);
  CHECK_EQ(request.key.lo_port, 400);
}

static void test_key_order(void) {
  struct crafted crafted;
  struct sonde_decoded there, back;
  static const char *const lines[][2] = {
      {"eth:0800 ip4:6 tcp:9:80", "eth:0800 ip4r:6 tcp:80:9"},
      {"eth:86dd ip6:6 tcp:9:80", "eth:86dd ip6r:6 tcp:80:9"},
  };
  for (size_t i = 0; i < 2; i++) {
    packet_craft(&crafted, lines[i][0]);
    CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &there), FLOW);
    packet_craft(&crafted, lines[i][1]);
    CHECK_EQ(decode(SONDE_LINKTYPE_ETHERNET, &crafted, &back), FLOW);
    CHECK(memcmp(&there.key, &back.key, sizeof(there.key)) == 0);
    CHECK(!(there.flags & SONDE_DECODED_REVERSED));
    CHECK(back.flags & SONDE_DECODED_REVERSED);
    CHECK_EQ(there.key.lo_port, 9);
    CHECK_EQ(there.key.hi_port, 80);
    CHECK_EQ(there.key.hi_ip[i == 0 ? 3 : 15], 2);
  }
}

int main(void) {
  decoder = sonde_decoder_create(0, NULL);
  if (decoder == NULL)
    return 1;
  test_link_layers();
  test_mpls_guess();
  test_causes();
  test_endless_tags();
  test_transports();
  test_tcp();
  test_padding();
  test_fast_and_general_path_agree();
  test_icmp();
  test_icmp_one_way();
  test_same_address();
  test_key_order();
  sonde_decoder_destroy(decoder);
  return check_report();
}
