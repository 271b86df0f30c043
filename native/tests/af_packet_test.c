/* af_packet_test.c - the packets that the af_packet backend captures on real veth pairs in a
 * separate network: each once, whole or cut to the snaplen, with its tags, matching the filter,
 * in the right queue.
 */
#include <linux/tcp.h>
#include <sys/wait.h>
#include <time.h>

#include "captured.h"
#include "live.h"

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
    if (i % 64 == 0)
      collect(backend, 1, 0);
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
    {0x81000000, 0},             /* priority tag: id 0 is a tag */
    {0x81006fff, 0},             /* priority 3, id 4095 */
    {0x88a80064, 0x81000014, 0}, /* QinQ */
    {0x81000064, 0x81000014, 0}, /* two customer tags */
    {0x88a80001, 0x81000002, 0x81000003, 0},
};

enum { TAG_STACKS = sizeof tag_stacks / sizeof tag_stacks[0] };

/* Tags are restored in line, byte for byte, in both directions. */
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
  /* a tag that the kernel itself adds: v0.42 sends through v0 */
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

/* Waits until the process sleeps, and so has read all that is in its socket. */
static void await_asleep(pid_t pid) {
  enum { READINGS = 5, TRIES = 6000 };
  char path[32];
  int asleep = 0;
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  for (int tries = 0; tries < TRIES && asleep < READINGS; tries++) {
    char state = 0;
    FILE *stat = fopen(path, "re");
    live_need(stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1, path);
    fclose(stat);
    asleep = state == 'S' ? asleep + 1 : 0;
    usleep(10000);
  }
  CHECK_EQ(asleep, READINGS);
}

/* Counts the same frames for every expression. tcpdump captures in parallel as the oracle. */
static void check_filters(void) {
  static const char *const expressions[] = {
      "udp port 80",          "port 53",       "vlan",
      "vlan 42 and port 80",  "vlan and vlan", "not vlan and port 80",
      "vlan 100 and vlan 20", "host 10.0.0.7", "ip6",
      "vlan 42 or port 53"};
  enum { EXPRESSIONS = sizeof expressions / sizeof expressions[0] };
  FILE *oracles[EXPRESSIONS];
  pid_t pids[EXPRESSIONS];
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
  int sender = live_sender("v1");
  uint32_t counts[EXPRESSIONS];
  for (int i = 0; i < EXPRESSIONS; i++) {
    struct sonde_backend *backend = capture("v0", expressions[i], 2, 262144, 8 << 20);
    for (uint32_t port = 53; port <= 80; port += 27) {
      for (int stack = 0; stack <= TAG_STACKS; stack++) {
        struct live_frame frame = live_udp4(stack ? tag_stacks[stack - 1] : NULL, 0x0a000001,
                                            0x0a000007, 1000, (uint16_t)port, 60, 0);
        live_send(sender, frame.bytes, frame.length);
      }
    }
    CHECK_EQ(finish(backend, 2), 0);
    counts[i] = seen_count;
  }
  sleep(1); /* tcpdump does not count frames still in its socket when the signal arrives */
  for (int i = 0; i < EXPRESSIONS; i++) {
    await_asleep(pids[i]);
    kill(pids[i], SIGINT);
    char line[256];
    unsigned expected = UINT32_MAX;
    while (fgets(line, sizeof line, oracles[i]))
      if (strstr(line, "packets captured"))
        sscanf(line, "%u", &expected);
    pclose(oracles[i]);
    if (counts[i] * EXPRESSIONS != expected) {
      fprintf(stderr, "'%s': %u, tcpdump %u in %d rounds\n", expressions[i], counts[i], expected,
              EXPRESSIONS);
    }
    CHECK_EQ(counts[i] * EXPRESSIONS, expected);
  }
  CHECK(counts[0] > 0 && counts[3] > 0 && counts[4] > 0 && counts[8] == 0);
  close(sender);
}

/* One address pair uses one queue, for any ports, direction, fragment and tags. */
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
    while (ip[-2] == 0x81 || ip[-2] == 0x88)
      ip += 4;
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

/* The far end of a TCP connection, in another network that v1 is moved to. */
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
  if (far == 0)
    drain_tcp(ready[1], go[0]);
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
  struct tcp_info info = {0};
  socklen_t info_bytes = sizeof info;
  live_need(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_bytes) == 0, "TCP_INFO");
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
  CHECK_EQ(payload, SENT + info.tcpi_bytes_retrans);
  live_run("ip link del v0 2>/dev/null || true"); /* possibly gone with the far network */
  live_pair();
}

int main(void) {
  if (!captured_begin())
    return 1;
  live_begin();
  live_pair();
  check_counts();
  check_vlans();
  check_snaplen();
  check_filters();
  check_queues(1);
  check_queues(4);
  check_gso();
  free(seen);
  return check_report();
}
