/* dpdk_capture.h - helpers: captures by the dpdk backend, their packets and their processes. */
#ifndef SONDE_TESTS_DPDK_CAPTURE_H
#define SONDE_TESTS_DPDK_CAPTURE_H

#include <dirent.h>
#include <time.h>

#include "backend/dpdk/shm_ring.h"
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

enum { SHM_RING_BYTES = 32 << 20, SMALL_RING_BYTES = 1 << 20, HANGS_MS = 60000 };
static uint32_t shm_ring_bytes = SHM_RING_BYTES; /* for the next capture */

/* ---- what this test owns ---------------------------------------------------------------- */

enum { PROCESSES_MAX = 256 };
static char temporary[] = "/tmp/netsonde-test-XXXXXX"; /* this test's own $TMPDIR */
static int processes[PROCESSES_MAX];                   /* ids of the DPDK processes it started */
static unsigned process_count;

/* Returns the process id at the end of `attach`. */
static inline int process_of(const struct sonde_backend *backend) {
  struct sonde_backend_info info;
  ops->info(backend, &info);
  const char *word = strstr(info.attach, "process ");
  return word ? atoi(word + 8) : 0;
}

static inline void remember_process(int process) {
  live_need(process_count < PROCESSES_MAX, "PROCESSES_MAX");
  processes[process_count++] = process;
}

static inline void make_temporary(void) {
  live_need(mkdtemp(temporary) != NULL && setenv("TMPDIR", temporary, 1) == 0, temporary);
}

static inline bool is_own_file(const char *name) {
  char prefix[32];
  for (unsigned i = 0; i < process_count; i++) {
    snprintf(prefix, sizeof prefix, "netsonde-dpdk%d", processes[i]);
    if (strncmp(name, prefix, strlen(prefix)) == 0)
      return true;
  }
  return false;
}

static inline unsigned count_entries(const char *path, bool own_directory) {
  unsigned count = 0;
  DIR *directory = opendir(path);
  for (struct dirent *one; directory && (one = readdir(directory));)
    count += own_directory ? one->d_name[0] != '.' : is_own_file(one->d_name);
  if (directory)
    closedir(directory);
  return count;
}

/* Counts the files that this test's DPDK processes left. The directories that other programs use
 * too are searched for this test's process ids alone. */
static inline unsigned left_behind(void) {
  return count_entries(temporary, true) + count_entries("/dev/shm", false) +
         count_entries("/var/run/dpdk", false);
}

/* Checks that no file is left and removes the temporary directory. */
static inline int dpdk_end(void) {
  CHECK_EQ(left_behind(), 0);
  rmdir(temporary);
  return check_report();
}

/* ---- captures --------------------------------------------------------------------------- */

static inline int open_backend(const char *interface, uint32_t snaplen, int dedicated,
                               struct sonde_backend **backend) {
  struct sonde_backend_config config = {.interface = interface,
                                        .file_fd = -1,
                                        .queues = 4,
                                        .snaplen = snaplen,
                                        .ring_bytes = shm_ring_bytes,
                                        .promiscuous = 1,
                                        .dedicated = dedicated};
  error = (struct sonde_error){0};
  *backend = NULL;
  int status = ops->open(&config, backend, &error);
  if (status == 0)
    remember_process(process_of(*backend));
  return status;
}

static inline struct sonde_backend *capture(const char *interface, uint32_t snaplen) {
  struct sonde_backend *backend;
  int status = open_backend(interface, snaplen, 0, &backend);
  status = status ? status : ops->start(backend, &error);
  if (status) {
    fprintf(stderr, "%s: %s\n", interface, error.detail);
    exit(1);
  }
  return backend;
}

static inline int collect(struct sonde_backend *backend, int timeout_ms) {
  struct sonde_packet packets[BATCH];
  int count;
  while ((count = ops->receive(backend, 0, packets, BATCH, timeout_ms, &error)) > 0) {
    for (int i = 0; i < count; i++, seen_count++) {
      if (seen_count >= SEEN_MAX)
        continue;
      seen[seen_count].packet = packets[i];
      memcpy(seen[seen_count].bytes, packets[i].data,
             packets[i].caplen < 128 ? packets[i].caplen : 128);
    }
  }
  return count;
}

static inline uint64_t finish(struct sonde_backend *backend) {
  struct sonde_backend_stats stats;
  seen_count = 0;
  ops->quiesce(backend);
  CHECK_EQ(collect(backend, 0), 0);
  ops->stats(backend, &stats);
  ops->stop(backend);
  ops->close(backend);
  return stats.dropped;
}

static inline uint64_t elapsed_ms(const struct timespec *since) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)((now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000);
}

/* Returns after the process has written that many unread frames, or so many that a thousandth
 * of the ring would hold the rest. */
static inline void wait_written(struct sonde_backend *backend, uint32_t frames, uint32_t length) {
  const uint64_t wanted = frames * shm_ring_room_needed(length) * 1000 / shm_ring_bytes;
  struct sonde_backend_stats stats = {0};
  struct timespec begin;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  while (ops->stats(backend, &stats), stats.ring_used_permille < wanted) {
    live_need(elapsed_ms(&begin) < HANGS_MS, "what was sent is not there");
    usleep(100);
  }
}

/* Loads the backend and makes the network. Must be called first. Returns false if the backend is
 * missing, after checking or printing the reason. */
static inline bool dpdk_begin(void) {
  int status = sonde_registry_load(SONDE_PLUGIN_DIR, "dpdk", &ops, &error);
  if (access(SONDE_PLUGIN_DIR "/dpdk.so", F_OK)) {
    fprintf(stderr, "built without libdpdk: the backend is not there, and says so\n");
    CHECK_EQ(status, SONDE_BACKEND_UNAVAILABLE);
    return false;
  }
  CHECK_EQ(status, SONDE_OK);
  make_temporary();
  live_begin();
  live_pair();
  return check_failures == 0;
}

#endif
