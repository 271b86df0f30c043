/* index_test.c - the guarantee of a chunk's filter: if libpcap's `host A` or `port N` matches a
 * packet, the chunk is not skipped. Checked with frames of each kind against each expression.
 */
#include <stdlib.h>

#include "check.h"
#include "core/filter.h"
#include "netsonde.h"
#include "packets.h"
#include "parse/decode.h"
#include "store/appender.h"
#include "store/selection.h"
#include "store/state.h"
#include "store/store.h"

struct row {
  const char *layers;
  uint32_t caplen; /* 0: the whole frame */
  bool unknown;    /* its addresses or ports are not known: every expression may match */
};

static const struct row rows[] = {
    {"eth:0800 ip4:11 udp:5000:53 pay:8", 0, false},
    {"eth:86dd ip6:6 tcp:5000:443 pay:8", 0, false},
    {"eth:86dd ip6:84 x:1388005000000000 pay:8", 0, false}, /* SCTP */
    {"eth:0800 ip4:1 x:0800000000010001 pay:8", 0, false},
    {"eth:0800 ip4:32 pay:20", 0, false},                        /* ESP */
    {"eth:0800 ip4:11:00b9 x:1388003500100000 pay:8", 0, false}, /* a later fragment */
    {"eth:0800 ip4:11:2000 udp:5000:53 pay:8", 0, false},        /* the first fragment */
    {"eth:8100 tag:10:0800 ip4:11 udp:5000:53 pay:8", 0, false},
    {"eth:0800 ip4:2f x:00000800 ip4r:11 udp:7000:7001 pay:8", 0, false},
    {"eth:86dd ip6:2f x:00000800 ip4:11 udp:7000:7001 pay:8", 0, false},
    {"eth:8100 tag:10:0800 ip4:2f x:00000800 ip4r:11 udp:7000:7001 pay:8", 0, false},
    {"eth:0800 ip4:11 udp:50000:4789 x:0800000000109200 eth:86dd ip6:6 tcp:7000:7001 pay:8", 0,
     false},
    {"eth:86dd ip6:11 udp:50000:4789 x:0800000000109200 eth:0800 ip4:6 tcp:7000:7001 pay:8", 0,
     false},
    {"eth:86dd ip6:4 ip4:2f x:00000800 ip4r:11 udp:7000:7001 pay:8", 0, false},
    {"eth:0800 ip4:29 ip6:2f x:00000800 ip4r:11 udp:7000:7001 pay:8", 0, false},
    {"eth:86dd ip6:11 udp:50000:4789 x:0800000000109200 eth:0800 ip4:4 ip4r:6 tcp:7000:7001", 0,
     false},
    {"eth:0806 x:00010800060400010200000000010a0000010000000000000a000009", 0, false},
    {"eth:8035 x:00010800060400030200000000010a0000010000000000000a000009", 0, false},
    {"eth:88cc x:0207040200000000010403", 0, false},
    {"eth:0806 x:00010800060400010200000000010a0000010000000000000a000009", 41, true},
    {"eth:0800 ip4:11 udp:5000:53 pay:8", 33, true},
    {"eth:86dd ip6:6 tcp:5000:443 pay:8", 53, true},
    {"eth:0800 ip4:11 udp:5000:53 pay:8", 13, true},
};

static const char *const expressions[] = {
    "host 10.0.0.1",
    "host 10.0.0.2",
    "src host 10.0.0.9",
    "host 10.0.0.9",
    "host 2001:db8::1",
    "host 2001:db8::2",
    "port 53",
    "port 443",
    "port 80",
    "port 5000",
    "port 50000",
    "port 4789",
    "port 7000",
    "port 7001",
    "udp port 53",
    "dst port 443",
    "tcp port 7001",
    "arp host 10.0.0.1",
    "ip host 10.0.0.1",
    "host 10.0.0.1 and port 53",
    "ip6 host 2001:db8::2 and port 50000",
};
static const char *const absent[] = {"host 10.9.9.9", "host 2001:db8::9", "port 9999"};

static struct sonde_decoder *decoder;

static void ignore_event(void *context, enum sonde_store_event event, int64_t value,
                         const char *detail) {
  (void)context;
  (void)event;
  (void)value;
  (void)detail;
}

static struct sonde_store *open_store(void) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  const struct sonde_store_config config = {.bytes = 4 << 20, .workers = 1, .raise = ignore_event};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  return store;
}

static void append(struct sonde_appender *appender, const struct sonde_packet *packet) {
  struct sonde_decoded decoded;
  int cause = sonde_decode(decoder, packet, &decoded);
  sonde_appender_add(appender, packet, cause < 0 ? &decoded : NULL, packet->time_ns);
  sonde_appender_publish(appender);
}

static bool may_match(const struct sonde_store *store, const struct sonde_bloom *bloom,
                      const char *expression) {
  struct sonde_selection selection;
  sonde_selection_compile(&selection, expression, store->bloom_seed);
  return sonde_selection_may_match(&selection, bloom);
}

static bool matches(const struct sonde_packet *packet, const char *expression) {
  struct sonde_filter *filter = NULL;
  struct sonde_error error = {0};
  CHECK_EQ(sonde_filter_compile(SONDE_LINKTYPE_ETHERNET, 262144, expression, &filter, &error), 0);
  bool match = sonde_filter_match(filter, packet->data, packet->caplen, packet->wirelen);
  sonde_filter_destroy(filter);
  return match;
}

static void check_row(const struct row *row) {
  struct sonde_store *store = open_store();
  struct crafted crafted;
  packet_craft(&crafted, row->layers);
  const struct sonde_packet packet = {.data = crafted.data,
                                      .time_ns = 1700000000000000000,
                                      .caplen = row->caplen ? row->caplen : crafted.bytes,
                                      .wirelen = crafted.bytes,
                                      .linktype = SONDE_LINKTYPE_ETHERNET};
  struct sonde_appender *appender = sonde_store_appender(store, 0);
  append(appender, &packet);
  unsigned long failures = check_failures;
  for (size_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++) {
    bool may = may_match(store, appender->bloom, expressions[i]);
    if (matches(&packet, expressions[i]) && !may)
      fprintf(stderr, "\"%s\" would be lost\n", expressions[i]);
    CHECK(may || !matches(&packet, expressions[i]));
  }
  for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
    CHECK_EQ(may_match(store, appender->bloom, absent[i]), row->unknown);
  /* The next chunk has its own filter. */
  const struct sonde_bloom first = *appender->bloom;
  sonde_appender_roll(appender, packet.time_ns);
  append(appender, &packet);
  CHECK(memcmp(first.words, appender->bloom->words, sizeof first.words) == 0);
  CHECK_EQ(first.anything, appender->bloom->anything);
  if (check_failures != failures)
    fprintf(stderr, "  in \"%s\", caplen %u\n", row->layers, packet.caplen);
  sonde_store_close(store);
}

int main(void) {
  decoder = sonde_decoder_create(1, NULL);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    check_row(&rows[i]);
  sonde_decoder_destroy(decoder);
  return check_report();
}
