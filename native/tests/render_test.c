/* render_test.c - the bounds of a batch: capacities, the longest record, unusual interfaces.
 *
 * Buffers are allocated to the byte, so the sanitizers report a write past the end.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "export/rendering.h"
#include "netsonde.h"
#include "packet.h"
#include "random_record.h"

static const int encodings[] = {SONDE_ENCODING_JSON, SONDE_ENCODING_MSGPACK};
static const uint32_t empty_bytes[] = {2, 5};

/* A record with every field at its maximum length. */
static struct sonde_record make_longest_record(void) {
  struct sonde_record record;
  memset(&record, 0xff, sizeof record);
  record.mpls_label = UINT32_MAX - 1;
  record.handshake_rtt_us = UINT32_MAX - 1;
  record.packets[0] = record.bytes[0] = record.l2_bytes[0] = 0; /* so the sums are 2^64-1 */
  record.total_packets[0] = record.total_bytes[0] = 0;
  record.vlan_depth = SONDE_VLAN_DEPTH_MAX;
  record.ip_version = record.tunnel_ip_version = 6;
  record.end_reason = SONDE_END_RESOURCES;
  record.direction = SONDE_DIRECTION_INGRESS;
  record.tunnel_type = SONDE_TUNNEL_ERSPAN;
  record.final = 0;
  record.source = 0;
  return record;
}

/* The longest label. A name of backslashes doubles in JSON. */
static int read_longest_label(void *context, uint32_t label, uint16_t generation,
                              struct sonde_app_label *into) {
  (void)context, (void)label, (void)generation;
  *into = (struct sonde_app_label){
      .app = SONDE_APP_QUIC,
      .name_source = SONDE_NAME_QNAME,
      .state = SONDE_LABEL_COMPLETE,
      .alpns = SONDE_LABEL_ALPNS,
      .has_hello = 1,
      .tls_version = 0x0300,
  };
  for (uint32_t i = 0; i < SONDE_LABEL_ALPNS; i++)
    memset(into->alpn[i], '\\', SONDE_LABEL_ALPN_MAX);
  memset(into->name, '\\', SONDE_LABEL_NAME_MAX);
  return 1;
}

static void read_longest_owner(void *context, uint32_t reference, struct sonde_owner *into) {
  (void)context;
  (void)reference;
  *into = (struct sonde_owner){
      .start_ticks = UINT64_MAX,
      .pid = UINT32_MAX - 1,
      .uid = UINT32_MAX - 1,
      .how = SONDE_OWNER_LISTENER,
      .reason = SONDE_OWNER_BEFORE_START,
  };
  memset(into->name, '\\', SONDE_OWNER_NAME_MAX);
  memset(into->exe, '\\', SONDE_OWNER_EXE_MAX);
  memset(into->cgroup, '\\', SONDE_OWNER_CGROUP_MAX);
  memset(into->unit, '\\', SONDE_OWNER_UNIT_MAX);
  memset(into->container, '\\', SONDE_OWNER_CONTAINER_MAX);
  memset(into->pod, '\\', SONDE_OWNER_POD_MAX);
}

static const struct sonde_render_sources longest_sources = {
    .labels = {NULL, read_longest_label},
    .owners = {NULL, read_longest_owner},
};

static int render_once(const struct sonde_record *records, uint32_t count, int encoding,
                       const char *interface, uint8_t *buffer, uint32_t capacity,
                       struct sonde_batch *batch) {
  const char *names[SONDE_SOURCES_MAX];
  for (uint32_t i = 0; i < SONDE_SOURCES_MAX; i++)
    names[i] = interface;
  return sonde_records_render_named(records, count, encoding, 0, names, &longest_sources, buffer,
                                    capacity, batch);
}

/* Renders into exactly `capacity` bytes of heap. Returns the status. */
static int render(const struct sonde_record *records, uint32_t count, int encoding,
                  const char *interface, uint32_t capacity, struct sonde_batch *batch) {
  uint8_t *buffer = malloc(capacity + 1u);
  buffer[capacity] = 0xa5;
  int status = render_once(records, count, encoding, interface, buffer, capacity, batch);
  CHECK_EQ(buffer[capacity], 0xa5);
  CHECK(batch->bytes <= capacity);
  uint8_t *exact = realloc(buffer, capacity == 0 ? 1 : capacity);
  if (capacity > 0)
    status = render_once(records, count, encoding, interface, exact, capacity, batch);
  free(exact);
  return status;
}

/* No name and no protocol number makes a record longer than the documented bound. */
static void check_longest_record(void) {
  char names[4][256];
  memset(names, 0, sizeof names);
  memset(names[0], 'x', 255);
  memset(names[1], 0x01, 255); /* \u0001 in JSON */
  memset(names[2], 0xff, 255); /* U+FFFD each */
  memset(names[3], '"', 255);
  for (int protocol = 0; protocol < 256; protocol++) {
    struct sonde_record record = make_longest_record();
    record.protocol = (uint8_t)protocol;
    for (int i = 0; i < 8; i++) {
      struct sonde_batch batch;
      int encoding = encodings[i % 2];
      CHECK_EQ(render(&record, 1, encoding, names[i / 2], SONDE_RENDERED_RECORD_MAX + 5, &batch),
               SONDE_OK);
      CHECK_EQ(batch.records, 1);
      CHECK(batch.bytes <= SONDE_RENDERED_RECORD_MAX);
    }
  }
}

/* For any capacity and record: as many records as surely fit, and always a complete array. */
static void check_capacities(void) {
  struct sonde_record records[3];
  for (uint32_t capacity = 0; capacity < 3 * SONDE_RENDERED_RECORD_MAX; capacity++) {
    for (int i = 0; i < 2; i++) {
      for (int j = 0; j < 3; j++)
        randomize_record(&records[j]);
      struct sonde_batch batch;
      int status = render(records, 3, encodings[i], "eth0", capacity, &batch);
      CHECK_EQ(status, capacity < empty_bytes[i] ? SONDE_TOO_SMALL : SONDE_OK);
      if (status == SONDE_OK) {
        CHECK(batch.records > 0 || batch.bytes == empty_bytes[i]);
        CHECK(batch.records == 3 || capacity - batch.bytes < SONDE_RENDERED_RECORD_MAX);
      } else {
        CHECK_EQ(batch.records, 0);
        CHECK_EQ(batch.bytes, 0);
      }
    }
  }
}

/* The summary of a batch covers the rendered records, not the offered ones. */
static void check_summary(void) {
  struct sonde_record records[4] = {0};
  for (uint32_t i = 0; i < 4; i++) {
    records[i].ip_version = 4;
    records[i].packets[0] = 10;
    records[i].packets[1] = i;
    records[i].first_ns = 1000 - i;
    records[i].last_ns = i == 1 ? 9000 : 2000 + i;
  }
  struct sonde_batch batch;
  CHECK_EQ(
      render(records, 4, SONDE_ENCODING_JSON, "eth0", SONDE_RENDERED_RECORD_MAX + 2000, &batch),
      SONDE_OK);
  CHECK(batch.records >= 2 && batch.records < 4);
  CHECK_EQ(batch.packets, batch.records == 3 ? 33 : 21);
  CHECK_EQ(batch.first_ns, 1001 - batch.records);
  CHECK_EQ(batch.last_ns, 9000);
}

static void check_interface(const char *name, const char *json) {
  struct sonde_record record = {.ip_version = 4};
  uint8_t buffer[2 * SONDE_RENDERED_RECORD_MAX];
  char expected[512];
  struct sonde_batch batch;
  snprintf(expected, sizeof expected, ",\"interface\":%s,\"ifindex\"", json);
  sonde_records_render(&record, 1, SONDE_ENCODING_JSON, name, buffer, sizeof buffer - 1, &batch);
  buffer[batch.bytes] = 0;
  CHECK(strstr((char *)buffer, expected) != NULL);
}

/* UTF-8 is kept, other bytes become U+FFFD, long names are cut between characters. */
static void check_interfaces(void) {
  check_interface(NULL, "\"\"");
  check_interface("", "\"\"");
  check_interface("wlp0s20f3.100@if2", "\"wlp0s20f3.100@if2\"");
  check_interface("\t\x1f\x7f", "\"\\u0009\\u001f\x7f\"");
  check_interface("\xf0\x9f\x90\x8d", "\"\xf0\x9f\x90\x8d\"");
  check_interface("\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\"");                 /* overlong */
  check_interface("\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""); /* surrogate */
  check_interface("\xe2\x82", "\"\xef\xbf\xbd\xef\xbf\xbd\"");                 /* cut off */

  char name[600], json[600];
  memset(name, 'a', sizeof name);
  name[sizeof name - 1] = 0;
  uint32_t bytes = SONDE_INTERFACE_TOKEN_MAX - 6 - 1; /* leaves room for an escape */
  snprintf(json, sizeof json, "\"%.*s\"", (int)bytes, name);
  check_interface(name, json);
}

/* IPFIX messages carry the time of the latest packet, whichever record has it. */
static void check_export_time(void) {
  for (int latest = 0; latest < 3; latest++) {
    struct sonde_record records[3];
    struct sonde_batch batch;
    static uint8_t buffer[64 << 10];
    for (int i = 0; i < 3; i++) {
      records[i] = make_longest_record();
      records[i].packets[0] = 1;
      records[i].first_ns = 1700000000000000000;
      records[i].last_ns = 1700000001000000000 + (i == latest) * UINT64_C(4000000000);
    }
    CHECK_EQ(sonde_records_render(records, 3, SONDE_ENCODING_IPFIX, "eth0", buffer, sizeof buffer,
                                  &batch),
             SONDE_OK);
    CHECK_EQ(batch.records, 3);
    CHECK_EQ((uint32_t)buffer[4] << 24 | buffer[5] << 16 | buffer[6] << 8 | buffer[7], 1700000005);
  }
}

/* The least room for IPFIX is two messages of the least length. */
static void check_ipfix_room(void) {
  struct sonde_record record = {.ip_version = 4, .packets = {1}, .bytes = {60}};
  struct sonde_batch batch;
  static uint8_t buffer[1024];
  CHECK_EQ(sonde_records_render(&record, 1, SONDE_ENCODING_IPFIX, "eth0", buffer, 1023, &batch),
           SONDE_TOO_SMALL);
  CHECK_EQ(sonde_records_render(&record, 1, SONDE_ENCODING_IPFIX, "eth0", buffer, 1024, &batch),
           SONDE_OK);
  CHECK_EQ(batch.records, 1);
}

int main(void) {
  check_ipfix_room();
  check_export_time();
  check_longest_record();
  check_capacities();
  check_summary();
  check_interfaces();
  return check_report();
}
