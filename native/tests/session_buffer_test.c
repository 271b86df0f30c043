/* session_buffer_test.c - a session with a capture buffer. A replayed trace, queried with filters,
 * returns exactly the packets that match: sealed or not, from memory and from segments, and
 * while the capture runs.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "core/filter.h"
#include "netsonde.h"
#include "packets.h"

enum { PACKETS = 60000, READ_BYTES = 1 << 20, FRAMES = 6 };

static const uint8_t key[32] = {9, 8, 7};
static char directory[] = "/tmp/netsonde-recorder-XXXXXX";
static struct crafted frames[FRAMES];
static const uint64_t start_ns = 1700000000000000000;

static void craft_frames(void) {
  static const char *const layers[FRAMES] = {
      "eth:0800 ip4:11 udp:5000:53 pay:300",
      "eth:0800 ip4:6 tcp:40000:443 pay:900",
      "eth:86dd ip6:11 udp:5001:4789 pay:20",
      "eth:8100 tag:10:0800 ip4:11 udp:5000:53 pay:64",
      "eth:0806 x:00010800060400010200000000010a0000010000000000000a000009",
      "eth:88cc x:0207040200000000010403",
  };
  for (int i = 0; i < FRAMES; i++)
    packet_craft(&frames[i], layers[i]);
}

/* Packet n is frame n % FRAMES with n in its source MAC. Packets are one microsecond apart. */
static void make_frame(struct crafted *frame, uint32_t number) {
  *frame = frames[number % FRAMES];
  memcpy(frame->data + 6, &number, sizeof number);
}

static int make_trace(void) {
  int fd = memfd_create("trace", MFD_CLOEXEC);
  FILE *file = fdopen(dup(fd), "w");
  const uint32_t head[6] = {0xa1b23c4d, 4u << 16 | 2, 0, 0, 262144, 1};
  fwrite(head, sizeof head, 1, file);
  for (uint32_t number = 0; number < PACKETS; number++) {
    struct crafted frame;
    make_frame(&frame, number);
    const uint32_t record[4] = {1700000000, number * 1000, frame.bytes, frame.bytes};
    fwrite(record, sizeof record, 1, file);
    fwrite(frame.data, frame.bytes, 1, file);
  }
  CHECK(fclose(file) == 0);
  lseek(fd, 0, SEEK_SET);
  return fd;
}

static struct sonde_session *open_session(uint64_t buffer_bytes, const char *dir, double speed) {
  struct sonde_session_config config = {
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = "file",
      .interfaces = (const char *const[]){"trace"},
      .interface_count = 1,
      .file_fd = make_trace(),
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 1 << 20,
      .flow_table_size = 1024,
      .record_ring_size = 4096,
      .tunnel_mode = SONDE_TUNNEL_MODE_INNER,
      .replay_speed = speed,
      .idle_timeout_ns = 300000000000,
      .active_timeout_ns = 60000000000,
      .buffer_bytes = buffer_bytes,
      .buffer_dir = dir,
      .buffer_disk_bytes = 256 << 20,
  };
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_session_open(&config, &session, &error), SONDE_OK);
  return session;
}

static void finish(struct sonde_session *session) {
  struct sonde_stats stats;
  do {
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    sonde_session_stats(session, &stats);
  } while (!stats.finished);
}

/* Checks the packets of one block of the answer: in order, each equal to the trace. Returns how
 * many are wrong. */
static uint32_t check_blocks(const uint8_t *bytes, uint32_t length, uint64_t *last,
                             uint64_t *count) {
  uint32_t block[7], faults = 0;
  for (uint32_t at = 0; at < length; at += block[1]) {
    memcpy(block, bytes + at, sizeof block);
    if (block[0] != 6)
      continue;
    uint64_t time_ns = (uint64_t)block[3] << 32 | block[4];
    struct crafted frame;
    make_frame(&frame, (uint32_t)((time_ns - start_ns) / 1000));
    faults += time_ns <= *last || block[5] != frame.bytes ||
              memcmp(bytes + at + 28, frame.data, frame.bytes) != 0;
    *last = time_ns;
    ++*count;
  }
  return faults;
}

/* Queries and reads on any thread. Returns how many packets were wrong. */
static uint32_t read_answer(struct sonde_session *session, const char *expression, uint32_t from,
                            uint32_t to, struct sonde_packets_summary *summary) {
  static _Thread_local uint8_t buffer[READ_BYTES];
  struct sonde_packets *packets;
  struct sonde_error error;
  uint64_t count = 0, last = 0;
  uint32_t faults = 0;
  if (sonde_session_packets_open(session, expression, start_ns + from * 1000ull,
                                 start_ns + to * 1000ull, 0, 0, &packets, &error) < 0)
    return 1;
  int bytes;
  while ((bytes = sonde_session_packets_read(packets, buffer, sizeof buffer)) >= 0)
    faults += check_blocks(buffer, (uint32_t)bytes, &last, &count);
  sonde_session_packets_summary(packets, summary);
  sonde_session_packets_close(packets);
  return faults + (bytes != SONDE_END) + (summary->packets != count);
}

static uint64_t count_matches(const char *expression, uint32_t from, uint32_t to) {
  struct sonde_filter *filter = NULL;
  struct sonde_error error;
  uint64_t count = 0;
  CHECK_EQ(sonde_filter_compile(1, 262144, expression, &filter, &error), SONDE_OK);
  for (uint32_t number = from; number <= to && number < PACKETS; number++) {
    struct crafted frame;
    make_frame(&frame, number);
    count += sonde_filter_match(filter, frame.data, frame.bytes, frame.bytes);
  }
  sonde_filter_destroy(filter);
  return count;
}

/* The index only skips chunks: the answer equals that of the filter over the whole trace. */
static void check_expressions(struct sonde_session *session, uint32_t from) {
  static const char *const expressions[] = {
      "",
      "host 10.0.0.1",
      "host 10.0.0.9",
      "host 10.0.0.77",
      "src host 10.0.0.2",
      "src or dst host 10.0.0.2 and port 53",
      "port 443 or 4789",
      "tcp port 443",
      "udp dst port 53 and not host 10.0.0.1",
      "not port 53",
      "port 53 or host 10.0.0.9 and arp",
      "(host 10.0.0.1 or 10.0.0.9) and (port 443 or arp)",
      "host 2001:db8::1",
      "ip6 host 2001:db8::3",
      "vlan 10 and host 10.0.0.1",
      "arp",
      "ether proto 0x88cc",
      "net 10.0.0.0/24 and portrange 50-60",
      "port 9999",
      "tcp[13] & 8 != 0",
      "less 100",
  };
  for (uint32_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++) {
    struct sonde_packets_summary summary;
    const uint32_t to = i % 3 ? PACKETS : PACKETS / 2;
    CHECK_EQ(read_answer(session, expressions[i], from, to, &summary), 0);
    CHECK_EQ(summary.packets, count_matches(expressions[i], from, to));
    CHECK_EQ(summary.complete, 1);
  }
}

static int count_inherited(void) {
  int count = 0;
  for (int fd = 3; fd < 256; fd++) {
    int flags = fcntl(fd, F_GETFD);
    count += flags >= 0 && !(flags & FD_CLOEXEC);
  }
  return count;
}

/* A program that the agent starts meanwhile inherits no descriptor of an answer. */
static void check_inherited(struct sonde_session *session) {
  static uint8_t buffer[READ_BYTES];
  struct sonde_packets *packets;
  struct sonde_error error;
  int before = count_inherited();
  CHECK_EQ(sonde_session_packets_open(session, NULL, 0, 0, 0, 0, &packets, &error), SONDE_OK);
  CHECK(sonde_session_packets_read(packets, buffer, sizeof buffer) >= 0);
  CHECK_EQ(count_inherited(), before);
  sonde_session_packets_close(packets);
}

static void test_answers(int sealed, const char *dir, uint64_t buffer_bytes) {
  struct sonde_session *session = open_session(buffer_bytes, dir, 0);
  struct sonde_error error;
  struct sonde_stats stats;
  if (sealed)
    CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_OK);
  CHECK_EQ(sonde_session_start(session, &error), SONDE_OK);
  finish(session);
  check_expressions(session, 0);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-128-CBC", key, &error),
           SONDE_CIPHER_UNKNOWN);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_OK);
  CHECK_EQ(sonde_session_stop(session, &error), SONDE_OK);
  check_expressions(session, 7777);
  check_inherited(session);
  sonde_session_stats(session, &stats);
  CHECK_EQ(stats.packets_captured, PACKETS);
  CHECK_EQ(stats.encrypted, 1);
  CHECK_EQ(stats.buffer_packets + stats.packets_overwritten, PACKETS);
  sonde_session_close(session);
}

static void test_invalid_queries(void) {
  struct sonde_session *session = open_session(0, NULL, 0);
  struct sonde_packets *packets;
  struct sonde_error error;
  CHECK_EQ(sonde_session_packets_open(session, NULL, 0, 0, 0, 0, &packets, &error), SONDE_STATE);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_STATE);
  sonde_session_close(session);
  session = open_session(4 << 20, NULL, 0);
  CHECK_EQ(sonde_session_packets_open(session, "no such", 0, 0, 0, 0, &packets, &error),
           SONDE_FILTER_INVALID);
  sonde_session_close(session);
}

static _Atomic int capturing;

static void *query_repeatedly(void *argument) {
  uintptr_t answers = 0, faults = 0;
  do {
    struct sonde_packets_summary summary;
    faults += read_answer(argument, answers % 2 ? "host 10.0.0.1" : NULL, 0, PACKETS, &summary);
    answers++;
  } while (capturing);
  return (void *)faults;
}

/* Replays a second into a buffer that wraps, while two threads query it and its keys change. */
static void test_concurrent(void) {
  struct sonde_session *session = open_session(4 << 20, directory, 0.05);
  struct sonde_error error;
  struct sonde_stats stats;
  pthread_t askers[2];
  capturing = 1;
  CHECK_EQ(sonde_session_start(session, &error), SONDE_OK);
  for (int i = 0; i < 2; i++)
    pthread_create(&askers[i], NULL, query_repeatedly, session);
  for (int turn = 0; turn < 6; turn++) {
    const uint8_t other[32] = {(uint8_t)turn};
    nanosleep(&(struct timespec){.tv_nsec = 150000000}, NULL);
    CHECK_EQ(sonde_session_encryption_set(session, turn != 3, "AES-256-GCM", other, &error),
             SONDE_OK);
    sonde_session_stats(session, &stats);
    CHECK(stats.buffer_bytes_used <= stats.buffer_bytes_capacity);
  }
  finish(session);
  capturing = 0;
  for (int i = 0; i < 2; i++) {
    void *faults;
    pthread_join(askers[i], &faults);
    CHECK(faults == NULL);
  }
  CHECK_EQ(sonde_session_stop(session, &error), SONDE_OK);
  sonde_session_stats(session, &stats);
  CHECK(stats.chunks_overwritten > 5);
  CHECK_EQ(stats.buffer_packets + stats.packets_overwritten + stats.packets_unrecorded, PACKETS);
  sonde_session_close(session);
}

static void empty_directory(void) {
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    if (strstr(entry->d_name, "netsonde-"))
      unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
}

int main(void) {
  craft_frames();
  CHECK(mkdtemp(directory) != NULL);
  test_invalid_queries();
  test_answers(0, NULL, 64 << 20);
  test_answers(1, NULL, 64 << 20);
  test_answers(1, directory, 64 << 20);
  empty_directory();
  test_concurrent();
  empty_directory();
  rmdir(directory);
  return check_report();
}
