/* pf_ring_test.c - the pf_ring backend on a veth pair, on lo and on a file, with the test double
 * of libpfring. The loader finds the library at the start of the process, so the test executes
 * itself again with the double's directory in LD_LIBRARY_PATH.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>
#include <time.h>

#include "check.h"
#include "core/registry.h"
#include "live.h"

enum { BATCH = 256, SEEN_MAX = 8192 };

static const struct sonde_backend_ops *ops;
static struct sonde_error error;
static struct seen {
  struct sonde_packet packet;
  uint8_t bytes[128];
} seen[SEEN_MAX];
static uint32_t seen_count;

static int open_backend(const char *interface, uint32_t snaplen, int dedicated,
                        struct sonde_backend **backend) {
  struct sonde_backend_config config = {.interface = interface,
                                        .file_fd = -1,
                                        .queues = 4,
                                        .snaplen = snaplen,
                                        .ring_bytes = 1 << 20,
                                        .promiscuous = 1,
                                        .dedicated = dedicated};
  error = (struct sonde_error){0};
  *backend = NULL;
  return ops->open(&config, backend, &error);
}

static struct sonde_backend *capture(const char *interface, uint32_t snaplen) {
  struct sonde_backend *backend;
  int status = open_backend(interface, snaplen, 0, &backend);
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
      if (seen_count >= SEEN_MAX)
        continue;
      struct seen *to = &seen[seen_count];
      to->packet = packets[i];
      memcpy(to->bytes, packets[i].data,
             packets[i].caplen < sizeof to->bytes ? packets[i].caplen : sizeof to->bytes);
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

/* Counts the sockets of this process and their mappings: a ring is both. */
static int sockets_held(void) {
  char line[512];
  int count = 0;
  FILE *maps = fopen("/proc/self/maps", "re");
  while (fgets(line, sizeof line, maps))
    count += strstr(line, "socket:[") != NULL;
  fclose(maps);
  DIR *descriptors = opendir("/proc/self/fd");
  const struct dirent *entry;
  struct stat about;
  while ((entry = readdir(descriptors)))
    count += fstatat(dirfd(descriptors), entry->d_name, &about, 0) == 0 && S_ISSOCK(about.st_mode);
  closedir(descriptors);
  return count;
}

static void check_unavailable(const char *quirk, const char *words, int status) {
  setenv("PFRING_DOUBLE", quirk, 1);
  error = (struct sonde_error){0};
  CHECK_EQ(ops->probe(&error), status);
  CHECK(strstr(error.detail, words));
  struct sonde_backend *backend;
  CHECK_EQ(open_backend("v0", 262144, 0, &backend), status);
  CHECK(strstr(error.detail, words));
  unsetenv("PFRING_DOUBLE");
  CHECK_EQ(ops->probe(&error), 0);
}

static void check_reasons(void) {
  check_unavailable("no_module", "kernel module pf_ring is not loaded", SONDE_BACKEND_UNAVAILABLE);
  check_unavailable("no_module,hidden_cause", "kernel module pf_ring is not loaded",
                    SONDE_BACKEND_UNAVAILABLE);
  check_unavailable("no_permission", "needs CAP_NET_RAW: ", SONDE_PERMISSION);
  static const char mismatch[] = "libpfring 8.9.0 does not fit the kernel module (version 8.4.0, "
                                 "slot version 17)";
  check_unavailable("slot_mismatch", mismatch, SONDE_BACKEND_UNAVAILABLE);
  check_unavailable("slot_mismatch,hidden_cause", mismatch, SONDE_BACKEND_UNAVAILABLE);
  check_unavailable("quick_mode", "has quick_mode=1, so packets lose their direction",
                    SONDE_BACKEND_UNAVAILABLE);
  check_unavailable("keep_vlan_offload", "has keep_vlan_offload=1, so packets lose their VLAN tags",
                    SONDE_BACKEND_UNAVAILABLE);
}

static void check_license(void) {
  struct sonde_backend *backend;
  setenv("PFRING_DOUBLE", "no_license", 1);
  CHECK_EQ(open_backend("zc:v0", 262144, 1, &backend), SONDE_BACKEND_UNAVAILABLE);
  CHECK(strstr(error.detail, "zc:v0: Operation not permitted. Likely causes: "));
  CHECK(strstr(error.detail, "no licence for it"));
  unsetenv("PFRING_DOUBLE");
}

/* The library closes nothing, neither after a capture nor after a failed open. */
static void check_nothing_left(void) {
  static const struct {
    const char *quirks;
    const char *name;
  } rows[] = {{"slot_mismatch", "v0"},
              {"slot_mismatch,hidden_cause", "v0"},
              {"no_license", "zc:v0"},
              {"", "v0@1"},
              {"", "v0"},
              {"no_poll", "v0"}};
  int held = sockets_held();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_backend *backend;
    setenv("PFRING_DOUBLE", rows[i].quirks, 1);
    for (int times = 0; times < 3; times++) {
      ops->probe(&error);
      if (open_backend(rows[i].name, 262144, 1, &backend) == 0) {
        CHECK_EQ(ops->start(backend, &error), 0);
        CHECK_EQ(ops->reopen(backend, &error), 0);
        CHECK_EQ(sockets_held(), held + 2);
      }
      ops->close(backend);
    }
    CHECK_EQ(sockets_held(), held);
  }
  setenv("PF_RING_RUNTIME_MANAGER", "1", 1); /* with it, the library closes its rings */
  struct sonde_backend *backend = capture("v0", 262144);
  ops->close(backend);
  CHECK_EQ(sockets_held(), held);
  unsetenv("PF_RING_RUNTIME_MANAGER");
  unsetenv("PFRING_DOUBLE");
}

/* PF_RING reads v0.42 as a VLAN filter on v0. */
static void check_dotted_name(void) {
  static const uint32_t tag[] = {0x8100002a, 0};
  struct live_frame tagged = live_udp4(tag, 1, 2, 3, 4, 100, 0);
  struct live_frame plain = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  live_run("ip link add v0.42 type veth peer name v2 && ip link set v2 up && ip link set v0.42 up");
  live_wait_up("v0.42");
  struct sonde_backend *backend = capture("v0.42", 262144);
  int elsewhere = live_sender("v1");
  int sender = live_sender("v0.42");
  live_send(elsewhere, tagged.bytes, tagged.length);
  live_send(sender, plain.bytes, plain.length);
  finish(backend);
  CHECK_EQ(seen_count, 1);
  CHECK_EQ(seen[0].packet.wirelen, plain.length);
  close(elsewhere);
  close(sender);
  CHECK_EQ(open_backend("v0.42@0", 262144, 0, &backend), SONDE_INTERFACE_INVALID);
  CHECK(strstr(error.detail, "a name with a dot only without zc: and without channels"));
  CHECK_EQ(open_backend("zc:v0.42", 262144, 1, &backend), SONDE_INTERFACE_INVALID);
  live_run("ip link del v0.42");
}

/* An interface that is down is captured once it is up. */
static void check_down(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  live_run("ip link set v0 down");
  struct sonde_backend *backend = capture("v0", 262144);
  CHECK_EQ(collect(backend, 10), SONDE_LINK_DOWN);
  CHECK(strcmp(error.detail, "v0: Network is down") == 0);
  live_run("ip link set v0 up");
  live_wait_up("v0");
  live_wait_up("v1");
  seen_count = 0;
  CHECK_EQ(collect(backend, 10), 0);
  uint32_t before = seen_count;
  int sender = live_sender("v1");
  live_send(sender, frame.bytes, frame.length);
  finish(backend);
  CHECK_EQ(before + seen_count, 1);
  close(sender);
}

static void check_received_only(void) {
  struct sonde_backend_info info;
  setenv("PFRING_DOUBLE", "no_tx", 1);
  CHECK_EQ(ops->probe(&error), 0);
  struct sonde_backend *backend = capture("v0", 262144);
  ops->info(backend, &info);
  CHECK(strstr(info.attach, "received packets only (enable_tx_capture=0)"));
  finish(backend);
  unsetenv("PFRING_DOUBLE");
}

static void check_names(void) {
  static const struct {
    const char *name;
    int dedicated;
    int status;
  } rows[] = {
      {"", 0, SONDE_INTERFACE_INVALID},
      {"nosuch0", 0, SONDE_INTERFACE_INVALID},
      {"a-name-that-is-too-long", 0, SONDE_INTERFACE_INVALID},
      {"v0@0", 0, SONDE_OK},
      {"v0@0-0,0", 0, SONDE_OK},
      {"v0@1", 0, SONDE_INTERFACE_INVALID}, /* v0 has one channel */
      {"v0@0-2,5", 0, SONDE_INTERFACE_INVALID},
      {"v0@5-3", 0, SONDE_INTERFACE_INVALID},
      {"v0@0,", 0, SONDE_INTERFACE_INVALID},
      {"v0@", 0, SONDE_INTERFACE_INVALID},
      {"v0@x", 0, SONDE_INTERFACE_INVALID},
      {"v0;v1", 0, SONDE_INTERFACE_INVALID},
      {"stack:v0", 0, SONDE_INTERFACE_INVALID},
      {"zc:v0", 0, SONDE_INTERFACE_SHARED},
      {"zc:v0", 1, SONDE_OK},
      {"zc:lo", 1, SONDE_INTERFACE_SHARED},
      {"zc:nosuch0", 1, SONDE_INTERFACE_INVALID},
      {"zc:", 1, SONDE_INTERFACE_INVALID},
      {"pcap:/nonexistent", 0, SONDE_INTERFACE_INVALID},
      {"pcap:v0", 0, SONDE_INTERFACE_INVALID},
      {"pcap:/dev/null", 0, SONDE_INTERFACE_INVALID},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_backend *backend;
    int status = open_backend(rows[i].name, 262144, rows[i].dedicated, &backend);
    if (status != rows[i].status)
      fprintf(stderr, "%s: %s\n", rows[i].name, error.detail);
    CHECK_EQ(status, rows[i].status);
    ops->close(backend);
  }
}

/* An interface that the host needs is not taken, even with `dedicated`. */
static void check_dedicated(void) {
  static const struct {
    const char *before;
    const char *after;
    const char *words;
  } rows[] = {
      {"ip addr add 10.9.0.1/24 dev v0", "ip addr del 10.9.0.1/24 dev v0", "IP address"},
      {"ip link add m0 link v0 type macvlan", "ip link del m0", "uses it"},
      {"ip link add b0 type bridge && ip link set v0 master b0", "ip link del b0", "master"},
      {"ip route add default dev v0", "ip route del default dev v0", "default route"},
  };
  struct sonde_backend *backend;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    live_run("%s", rows[i].before);
    CHECK_EQ(open_backend("zc:v0", 262144, 1, &backend), SONDE_INTERFACE_SHARED);
    CHECK(strstr(error.detail, rows[i].words));
    live_run("%s", rows[i].after);
    CHECK_EQ(open_backend("zc:v0", 262144, 1, &backend), 0);
    ops->close(backend);
  }
}

static void check_counts(const char *interface, const char *quirks) {
  static const uint32_t tag[] = {0x8100002a, 0};
  setenv("PFRING_DOUBLE", quirks, 1);
  struct sonde_backend *backend = capture(interface, 262144);
  struct sonde_backend_info info;
  struct live_frame frame = live_udp4(tag, 0x0a000001, 0x0a000002, 1, 2, 100, 0);
  int arriving = live_sender("v1");
  int leaving = live_sender("v0");
  ops->info(backend, &info);
  CHECK_EQ(info.live, 1);
  CHECK_EQ(info.queues, 1);
  CHECK_EQ(info.ifindex, if_nametoindex("v0"));
  CHECK(strcmp(info.attach, "libpfring 8.9.0, kernel ring") == 0);
  for (int i = 0; i < 2000; i++) {
    live_send(arriving, frame.bytes, frame.length);
    live_send(leaving, frame.bytes, frame.length);
  }
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 4000);
  uint32_t incoming = 0;
  for (uint32_t i = 0; i < seen_count; i++) {
    CHECK_EQ(seen[i].packet.wirelen, frame.length);
    CHECK_EQ(seen[i].packet.caplen, frame.length);
    CHECK_EQ(seen[i].packet.linktype, SONDE_LINKTYPE_ETHERNET);
    CHECK(memcmp(seen[i].bytes, frame.bytes, frame.length) == 0);
    incoming += seen[i].packet.direction == SONDE_DIRECTION_INGRESS;
  }
  CHECK_EQ(incoming, 2000);
  close(arriving);
  close(leaving);
  unsetenv("PFRING_DOUBLE");
}

/* Invalid timestamps reach the session unchanged. The session corrects and counts them. */
static void check_times(void) {
  static const struct {
    const char *quirk;
    uint64_t least_ns;
    uint64_t most_ns;
  } rows[] = {{"", UINT64_C(1600000000000000000), UINT64_MAX},
              {"monotonic", 1, UINT64_C(1000000000000000000)},
              {"no_time", 0, 0}};
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    setenv("PFRING_DOUBLE", rows[i].quirk, 1);
    struct sonde_backend *backend = capture("v0", 64);
    live_send(sender, frame.bytes, frame.length);
    finish(backend);
    CHECK_EQ(seen_count, 1);
    CHECK_EQ(seen[0].packet.caplen, 64);
    CHECK_EQ(seen[0].packet.wirelen, frame.length);
    CHECK(seen[0].packet.time_ns >= rows[i].least_ns && seen[0].packet.time_ns <= rows[i].most_ns);
  }
  unsetenv("PFRING_DOUBLE");
  close(sender);
}

static uint64_t elapsed_ms(const struct timespec *since) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)((now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000);
}

/* A wake-up before the wait is not lost. Without a wake-up the wait lasts as long as requested. */
static void check_wake(const char *quirks) {
  struct sonde_packet packets[4];
  struct timespec begin;
  setenv("PFRING_DOUBLE", quirks, 1);
  struct sonde_backend *backend = capture("v0", 262144);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  CHECK_EQ(ops->receive(backend, 0, packets, 4, 100, &error), 0);
  CHECK(elapsed_ms(&begin) >= 90);
  ops->wake(backend);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  CHECK_EQ(ops->receive(backend, 0, packets, 4, 5000, &error), 0);
  CHECK(elapsed_ms(&begin) < 1000);
  finish(backend);
  unsetenv("PFRING_DOUBLE");
}

static void check_overload(void) {
  enum { OFFERED = 60000 };
  struct sonde_backend *backend = capture("v0", 262144);
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1400, 0);
  struct sonde_backend_stats stats = {0};
  int sender = live_sender("v1");
  uint64_t offered = 0;
  for (; offered < OFFERED || (stats.dropped == 0 && offered < 20 * OFFERED); offered++) {
    live_send(sender, frame.bytes, frame.length);
    if (offered % 1000 == 0)
      ops->stats(backend, &stats);
  }
  while (collect(backend, 20) > 0) {
  }
  uint64_t taken = seen_count;
  uint64_t dropped = finish(backend);
  CHECK(dropped > 0);
  CHECK_EQ(taken + seen_count + dropped, offered);
  close(sender);
}

static void check_broken_and_reopened(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  int sender = live_sender("v1");
  setenv("PFRING_DOUBLE", "broken", 1);
  struct sonde_backend *backend = capture("v0", 262144);
  seen_count = 0;
  for (int i = 0; i < 10; i++)
    live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(collect(backend, 10), SONDE_SYSTEM);
  CHECK(strstr(error.detail, "pfring_recv returned -1"));
  CHECK_EQ(seen_count, 2);
  setenv("PFRING_DOUBLE", "no_module", 1);
  CHECK_EQ(ops->reopen(backend, &error), SONDE_BACKEND_UNAVAILABLE);
  CHECK_EQ(collect(backend, 10), SONDE_SYSTEM); /* the ring is closed, which is an error */
  unsetenv("PFRING_DOUBLE");
  CHECK_EQ(ops->reopen(backend, &error), 0);
  live_send(sender, frame.bytes, frame.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen_count, 1);
  close(sender);
}

static void check_file(void) {
  const uint32_t head[] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 262144, 1};
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  char path[] = "/tmp/pf_ring_testXXXXXX";
  char name[64];
  int fd = mkstemp(path);
  live_need(fd >= 0 && write(fd, head, sizeof head) == sizeof head, path);
  for (uint32_t i = 0; i < 300; i++) {
    const uint32_t record[] = {1700000000, i, (uint32_t)frame.length, 1000};
    live_need(write(fd, record, sizeof record) == sizeof record &&
                  write(fd, frame.bytes, frame.length) == (ssize_t)frame.length,
              path);
  }
  close(fd);
  snprintf(name, sizeof name, "pcap:%s", path);
  struct sonde_backend *backend = capture(name, 262144);
  struct sonde_backend_info info;
  ops->info(backend, &info);
  CHECK_EQ(info.live, 0);
  CHECK_EQ(info.ifindex, 0);
  seen_count = 0;
  CHECK_EQ(collect(backend, 100), SONDE_END);
  CHECK_EQ(collect(backend, 100), SONDE_END);
  CHECK_EQ(seen_count, 300);
  CHECK_EQ(seen[299].packet.time_ns, UINT64_C(1700000000000299000));
  CHECK_EQ(seen[299].packet.wirelen, 1000);
  CHECK_EQ(seen[299].packet.caplen, frame.length);
  CHECK_EQ(seen[299].packet.direction, SONDE_DIRECTION_UNKNOWN);
  CHECK_EQ(finish(backend), 0);
  unlink(path);
}

/* Without the library the reason is the loader's message for the first name. */
static void check_absent(void) {
  if (dlopen("libpfring.so", RTLD_NOW)) {
    fprintf(stderr, "this host has a libpfring: its absence cannot be tested here\n");
    return;
  }
  char words[256];
  snprintf(words, sizeof words, "%s", dlerror());
  CHECK_EQ(ops->probe(&error), SONDE_BACKEND_UNAVAILABLE);
  CHECK(strcmp(error.detail, words) == 0);
  CHECK(strstr(words, "libpfring.so: cannot open shared object file"));
  struct sonde_backend *backend;
  CHECK_EQ(open_backend("lo", 262144, 0, &backend), SONDE_BACKEND_UNAVAILABLE);
}

int main(int argc, char **argv) {
  if (sonde_registry_load(SONDE_PLUGIN_DIR, "pf_ring", &ops, &error)) {
    fprintf(stderr, "%s\n", error.detail);
    return 1;
  }
  if (argc == 1) {
    check_absent();
    setenv("LD_LIBRARY_PATH", SONDE_DOUBLE_DIR, 1);
    if (check_report() == 0)
      execl("/proc/self/exe", argv[0], "with-the-double", NULL);
    return 1;
  }
  live_begin();
  live_pair();
  CHECK_EQ(ops->probe(&error), 0);
  check_reasons();
  check_license();
  check_names();
  check_nothing_left();
  check_dotted_name();
  check_received_only();
  check_dedicated();
  check_counts("v0", "");
  check_counts("v0@0", "no_queued,no_stats");
  check_times();
  check_wake("");
  check_wake("no_poll");
  check_overload();
  check_broken_and_reopened();
  check_file();
  check_down();
  return check_report();
}
