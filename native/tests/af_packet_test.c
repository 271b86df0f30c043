/* af_packet_test.c - the af_packet backend on real veth pairs in a network of its own.
 *
 * Every check counts exactly: what was sent is captured or dropped, whatever happens.
 */
#include <linux/capability.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"
#include "core/registry.h"
#include "live.h"

enum { BATCH = 256, SEEN_MAX = 65536, QUEUES_MAX = 8 };

static const struct sonde_backend_ops *ops;

/* What the last collect saw, in order; data is copied up to 128 bytes. */
static struct seen {
  struct sonde_packet packet;
  uint8_t bytes[128];
  uint32_t queue;
} *seen;
static uint32_t seen_count;

static struct sonde_backend *capture(const char *interface, const char *filter, uint32_t queues,
                                     uint32_t snaplen, uint32_t ring_bytes) {
  struct sonde_backend_config config = {.interface = interface,
                                        .filter = filter,
                                        .file_fd = -1,
                                        .queues = queues,
                                        .snaplen = snaplen,
                                        .ring_bytes = ring_bytes,
                                        .promiscuous = 1};
  struct sonde_backend *backend = NULL;
  struct sonde_error error = {0};
  seen_count = 0;
  int status = ops->open(&config, &backend, &error);
  status = status ? status : ops->start(backend, &error);
  if (status) {
    fprintf(stderr, "%s: %s\n", interface, error.detail);
    exit(1);
  }
  return backend;
}

/* Receives from every queue until each returns 0. Senders of much call it in between: the
 * kernel closes a block after some milliseconds however little is in it, so that on a slow
 * machine few frames fill a ring that nobody reads. */
static void collect(struct sonde_backend *backend, uint32_t queues, int timeout_ms) {
  struct sonde_packet packets[BATCH];
  struct sonde_error error = {0};
  for (uint32_t queue = 0; queue < queues; queue++) {
    int count;
    while ((count = ops->receive(backend, queue, packets, BATCH, timeout_ms, &error)) > 0) {
      for (int i = 0; i < count && seen_count < SEEN_MAX; i++) {
        struct seen *to = &seen[seen_count++];
        *to = (struct seen){.packet = packets[i], .queue = queue};
        memcpy(to->bytes, packets[i].data,
               packets[i].caplen < sizeof to->bytes ? packets[i].caplen : sizeof to->bytes);
      }
    }
    CHECK_EQ(count, 0);
  }
}

/* Ends a capture the way a session does; seen then holds the rest, too. Returns the drops. */
static uint64_t finish(struct sonde_backend *backend, uint32_t queues) {
  struct sonde_backend_stats before;
  struct sonde_backend_stats after;
  ops->quiesce(backend);
  collect(backend, queues, 0);
  ops->stats(backend, &before);
  ops->stop(backend);
  ops->stats(backend, &after);
  CHECK_EQ(before.dropped, after.dropped); /* nothing was left behind */
  ops->close(backend);
  return after.dropped;
}

static void check_counts(void) {
  struct sonde_backend *backend = capture("v0", NULL, 1, 262144, 64 << 20);
  struct sonde_backend_info info;
  struct live_frame frame = live_udp4(NULL, 0x0a000001, 0x0a000002, 1, 2, 100, 0);
  int arriving = live_sender("v1");
  int leaving = live_sender("v0");
  ops->info(backend, &info);
  CHECK_EQ(info.live, 1);
  CHECK_EQ(info.queues, 1);
  CHECK_EQ(info.ifindex, if_nametoindex("v0"));
  CHECK(strcmp(info.attach, "tpacket_v3 ring 64 MiB") == 0);
  for (int i = 0; i < 10000; i++) {
    live_send(arriving, frame.bytes, frame.length);
    live_send(leaving, frame.bytes, frame.length - 20);
    if (i % 64 == 0) {
      collect(backend, 1, 0);
    }
  }
  CHECK_EQ(finish(backend, 1), 0);
  CHECK_EQ(seen_count, 20000);
  uint32_t ingress = 0;
  uint64_t now_ns = (uint64_t)time(NULL) * 1000000000;
  for (uint32_t i = 0; i < seen_count; i++) {
    const struct sonde_packet *packet = &seen[i].packet;
    bool in = packet->direction == SONDE_DIRECTION_INGRESS;
    ingress += in;
    CHECK(in || packet->direction == SONDE_DIRECTION_EGRESS);
    CHECK_EQ(packet->wirelen, in ? frame.length : frame.length - 20);
    CHECK_EQ(packet->caplen, packet->wirelen);
    CHECK_EQ(packet->gso_size, 0);
    CHECK_EQ(packet->linktype, SONDE_LINKTYPE_ETHERNET);
    CHECK(packet->time_ns + UINT64_C(60000000000) > now_ns &&
          packet->time_ns < now_ns + UINT64_C(60000000000));
    CHECK(memcmp(seen[i].bytes, frame.bytes, 94) == 0);
  }
  CHECK_EQ(ingress, 10000);
  close(arriving);
  close(leaving);
}

static const uint32_t tag_stacks[][4] = {
    {0x8100002a, 0},             /* 42 */
    {0x81000000, 0},             /* priority tag: id 0 is a tag, too */
    {0x81006fff, 0},             /* priority 3, id 4095 */
    {0x88a80064, 0x81000014, 0}, /* QinQ */
    {0x81000064, 0x81000014, 0}, /* two customer tags */
    {0x88a80001, 0x81000002, 0x81000003, 0},
};

enum { TAG_STACKS = sizeof tag_stacks / sizeof tag_stacks[0] };

/* Tags are back in line, byte for byte, in both directions. */
static void check_vlans(void) {
  for (int leaving = 0; leaving < 2; leaving++) {
    struct sonde_backend *backend = capture("v0", NULL, 1, 262144, 1 << 20);
    int sender = live_sender(leaving ? "v0" : "v1");
    struct live_frame frames[TAG_STACKS];
    for (int i = 0; i < TAG_STACKS; i++) {
      frames[i] = live_udp4(tag_stacks[i], 1, 2, 3, 4, 80, 0);
      live_send(sender, frames[i].bytes, frames[i].length);
    }
    CHECK_EQ(finish(backend, 1), 0);
    CHECK_EQ(seen_count, TAG_STACKS);
    for (uint32_t i = 0; i < seen_count; i++) {
      CHECK_EQ(seen[i].packet.wirelen, frames[i].length);
      CHECK_EQ(seen[i].packet.caplen, frames[i].length);
      CHECK(memcmp(seen[i].bytes, frames[i].bytes, frames[i].length) == 0);
    }
    close(sender);
  }
  /* a tag that the kernel itself puts on: v0.42 sends through v0 */
  if (system(
          "ip link add link v0 name v0.42 type vlan id 42 2>/dev/null && ip link set v0.42 up")) {
    fprintf(stderr, "af_packet_test: this kernel has no VLAN devices\n");
    return;
  }
  struct sonde_backend *backend = capture("v0", NULL, 1, 262144, 1 << 20);
  int sender = live_sender("v0.42");
  struct live_frame bare = live_udp4(NULL, 1, 2, 3, 4, 80, 0);
  struct live_frame tagged = live_udp4(tag_stacks[0], 1, 2, 3, 4, 80, 0);
  live_send(sender, bare.bytes, bare.length);
  CHECK_EQ(finish(backend, 1), 0);
  CHECK_EQ(seen_count, 1);
  CHECK_EQ(seen[0].packet.wirelen, tagged.length);
  CHECK(memcmp(seen[0].bytes, tagged.bytes, tagged.length) == 0);
  close(sender);
  live_run("ip link del v0.42");
}

static void check_snaplen(void) {
  struct sonde_backend *backend = capture("v0", "udp", 1, 64, 1 << 20);
  struct live_frame bare = live_udp4(NULL, 1, 2, 3, 4, 1000, 0);
  struct live_frame tagged = live_udp4(tag_stacks[0], 1, 2, 3, 4, 1000, 0);
  int sender = live_sender("v1");
  live_send(sender, bare.bytes, bare.length);
  live_send(sender, tagged.bytes, tagged.length);
  CHECK_EQ(finish(backend, 1), 0);
  CHECK_EQ(seen_count, 2);
  CHECK_EQ(seen[0].packet.caplen, 64);
  CHECK_EQ(seen[0].packet.wirelen, 1014);
  CHECK_EQ(seen[1].packet.caplen, 64);
  CHECK_EQ(seen[1].packet.wirelen, 1018);
  CHECK(memcmp(seen[1].bytes, tagged.bytes, 64) == 0);
  close(sender);
}

/* The same frames for every expression; tcpdump, capturing beside us, is the oracle. */
static void check_filters(void) {
  static const char *const expressions[] = {
      "udp port 80",          "port 53",       "vlan",
      "vlan 42 and port 80",  "vlan and vlan", "not vlan and port 80",
      "vlan 100 and vlan 20", "host 10.0.0.7", "ip6",
      "vlan 42 or port 53"};
  enum { EXPRESSIONS = sizeof expressions / sizeof expressions[0] };
  FILE *oracles[EXPRESSIONS];
  pid_t pids[EXPRESSIONS];
  struct sonde_error error = {0};
  for (int i = 0; i < EXPRESSIONS; i++) {
    char command[256];
    snprintf(command, sizeof command,
             "echo $$; exec tcpdump --immediate-mode -ni v0 -w /dev/null '%s' 2>&1",
             expressions[i]);
    oracles[i] = popen(command, "r");
    char line[256];
    live_need(fgets(line, sizeof line, oracles[i]) && sscanf(line, "%d", &pids[i]) == 1, "popen");
    while (fgets(line, sizeof line, oracles[i]) && !strstr(line, "listening")) {
    }
  }
  struct sonde_backend *backend = capture("v0", expressions[0], 2, 262144, 8 << 20);
  int sender = live_sender("v1");
  uint32_t counts[EXPRESSIONS];
  for (int i = 0; i < EXPRESSIONS; i++) {
    CHECK_EQ(ops->filter_set(backend, expressions[i], &error), 0);
    seen_count = 0;
    for (uint32_t port = 53; port <= 80; port += 27) {
      for (int stack = 0; stack <= TAG_STACKS; stack++) {
        struct live_frame frame = live_udp4(stack ? tag_stacks[stack - 1] : NULL, 0x0a000001,
                                            0x0a000007, 1000, (uint16_t)port, 60, 0);
        live_send(sender, frame.bytes, frame.length);
      }
    }
    usleep(150000); /* many times what a block stays open */
    collect(backend, 2, 0);
    counts[i] = seen_count;
  }
  sleep(1); /* what is in its socket when the signal comes, tcpdump does not count */
  for (int i = 0; i < EXPRESSIONS; i++) {
    kill(pids[i], SIGINT);
    char line[256];
    unsigned expected = UINT32_MAX;
    while (fgets(line, sizeof line, oracles[i])) {
      if (strstr(line, "packets captured")) {
        sscanf(line, "%u", &expected);
      }
    }
    pclose(oracles[i]);
    if (counts[i] * EXPRESSIONS != expected) {
      fprintf(stderr, "'%s': %u, tcpdump %u in %d rounds\n", expressions[i], counts[i], expected,
              EXPRESSIONS);
    }
    CHECK_EQ(counts[i] * EXPRESSIONS, expected);
  }
  CHECK(counts[0] > 0 && counts[3] > 0 && counts[4] > 0 && counts[8] == 0);
  CHECK_EQ(ops->filter_set(backend, "port eighty eighty", &error), SONDE_FILTER_INVALID);
  CHECK(error.detail[0] != 0);
  CHECK_EQ(finish(backend, 2), 0);
  close(sender);
}

/* Whatever the ports, the direction, the fragment and the tags: one pair, one queue. */
static void check_queues(uint32_t queues) {
  enum { PAIRS = 200 };
  static uint64_t queue_sets[2][PAIRS];
  uint32_t used = 0;
  struct sonde_backend *backend = capture("v0", NULL, queues, 262144, 64 << 20);
  struct sonde_backend_info info;
  ops->info(backend, &info);
  CHECK_EQ(info.queues, queues);
  CHECK(queues == 1 || strstr(info.attach, "queues (fanout cbpf)"));
  int arriving = live_sender("v1");
  int leaving = live_sender("v0");
  memset(queue_sets, 0, sizeof queue_sets);
  for (uint32_t pair = 0; pair < PAIRS; pair++) {
    uint32_t a = 0x0a000000 + pair;
    uint32_t b = 0x0a00ffff - pair * 3;
    const struct live_frame frames[] = {
        live_udp4(NULL, a, b, 1, 2, 60, 0),
        live_udp4(NULL, b, a, 2, 1, 60, 0),
        live_udp4(NULL, a, b, 7, 9, 60, 0x2000),
        live_udp4(NULL, a, b, 0xffff, 0xffff, 60, 0x0005),
        live_udp4(tag_stacks[0], a, b, 1, 2, 60, 0),
        live_udp4(tag_stacks[3], b, a, 2, 1, 60, 0),
        live_udp6(NULL, a, b, 1, 2),
        live_udp6(NULL, b, a, 2, 1),
        live_udp6(tag_stacks[0], b, a, 9, 9),
        live_udp6(tag_stacks[3], a, b, 9, 9),
    };
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
      live_send(arriving, frames[i].bytes, frames[i].length);
      live_send(leaving, frames[i].bytes, frames[i].length);
    }
    collect(backend, queues, 0);
  }
  CHECK_EQ(finish(backend, queues), 0);
  CHECK_EQ(seen_count, PAIRS * 20);
  for (uint32_t i = 0; i < seen_count; i++) {
    const uint8_t *ip = seen[i].bytes + 14;
    while (ip[-2] == 0x81 || ip[-2] == 0x88) {
      ip += 4;
    }
    uint32_t six = ip[0] >> 4 == 6;
    uint32_t low = six ? ip[23] : ip[15];
    uint32_t high = six ? ip[39] : ip[19];
    uint32_t pair = (six ? ip[22] : ip[14]) == 0 ? low : high; /* b's third byte is 0xfd…0xff */
    queue_sets[six][pair] |= UINT64_C(1) << seen[i].queue;
    used |= UINT32_C(1) << seen[i].queue;
  }
  for (uint32_t pair = 0; pair < PAIRS; pair++) {
    CHECK_EQ(__builtin_popcountll(queue_sets[0][pair]), 1);
    CHECK_EQ(__builtin_popcountll(queue_sets[1][pair]), 1);
  }
  CHECK_EQ(used, (UINT32_C(1) << queues) - 1);
  close(arriving);
  close(leaving);
}

/* The far end of a TCP connection, in a network of its own that v1 is moved to. */
static void drain_tcp(int ready, int go) {
  char byte = 0;
  static char buffer[1 << 16];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(5000)};
  live_need(unshare(CLONE_NEWNET) == 0 && write(ready, &byte, 1) == 1, "unshare");
  live_need(read(go, &byte, 1) == 1, "pipe");
  live_run("ip addr add 10.9.0.2/24 dev v1 && ip link set v1 up");
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  live_need(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
                listen(listener, 1) == 0 && write(ready, &byte, 1) == 1,
            "listen");
  int fd = accept(listener, NULL, NULL);
  while (read(fd, buffer, sizeof buffer) > 0) {
  }
  _exit(0);
}

static void check_gso(void) {
  enum { SENT = 20 << 20 };
  static char buffer[1 << 16];
  char byte = 0;
  int ready[2];
  int go[2];
  live_need(pipe(ready) == 0 && pipe(go) == 0, "pipe");
  pid_t far = fork();
  if (far == 0) {
    drain_tcp(ready[1], go[0]);
  }
  live_need(read(ready[0], &byte, 1) == 1, "the far network");
  live_run("ip link set v1 netns %d && ip addr add 10.9.0.1/24 dev v0", far);
  live_need(write(go[1], &byte, 1) == 1 && read(ready[0], &byte, 1) == 1, "the far end");
  live_wait_up("v0");

  struct sonde_backend *backend = capture("v0", "tcp port 5000", 1, 262144, 64 << 20);
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(5000), .sin_addr = {htonl(0x0a090002)}};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  live_need(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
  for (size_t sent = 0; sent < SENT; sent += sizeof buffer) {
    live_need(write(fd, buffer, sizeof buffer) == sizeof buffer, "write");
    collect(backend, 1, 0);
  }
  shutdown(fd, SHUT_WR);
  waitpid(far, NULL, 0);
  struct tcp_info told = {0};
  socklen_t told_bytes = sizeof told;
  live_need(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &told, &told_bytes) == 0, "TCP_INFO");
  close(fd);
  CHECK_EQ(finish(backend, 1), 0);
  uint64_t payload = 0;
  uint32_t super = 0;
  for (uint32_t i = 0; i < seen_count; i++) {
    const struct sonde_packet *packet = &seen[i].packet;
    uint32_t headers = 14u + 20u + (seen[i].bytes[46] >> 4) * 4u;
    payload += packet->direction == SONDE_DIRECTION_EGRESS ? packet->wirelen - headers : 0;
    CHECK_EQ(packet->caplen, packet->wirelen);
    CHECK_EQ(packet->gso_size != 0, packet->wirelen > 1514);
    CHECK(packet->gso_size == 0 || packet->gso_size == 1448);
    super += packet->gso_size != 0;
  }
  CHECK(super > 100);
  CHECK_EQ(payload, SENT + told.tcpi_bytes_retrans);
  live_run("ip link del v0 2>/dev/null || true"); /* it may have gone with the far network */
  live_pair();
}

/* Nobody reads, the ring overflows, and still every frame is accounted for. */
static void check_overload(uint32_t queues) {
  enum { OFFERED = 50000 };
  struct sonde_backend *backend = capture("v0", NULL, queues, 262144, 1 << 20);
  struct sonde_backend_stats stats;
  int sender = live_sender("v1");
  for (uint32_t i = 0; i < OFFERED; i++) {
    struct live_frame frame = live_udp4(NULL, i % 100, ~i % 100, 1, 2, 1000, 0);
    live_send(sender, frame.bytes, frame.length);
  }
  ops->stats(backend, &stats);
  CHECK(stats.dropped > OFFERED / 2);
  CHECK(stats.freezes > 0);
  CHECK_EQ(stats.ring_used_permille, 1000);
  uint64_t dropped = finish(backend, queues);
  CHECK(seen_count > 100);
  CHECK_EQ(seen_count + dropped, OFFERED);
  close(sender);
}

struct reading {
  struct sonde_backend *backend;
  uint32_t queue;
  uint64_t taken;
  _Atomic bool quiesced;
};

static void *read_slowly(void *argument) {
  struct reading *reading = argument;
  struct sonde_packet packets[BATCH];
  struct sonde_error error;
  for (;;) {
    bool last = reading->quiesced; /* before receive: a 0 from before the quiesce is no end */
    int count = ops->receive(reading->backend, reading->queue, packets, BATCH, 50, &error);
    if (count > 0) {
      reading->taken += (uint64_t)count;
      usleep(2000);
    } else if (last) {
      return NULL;
    }
  }
}

/* The same while threads read too slowly, and quiesce comes in the middle. */
static void check_overload_threads(void) {
  enum { OFFERED = 60000, QUEUES = 2 };
  struct sonde_backend *backend = capture("v0", NULL, QUEUES, 262144, 1 << 20);
  struct sonde_backend_stats stats;
  struct reading readings[QUEUES];
  pthread_t threads[QUEUES];
  int sender = live_sender("v1");
  for (uint32_t i = 0; i < QUEUES; i++) {
    readings[i] = (struct reading){.backend = backend, .queue = i};
    pthread_create(&threads[i], NULL, read_slowly, &readings[i]);
  }
  for (uint32_t i = 0; i < OFFERED; i++) {
    struct live_frame frame = live_udp4(NULL, i % 100, ~i % 100, 1, 2, 1000, 0);
    live_send(sender, frame.bytes, frame.length);
    if (i % 1000 == 0) {
      ops->stats(backend, &stats);
    }
  }
  ops->quiesce(backend);
  uint64_t taken = 0;
  for (uint32_t i = 0; i < QUEUES; i++) {
    readings[i].quiesced = true;
    pthread_join(threads[i], NULL);
    taken += readings[i].taken;
  }
  ops->stop(backend);
  ops->stats(backend, &stats);
  CHECK(stats.dropped > 0 && taken > 1000);
  CHECK_EQ(taken + stats.dropped, OFFERED);
  ops->close(backend);
  close(sender);
}

/* Receives until something other than 0 or packets comes, at most two seconds. */
static int next_status(struct sonde_backend *backend, uint32_t queue) {
  struct sonde_packet packets[BATCH];
  struct sonde_error error;
  int status = 0;
  for (int i = 0; i < 20 && status >= 0; i++) {
    status = ops->receive(backend, queue, packets, BATCH, 100, &error);
  }
  return status;
}

static void check_link(void) {
  struct sonde_backend *backend = capture("v0", "udp", 2, 262144, 1 << 20);
  struct sonde_backend_info info;
  struct sonde_backend_stats stats;
  struct sonde_error error = {0};
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1000, 0);
  int sender = live_sender("v1");
  live_run("ip link set v0 down");
  CHECK_EQ(next_status(backend, 0), SONDE_LINK_DOWN);
  CHECK_EQ(next_status(backend, 1), SONDE_LINK_DOWN);
  CHECK_EQ(next_status(backend, 0), 0);
  live_run("ip link set v0 up");
  live_wait_up("v0");
  live_wait_up("v1");
  live_send(sender, frame.bytes, frame.length);
  seen_count = 0;
  collect(backend, 2, 100);
  CHECK_EQ(seen_count, 1);
  for (int i = 0; i < 5000; i++) { /* more than the ring holds */
    live_send(sender, frame.bytes, frame.length);
  }
  ops->stats(backend, &stats);
  uint64_t dropped = stats.dropped;
  CHECK(dropped > 0);
  close(sender);

  live_run("ip link del v0");
  CHECK_EQ(ops->reopen(backend, &error), SONDE_INTERFACE_INVALID);
  CHECK(strcmp(error.detail, "v0: No such device") == 0);
  live_run("ip tuntap add dev filler mode tap");
  live_pair();
  int before = (ops->info(backend, &info), info.ifindex);
  CHECK_EQ(ops->reopen(backend, &error), 0);
  ops->info(backend, &info);
  CHECK(info.ifindex != before);
  CHECK_EQ(info.ifindex, if_nametoindex("v0"));
  ops->stats(backend, &stats);
  CHECK_EQ(stats.dropped, 5000); /* those not read before it was deleted are lost, too */
  sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  seen_count = 0;
  CHECK_EQ(finish(backend, 2), 5000);
  CHECK_EQ(seen_count, 1);
  close(sender);
  live_run("ip link del filler");
}

/* A filter is compiled, and a capture begun, on an interface that is down. */
static void check_down_at_start(void) {
  live_run("ip link set v0 down");
  struct sonde_backend *backend = capture("v0", "vlan 42", 1, 262144, 1 << 20);
  live_run("ip link set v0 up");
  live_wait_up("v0");
  live_wait_up("v1");
  struct live_frame frame = live_udp4(tag_stacks[0], 1, 2, 3, 4, 60, 0);
  int sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(finish(backend, 1), 0);
  CHECK_EQ(seen_count, 1);
  close(sender);
}

static void check_loopback(uint32_t queues) {
  struct sonde_backend *backend = capture("lo", "udp port 9999", queues, 262144, 1 << 20);
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(9999), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  int server = socket(AF_INET, SOCK_DGRAM, 0);
  live_need(bind(server, (struct sockaddr *)&address, sizeof address) == 0, "bind");
  for (int i = 0; i < 100; i++) {
    sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address);
  }
  CHECK_EQ(finish(backend, queues), 0);
  CHECK_EQ(seen_count, 100);
  CHECK_EQ(seen[0].packet.linktype, SONDE_LINKTYPE_ETHERNET);
  CHECK_EQ(seen[0].packet.wirelen, 14 + 20 + 8 + 1);
  close(fd);
  close(server);
}

static void check_tun(void) {
  live_run("ip tuntap add dev t0 mode tun && ip addr add 10.8.0.1/24 dev t0 && "
           "ip link set t0 up");
  int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC); /* unattached: frames go out and vanish */
  struct sonde_backend *backend = capture("t0", "udp port 7", 2, 262144, 1 << 20);
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(7), .sin_addr = {htonl(0x0a080002)}};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct ifreq request = {.ifr_name = "t0", .ifr_flags = 0x1001 /* IFF_TUN, IFF_NO_PI */};
  live_need(ioctl(tun, 0x400454ca /* TUNSETIFF */, &request) == 0, "tun");
  live_wait_up("t0");
  sendto(fd, "four", 4, 0, (struct sockaddr *)&address, sizeof address);
  CHECK_EQ(finish(backend, 2), 0);
  CHECK_EQ(seen_count, 1);
  CHECK_EQ(seen[0].packet.linktype, SONDE_LINKTYPE_RAW);
  CHECK_EQ(seen[0].packet.wirelen, 32);
  CHECK_EQ(seen[0].bytes[0], 0x45);
  close(fd);
  close(tun);
  live_run("ip link del t0");
}

static void *wake_later(void *backend) {
  usleep(50000);
  ops->wake(backend);
  return NULL;
}

static void check_wake(void) {
  struct sonde_backend *backend = capture("v0", NULL, 1, 262144, 1 << 20);
  struct sonde_packet packets[1];
  struct sonde_error error;
  pthread_t thread;
  time_t begin = time(NULL);
  pthread_create(&thread, NULL, wake_later, backend);
  CHECK_EQ(ops->receive(backend, 0, packets, 1, 10000, &error), 0);
  CHECK(time(NULL) - begin < 5);
  pthread_join(thread, NULL);
  finish(backend, 1);
}

static int try_open(const char *interface, const char *filter, struct sonde_error *error) {
  struct sonde_backend_config config = {.interface = interface,
                                        .filter = filter,
                                        .file_fd = -1,
                                        .queues = 1,
                                        .snaplen = 262144,
                                        .ring_bytes = 1 << 20};
  struct sonde_backend *backend = NULL;
  int status = ops->open(&config, &backend, error);
  CHECK(backend == NULL);
  return status;
}

static void check_refusals(void) {
  struct sonde_error error = {0};
  CHECK_EQ(try_open("nosuch0", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK(strcmp(error.detail, "nosuch0: No such device") == 0);
  CHECK_EQ(error.system_errno, ENODEV);
  CHECK_EQ(try_open("", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(try_open("a-name-that-is-too-long-for-linux", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(try_open("any", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(try_open("v0", "not a filter (", &error), SONDE_FILTER_INVALID);
  CHECK_EQ(ops->probe(&error), 0);

  pid_t child = fork();
  if (child == 0) { /* the same without any capability */
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    check_failures = 0;
    live_need(syscall(SYS_capset, &header, none) == 0, "capset");
    CHECK_EQ(ops->probe(&error), SONDE_PERMISSION);
    CHECK_EQ(try_open("v0", NULL, &error), SONDE_PERMISSION);
    CHECK(strcmp(error.detail, "needs CAP_NET_RAW") == 0);
    CHECK_EQ(try_open("nosuch0", NULL, &error), SONDE_INTERFACE_INVALID);
    _exit(check_failures != 0);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void check_kill(void) {
  char byte = 0;
  int ready[2];
  live_need(pipe(ready) == 0, "pipe");
  pid_t child = fork();
  if (child == 0) {
    capture("v0", NULL, 2, 262144, 1 << 20);
    live_need(write(ready[1], &byte, 1) == 1, "pipe");
    pause();
  }
  live_need(read(ready[0], &byte, 1) == 1, "the child");
  CHECK(strstr(live_line("ip -d link show v0", "promiscuity"), "promiscuity 1"));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  CHECK(strstr(live_line("ip -d link show v0", "promiscuity"), "promiscuity 0"));
  close(ready[0]);
  close(ready[1]);
}

int main(void) {
  struct sonde_error error = {0};
  seen = calloc(SEEN_MAX, sizeof *seen);
  if (!seen || sonde_registry_load(SONDE_PLUGIN_DIR, "af_packet", &ops, &error)) {
    fprintf(stderr, "%s\n", error.detail);
    return 1;
  }
  live_begin();
  live_pair();
  check_counts();
  check_vlans();
  check_snaplen();
  check_filters();
  check_queues(1);
  check_queues(4);
  check_gso();
  check_overload(1);
  check_overload(3);
  check_overload_threads();
  check_link();
  check_down_at_start();
  check_loopback(1);
  check_loopback(2);
  check_tun();
  check_wake();
  check_refusals();
  check_kill();
  free(seen);
  return check_report();
}
