/* dpdk_capture.h - captures by the dpdk backend, what they saw, and the processes they make. */
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
static uint32_t shm_ring_bytes = SHM_RING_BYTES; /* of the next capture */

static inline int open_it(const char *interface, uint32_t snaplen, int dedicated,
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
  return ops->open(&config, backend, &error);
}

static inline struct sonde_backend *capture(const char *interface, uint32_t snaplen) {
  struct sonde_backend *backend;
  int status = open_it(interface, snaplen, 0, &backend);
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

/* Returns when the process has written that many frames that nobody read, or so many that a
 * thousandth of the ring would hold the rest. */
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

/* The process's id, which `attach` ends with. */
static inline int process_of(const struct sonde_backend *backend) {
  struct sonde_backend_info info;
  ops->info(backend, &info);
  const char *word = strstr(info.attach, "process ");
  return word ? atoi(word + 8) : 0;
}

/* Files of the DPDK processes that were ours, in the places where EAL and we put some. */
static inline unsigned left_behind(void) {
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

/* Everything above needs this first: a network and the backend. false: there is none to test,
 * and why not was checked or printed. */
static inline bool dpdk_begin(void) {
  int status = sonde_registry_load(SONDE_PLUGIN_DIR, "dpdk", &ops, &error);
  if (access(SONDE_PLUGIN_DIR "/dpdk.so", F_OK)) {
    fprintf(stderr, "built without libdpdk: the backend is not there, and says so\n");
    CHECK_EQ(status, SONDE_BACKEND_UNAVAILABLE);
    return false;
  }
  CHECK_EQ(status, SONDE_OK);
  CHECK_EQ(left_behind(), 0);
  live_begin();
  live_pair();
  return check_failures == 0;
}

#endif
