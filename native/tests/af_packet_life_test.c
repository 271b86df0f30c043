/* af_packet_life_test.c - the events in the life of an af_packet capture, on real interfaces in a
 * separate network: overload, an interface that disappears and returns, a wake-up, a rejected
 * open, a kill. Every sent frame is captured or counted as dropped.
 */
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "captured.h"
#include "live.h"

/* Nothing reads, the ring overflows, and every frame is still counted. */
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
    bool last = reading->quiesced; /* before receive: a 0 from before the quiesce is not the end */
    int count = ops->receive(reading->backend, reading->queue, packets, BATCH, 50, &error);
    if (count > 0) {
      reading->taken += (uint64_t)count;
      usleep(2000);
    } else if (last) {
      return NULL;
    }
  }
}

/* The same while threads read too slowly and quiesce comes in between. */
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
    if (i % 1000 == 0)
      ops->stats(backend, &stats);
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

/* Receives until the status is neither 0 nor packets, for at most two seconds. */
static int next_status(struct sonde_backend *backend, uint32_t queue) {
  struct sonde_packet packets[BATCH];
  struct sonde_error error;
  int status = 0;
  for (int i = 0; i < 20 && status >= 0; i++)
    status = ops->receive(backend, queue, packets, BATCH, 100, &error);
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
  for (int i = 0; i < 5000; i++) /* more than the ring holds */
    live_send(sender, frame.bytes, frame.length);
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
  CHECK_EQ(stats.dropped, 5000); /* frames unread at the deletion are lost as well */
  sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  seen_count = 0;
  CHECK_EQ(finish(backend, 2), 5000);
  CHECK_EQ(seen_count, 1);
  close(sender);
  live_run("ip link del filler");
}

/* The filter is compiled and the capture started while the interface is down. */
static void check_down_at_start(void) {
  live_run("ip link set v0 down");
  struct sonde_backend *backend = capture("v0", "vlan 42", 1, 262144, 1 << 20);
  live_run("ip link set v0 up");
  live_wait_up("v0");
  live_wait_up("v1");
  static const uint32_t tag[] = {0x8100002a, 0}; /* 42 */
  struct live_frame frame = live_udp4(tag, 1, 2, 3, 4, 60, 0);
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
  for (int i = 0; i < 100; i++)
    sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address);
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
  int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC); /* not attached: sent frames are discarded */
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

/* Opens and starts; what succeeds is closed. */
static int try_open(const char *interface, const char *filter, struct sonde_error *error) {
  struct sonde_backend_config config = {.interface = interface,
                                        .filter = filter,
                                        .file_fd = -1,
                                        .queues = 1,
                                        .snaplen = 262144,
                                        .ring_bytes = 1 << 20};
  struct sonde_backend *backend = NULL;
  int status = ops->open(&config, &backend, error);
  CHECK(status == 0 || backend == NULL);
  if (status == 0) {
    status = ops->start(backend, error);
    ops->close(backend);
  }
  return status;
}

static void check_rejected_opens(void) {
  struct sonde_error error = {0};
  CHECK_EQ(try_open("nosuch0", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK(strcmp(error.detail, "nosuch0: No such device") == 0);
  CHECK_EQ(error.system_errno, ENODEV);
  CHECK_EQ(try_open("", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(try_open("a-name-that-is-too-long-for-linux", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(try_open("any", NULL, &error), SONDE_INTERFACE_INVALID);
  CHECK_EQ(try_open("v0", "not a filter (", &error), SONDE_FILTER_INVALID);
  CHECK_EQ(try_open("v0", "port eighty eighty", &error), SONDE_FILTER_INVALID);
  CHECK(error.detail[0] != 0);
  /* The kernel runs no loops. */
  CHECK_EQ(try_open("v0", "ip6 protochain 6", &error), SONDE_FILTER_INVALID);
  CHECK(strstr(error.detail, "kernel") != NULL);
  CHECK_EQ(ops->probe(&error), 0);

  pid_t child = fork();
  if (child == 0) { /* the same without capabilities */
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
  if (!captured_begin())
    return 1;
  live_begin();
  live_pair();
  check_overload(1);
  check_overload(3);
  check_overload_threads();
  check_link();
  check_down_at_start();
  check_loopback(1);
  check_loopback(2);
  check_tun();
  check_wake();
  check_rejected_opens();
  check_kill();
  free(seen);
  return check_report();
}
