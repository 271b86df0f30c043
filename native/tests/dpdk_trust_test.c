/* dpdk_trust_test.c - a DPDK process that misbehaves or was taken over cannot harm the agent.
 *
 * This program also plays that process, under the name that the plugin looks for.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "backend/dpdk/engine_protocol.h"
#include "dpdk_capture.h"
#include "live.h"

enum { FRAME_BYTES = 100, TURNS_MAX = 2 * SMALL_RING_BYTES / FRAME_BYTES / BATCH };

static char place[] =
    "/tmp/netsonde-trust-XXXXXX"; /* holds the plugin and the process that it starts */

/* The second process that dies writes `begun`, and is ready once there is `go`. */
static const char *const BEGUN = "NETSONDE_TEST_BEGUN", *const GO = "NETSONDE_TEST_GO";

static void touch(const char *path) {
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  live_need(fd >= 0, path);
  close(fd);
}

static void await_file(const char *path) {
  for (int tries = 0; tries < HANGS_MS && access(path, F_OK) != 0; tries++)
    usleep(1000);
  live_need(access(path, F_OK) == 0, path);
}

/* ---- the process -------------------------------------------------------------------------- */

struct play {
  const char *fault;
  int area_fd;
  struct engine_setup setup;
  struct area *area;
  struct shm_ring_writer writer;
};

static bool receive_setup(struct play *play) {
  union {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int) * (SHM_RINGS_MAX + 1))];
  } control;
  struct iovec into = {.iov_base = &play->setup, .iov_len = sizeof play->setup};
  struct msghdr message = {
      .msg_iov = &into, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (recvmsg(STDIN_FILENO, &message, 0) != sizeof play->setup)
    return false;
  memcpy(&play->area_fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
  play->area =
      mmap(NULL, play->setup.area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, play->area_fd, 0);
  struct shm_ring *ring = &play->area->rings[0];
  play->writer =
      (struct shm_ring_writer){.shared = ring,
                               .ring = shm_ring_data(play->area, play->area->shm_ring_bytes, 0),
                               .mask = play->area->shm_ring_bytes - 1,
                               .head = ring->head,
                               .tail = ring->tail};
  return true;
}

static struct shm_ring_record *write_frame(struct play *play) {
  struct shm_ring_record *record = shm_ring_reserve(&play->writer, FRAME_BYTES);
  if (record) {
    memset(record + 1, 0, FRAME_BYTES);
    record->wirelen = FRAME_BYTES;
    record->direction = 77;
  }
  return record;
}

static bool has_fault(const struct play *play, const char *fault) {
  return strcmp(play->fault, fault) == 0;
}

static void misbehave(struct play *play) {
  struct shm_ring_record *record = write_frame(play);
  if (has_fault(play, "cuts the memory")) {
    live_need(ftruncate(play->area_fd, 0) < 0, "the memory can be cut off");
  } else if (has_fault(play, "writes a size of zero")) {
    play->area->shm_ring_bytes = 0;
  } else if (has_fault(play, "writes too large a frame")) {
    record->bytes = 1 << 19;
    record->caplen = (1 << 19) - (int32_t)sizeof *record;
    play->writer.head = 1 << 19;
  } else if (has_fault(play, "writes nothing but gaps")) {
    for (uint64_t at = 0; at <= play->writer.mask; at += 8) {
      memcpy(play->writer.ring + at, &(struct shm_ring_record){.bytes = 8, .caplen = SHM_RING_GAP},
             8);
    }
    play->writer.head = UINT64_MAX / 2 & ~UINT64_C(7);
  } else if (has_fault(play, "damages once") && play->writer.head < 1000) {
    record->bytes = 7;
  }
  shm_ring_publish(&play->writer);
}

static void write_without_end(struct play *play) {
  for (uint32_t written = 0;; written++) { /* so the reader never finds the ring empty */
    bool full = !write_frame(play);
    if (full || written % BATCH == 0)
      shm_ring_publish(&play->writer);
  }
}

static int play_process(const char *fault) {
  struct play play = {.fault = fault};
  struct engine_reply reply = {.queues = 1, .driver = "faulty"};
  char command;
  if (!receive_setup(&play))
    return 1;
  if (has_fault(&play, "dies") && play.writer.head) {
    touch(getenv(BEGUN));
    await_file(getenv(GO));
  }
  reply.status = has_fault(&play, "replies with an invalid status") ? 5 : 0;
  while (send(STDIN_FILENO, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply &&
         recv(STDIN_FILENO, &command, 1, 0) == 1) {
    if (command == ENGINE_START) {
      misbehave(&play);
      if (has_fault(&play, "dies")) {
        send(STDIN_FILENO, &reply, sizeof reply, MSG_NOSIGNAL);
        return 3;
      }
    } else if (has_fault(&play, "never ends")) {
      send(STDIN_FILENO, &reply, sizeof reply, MSG_NOSIGNAL);
      write_without_end(&play);
    }
  }
  return 0;
}

/* ---- the agent ---------------------------------------------------------------------------- */

static struct sonde_backend *start_faulty(const char *fault) {
  setenv("NETSONDE_TEST_FAULT", fault, 1);
  seen_count = 0;
  return capture("v0", 262144);
}

static void close_faulty(struct sonde_backend *backend) {
  struct sonde_backend_stats stats;
  ops->stats(backend, &stats);
  ops->stop(backend);
  ops->close(backend);
}

/* The agent checks the process's numbers before it uses them. */
static void check_numbers(void) {
  static const char *const harmless[] = {"cuts the memory", "writes a size of zero", "behaves"};
  for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++) {
    struct sonde_backend *backend = start_faulty(harmless[i]);
    CHECK_EQ(collect(backend, 200), 0);
    CHECK_EQ(seen_count, 1);
    CHECK_EQ(seen[0].packet.caplen, FRAME_BYTES);
    CHECK_EQ(seen[0].packet.direction, SONDE_DIRECTION_UNKNOWN);
    close_faulty(backend);
  }
  static const char *const damage[] = {"writes too large a frame", "writes nothing but gaps"};
  for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
    struct sonde_backend *backend = start_faulty(damage[i]);
    CHECK_EQ(collect(backend, 200), SONDE_SYSTEM);
    CHECK(strstr(error.detail, "damaged"));
    close_faulty(backend);
  }
  struct sonde_backend *backend;
  setenv("NETSONDE_TEST_FAULT", "replies with an invalid status", 1);
  CHECK_EQ(open_backend("v0", 262144, 0, &backend), SONDE_SYSTEM);
}

/* The next process starts with undamaged memory. */
static void check_successor(void) {
  struct sonde_backend *backend = start_faulty("damages once");
  CHECK_EQ(collect(backend, 200), SONDE_SYSTEM);
  CHECK_EQ(collect(backend, 200), SONDE_SYSTEM);
  setenv("NETSONDE_TEST_FAULT", "behaves", 1);
  CHECK_EQ(ops->reopen(backend, &error), 0);
  CHECK_EQ(collect(backend, 200), 0);
  CHECK_EQ(seen_count, 1);
  close_faulty(backend);
}

/* The process keeps writing after it reported its stop. The session still ends. */
static void check_end(void) {
  shm_ring_bytes = SMALL_RING_BYTES;
  struct sonde_backend *backend = start_faulty("never ends");
  shm_ring_bytes = SHM_RING_BYTES;
  struct sonde_packet packets[BATCH];
  uint32_t turns = 0;
  ops->quiesce(backend);
  while (turns < TURNS_MAX && ops->receive(backend, 0, packets, BATCH, 0, &error) > 0) {
    usleep(1000); /* like a session that processes them */
    turns++;
  }
  CHECK(turns < TURNS_MAX);
  close_faulty(backend);
}

static _Atomic bool reopened;

static void *reopen(void *backend) {
  ops->reopen(backend, &error);
  reopened = true;
  return NULL;
}

/* Threads that read statistics must not wait for a starting process. */
static void check_statistics(void) {
  char begun[64], go[64];
  snprintf(begun, sizeof begun, "%s/begun", place);
  snprintf(go, sizeof go, "%s/go", place);
  setenv(BEGUN, begun, 1);
  setenv(GO, go, 1);
  struct sonde_backend *backend = start_faulty("dies");
  struct sonde_backend_stats stats;
  pthread_t thread;
  CHECK_EQ(collect(backend, 2000), SONDE_SYSTEM);
  live_need(pthread_create(&thread, NULL, reopen, backend) == 0, "thread");
  await_file(begun);
  for (int i = 0; i < 20; i++)
    ops->stats(backend, &stats);
  CHECK(!reopened); /* the process still waits for this thread */
  touch(go);
  pthread_join(thread, NULL);
  close_faulty(backend);
}

/* Copies the plugin and this program, under the name that the plugin looks for. */
static bool install_plugin(const char *self) {
  char path[512];
  char engine[256] = "";
  DIR *plugins = opendir(SONDE_PLUGIN_DIR);
  for (struct dirent *one; plugins && (one = readdir(plugins));)
    if (strncmp(one->d_name, "dpdk-engine-abi", 15) == 0)
      snprintf(engine, sizeof engine, "%s", one->d_name);
  closedir(plugins);
  if (!*engine) {
    fprintf(stderr, "built without libdpdk: there is no process\n");
    CHECK(access(SONDE_PLUGIN_DIR "/dpdk.so", F_OK) != 0);
    return false;
  }
  live_need(mkdtemp(place) != NULL, place);
  live_run("cp %s/dpdk.so %s", SONDE_PLUGIN_DIR, place);
  snprintf(path, sizeof path, "%s/%s", place, engine);
  live_need(symlink(self, path) == 0, path);
  CHECK_EQ(sonde_registry_load(place, "dpdk", &ops, &error), 0);
  return check_failures == 0;
}

int main(void) {
  const char *fault = getenv("NETSONDE_TEST_FAULT");
  char self[256] = "";
  if (fault)
    return play_process(fault);
  live_need(readlink("/proc/self/exe", self, sizeof self - 1) > 0, "/proc/self/exe");
  make_temporary();
  if (install_plugin(self)) {
    live_begin();
    live_pair();
    check_numbers();
    check_successor();
    check_end();
    check_statistics();
  }
  live_run("rm -rf %s", place);
  return dpdk_end();
}
