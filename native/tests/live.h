/* live.h - a separate network for tests that capture: a new network namespace, made by unshare.
 * Nothing outside is visible or changed, and nothing remains, not even after a kill. Without
 * root a user namespace is made as well.
 */
#ifndef SONDE_TESTS_LIVE_H
#define SONDE_TESTS_LIVE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static inline void live_need(bool holds, const char *what) {
  if (!holds) {
    fprintf(stderr, "the test network cannot be made: %s: %s\n", what, strerror(errno));
    exit(1);
  }
}

static inline void live_write(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  live_need(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
  close(fd);
}

/* Runs a shell command that must succeed. */
__attribute__((format(printf, 1, 2))) static inline void live_run(const char *format, ...) {
  char command[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(command, sizeof command, format, arguments);
  va_end(arguments);
  live_need(system(command) == 0, command);
}

/* Enters the new network: lo is up, and IPv6 sends nothing unasked. */
static inline void live_begin(void) {
  bool root = geteuid() == 0;
  char map[32];
  snprintf(map, sizeof map, "0 %u 1", geteuid());
  live_need(unshare(root ? CLONE_NEWNET : CLONE_NEWNET | CLONE_NEWUSER) == 0, "unshare");
  if (!root) {
    live_write("/proc/self/setgroups", "deny");
    live_write("/proc/self/uid_map", map);
  }
  live_write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
  live_write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
  live_run("ip link set lo up");
}

/* Waits until the interface sends: the kernel starts its queue some time after "up" and silently
 * drops frames sent before that. */
static inline void live_wait_up(const char *interface) {
  struct ifreq request = {0};
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
  for (int tries = 0; tries < 500; tries++) {
    live_need(ioctl(fd, SIOCGIFFLAGS, &request) == 0, interface);
    if (request.ifr_flags & IFF_RUNNING)
      break;
    usleep(10000);
  }
  live_need(request.ifr_flags & IFF_RUNNING, interface);
  /* The kernel sets the flag and starts the queue while it holds one lock, but may pause between
   * the two. This call waits for the lock and changes nothing. */
  live_need(ioctl(fd, SIOCSIFFLAGS, &request) == 0, interface);
  usleep(20000);
  close(fd);
}

/* Makes a veth pair v0, v1: frames sent on one arrive at the other. */
static inline void live_pair(void) {
  live_run("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up");
  live_wait_up("v0");
  live_wait_up("v1");
}

static inline int live_sender(const char *interface) {
  struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                .sll_ifindex = (int)if_nametoindex(interface)};
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  live_need(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0, interface);
  return fd;
}

/* Waits while the transmit queue is full, so every sent frame arrives. */
static inline void live_send(int fd, const void *frame, size_t length) {
  ssize_t sent;
  while ((sent = send(fd, frame, length, 0)) < 0 && errno == ENOBUFS)
    usleep(100);
  live_need(sent == (ssize_t)length, "send");
}

struct live_frame {
  uint8_t bytes[2048];
  size_t length;
};

static inline void live_put16(struct live_frame *frame, uint32_t value) {
  frame->bytes[frame->length++] = (uint8_t)(value >> 8);
  frame->bytes[frame->length++] = (uint8_t)value;
}

/* Ethernet, tags (tpid << 16 | tci, ended by a zero), IPv4, UDP, and a payload that makes the
 * IP packet ip_bytes long. fragment: the IPv4 fragment field. */
static inline struct live_frame live_udp4(const uint32_t *tags, uint32_t source, uint32_t dest,
                                          uint16_t source_port, uint16_t dest_port,
                                          uint32_t ip_bytes, uint16_t fragment) {
  struct live_frame frame = {.bytes = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, .length = 12};
  for (; tags && *tags; tags++) {
    live_put16(&frame, *tags >> 16);
    live_put16(&frame, *tags & 0xffff);
  }
  live_put16(&frame, ETHERTYPE_IP);
  size_t begin = frame.length;
  live_put16(&frame, 0x4500);
  live_put16(&frame, ip_bytes);
  live_put16(&frame, 1);
  live_put16(&frame, fragment);
  live_put16(&frame, 64 << 8 | 17);
  live_put16(&frame, 0);
  live_put16(&frame, source >> 16);
  live_put16(&frame, source);
  live_put16(&frame, dest >> 16);
  live_put16(&frame, dest);
  live_put16(&frame, source_port);
  live_put16(&frame, dest_port);
  live_put16(&frame, ip_bytes - 20);
  frame.length = begin + ip_bytes;
  return frame;
}

/* The same over IPv6 with addresses fd00:: plus the number. */
static inline struct live_frame live_udp6(const uint32_t *tags, uint32_t source, uint32_t dest,
                                          uint16_t source_port, uint16_t dest_port) {
  struct live_frame frame = {.bytes = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, .length = 12};
  uint32_t ends[2] = {source, dest};
  for (; tags && *tags; tags++) {
    live_put16(&frame, *tags >> 16);
    live_put16(&frame, *tags & 0xffff);
  }
  live_put16(&frame, ETHERTYPE_IPV6);
  live_put16(&frame, 0x6000);
  live_put16(&frame, 0);
  live_put16(&frame, 16);
  live_put16(&frame, 17 << 8 | 64);
  for (int i = 0; i < 2; i++) {
    live_put16(&frame, 0xfd00);
    frame.length += 10;
    live_put16(&frame, ends[i] >> 16);
    live_put16(&frame, ends[i]);
  }
  live_put16(&frame, source_port);
  live_put16(&frame, dest_port);
  live_put16(&frame, 16);
  frame.length += 10;
  return frame;
}

/* Returns the first line of a command's output that contains `word`, or "". */
static inline const char *live_line(const char *command, const char *word) {
  static char line[1024];
  bool found = false;
  FILE *output = popen(command, "r");
  live_need(output != NULL, command);
  while (!found && fgets(line, sizeof line, output))
    found = strstr(line, word) != NULL;
  pclose(output);
  return found ? line : "";
}

#endif
