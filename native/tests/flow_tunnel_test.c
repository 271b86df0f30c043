/* flow_tunnel_test.c - the tunnel of a flow, from the frame to the record and its JSON line. */
#include <string.h>

#include "check.h"
#include "flow/table.h"
#include "netsonde.h"
#include "packets.h"
#include "parse/decode.h"

enum { INNER = 1 };

static struct sonde_record record;
static uint32_t count;

static struct sonde_record *reserve(void *context) {
  (void)context;
  return &record;
}

static void commit(void *context) {
  (void)context;
  count++;
}

static uint32_t room(void *context) {
  (void)context;
  return 8;
}

static void check(struct sonde_decoder *decoder, const char *layers, const char *tunnel) {
  struct crafted crafted;
  struct sonde_decoded decoded;
  uint8_t text[SONDE_RENDERED_RECORD_MAX + 2];
  struct sonde_batch batch;
  uint32_t cursor = 0;
  packet_craft(&crafted, layers);
  const struct sonde_packet packet = {.data = crafted.data,
                                      .time_ns = 1700000000000000000,
                                      .caplen = crafted.bytes,
                                      .wirelen = crafted.bytes,
                                      .linktype = SONDE_LINKTYPE_ETHERNET};
  struct sonde_flow_table *table = sonde_flow_table_create(
      &(struct sonde_flow_config){.flows_max = 16,
                                  .tunnels = true,
                                  .sink = {.reserve = reserve, .commit = commit, .room = room}});
  sonde_flow_table_metering_set(table, true, 30000000000, 60000000000);
  count = 0;
  memset(&record, 0, sizeof record);
  CHECK(sonde_decode(decoder, &packet, &decoded) < 0);
  sonde_flow_table_update(table, &decoded, 1);
  CHECK(sonde_flow_table_flush(table, true, &cursor));
  CHECK_EQ(count, 1);
  CHECK_EQ(sonde_records_render(&record, 1, SONDE_ENCODING_JSON, "eth0", text, sizeof text, &batch),
           0);
  bool found = memmem(text, batch.bytes, tunnel, strlen(tunnel)) != NULL;
  CHECK(found);
  if (!found)
    fprintf(stderr, "%s is not in %.*s\n", tunnel, (int)batch.bytes, text);
  sonde_flow_table_destroy(table);
}

int main(void) {
  struct sonde_decoder *decoder = sonde_decoder_create(INNER, NULL);
  check(decoder,
        "eth:0800 ip4:11 udp:50000:4789 x:0800000000109200 eth:86dd ip6:6 tcp:7000:7001 pay:8",
        "\"tunnel\":{\"type\":\"vxlan\",\"id\":4242,\"outer_source_ip\":\"10.0.0.1\","
        "\"outer_dest_ip\":\"10.0.0.2\"}");
  check(decoder, "eth:86dd ip6:2f x:00000800 ip4:11 udp:7000:7001 pay:8",
        "\"outer_source_ip\":\"2001:db8::1\",\"outer_dest_ip\":\"2001:db8::2\"}");
  sonde_decoder_destroy(decoder);
  return check_report();
}
