/* flow_list_test.c - pages of the listing, and sums by fields. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flow/owner_match.h"
#include "flow/sum.h"

static const uint64_t SECOND = 1000000000;
static const uint64_t START = 1700000000000000000;

struct fixture {
  struct sonde_flow_table *table;
};

static struct sonde_record *reserve(void *context) {
  (void)context;
  return NULL;
}

static void commit(void *context) {
  (void)context;
}

static uint32_t room(void *context) {
  (void)context;
  return 0;
}

static struct fixture *make(uint32_t flows, uint64_t idle_s, uint64_t active_s) {
  struct fixture *f = calloc(1, sizeof *f);
  f->table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = flows,
      .id_seed = 7,
      .sink = {.context = f, .reserve = reserve, .commit = commit, .room = room},
  });
  sonde_flow_table_metering_set(f->table, true, idle_s * SECOND, active_s * SECOND);
  return f;
}

static void drop(struct fixture *f) {
  sonde_flow_table_destroy(f->table);
  free(f);
}

/* A packet of flow `number` at START + time_ns. */
static struct sonde_decoded packet(uint32_t number, uint64_t time_ns, bool reversed) {
  struct sonde_decoded p = {
      .time_ns = START + time_ns,
      .packets = 1,
      .ip_bytes = 100,
      .l2_bytes = 114,
      .ttl = 64,
      .mpls_label = UINT32_MAX,
      .flags = reversed ? SONDE_DECODED_REVERSED : 0,
  };
  p.key = (struct sonde_key){.ip_version = 4, .protocol = 17, .lo_port = 53, .hi_port = 5353};
  memcpy(p.key.lo_ip, &number, sizeof number);
  memcpy(p.key.hi_ip, "\xc0\x00\x02\x01", 4);
  return p;
}

static void send_packet(struct fixture *f, uint32_t number, uint64_t time_ns, bool reversed) {
  struct sonde_decoded p = packet(number, time_ns, reversed);
  sonde_flow_table_update(f->table, &p, 1);
}

static void listing_continues_after_a_flow(void) {
  struct fixture *f = make(1024, 300, 60);
  for (uint32_t i = 0; i < 500; i++)
    for (uint32_t n = 0; n <= i % 7; n++)
      send_packet(f, i, i * 1000, n & 1);
  for (uint32_t sort = SONDE_FLOW_SORT_BYTES; sort <= SONDE_FLOW_SORT_RECENT; sort++) {
    struct sonde_flow_query query = {
        .limit = 60, .sort = sort, .match = {.port = -1, .protocol = -1}};
    struct sonde_record listed[60], last;
    uint64_t seen[600] = {0};
    uint32_t count = 0, page;
    do {
      uint64_t matching = 0;
      page = sonde_flow_table_list(f->table, &query, listed, &matching);
      CHECK_EQ(matching, 500 - count);
      for (uint32_t i = 0; i < page; i++) {
        for (uint32_t k = 0; k < count; k++)
          CHECK(seen[k] != listed[i].flow_id);
        seen[count++] = listed[i].flow_id;
      }
      if (page) {
        last = listed[page - 1];
        query.after = &last;
        uint32_t number;
        memcpy(&number, last.source_ip, sizeof number);
        send_packet(f, number, 600000, 0); /* a listed flow grows */
      }
    } while (page);
    CHECK_EQ(count, 500);
  }
  drop(f);
}

static void listing_takes_networks(void) {
  struct fixture *f = make(1024, 300, 60);
  for (uint32_t i = 0; i < 500; i++)
    send_packet(f, i, i * 1000, false);
  struct sonde_record listed[10];
  struct sonde_flow_query query = {.limit = 10, .match = {.port = -1, .protocol = -1}};
  query.match.ip_version = 4;
  memcpy(query.match.ip, "\x07\x00\x00\x00", 4);
  const uint64_t expected[] = {1, 1, 2, 4, 500}; /* 7, 263 and the neighbours with first octet 6 */
  const int ignored[] = {0, 16, 24, 25, 32};
  for (unsigned i = 0; i < 5; i++) {
    uint64_t matching = 0;
    query.match.ip_bits_ignored = ignored[i];
    sonde_flow_table_list(f->table, &query, listed, &matching);
    CHECK_EQ(matching, expected[i]);
  }
  drop(f);
}

/* Protocol 0 (an IPv6 hop-by-hop header without a next one) is a protocol like any other. */
static void listing_filters_by_every_field(void) {
  struct fixture *f = make(64, 300, 60);
  struct sonde_record listed[8];
  for (uint32_t i = 0; i < 4; i++) {
    struct sonde_decoded p = packet(i, i, false);
    p.key.protocol = i == 0 ? 0 : 17;
    p.packets = 1 + i;
    if (i == 3) {
      p.key.ip_version = 6;
      memset(p.key.hi_ip, 0xfe, 16);
    }
    sonde_flow_table_update(f->table, &p, 1);
  }
  struct sonde_flow_query all = {.limit = 8, .match = {.port = -1, .protocol = -1}};
  struct {
    struct sonde_flow_query query;
    uint32_t expected;
  } rows[] = {{all, 4}, {all, 1}, {all, 3}, {all, 0}, {all, 3}, {all, 2}, {all, 1},
              {all, 4}, {all, 4}, {all, 0}, {all, 3}, {all, 1}, {all, 0}, {all, 0}};
  rows[1].query.match.protocol = 0;
  rows[2].query.match.protocol = 17;
  rows[3].query.match.protocol = 6;
  rows[4].query.min_packets = 2;
  rows[5].query.min_packets = 3;
  rows[6].query.min_packets = 4;
  rows[7].query.match.port = 53;
  rows[8].query.match.port = 5353;
  rows[9].query.match.port = 0;
  rows[10].query.match.ip_version = 4;
  memcpy(rows[10].query.match.ip, "\xc0\x00\x02\x01", 4);
  rows[11].query.match.ip_version = 6;
  memset(rows[11].query.match.ip, 0xfe, 16);
  rows[12].query.match.ip_version = 6; /* the last octet differs */
  memset(rows[12].query.match.ip, 0xfe, 15);
  rows[13].query.match.ip_version = 4; /* the first four octets of the IPv6 address */
  memset(rows[13].query.match.ip, 0xfe, 4);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint64_t matching = 0;
    CHECK_EQ(sonde_flow_table_list(f->table, &rows[i].query, listed, &matching), rows[i].expected);
    CHECK_EQ(matching, rows[i].expected);
  }
  drop(f);
}

/* ---- owners --------------------------------------------------------------------------- */

enum { NGINX = 100, PYTHON = 101, UNKNOWN = 1 };

static const struct sonde_owner owners[] = {
    {.pid = 42,
     .name = "nginx",
     .exe = "/usr/sbin/nginx",
     .unit = "web@1.service",
     .container = "4f1c09a2b3d4",
     .pod = "0b6f0f2e-0000"},
    {.pid = 43, .name = "gunicorn", .exe = "/usr/bin/python3.11", .unit = "user-1.scope"},
};

static void read_owner(void *context, uint32_t reference, struct sonde_owner *into) {
  (void)context;
  *into = reference == UNKNOWN ? (struct sonde_owner){.pid = UINT32_MAX} : owners[reference - 100];
}

/* Flow 0 is between nginx and python, 1 of python, 2 of nobody that is known, 3 without owners. */
static void set_owners(void *context, uint32_t known[2], struct sonde_record *record) {
  static const uint32_t source[] = {NGINX, PYTHON, UNKNOWN, 0};
  (void)context, (void)known;
  record->process = source[record->source_ip[0]];
  record->peer_process = record->source_ip[0] == 0 ? PYTHON : 0;
}

/* Marks the flows in slices of three, as the core does on its thread. */
static uint64_t count_marked(struct fixture *f, const struct sonde_flow_query *query) {
  static const struct sonde_owner_source source = {.read = read_owner};
  static const struct sonde_owner_hook hook = {.record = set_owners};
  struct sonde_owner_candidate slice[3];
  struct sonde_owner_mark marks[64] = {{0}};
  struct sonde_record listed[8];
  uint32_t entry = 0, count;
  uint64_t matching = 0;
  while ((count = sonde_flow_table_candidates(f->table, query, &entry, slice, 3)) > 0)
    for (uint32_t i = 0; i < count; i++)
      marks[slice[i].entry] = sonde_owner_candidate_test(&hook, &source, query, &slice[i]);
  sonde_flow_table_marks_set(f->table, marks, sonde_flow_table_entries(f->table));
  count = sonde_flow_table_list(f->table, query, listed, &matching);
  CHECK_EQ(count, matching);
  marks[0].id++; /* the entry has got another flow */
  uint64_t rest = 0;
  sonde_flow_table_list(f->table, query, listed, &rest);
  CHECK(rest == matching || rest + 1 == matching);
  sonde_flow_table_marks_set(f->table, NULL, 0);
  return matching;
}

static void listing_filters_by_owner(void) {
  const struct {
    struct sonde_owner_match match;
    uint32_t expected;
  } rows[] = {
      {{.unit = "WEB@1", .pid = -1}, 1},
      {{.unit = "web@?.service", .pid = -1}, 1},
      {{.unit = "user-1", .pid = -1}, 0}, /* only .service may be left out */
      {{.container = "4F1C", .pid = -1}, 1},
      {{.container = "f1c", .pid = -1}, 0},
      {{.container = "*d4", .pid = -1}, 1},
      {{.pod = "0b6f*", .pid = -1}, 1},
      {{.pod = "*", .pid = -1}, 1},
      {{.process = "gunicorn", .pid = -1}, 2},
      {{.process = "python3*", .pid = -1}, 2},
      {{.process = "/usr/*", .pid = -1}, 0},
      {{.process = "*", .pid = -1}, 2},
      {{.pid = 42}, 1},
      {{.pid = UINT32_MAX}, 0},
      {{.unit = "web@1", .pid = 43}, 0}, /* they are two owners */
      {{.pid = -1}, 3},
  };
  struct fixture *f = calloc(1, sizeof *f);
  f->table = sonde_flow_table_create(&(struct sonde_flow_config){
      .flows_max = 64,
      .sink = {.context = f, .reserve = reserve, .commit = commit, .room = room},
      .owners = {.context = f, .record = set_owners},
  });
  for (uint32_t i = 0; i < 4; i++)
    send_packet(f, i, i, false);
  struct sonde_flow_query query = {.limit = 8, .match = {.port = -1, .protocol = -1}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    query.match.owner = &rows[i].match;
    CHECK_EQ(count_marked(f, &query), rows[i].expected);
  }
  query.excludes = 1;
  query.except = query.match;
  query.except.owner = &rows[12].match;
  query.match.owner = NULL;
  CHECK_EQ(count_marked(f, &query), 3);
  query.match.owner = &rows[8].match;
  CHECK_EQ(count_marked(f, &query), 1);
  struct sonde_record listed[8];
  uint64_t matching = 0; /* without marks no flow has an owner */
  CHECK_EQ(sonde_flow_table_list(f->table, &query, listed, &matching), 0);
  drop(f);
}

static void flows_are_summed_by_fields(void) {
  struct fixture *f = make(1024, 300, 60);
  for (uint32_t i = 0; i < 500; i++)
    for (uint32_t n = 0; n <= i % 7; n++)
      send_packet(f, i, i * 1000, n & 1);
  struct sonde_flow_query query = {.limit = 10, .match = {.port = -1, .protocol = -1}};
  struct sonde_flow_sum sums[10];
  uint64_t distinct, left_out;
  struct sonde_flow_sums *all = sonde_flow_sums_create();
  sonde_flow_table_sum(f->table, &query, SONDE_FLOW_BY_PROTOCOL | SONDE_FLOW_BY_DEST_PORT, all);
  CHECK_EQ(sonde_flow_sums_take(all, &query, sums, &distinct, &left_out), 1);
  CHECK_EQ(distinct, 1);
  CHECK_EQ(left_out, 0);
  CHECK_EQ(sums[0].flows, 500);
  CHECK_EQ(sums[0].protocol, 17);
  CHECK_EQ(sums[0].dest_port, 5353);
  CHECK_EQ(sums[0].ip_version, 0);
  CHECK_EQ(sums[0].packets, 71 * 28 + 1 + 2 + 3);
  sonde_flow_sums_destroy(all);
  all = sonde_flow_sums_create();
  query.excludes = 1;
  query.except = (struct sonde_flow_match){.port = -1, .protocol = -1, .ip_version = 4};
  memcpy(query.except.ip, "\x06\x00\x00\x00", 4);
  sonde_flow_table_sum(f->table, &query, SONDE_FLOW_BY_SOURCE_IP, all);
  CHECK_EQ(sonde_flow_sums_take(all, &query, sums, &distinct, &left_out), 10);
  CHECK_EQ(distinct, 499);
  for (uint32_t i = 0; i + 1 < 10; i++)
    CHECK(sums[i].bytes >= sums[i + 1].bytes);
  sonde_flow_sums_destroy(all);
  drop(f);
}

int main(void) {
  listing_continues_after_a_flow();
  listing_takes_networks();
  listing_filters_by_every_field();
  listing_filters_by_owner();
  flows_are_summed_by_fields();
  return check_report();
}
