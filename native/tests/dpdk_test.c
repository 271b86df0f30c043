/* dpdk_test.c - the packets that the dpdk backend captures with net_af_packet on a veth pair,
 * net_pcap on a file and net_null, and the names it accepts.
 */
#include "dpdk_capture.h"
#include "live.h"

/* ---- names ------------------------------------------------------------------------------ */

static void check_names(void) {
  static const struct {
    const char *name;
    int dedicated;
    int status;
    const char *words;
  } rows[] = {
      {"", 0, SONDE_INTERFACE_INVALID, ""},
      {"nosuch0", 0, SONDE_INTERFACE_INVALID, "nosuch0: No such device"},
      {"0000:ff:1f.7", 1, SONDE_INTERFACE_INVALID, "0000:ff:1f.7: no such PCI device"},
      {"ff:1f.7", 1, SONDE_INTERFACE_INVALID, "0000:ff:1f.7: no such PCI device"},
      {"net_tap0", 0, SONDE_INTERFACE_INVALID, "virtual device not supported"},
      {"net_null", 0, SONDE_INTERFACE_INVALID, "virtual device not supported"},
      {"net_null0,size=x", 0, SONDE_INTERFACE_INVALID, "not a number"},
      {"net_null0,--log-level=8", 0, SONDE_INTERFACE_INVALID, "argument not allowed"},
      {"net_null0,size", 0, SONDE_INTERFACE_INVALID, "key=value"},
      {"net_null0 --huge-dir=/", 0, SONDE_INTERFACE_INVALID, "virtual device not supported"},
      {"net_af_packet0", 0, SONDE_INTERFACE_INVALID, "missing argument"},
      {"net_af_packet0,iface=nosuch0", 0, SONDE_INTERFACE_INVALID, "No such device"},
      {"net_af_xdp0,iface=v0", 0, SONDE_INTERFACE_SHARED, "dedicated"},
      {"net_af_xdp0,iface=lo", 1, SONDE_INTERFACE_SHARED, "loopback"},
      {"net_pcap0,tx_pcap=/tmp/x", 0, SONDE_INTERFACE_INVALID, "argument not allowed"},
      {"net_pcap0,iface=v0", 0, SONDE_INTERFACE_INVALID, "argument not allowed"},
      {"net_pcap0,rx_pcap=/nonexistent", 0, SONDE_INTERFACE_INVALID, "No such file"},
      {"net_pcap0,rx_pcap=/dev/null", 0, SONDE_INTERFACE_INVALID, "not a regular file"},
      {"net_pcap0,rx_pcap=/etc/passwd", 0, SONDE_INTERFACE_INVALID, "unknown file format"},
      {"net_ring0", 0, SONDE_OK, ""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_backend *backend;
    CHECK_EQ(open_backend(rows[i].name, 262144, rows[i].dedicated, &backend), rows[i].status);
    if (!strstr(error.detail, rows[i].words))
      fprintf(stderr, "%s: %s\n", rows[i].name, error.detail);
    CHECK(strstr(error.detail, rows[i].words));
    CHECK(!strstr(error.detail, "Usage"));
    ops->close(backend);
  }
  CHECK_EQ(left_behind(), 0);
}

/* ---- packets ---------------------------------------------------------------------------- */

static void check_counts(const char *interface) {
  static const uint32_t tag[] = {0x88a8002a, 0x81000007, 0};
  struct live_frame frame = live_udp4(tag, 0x0a000001, 0x0a000002, 1, 2, 100, 0);
  int arriving = live_sender("v1");
  int leaving = live_sender("v0");
  live_send(arriving, frame.bytes, frame.length);
  struct sonde_backend *backend;
  CHECK_EQ(open_backend(interface, 262144, 0, &backend), 0);
  live_send(arriving, frame.bytes, frame.length); /* before start: not captured */
  usleep(20000);
  CHECK_EQ(ops->start(backend, &error), 0);
  struct sonde_backend_info info;
  ops->info(backend, &info);
  CHECK_EQ(info.live, 1);
  CHECK_EQ(info.queues, 1);
  CHECK_EQ(info.ifindex, if_nametoindex("v0"));
  CHECK(strncmp(info.attach, "dpdk net_af_packet, 1 queue, process ", 37) == 0);
  CHECK(strstr(live_line("ip -d link show v0", "promiscuity"), "promiscuity 1"));
  CHECK(!strstr(live_line("ip link show v0", "v0"), "PROMISC"));
  for (int i = 0; i < 2000; i++) {
    live_send(arriving, frame.bytes, frame.length);
    live_send(leaving, frame.bytes, frame.length);
    if (i % 50 == 49) /* the ring has only hundreds of slots */
      wait_written(backend, 2 * (uint32_t)i + 2, frame.length);
  }
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 4000);
  uint64_t now_ns = (uint64_t)time(NULL) * 1000000000;
  uint32_t incoming = 0;
  for (uint32_t i = 0; i < seen_count && i < SEEN_MAX; i++) {
    CHECK_EQ(seen[i].packet.wirelen, frame.length);
    CHECK_EQ(seen[i].packet.caplen, frame.length);
    CHECK_EQ(seen[i].packet.linktype, SONDE_LINKTYPE_ETHERNET);
    CHECK(seen[i].packet.time_ns + UINT64_C(60000000000) > now_ns &&
          seen[i].packet.time_ns < now_ns + UINT64_C(60000000000));
    CHECK(memcmp(seen[i].bytes, frame.bytes, frame.length) == 0);
    incoming += seen[i].packet.direction == SONDE_DIRECTION_INGRESS;
  }
  CHECK_EQ(incoming, 2000);
  close(arriving);
  close(leaving);
}

/* Fragments stay fragments. By default the driver has the kernel reassemble them. */
static void check_fragments_and_snaplen(void) {
  struct sonde_backend *backend = capture("v0", 64);
  struct live_frame first = live_udp4(NULL, 1, 2, 3, 4, 820, 0x2000);
  struct live_frame last = live_udp4(NULL, 1, 2, 3, 4, 120, 100);
  int sender = live_sender("v1");
  live_send(sender, first.bytes, first.length);
  live_send(sender, last.bytes, last.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 2);
  CHECK_EQ(seen[0].packet.wirelen, first.length);
  CHECK_EQ(seen[0].packet.caplen, 64);
  CHECK_EQ(seen[1].packet.wirelen, last.length);
  close(sender);
}

/* The capture does not clear a promiscuous mode that an administrator set. */
static void check_host_untouched(void) {
  live_run("ip link set v0 promisc on mtu 1400");
  struct sonde_backend *backend = capture("v0", 262144);
  finish(backend);
  CHECK(strstr(live_line("ip link show v0", "v0"), "PROMISC"));
  CHECK(strstr(live_line("ip link show v0", "v0"), "mtu 1400"));
  live_run("ip link set v0 promisc off mtu 1500");
}

static void check_loopback(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  struct sonde_backend *backend = capture("lo", 262144);
  int sender = live_sender("lo");
  for (int i = 0; i < 100; i++)
    live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 100);
  close(sender);
}

/* Nothing reads, every ring overflows, and the number of lost packets is exact. */
static void check_overload(void) {
  enum { OFFERED_MAX = 4000000 };
  struct sonde_backend *backend = capture("v0", 262144);
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1000, 0);
  struct sonde_backend_stats stats = {0};
  int sender = live_sender("v1");
  uint64_t offered = 0;
  for (; stats.freezes == 0 && offered < OFFERED_MAX; offered++) {
    live_send(sender, frame.bytes, frame.length);
    if (offered % 1000 == 0)
      ops->stats(backend, &stats);
  }
  CHECK(stats.freezes > 0);
  CHECK(stats.ring_used_permille > 900);
  uint64_t dropped = finish(backend);
  CHECK(dropped > 0 && seen_count > 0);
  CHECK_EQ(seen_count + dropped, offered);
  close(sender);
}

static void check_wake(void) {
  struct sonde_packet packets[4];
  struct timespec begin;
  struct sonde_backend *backend = capture("v0", 262144);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  CHECK_EQ(ops->receive(backend, 0, packets, 4, 100, &error), 0);
  CHECK(elapsed_ms(&begin) >= 90);
  ops->wake(backend);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  CHECK_EQ(ops->receive(backend, 0, packets, 4, HANGS_MS, &error), 0);
  CHECK(elapsed_ms(&begin) < HANGS_MS);
  finish(backend);
}

/* ---- files ------------------------------------------------------------------------------ */

enum { FILE_PACKETS = 5000, FILE_PAYLOAD = 9000 }; /* more than the ring, several buffers each */

static void check_file(void) {
  const uint32_t head[] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 262144, 1};
  static uint8_t frame[FILE_PAYLOAD];
  char path[] = "/tmp/dpdk_testXXXXXX";
  char name[64];
  int fd = mkstemp(path);
  FILE *file = fdopen(fd, "wb");
  fwrite(head, sizeof head, 1, file);
  for (size_t i = 0; i < sizeof frame; i++)
    frame[i] = (uint8_t)(i * 7 + i / 256);
  for (uint32_t i = 0; i < FILE_PACKETS; i++) {
    const uint32_t record[] = {1700000000, i, sizeof frame, sizeof frame};
    fwrite(record, sizeof record, 1, file);
    fwrite(frame, sizeof frame, 1, file);
  }
  fclose(file);
  snprintf(name, sizeof name, "net_pcap0,rx_pcap=%s", path);
  struct sonde_backend *backend = capture(name, 262144);
  struct sonde_backend_info info;
  struct sonde_packet packets[BATCH];
  uint32_t total = 0;
  uint32_t wrong = 0;
  int count = 0;
  ops->info(backend, &info);
  CHECK_EQ(info.live, 0);
  while ((count = ops->receive(backend, 0, packets, BATCH, 100, &error)) >= 0) {
    for (int i = 0; i < count; i++, total++) {
      const struct sonde_packet *one = &packets[i];
      wrong += one->caplen != sizeof frame || one->wirelen != sizeof frame ||
               memcmp(one->data, frame, sizeof frame) != 0 ||
               one->time_ns != (UINT64_C(1700000000000000) + total) * 1000;
    }
  }
  CHECK_EQ(count, SONDE_END);
  CHECK_EQ(total, FILE_PACKETS);
  CHECK_EQ(wrong, 0);
  CHECK_EQ(finish(backend), 0);
  unlink(path);
}

static void check_null(void) {
  struct sonde_backend *backend = capture("net_null0,size=64,copy=1;flows=100", 262144);
  struct sonde_packet packets[BATCH];
  int count = ops->receive(backend, 0, packets, BATCH, HANGS_MS, &error);
  CHECK(count > 0);
  CHECK_EQ(packets[0].wirelen, 64);
  CHECK_EQ(packets[0].data[23], 17);
  CHECK(memcmp(packets[0].data + 26, packets[16 % count].data + 26, 4) != 0 || count <= 16);
  finish(backend);
  CHECK_EQ(left_behind(), 0);
}

int main(void) {
  if (!dpdk_begin())
    return check_report();
  CHECK_EQ(ops->probe(&error), 0);
  check_names();
  check_counts("v0");
  check_counts("net_af_packet0,iface=v0");
  check_fragments_and_snaplen();
  check_host_untouched();
  check_loopback();
  check_overload();
  check_wake();
  check_file();
  check_null();
  return dpdk_end();
}
