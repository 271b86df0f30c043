/* dpdk_test.c - the dpdk backend with net_af_packet on a veth pair, net_pcap on a file and
 * net_null, each in the process that it makes; and what that process leaves when it is killed.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"
#include "core/registry.h"
#include "live.h"

enum { BATCH = 256, SEEN_MAX = 4096 };

static const struct sonde_backend_ops *ops;
static struct sonde_error error;
static struct seen {
  struct sonde_packet packet;
  uint8_t bytes[128];
} seen[SEEN_MAX];
static uint32_t seen_count;

static int open_it(const char *interface, uint32_t snaplen, int dedicated,
                   struct sonde_backend **backend) {
  struct sonde_backend_config config = {.interface = interface,
                                        .file_fd = -1,
                                        .queues = 4,
                                        .snaplen = snaplen,
                                        .ring_bytes = 32 << 20,
                                        .promiscuous = 1,
                                        .dedicated = dedicated};
  error = (struct sonde_error){0};
  *backend = NULL;
  return ops->open(&config, backend, &error);
}

static struct sonde_backend *capture(const char *interface, uint32_t snaplen) {
  struct sonde_backend *backend;
  int status = open_it(interface, snaplen, 0, &backend);
  status = status ? status : ops->start(backend, &error);
  if (status) {
    fprintf(stderr, "%s: %s\n", interface, error.detail);
    exit(1);
  }
  return backend;
}

static int collect(struct sonde_backend *backend, int timeout_ms) {
  struct sonde_packet packets[BATCH];
  int count;
  while ((count = ops->receive(backend, 0, packets, BATCH, timeout_ms, &error)) > 0) {
    for (int i = 0; i < count; i++, seen_count++) {
      if (seen_count >= SEEN_MAX) {
        continue;
      }
      seen[seen_count].packet = packets[i];
      memcpy(seen[seen_count].bytes, packets[i].data,
             packets[i].caplen < 128 ? packets[i].caplen : 128);
    }
  }
  return count;
}

static uint64_t finish(struct sonde_backend *backend) {
  struct sonde_backend_stats stats;
  seen_count = 0;
  ops->quiesce(backend);
  CHECK_EQ(collect(backend, 0), 0);
  ops->stats(backend, &stats);
  ops->stop(backend);
  ops->close(backend);
  return stats.dropped;
}

/* The process's id, which `attach` ends with. */
static int process_of(const struct sonde_backend *backend) {
  struct sonde_backend_info info;
  ops->info(backend, &info);
  const char *word = strstr(info.attach, "process ");
  return word ? atoi(word + 8) : 0;
}

/* Files of the DPDK processes that were ours, in the places where EAL and we put some. */
static unsigned left_behind(void) {
  static const char *const places[] = {"/tmp", "/dev/shm", "/var/run/dpdk"};
  unsigned count = 0;
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    DIR *place = opendir(places[i]);
    for (struct dirent *one; place && (one = readdir(place));) {
      count += strncmp(one->d_name, "netsonde-dpdk", 13) == 0;
    }
    if (place) {
      closedir(place);
    }
  }
  return count;
}

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
      {"0000:ff:1f.7", 1, SONDE_INTERFACE_INVALID, "0000:ff:1f.7: there is no such PCI device"},
      {"ff:1f.7", 1, SONDE_INTERFACE_INVALID, "0000:ff:1f.7: there is no such PCI device"},
      {"net_tap0", 0, SONDE_INTERFACE_INVALID, "not one of the virtual devices"},
      {"net_null", 0, SONDE_INTERFACE_INVALID, "not one of the virtual devices"},
      {"net_null0,size=x", 0, SONDE_INTERFACE_INVALID, "the argument is a number"},
      {"net_null0,--log-level=8", 0, SONDE_INTERFACE_INVALID, "not among those"},
      {"net_null0,size", 0, SONDE_INTERFACE_INVALID, "key=value"},
      {"net_null0 --huge-dir=/", 0, SONDE_INTERFACE_INVALID, "not one of the virtual devices"},
      {"net_af_packet0", 0, SONDE_INTERFACE_INVALID, "this argument is needed"},
      {"net_af_packet0,iface=nosuch0", 0, SONDE_INTERFACE_INVALID, "No such device"},
      {"net_af_xdp0,iface=v0", 0, SONDE_INTERFACE_SHARED, "dedicated"},
      {"net_af_xdp0,iface=lo", 1, SONDE_INTERFACE_SHARED, "loopback"},
      {"net_pcap0,tx_pcap=/tmp/x", 0, SONDE_INTERFACE_INVALID, "not among those"},
      {"net_pcap0,iface=v0", 0, SONDE_INTERFACE_INVALID, "not among those"},
      {"net_pcap0,rx_pcap=/nonexistent", 0, SONDE_INTERFACE_INVALID, "No such file"},
      {"net_pcap0,rx_pcap=/dev/null", 0, SONDE_INTERFACE_INVALID, "not a regular file"},
      {"net_pcap0,rx_pcap=/etc/passwd", 0, SONDE_INTERFACE_INVALID, "unknown file format"},
      {"net_ring0", 0, SONDE_OK, ""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_backend *backend;
    CHECK_EQ(open_it(rows[i].name, 262144, rows[i].dedicated, &backend), rows[i].status);
    if (!strstr(error.detail, rows[i].words)) {
      fprintf(stderr, "%s: %s\n", rows[i].name, error.detail);
    }
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
  CHECK_EQ(open_it(interface, 262144, 0, &backend), 0);
  live_send(arriving, frame.bytes, frame.length); /* before start: not ours */
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
    if (i % 200 == 0) { /* its ring has hundreds of places, and so many are sent */
      usleep(5000);
    }
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

/* Fragments stay fragments: the driver would have the kernel put them together. */
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

/* An administrator's own promiscuous mode is not ours to clear. */
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
  for (int i = 0; i < 100; i++) {
    live_send(sender, frame.bytes, frame.length);
  }
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 100);
  close(sender);
}

/* With nobody reading, lane and ring run full: what was lost is known to the packet. */
static void check_overload(void) {
  enum { OFFERED_MAX = 4000000 };
  struct sonde_backend *backend = capture("v0", 262144);
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1000, 0);
  struct sonde_backend_stats stats = {0};
  int sender = live_sender("v1");
  uint64_t offered = 0;
  for (; stats.freezes == 0 && offered < OFFERED_MAX; offered++) {
    live_send(sender, frame.bytes, frame.length);
    if (offered % 1000 == 0) {
      ops->stats(backend, &stats);
    }
  }
  CHECK(stats.freezes > 0);
  CHECK(stats.ring_used_permille > 900);
  uint64_t dropped = finish(backend);
  CHECK(dropped > 0 && seen_count > 0);
  CHECK_EQ(seen_count + dropped, offered);
  close(sender);
}

static uint64_t elapsed_ms(const struct timespec *since) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)((now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000);
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
  CHECK_EQ(ops->receive(backend, 0, packets, 4, 5000, &error), 0);
  CHECK(elapsed_ms(&begin) < 1000);
  finish(backend);
}

/* ---- files ------------------------------------------------------------------------------ */

enum { FILE_PACKETS = 5000, FILE_PAYLOAD = 9000 }; /* more than the lane, each over buffers */

static void check_file(void) {
  const uint32_t head[] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 262144, 1};
  static uint8_t frame[FILE_PAYLOAD];
  char path[] = "/tmp/dpdk_testXXXXXX";
  char name[64];
  int fd = mkstemp(path);
  FILE *file = fdopen(fd, "wb");
  fwrite(head, sizeof head, 1, file);
  for (size_t i = 0; i < sizeof frame; i++) {
    frame[i] = (uint8_t)(i * 7 + i / 256);
  }
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

/* ---- the process ------------------------------------------------------------------------ */

static void check_ten_lives(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  for (int i = 0; i < 10; i++) {
    struct sonde_backend *backend = capture("v0", 262144);
    int process = process_of(backend);
    live_send(sender, frame.bytes, frame.length);
    CHECK_EQ(finish(backend), 0);
    CHECK_EQ(seen_count, 1);
    CHECK(process > 0 && kill(process, 0) != 0);
  }
  CHECK_EQ(left_behind(), 0);
  close(sender);
}

static void check_killed_process(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  struct sonde_backend *backend = capture("v0", 262144);
  int process = process_of(backend);
  for (int i = 0; i < 10; i++) {
    live_send(sender, frame.bytes, frame.length);
  }
  usleep(200000);
  kill(process, SIGKILL);
  seen_count = 0;
  CHECK_EQ(collect(backend, 100), SONDE_SYSTEM);
  CHECK(strstr(error.detail, "was killed by signal 9"));
  CHECK_EQ(seen_count, 10); /* what it had written is not lost */
  CHECK_EQ(collect(backend, 100), SONDE_SYSTEM);
  live_run("ip link set v0 name gone0");
  CHECK(ops->reopen(backend, &error) != 0);
  CHECK_EQ(collect(backend, 100), SONDE_SYSTEM);
  live_run("ip link set gone0 name v0 && ip link set v0 up");
  live_wait_up("v0");
  CHECK_EQ(ops->reopen(backend, &error), 0);
  CHECK(process_of(backend) != process);
  for (int i = 0; i < 5; i++) {
    live_send(sender, frame.bytes, frame.length);
  }
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 5);
  CHECK_EQ(left_behind(), 0);
  close(sender);
}

/* Stopped in mid-air and gone: neither quiesce nor stop waits for ever, or this would not end. */
static void check_frozen_process(void) {
  struct sonde_backend *backend = capture("v0", 262144);
  int process = process_of(backend);
  kill(process, SIGSTOP);
  finish(backend);
  CHECK(kill(process, 0) != 0);
}

/* The process does not outlive its agent, however that ends. */
static void check_killed_agent(void) {
  int pipes[2];
  int process = 0;
  live_need(pipe(pipes) == 0, "pipe");
  pid_t agent = fork();
  if (agent == 0) {
    struct sonde_backend *backend = capture("v0", 262144);
    process = process_of(backend);
    live_need(write(pipes[1], &process, sizeof process) == sizeof process, "write");
    pause();
  }
  live_need(read(pipes[0], &process, sizeof process) == sizeof process, "read");
  CHECK(kill(process, 0) == 0);
  kill(agent, SIGKILL);
  waitpid(agent, NULL, 0);
  char path[32];
  char state = 'R';
  for (int tries = 0; tries < 300 && state != 'Z'; tries++) {
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *stat = fopen(path, "re");
    state = 'Z'; /* gone altogether, or a zombie whose new parent takes its time */
    if (stat) {
      live_need(fscanf(stat, "%*d (%*[^)]) %c", &state) == 1, path);
      fclose(stat);
    }
    usleep(10000);
  }
  CHECK_EQ(state, 'Z');
  CHECK_EQ(strlen(live_line("cat /proc/self/net/packet", "R0:")), 0);
  CHECK_EQ(left_behind(), 0);
}

static void check_null(void) {
  struct sonde_backend *backend = capture("net_null0,size=64,copy=1;flows=100", 262144);
  struct sonde_packet packets[BATCH];
  int count = ops->receive(backend, 0, packets, BATCH, 1000, &error);
  CHECK(count > 0);
  CHECK_EQ(packets[0].wirelen, 64);
  CHECK_EQ(packets[0].data[23], 17);
  CHECK(memcmp(packets[0].data + 26, packets[16 % count].data + 26, 4) != 0 || count <= 16);
  finish(backend);
  CHECK_EQ(left_behind(), 0);
}

int main(void) {
  int status = sonde_registry_load(SONDE_PLUGIN_DIR, "dpdk", &ops, &error);
  if (access(SONDE_PLUGIN_DIR "/dpdk.so", F_OK)) {
    fprintf(stderr, "built without libdpdk: the backend is not there, and says so\n");
    CHECK_EQ(status, SONDE_BACKEND_UNAVAILABLE);
    return check_report();
  }
  if (status) {
    fprintf(stderr, "%s\n", error.detail);
    return 1;
  }
  CHECK_EQ(left_behind(), 0);
  live_begin();
  live_pair();
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
  check_ten_lives();
  check_killed_process();
  check_frozen_process();
  check_killed_agent();
  check_null();
  return check_report();
}
