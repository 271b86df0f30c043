/* owner_load.c - connections and datagrams, measured in processor time; see owner_cost.py.
 *
 *   owner_load TUN    reads lines "both N", "one N", "udp N" and "unix N"
 *
 * Answers each line with the nanoseconds of processor time, user and system, of one operation:
 *   both  TCP on loopback: connect, accept, 100 bytes, 200 bytes back, close both ends
 *   one   the same without the server's socket: this program answers as a small TCP behind the TUN
 *         device, which takes the place of a network card and of another host
 *   udp   sendto and recv of 100 bytes between two sockets on loopback
 *   unix  send and recv of 100 bytes between two connected Unix sockets, which have no owner
 * All is on one thread, so the kernel's work for both ends is in its time. The peer of `one` closes
 * first, so that no socket stays in TIME_WAIT.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ASK = 100, ANSWER = 200, PACKET_MAX = 2048, PEER_PORT = 7777 };
static const char peer_address[] = "10.99.0.2";
static uint8_t payload[ANSWER];

static void require(bool holds, const char *what) {
  if (holds)
    return;
  fprintf(stderr, "owner_load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t cpu_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void take(int fd, size_t bytes) {
  uint8_t buffer[ANSWER];
  require(recv(fd, buffer, bytes, MSG_WAITALL) == (ssize_t)bytes, "recv");
}

static void give(int fd, size_t bytes) {
  require(send(fd, payload, bytes, 0) == (ssize_t)bytes, "send");
}

/* ---- loopback -------------------------------------------------------------------------- */

static int bound(int type, struct sockaddr_in *address) {
  socklen_t bytes = sizeof *address;
  int fd = socket(AF_INET, type, 0);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  require(fd >= 0 && bind(fd, (struct sockaddr *)address, bytes) == 0, "bind");
  require(getsockname(fd, (struct sockaddr *)address, &bytes) == 0, "getsockname");
  return fd;
}

static void connect_both(int listener, const struct sockaddr_in *address) {
  int client = socket(AF_INET, SOCK_STREAM, 0);
  require(connect(client, (const struct sockaddr *)address, sizeof *address) == 0, "connect");
  int server = accept(listener, NULL, NULL);
  require(server >= 0, "accept");
  give(client, ASK);
  take(server, ASK);
  give(server, ANSWER);
  take(client, ANSWER);
  close(client);
  close(server);
}

/* ---- behind the TUN device ---------------------------------------------------------------- */

struct segment {
  struct iphdr ip;
  struct tcphdr tcp;
  uint8_t data[ANSWER];
};

static int open_tun(const char *name) {
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  strncpy(request.ifr_name, name, sizeof request.ifr_name - 1);
  require(fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0, name);
  return fd;
}

static uint32_t add_words(const void *data, size_t bytes, uint32_t sum) {
  const uint8_t *p = data;
  for (size_t i = 0; i + 1 < bytes; i += 2)
    sum += (uint32_t)p[i] << 8 | p[i + 1];
  return bytes % 2 ? sum + ((uint32_t)p[bytes - 1] << 8) : sum;
}

static uint16_t fold(uint32_t sum) {
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return htons((uint16_t)~sum);
}

/* Reads the client's next segment with these flags; others are its plain ACKs. */
static struct segment receive(int tun, bool syn, bool fin, bool data) {
  union {
    uint8_t bytes[PACKET_MAX];
    struct segment segment;
  } packet;
  for (;;) {
    ssize_t length = read(tun, packet.bytes, sizeof packet.bytes);
    require(length > 0, "no segment of the client");
    struct tcphdr *tcp = (struct tcphdr *)(packet.bytes + sizeof(struct iphdr));
    size_t head = sizeof(struct iphdr) + 4u * tcp->doff;
    if (packet.segment.ip.protocol == IPPROTO_TCP && tcp->syn == syn && tcp->fin == fin &&
        (!data || (size_t)length > head))
      return packet.segment;
  }
}

/* Answers the client's segment: its numbers, moved on by what it took. */
static void answer(int tun, const struct segment *to, uint32_t taken, uint32_t sequence, bool syn,
                   bool fin, size_t data) {
  struct segment out = {0};
  size_t bytes = sizeof out.ip + sizeof out.tcp + data;
  out.ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP};
  out.ip.tot_len = htons((uint16_t)bytes);
  out.ip.saddr = to->ip.daddr;
  out.ip.daddr = to->ip.saddr;
  out.ip.check = fold(add_words(&out.ip, sizeof out.ip, 0));
  out.tcp = (struct tcphdr){.doff = 5, .ack = 1, .syn = syn, .fin = fin, .psh = data > 0};
  out.tcp.source = to->tcp.dest;
  out.tcp.dest = to->tcp.source;
  out.tcp.seq = htonl(sequence);
  out.tcp.ack_seq = htonl(ntohl(to->tcp.seq) + taken);
  out.tcp.window = htons(65535);
  uint32_t sum = add_words(&out.ip.saddr, 8, IPPROTO_TCP + (uint32_t)(sizeof out.tcp + data));
  out.tcp.check = fold(add_words(&out.tcp, sizeof out.tcp + data, sum));
  require(write(tun, &out, bytes) == (ssize_t)bytes, "write to the TUN device");
}

static void connect_one(int tun) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PEER_PORT)};
  inet_pton(AF_INET, peer_address, &address.sin_addr);
  int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int status = connect(client, (struct sockaddr *)&address, sizeof address);
  require(status == 0 || errno == EINPROGRESS, "connect");
  struct segment got = receive(tun, true, false, false);
  answer(tun, &got, 1, 1000, true, false, 0);
  give(client, ASK);
  got = receive(tun, false, false, true);
  answer(tun, &got, ASK, 1001, false, true, ANSWER);
  take(client, ANSWER);
  close(client);
  got = receive(tun, false, true, false);
  answer(tun, &got, 1, 1002 + ANSWER, false, false, 0);
}

/* ---- commands -------------------------------------------------------------------------- */

int main(int argc, char **argv) {
  require(argc == 2, "usage: owner_load TUN");
  int tun = open_tun(argv[1]), pair[2];
  require(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  struct sockaddr_in tcp_address, udp_address, sender_address;
  int listener = bound(SOCK_STREAM, &tcp_address);
  require(listen(listener, 128) == 0, "listen");
  int receiver = bound(SOCK_DGRAM, &udp_address), sender = bound(SOCK_DGRAM, &sender_address);
  printf("ready\n");
  fflush(stdout);
  char what[8];
  uint32_t count;
  while (scanf("%7s %" SCNu32, what, &count) == 2) {
    uint64_t before = cpu_ns();
    for (uint32_t i = 0; i < count; i++) {
      if (strcmp(what, "both") == 0) {
        connect_both(listener, &tcp_address);
      } else if (strcmp(what, "one") == 0) {
        connect_one(tun);
      } else if (strcmp(what, "unix") == 0) {
        give(pair[0], ASK);
        take(pair[1], ASK);
      } else {
        require(sendto(sender, payload, ASK, 0, (struct sockaddr *)&udp_address,
                       sizeof udp_address) == ASK,
                "sendto");
        take(receiver, ASK);
      }
    }
    printf("%" PRIu64 "\n", (cpu_ns() - before) / count);
    fflush(stdout);
  }
  return 0;
}
