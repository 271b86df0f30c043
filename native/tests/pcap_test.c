/* pcap_test.c - the pcap backend on a veth pair, on lo and on "any". */
#include <time.h>

#include "check.h"
#include "core/registry.h"
#include "live.h"

enum { BATCH = 256, SEEN_MAX = 65536 };

static const struct sonde_backend_ops *ops;
static struct seen {
  struct sonde_packet packet;
  uint8_t bytes[128];
} *seen;
static uint32_t seen_count;

static struct sonde_backend *capture(const char *interface, const char *filter, uint32_t snaplen,
                                     uint32_t ring_bytes) {
  struct sonde_backend_config config = {.interface = interface,
                                        .filter = filter,
                                        .file_fd = -1,
                                        .queues = 4,
                                        .snaplen = snaplen,
                                        .ring_bytes = ring_bytes,
                                        .promiscuous = 1};
  struct sonde_backend *backend = NULL;
  struct sonde_error error = {0};
  int status = ops->open(&config, &backend, &error);
  status = status ? status : ops->start(backend, &error);
  if (status) {
    fprintf(stderr, "%s: %s\n", interface, error.detail);
    exit(1);
  }
  return backend;
}

static void collect(struct sonde_backend *backend, int timeout_ms) {
  struct sonde_packet packets[BATCH];
  struct sonde_error error = {0};
  int count;
  while ((count = ops->receive(backend, 0, packets, BATCH, timeout_ms, &error)) > 0) {
    for (int i = 0; i < count && seen_count < SEEN_MAX; i++) {
      struct seen *to = &seen[seen_count++];
      to->packet = packets[i];
      memcpy(to->bytes, packets[i].data,
             packets[i].caplen < sizeof to->bytes ? packets[i].caplen : sizeof to->bytes);
    }
  }
  CHECK_EQ(count, 0);
}

static uint64_t finish(struct sonde_backend *backend) {
  struct sonde_backend_stats stats;
  seen_count = 0;
  ops->quiesce(backend);
  collect(backend, 0);
  ops->stats(backend, &stats);
  ops->stop(backend);
  ops->close(backend);
  return stats.dropped;
}

static void check_counts(void) {
  struct sonde_backend *backend = capture("v0", "udp", 262144, 64 << 20);
  struct sonde_backend_info info;
  struct live_frame frame = live_udp4(NULL, 0x0a000001, 0x0a000002, 1, 2, 100, 0);
  int arriving = live_sender("v1");
  int leaving = live_sender("v0");
  ops->info(backend, &info);
  CHECK_EQ(info.live, 1);
  CHECK_EQ(info.queues, 1);
  CHECK_EQ(info.ifindex, if_nametoindex("v0"));
  CHECK(strncmp(info.attach, "libpcap 1.", 10) == 0);
  for (int i = 0; i < 5000; i++) {
    live_send(arriving, frame.bytes, frame.length);
    live_send(leaving, frame.bytes, frame.length);
  }
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 10000);
  uint64_t now_ns = (uint64_t)time(NULL) * 1000000000;
  for (uint32_t i = 0; i < seen_count; i++) {
    CHECK_EQ(seen[i].packet.wirelen, frame.length);
    CHECK_EQ(seen[i].packet.caplen, frame.length);
    CHECK_EQ(seen[i].packet.linktype, SONDE_LINKTYPE_ETHERNET);
    CHECK_EQ(seen[i].packet.direction, SONDE_DIRECTION_UNKNOWN);
    CHECK(seen[i].packet.time_ns + UINT64_C(60000000000) > now_ns &&
          seen[i].packet.time_ns < now_ns + UINT64_C(60000000000));
    CHECK(memcmp(seen[i].bytes, frame.bytes, frame.length) == 0);
  }
  close(arriving);
  close(leaving);
}

static void check_vlan_filter_snaplen(void) {
  static const uint32_t tag[] = {0x8100002a, 0};
  struct sonde_backend *backend = capture("v0", "vlan 42 and port 80", 64, 1 << 20);
  struct live_frame tagged = live_udp4(tag, 1, 2, 3, 80, 100, 0);
  struct live_frame bare = live_udp4(NULL, 1, 2, 3, 80, 100, 0);
  int sender = live_sender("v1");
  live_send(sender, bare.bytes, bare.length);
  live_send(sender, tagged.bytes, tagged.length);
  seen_count = 0;
  collect(backend, 100);
  CHECK_EQ(seen_count, 1);
  CHECK_EQ(seen[0].packet.caplen, 64);
  CHECK_EQ(seen[0].packet.wirelen, tagged.length);
  CHECK(memcmp(seen[0].bytes, tagged.bytes, 64) == 0);
  CHECK_EQ(finish(backend), 0);
  close(sender);
}

static void check_overload(void) {
  enum { OFFERED = 50000 };
  struct sonde_backend *backend = capture("v0", NULL, 262144, 1 << 20);
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1000, 0);
  int sender = live_sender("v1");
  for (int i = 0; i < OFFERED; i++)
    live_send(sender, frame.bytes, frame.length);
  uint64_t dropped = finish(backend);
  CHECK(dropped > 0 && seen_count > 0);
  CHECK_EQ(seen_count + dropped, OFFERED);
  close(sender);
}

static void send_local(int packets) {
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(9999), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  int server = socket(AF_INET, SOCK_DGRAM, 0);
  live_need(bind(server, (struct sockaddr *)&address, sizeof address) == 0, "bind");
  for (int i = 0; i < packets; i++)
    sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address);
  close(fd);
  close(server);
}

static void check_loopback_and_any(void) {
  struct sonde_backend *backend = capture("lo", "udp port 9999", 262144, 1 << 20);
  send_local(100);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 100);

  backend = capture("any", "udp", 262144, 1 << 20);
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 2); /* sent on v1, received on v0 */
  CHECK_EQ(seen[0].packet.linktype, SONDE_LINKTYPE_SLL2);
  CHECK_EQ(seen[0].packet.direction, SONDE_DIRECTION_EGRESS);
  CHECK_EQ(seen[1].packet.direction, SONDE_DIRECTION_INGRESS);
  CHECK_EQ(seen[0].packet.wirelen, 20 + 100);
  close(sender);
}

static void check_link(void) {
  struct sonde_backend *backend = capture("v0", "udp", 262144, 1 << 20);
  struct sonde_packet packets[BATCH];
  struct sonde_error error = {0};
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int status = 0;
  live_run("ip link set v0 down");
  for (int i = 0; i < 20 && status >= 0; i++)
    status = ops->receive(backend, 0, packets, BATCH, 100, &error);
  CHECK_EQ(status, SONDE_LINK_DOWN);
  live_run("ip link set v0 up");
  live_wait_up("v0");
  live_wait_up("v1");
  int sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  seen_count = 0;
  collect(backend, 100);
  CHECK_EQ(seen_count, 1);
  close(sender);

  live_run("ip link del v0");
  status = 0;
  for (int i = 0; i < 20 && status >= 0; i++)
    status = ops->receive(backend, 0, packets, BATCH, 100, &error);
  CHECK_EQ(status, SONDE_SYSTEM);
  CHECK_EQ(ops->reopen(backend, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(ops->receive(backend, 0, packets, BATCH, 10, &error), SONDE_SYSTEM);
  live_pair();
  CHECK_EQ(ops->reopen(backend, &error), 0);
  sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 1);
  close(sender);
}

/* A renamed interface is the same one, and is reopened if libpcap has lost it meanwhile. */
static void check_renamed(void) {
  struct sonde_backend *backend = capture("v0", "udp", 262144, 1 << 20);
  struct sonde_packet packets[BATCH];
  struct sonde_backend_info before, after;
  struct sonde_error error = {0};
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  ops->info(backend, &before);
  live_run("ip link set v0 down && ip link set v0 name w0 && ip link set w0 up");
  live_wait_up("w0");
  int status = ops->receive(backend, 0, packets, BATCH, 50, &error);
  CHECK(status == 0 || ops->reopen(backend, &error) == 0);
  live_send(sender, frame.bytes, frame.length);
  seen_count = 0;
  collect(backend, 100); /* and silence after it */
  CHECK_EQ(seen_count, 1);
  ops->info(backend, &after);
  CHECK_EQ(after.ifindex, before.ifindex);
  CHECK_EQ(finish(backend), 0);
  live_run("ip link set w0 down && ip link set w0 name v0 && ip link set v0 up");
  live_wait_up("v0");
  close(sender);
}

static void check_rejected_opens(void) {
  struct sonde_backend_config config = {
      .interface = "nosuch0", .file_fd = -1, .snaplen = 262144, .ring_bytes = 1 << 20};
  struct sonde_backend *backend = NULL;
  struct sonde_error error = {0};
  CHECK_EQ(ops->open(&config, &backend, &error), SONDE_INTERFACE_INVALID);
  CHECK(strcmp(error.detail, "nosuch0: No such device") == 0);
  config.interface = "v0";
  config.filter = "port (";
  CHECK_EQ(ops->open(&config, &backend, &error), SONDE_FILTER_INVALID);
  CHECK(backend == NULL);
  CHECK_EQ(ops->probe(&error), 0);
  CHECK_EQ(ops->features, SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING);
}

int main(void) {
  struct sonde_error error = {0};
  seen = calloc(SEEN_MAX, sizeof *seen);
  if (!seen || sonde_registry_load(SONDE_PLUGIN_DIR, "pcap", &ops, &error)) {
    fprintf(stderr, "%s\n", error.detail);
    return 1;
  }
  live_begin();
  live_pair();
  check_counts();
  check_vlan_filter_snaplen();
  check_overload();
  check_loopback_and_any();
  check_link();
  check_renamed();
  check_rejected_opens();
  free(seen);
  return check_report();
}
