/* labeler_test.c - labels of flows, through a flow table with crafted payloads. */
#include "label/labeler.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flow/table.h"
#include "ip_protocol.h"

enum { RECORDS_MAX = 4096, CLIENT = 1, SERVER = 2 };

static struct sonde_record records[RECORDS_MAX];
static uint32_t made, read_up_to;
static struct sonde_decoded packet;
static struct sonde_payload current;

static struct sonde_record *reserve(void *context) {
  (void)context;
  return &records[made % RECORDS_MAX];
}

static void commit(void *context) {
  (void)context;
  made++;
}

static uint32_t room(void *context) {
  (void)context;
  return RECORDS_MAX;
}

static uint32_t position(void *context) {
  (void)context;
  return made;
}

static bool is_read(void *context, uint32_t at) {
  (void)context;
  return (int32_t)(read_up_to - at) >= 0;
}

struct rig {
  struct sonde_labeler *labeler;
  struct sonde_name_cache *cache;
  struct sonde_flow_table *table;
  uint64_t now_ns;
};

static struct rig open_rig(uint64_t bytes, uint32_t quic_per_second) {
  struct rig rig = {.cache = sonde_name_cache_create(), .now_ns = 1000000000};
  made = read_up_to = 0;
  rig.labeler = sonde_labeler_create(&(struct sonde_labeler_config){
      .protocols = SONDE_LABEL_TLS | SONDE_LABEL_QUIC | SONDE_LABEL_DNS | SONDE_LABEL_HTTP,
      .worker = 5,
      .bytes = bytes,
      .quic_per_second = quic_per_second,
      .cache = rig.cache,
      .progress = {NULL, position, is_read},
      .batch = &packet,
      .payloads = &current,
  });
  rig.table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = 8192,
      .sink = {NULL, reserve, commit, room},
      .labels = sonde_labeler_hook(rig.labeler),
  });
  sonde_flow_table_metering_set(rig.table, true, 300000000000, 60000000000);
  return rig;
}

static void close_rig(struct rig *rig) {
  sonde_flow_table_destroy(rig->table);
  sonde_labeler_destroy(rig->labeler);
  sonde_name_cache_destroy(rig->cache);
}

struct sent {
  uint8_t protocol;
  uint16_t client_port;
  uint16_t server_port;
  uint8_t from;   /* CLIENT or SERVER */
  uint8_t server; /* the last byte of its address */
  uint32_t seq;
  uint8_t tcp_flags;
  const void *payload;
  uint32_t bytes;
};

/* The client is 192.0.2.1, the lower address. */
static void send_one(struct rig *rig, struct sent sent) {
  current = (struct sonde_payload){sent.payload, sent.bytes};
  packet = (struct sonde_decoded){
      .key = {.lo_ip = {192, 0, 2, 1},
              .hi_ip = {192, 0, 2, sent.server ? sent.server : 9},
              .lo_port = sent.client_port,
              .hi_port = sent.server_port,
              .ip_version = 4,
              .protocol = sent.protocol},
      .time_ns = rig->now_ns += 1000,
      .ip_bytes = 40 + sent.bytes,
      .l2_bytes = 54 + sent.bytes,
      .packets = 1,
      .mpls_label = UINT32_MAX,
      .tcp_seq = sent.seq,
      .tcp_payload = sent.bytes,
      .tcp_flags = sent.tcp_flags,
      .flags = (uint16_t)((sent.protocol == SONDE_IP_TCP ? SONDE_DECODED_TCP : 0) |
                          (sent.from == SERVER ? SONDE_DECODED_REVERSED : 0)),
  };
  sonde_flow_table_update(rig->table, &packet, 1);
}

/* Ends every flow. Returns the label of the record with this client port. */
static struct sonde_app_label label_of(struct rig *rig, uint16_t client_port) {
  struct sonde_app_label label = {.state = 99};
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(rig->table, true, &cursor));
  for (uint32_t i = 0; i < made && i < RECORDS_MAX; i++)
    if (records[i].source_port == client_port || records[i].dest_port == client_port)
      sonde_labeler_read(rig->labeler, records[i].label, records[i].label_generation, &label);
  return label;
}

/* A record with a ClientHello for this name. Returns its length. */
static uint32_t client_hello(const char *name, uint8_t *into) {
  uint32_t length = (uint32_t)strlen(name), extension = length + 9, at = 0;
  uint32_t body = 2 + 32 + 1 + 4 + 2 + 2 + extension;
  const uint8_t head[] = {22,
                          3,
                          1,
                          (uint8_t)((body + 4) >> 8),
                          (uint8_t)(body + 4),
                          1,
                          0,
                          (uint8_t)(body >> 8),
                          (uint8_t)body,
                          3,
                          3};
  memcpy(into, head, sizeof head);
  at = sizeof head;
  memset(into + at, 7, 32);
  at += 32;
  const uint8_t middle[] = {0,
                            0,
                            2,
                            0x13,
                            1,
                            1,
                            0,
                            (uint8_t)(extension >> 8),
                            (uint8_t)extension,
                            0,
                            0,
                            (uint8_t)((length + 5) >> 8),
                            (uint8_t)(length + 5),
                            (uint8_t)((length + 3) >> 8),
                            (uint8_t)(length + 3),
                            0,
                            (uint8_t)(length >> 8),
                            (uint8_t)length};
  memcpy(into + at, middle, sizeof middle);
  memcpy(into + at + sizeof middle, name, length);
  return at + (uint32_t)sizeof middle + length;
}

static const uint8_t server_hello[] = {
    22, 3, 3, 0, 50, 2, 0, 0, 46, 3, 3, 1, 1, 1, 1, 1, 1,    1, 1, 1, 1, 1, 1,  1, 1, 1, 1, 1,
    1,  1, 1, 1, 1,  1, 1, 1, 1,  1, 1, 1, 1, 1, 1, 0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4};

static struct sent tls(uint16_t port, uint8_t from, uint32_t seq, const void *payload,
                       uint32_t bytes) {
  return (struct sent){SONDE_IP_TCP, port, 443, from, 0, seq, 16, payload, bytes};
}

static void test_hello_in_one_segment(void) {
  struct rig rig = open_rig(1 << 20, 100);
  uint8_t hello[512];
  uint32_t bytes = client_hello("www.example.com", hello);
  send_one(&rig, tls(1000, CLIENT, 500, hello, bytes));
  send_one(&rig, tls(1000, SERVER, 900, server_hello, sizeof server_hello));
  struct sonde_app_label label = label_of(&rig, 1000);
  CHECK_EQ(label.app, SONDE_APP_TLS);
  CHECK_EQ(label.state, SONDE_LABEL_COMPLETE);
  CHECK_EQ(label.tls_version, 0x0304); /* the server chose it; the hello says 1.2 */
  CHECK(strcmp(label.name, "www.example.com") == 0);
  CHECK_EQ(sonde_labeler_counters(rig.labeler)->labels_complete, 1);
  close_rig(&rig);
}

/* The pieces come last one first, each twice. The SYN says where the stream begins. */
static void test_segments_in_any_order(void) {
  struct rig rig = open_rig(1 << 20, 100);
  uint8_t hello[512];
  uint32_t bytes = client_hello("www.example.com", hello);
  send_one(&rig, (struct sent){SONDE_IP_TCP, 1000, 443, CLIENT, 0, 499, 2, NULL, 0});
  for (uint32_t end = bytes; end > 0; end -= end < 40 ? end : 40) {
    uint32_t from = end < 40 ? 0 : end - 40;
    send_one(&rig, tls(1000, CLIENT, 500 + from, hello + from, end - from));
    send_one(&rig, tls(1000, CLIENT, 500 + from, "overlapping pieces of other bytes!!!", 30));
  }
  struct sonde_app_label label = label_of(&rig, 1000);
  CHECK_EQ(label.state, SONDE_LABEL_COMPLETE);
  CHECK(strcmp(label.name, "www.example.com") == 0);
  close_rig(&rig);
}

static void test_cut_hello_has_the_name_or_none(void) {
  uint8_t hello[512];
  uint32_t bytes = client_hello("www.example.com", hello);
  for (uint32_t cut = 1; cut < bytes; cut++) {
    struct rig rig = open_rig(1 << 20, 100);
    uint8_t *copy = malloc(cut);
    memcpy(copy, hello, cut);
    send_one(&rig, tls(1000, CLIENT, 500, copy, cut));
    struct sonde_app_label label = label_of(&rig, 1000);
    CHECK(label.state == SONDE_LABEL_PARTIAL);
    CHECK(label.name[0] == 0 || strcmp(label.name, "www.example.com") == 0);
    free(copy);
    close_rig(&rig);
  }
}

/* More unfinished messages than buffers: the oldest become partial, and every flow has a state. */
static void test_every_flow_has_a_state(void) {
  enum { FLOWS = 3000 };
  struct rig rig = open_rig(1 << 16, 10);
  uint8_t hello[512];
  uint32_t states[5] = {0};
  uint8_t quic[1200] = {0xc3, 0, 0, 0, 1, 8};
  for (uint16_t flow = 0; flow < FLOWS; flow++) {
    char name[64];
    snprintf(name, sizeof name, "host-%u.example", flow);
    uint32_t bytes = client_hello(name, hello);
    uint16_t port = (uint16_t)(1000 + flow);
    if (flow % 3 == 0)
      send_one(&rig, tls(port, CLIENT, 1, hello, bytes));
    else if (flow % 3 == 1)
      send_one(&rig, tls(port, CLIENT, 1, hello, bytes / 2));
    else
      send_one(&rig, (struct sent){SONDE_IP_UDP, port, 443, CLIENT, 0, 0, 0, quic, sizeof quic});
  }
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(rig.table, true, &cursor));
  CHECK_EQ(made, FLOWS);
  for (uint32_t i = 0; i < made; i++) {
    struct sonde_app_label label;
    char name[64];
    sonde_labeler_read(rig.labeler, records[i].label, records[i].label_generation, &label);
    CHECK(label.state <= SONDE_LABEL_COMPLETE);
    states[label.state]++;
    snprintf(name, sizeof name, "host-%u.example", records[i].source_port - 1000u);
    CHECK(label.name[0] == 0 || strcmp(label.name, name) == 0);
  }
  const struct sonde_label_counters *counters = sonde_labeler_counters(rig.labeler);
  CHECK_EQ(states[SONDE_LABEL_OFF], 0);
  CHECK_EQ(states[SONDE_LABEL_NOT_SEEN] + states[SONDE_LABEL_SKIPPED] +
               states[SONDE_LABEL_PARTIAL] + states[SONDE_LABEL_COMPLETE],
           FLOWS);
  CHECK(states[SONDE_LABEL_SKIPPED] > 0); /* over the rate of QUIC, and over the table */
  CHECK_EQ(states[SONDE_LABEL_SKIPPED], counters->labels_skipped);
  CHECK_EQ(states[SONDE_LABEL_PARTIAL], counters->labels_partial);
  CHECK_EQ(states[SONDE_LABEL_COMPLETE], counters->labels_complete);
  close_rig(&rig);
}

static void end_flows(struct rig *rig) {
  uint32_t cursor = 0;
  CHECK(sonde_flow_table_flush(rig->table, true, &cursor));
}

/* A place is reused only after the records that name it were read; an older reader finds nothing.
 */
static void test_labels_are_not_replaced_under_a_reader(void) {
  struct rig rig = open_rig(1, 10); /* the smallest table */
  uint8_t hello[512];
  for (uint16_t flow = 0; flow < 40; flow++) {
    char name[64];
    snprintf(name, sizeof name, "host-%u.example", flow);
    uint32_t bytes = client_hello(name, hello);
    send_one(&rig, tls((uint16_t)(1000 + flow), CLIENT, 1, hello, bytes));
    end_flows(&rig);
  }
  struct sonde_app_label label;
  for (uint32_t i = 0; i < made; i++) { /* nothing was read: the first labels stay */
    sonde_labeler_read(rig.labeler, records[i].label, records[i].label_generation, &label);
    CHECK_EQ(label.state, i < 15 ? SONDE_LABEL_COMPLETE : SONDE_LABEL_SKIPPED);
  }
  read_up_to = made;
  send_one(&rig, tls(2000, CLIENT, 1, hello, client_hello("new.example", hello)));
  end_flows(&rig);
  sonde_labeler_read(rig.labeler, records[made - 1].label, records[made - 1].label_generation,
                     &label);
  CHECK(strcmp(label.name, "new.example") == 0);
  sonde_labeler_read(rig.labeler, records[0].label, records[0].label_generation, &label);
  CHECK_EQ(label.state, SONDE_LABEL_SKIPPED);
  CHECK_EQ(label.name[0], 0);
  close_rig(&rig);
}

static const uint8_t query[] = "\0\x07\1\0\0\1\0\0\0\0\0\0\3www\7example\3com\0\0\1\0\1";
static const uint8_t answer[] = "\0\x07\x81\x80\0\1\0\1\0\0\0\0\3www\7example\3com\0\0\1\0\1"
                                "\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\x21"; /* 192.0.2.33 */

static struct sent dns(uint8_t from, const void *payload, uint32_t bytes) {
  return (struct sent){SONDE_IP_UDP, 4000, 53, from, 0, 0, 0, payload, bytes};
}

/* A flow gets the name that its client had queried. An answer without a query gives no name. */
static void test_names_from_dns(void) {
  for (int asked = 0; asked < 2; asked++) {
    struct rig rig = open_rig(1 << 20, 100);
    if (asked)
      send_one(&rig, dns(CLIENT, query, sizeof query - 1));
    send_one(&rig, dns(SERVER, answer, sizeof answer - 1));
    send_one(&rig, (struct sent){SONDE_IP_TCP, 1000, 22, CLIENT, 33, 1, 16, "SSH-2.0", 7});
    send_one(&rig, (struct sent){SONDE_IP_TCP, 1001, 22, CLIENT, 34, 1, 16, "SSH-2.0", 7});
    struct sonde_app_label label = label_of(&rig, 1000);
    CHECK_EQ(label.state, SONDE_LABEL_NOT_SEEN);
    CHECK_EQ(label.name_source, asked ? SONDE_NAME_DNS : SONDE_NAME_NONE);
    CHECK(strcmp(label.name, asked ? "www.example.com" : "") == 0);
    CHECK_EQ(label_of(&rig, 1001).name[0], 0);
    label = label_of(&rig, 4000);
    CHECK_EQ(label.app, SONDE_APP_DNS);
    CHECK_EQ(label.name_source, SONDE_NAME_QNAME);
    close_rig(&rig);
  }
}

/* Each line in a separate segment. The user's name in the target is not recorded. */
static void test_http(void) {
  struct rig rig = open_rig(1 << 20, 100);
  const char *lines[] = {"GET / HTTP/1.1\r\n", "Accept: */*\r\n", "Host: www.example.com\r\n"};
  uint32_t seq = 1;
  for (int i = 0; i < 3; i++) {
    uint32_t bytes = (uint32_t)strlen(lines[i]);
    send_one(&rig, (struct sent){SONDE_IP_TCP, 1000, 81, CLIENT, 0, seq, 16, lines[i], bytes});
    seq += bytes;
  }
  static const char absolute[] = "GET http://ann:pw@proxied.example/x HTTP/1.1\r\n\r\n";
  send_one(&rig,
           (struct sent){SONDE_IP_TCP, 1001, 81, CLIENT, 0, 1, 16, absolute, sizeof absolute - 1});
  CHECK(strcmp(label_of(&rig, 1000).name, "www.example.com") == 0);
  CHECK(strcmp(label_of(&rig, 1001).name, "proxied.example") == 0);
  close_rig(&rig);
}

int main(void) {
  test_hello_in_one_segment();
  test_segments_in_any_order();
  test_cut_hello_has_the_name_or_none();
  test_every_flow_has_a_state();
  test_labels_are_not_replaced_under_a_reader();
  test_names_from_dns();
  test_http();
  return check_report();
}
