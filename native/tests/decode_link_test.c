/* decode_link_test.c - the limits of each link layer's header: a frame that the capture cut before
 * the end of the IP header is truncated, one that ends there on the wire is malformed, and false
 * lengths inside the header are malformed.
 */
#include "check.h"
#include "packets.h"
#include "parse/decode.h"

enum { FLOW = -1, IP_BYTES = 20, TAGS_MAX = 30, LABELS_MAX = 16 };

#define WLAN "020000000001020000000002020000000003"

struct row {
  uint16_t linktype;
  const char *layers; /* before the IP header */
};

static const struct row rows[] = {
    {SONDE_LINKTYPE_ETHERNET, "eth:0800"},
    {SONDE_LINKTYPE_ETHERNET, "eth:8100 tag:10:0800"},
    {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140"},
    {SONDE_LINKTYPE_NULL, "x:02000000"},
    {SONDE_LINKTYPE_LOOP, "x:00000002"},
    {SONDE_LINKTYPE_ENC, "x:020000000000000000000000"},
    {SONDE_LINKTYPE_SLL, "x:00000001000602000000000100000800"},
    {SONDE_LINKTYPE_SLL2, "x:0800000000000002000100060200000000010000"},
    {SONDE_LINKTYPE_IPOIB, "x:08000000"},
    {SONDE_LINKTYPE_FIREWIRE, "x:000000000000000000000000000000000800"},
    {SONDE_LINKTYPE_C_HDLC, "x:0f000800"},
    {SONDE_LINKTYPE_PPP, "x:0021"},
    {SONDE_LINKTYPE_PPP_DIRECTION, "x:010021"},
    {SONDE_LINKTYPE_C_HDLC_DIRECTION, "x:010f000800"},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:184103cc"},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:18410300800000000800"},
    {SONDE_LINKTYPE_FRAME_RELAY, "x:1840404103cc"},
    {SONDE_LINKTYPE_FRAME_RELAY_DIRECTION, "x:00184103cc"},
    {SONDE_LINKTYPE_FDDI, "x:51020000000002020000000001 x:aaaa030000000800"},
    {SONDE_LINKTYPE_TOKEN_RING, "x:1040020000000002020000000001 x:aaaa030000000800"},
    {SONDE_LINKTYPE_TOKEN_RING, "x:1040020000000002820000000001 x:0270 x:aaaa030000000800"},
    {SONDE_LINKTYPE_WLAN, "x:08010000 x:" WLAN "0000 x:aaaa030000000800"},
    {SONDE_LINKTYPE_WLAN, "x:88010000 x:" WLAN "0000 x:0000 x:aaaa030000000800"},
    {SONDE_LINKTYPE_RADIOTAP, "x:0000080000000000 x:08010000 x:" WLAN "0000 x:aaaa030000000800"},
    {SONDE_LINKTYPE_PRISM, "x:4400000008000000 x:08010000 x:" WLAN "0000 x:aaaa030000000800"},
    {SONDE_LINKTYPE_AVS, "x:8021100100000008 x:08010000 x:" WLAN "0000 x:aaaa030000000800"},
    {SONDE_LINKTYPE_PPI, "x:0000080001000000 eth:0800"},
    {SONDE_LINKTYPE_NFLOG, "x:02000005 x:0800010008000100 x:28000900"},
    {SONDE_LINKTYPE_PFLOG, "x:1c020000 x:000000000000000000000000000000000000000000000000"},
};

static struct sonde_decoder *decoder;

static int decode(const struct row *row, const struct crafted *crafted, uint32_t caplen,
                  uint32_t wirelen) {
  struct sonde_decoded out;
  struct sonde_packet packet = {
      .data = crafted->data,
      .time_ns = 1,
      .caplen = caplen,
      .wirelen = wirelen,
      .linktype = row->linktype,
  };
  return sonde_decode(decoder, &packet, &out);
}

static void cut_headers(void) {
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct crafted whole, header;
    char layers[256];
    unsigned long failures = check_failures;
    snprintf(layers, sizeof layers, "%s ip4:11 udp:1000:53 pay:8", rows[i].layers);
    packet_craft(&header, rows[i].layers);
    packet_craft(&whole, layers);
    uint32_t needed = header.bytes + IP_BYTES;
    CHECK_EQ(decode(&rows[i], &whole, needed, whole.bytes), FLOW);
    for (uint32_t cut = 0; cut < needed; cut++) {
      CHECK_EQ(decode(&rows[i], &whole, cut, whole.bytes), SONDE_NON_FLOW_TRUNCATED);
      CHECK_EQ(decode(&rows[i], &whole, cut, cut), SONDE_NON_FLOW_MALFORMED);
      if (check_failures > failures) {
        fprintf(stderr, "  \"%s\" cut to %u bytes\n", rows[i].layers, cut);
        break;
      }
    }
  }
}

/* The smallest length that a header may claim, and one less. */
static void false_lengths(void) {
  static const struct {
    uint16_t linktype;
    const char *layers;
    int expected;
  } lengths[] = {
      {SONDE_LINKTYPE_PRISM, "x:4400000007000000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_PRISM, "x:4400000000000000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_AVS, "x:8021100100000007", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_AVS, "x:8021100101000001", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_PFLOG, "x:1b020000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_RADIOTAP, "x:0000070000000000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_RADIOTAP, "x:0100080000000000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_RADIOTAP, /* a padded header: the flags are the first field of three */
       "x:00000b0002000000 x:200000 x:88010000 x:" WLAN "0000 x:00000000 x:aaaa030000000800", FLOW},
      {SONDE_LINKTYPE_RADIOTAP, /* without more bitmaps, the fields begin at once */
       "x:0000100002000000 x:2000000000000000 x:88010000 x:" WLAN
       "0000 x:00000000 x:aaaa030000000800",
       FLOW},
      {SONDE_LINKTYPE_RADIOTAP, /* with a second bitmap, after it */
       "x:0000100002000080 x:0000000020000000 x:88010000 x:" WLAN
       "0000 x:00000000 x:aaaa030000000800",
       FLOW},
      {SONDE_LINKTYPE_PPI, "x:0000070001000000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_PPI, "x:0100080001000000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_PPI, "x:00000800c0000000", SONDE_NON_FLOW_OTHER_LINKTYPE},
      {SONDE_LINKTYPE_NFLOG, "x:02010005 x:28000900", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_NFLOG, "x:02000005 x:03000100", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_NFLOG, "x:02000005 x:04000100 x:28000900", FLOW},
      {SONDE_LINKTYPE_NFLOG, "x:02000005 x:05000a0001000000 x:28000900", FLOW},
      {SONDE_LINKTYPE_WLAN, "x:09010000 x:" WLAN "0000", SONDE_NON_FLOW_MALFORMED},
      {SONDE_LINKTYPE_WLAN, "x:08010000 x:" WLAN "0100 x:aaaa030000000800",
       SONDE_NON_FLOW_OTHER_LLC},
      {SONDE_LINKTYPE_SLL, "x:00000001000602000000000100000001", SONDE_NON_FLOW_OTHER_LLC},
      {SONDE_LINKTYPE_SLL, "x:000000010006020000000001000005ff", SONDE_NON_FLOW_OTHER_ETHERTYPE},
      {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140 x:00000000 eth:0800", FLOW}, /* control word */
      {SONDE_LINKTYPE_ETHERNET, "eth:8847 x:00012140 x:10000000 eth:0800",
       SONDE_NON_FLOW_OTHER_ETHERTYPE},
      {SONDE_LINKTYPE_NULL, "x:00000002", FLOW},
      {SONDE_LINKTYPE_LOOP, "x:02000000", SONDE_NON_FLOW_OTHER_ETHERTYPE},
      {SONDE_LINKTYPE_FRAME_RELAY, "x:184103cd", SONDE_NON_FLOW_OTHER_ETHERTYPE},
      {SONDE_LINKTYPE_FRAME_RELAY, "x:184103800000010800", SONDE_NON_FLOW_OTHER_LLC},
  };
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    const struct row row = {lengths[i].linktype, lengths[i].layers};
    struct crafted crafted;
    char layers[256];
    snprintf(layers, sizeof layers, "%s ip4:11 udp:1000:53 pay:8", row.layers);
    packet_craft(&crafted, layers);
    int cause = decode(&row, &crafted, crafted.bytes, crafted.bytes);
    CHECK_EQ(cause, lengths[i].expected);
    if (cause != lengths[i].expected)
      fprintf(stderr, "  in \"%s\"\n", row.layers);
  }
}

/* A frame may have as many layers as the walk has steps, and not one more. */
static void most_tags(void) {
  for (int tags = 0; tags < 40; tags++) {
    const struct row row = {SONDE_LINKTYPE_ETHERNET, ""};
    struct crafted crafted;
    char layers[1024] = "eth:8100";
    for (int i = 0; i < tags; i++)
      strcat(layers, " tag:10:8100");
    strcat(layers, " tag:10:0800 ip4:11 udp:1000:53 pay:8");
    packet_craft(&crafted, layers);
    CHECK_EQ(decode(&row, &crafted, crafted.bytes, crafted.bytes),
             tags < TAGS_MAX ? FLOW : SONDE_NON_FLOW_MALFORMED);
  }
}

static void most_labels(void) {
  for (int labels = 1; labels < 40; labels++) {
    const struct row row = {SONDE_LINKTYPE_ETHERNET, ""};
    struct crafted crafted;
    char layers[1024] = "eth:8847";
    for (int i = 1; i < labels; i++)
      strcat(layers, " x:00010040");
    strcat(layers, " x:00012140 ip4:11 udp:1000:53 pay:8");
    packet_craft(&crafted, layers);
    CHECK_EQ(decode(&row, &crafted, crafted.bytes, crafted.bytes),
             labels <= LABELS_MAX ? FLOW : SONDE_NON_FLOW_MALFORMED);
  }
}

/* The members of ICMP do not keep the values of an earlier packet. */
static void no_stale_members(void) {
  static const char *const links[] = {"eth:0800", "eth:8100 tag:10:0800"};
  for (size_t i = 0; i < 2; i++) {
    struct sonde_decoded out;
    for (int udp = 0; udp < 2; udp++) {
      struct crafted crafted;
      char layers[128];
      snprintf(layers, sizeof layers, "%s %s", links[i],
               udp ? "ip4:11 udp:1000:53 pay:8" : "ip4:1 x:030100000000000000000000");
      packet_craft(&crafted, layers);
      const struct sonde_packet packet = {.data = crafted.data,
                                          .caplen = crafted.bytes,
                                          .wirelen = crafted.bytes,
                                          .linktype = SONDE_LINKTYPE_ETHERNET};
      CHECK_EQ(sonde_decode(decoder, &packet, &out), FLOW);
      CHECK_EQ(out.icmp_type, udp ? 0 : 3);
      CHECK_EQ(out.icmp_code, udp ? 0 : 1);
    }
  }
}

int main(void) {
  decoder = sonde_decoder_create(0, NULL);
  cut_headers();
  false_lengths();
  most_tags();
  most_labels();
  no_stale_members();
  sonde_decoder_destroy(decoder);
  return check_report();
}
