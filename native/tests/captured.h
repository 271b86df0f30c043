/* captured.h - helpers: one capture by the af_packet backend and the packets it returned. */
#ifndef SONDE_TESTS_CAPTURED_H
#define SONDE_TESTS_CAPTURED_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core/registry.h"
#include "packet.h"

enum { BATCH = 256, SEEN_MAX = 65536, QUEUES_MAX = 8 };

static const struct sonde_backend_ops *ops;

/* The packets of the last collect, in order. Up to 128 bytes of data are copied. */
static struct seen {
  struct sonde_packet packet;
  uint8_t bytes[128];
  uint32_t queue;
} *seen;
static uint32_t seen_count;

static inline struct sonde_backend *capture(const char *interface, const char *filter,
                                            uint32_t queues, uint32_t snaplen,
                                            uint32_t ring_bytes) {
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

/* Receives from every queue until each returns 0. Tests that send much call it in between: the
 * kernel closes a block after some milliseconds even if it is nearly empty, so on a slow machine
 * few frames fill an unread ring. */
static inline void collect(struct sonde_backend *backend, uint32_t queues, int timeout_ms) {
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

/* Ends a capture like a session does and adds the rest to `seen`. Returns the drops. */
static inline uint64_t finish(struct sonde_backend *backend, uint32_t queues) {
  struct sonde_backend_stats before;
  struct sonde_backend_stats after;
  ops->quiesce(backend);
  collect(backend, queues, 0);
  ops->stats(backend, &before);
  ops->stop(backend);
  ops->stats(backend, &after);
  CHECK_EQ(before.dropped, after.dropped); /* everything was read */
  ops->close(backend);
  return after.dropped;
}

/* Must be called first. Returns false and prints why if it fails. */
static inline bool captured_begin(void) {
  struct sonde_error error = {0};
  seen = calloc(SEEN_MAX, sizeof *seen);
  if (seen && sonde_registry_load(SONDE_PLUGIN_DIR, "af_packet", &ops, &error) == 0)
    return true;
  fprintf(stderr, "%s\n", error.detail);
  return false;
}

#endif
