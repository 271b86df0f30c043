/* file.c - the `file` backend: replays a pcap or pcapng file as if it were an interface.
 *
 * One queue. Packets point into the reader's window and are handed over in file order, at full
 * speed or paced by their timestamps. A malformed file ends the replay with END and a detail; a
 * clean end has no detail.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "host/plugin.h"
#include "pace.h"
#include "reader.h"

struct sonde_backend {
  struct reader reader;
  struct pace pace;
  struct sonde_packet pending; /* paced: the next packet, read but not due yet */
  bool has_pending;
  int file_fd;
  int wake_fd;
  _Atomic bool quiesced;
};

static int probe(struct sonde_error *error) {
  (void)error;
  return 0;
}

static void backend_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  reader_close(&backend->reader);
  sonde_fd_close(&backend->wake_fd);
  sonde_fd_close(&backend->file_fd);
  free(backend);
}

static int backend_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                        struct sonde_error *error) {
  const char *name = config->interface ? config->interface : "the file";
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  if (!backend) {
    if (config->file_fd >= 0)
      close(config->file_fd);
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s: %s", name, strerror(ENOMEM));
  }
  backend->file_fd = config->file_fd;
  int status = sonde_wake_open(&backend->wake_fd, error);
  if (status) {
    backend_close(backend);
    return status;
  }
  if (backend->file_fd < 0) {
    status = sonde_fail(error, SONDE_INVALID, EBADF, "%s: %s", name, strerror(EBADF));
  } else if (reader_open(&backend->reader, backend->file_fd, config->snaplen) == 0) {
    pace_begin(&backend->pace, config->replay_speed);
    *out = backend;
    return 0;
  } else if (errno == ENOMEM) {
    status = sonde_fail(error, SONDE_NO_MEMORY, errno, "%s: %s", name, strerror(errno));
  } else if (errno) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", name, strerror(errno));
  } else {
    status = sonde_fail(error, SONDE_FORMAT, 0, "%s is not a pcap or pcapng file", name);
  }
  backend_close(backend);
  return status;
}

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  *out = (struct sonde_backend_info){.queues = 1};
  snprintf(out->attach, sizeof out->attach, "%s file%s", backend->reader.pcapng ? "pcapng" : "pcap",
           backend->pace.speed > 0 ? ", paced by its timestamps" : "");
}

static int start(struct sonde_backend *backend, struct sonde_error *error) {
  (void)backend;
  (void)error;
  return 0;
}

/* Refills the window only for the first packet: the others of a batch must stay valid. */
static uint32_t read_paced(struct sonde_backend *backend, struct sonde_packet *packets,
                           uint32_t max, int timeout_ms) {
  uint32_t count = 0;
  while (count < max) {
    if (!backend->has_pending) {
      backend->has_pending = reader_next(&backend->reader, &backend->pending, 1, count == 0);
      if (!backend->has_pending)
        break;
      pace_plan(&backend->pace, backend->pending.time_ns);
    }
    if (!pace_wait(&backend->pace, count ? 0 : timeout_ms, backend->wake_fd))
      break;
    packets[count++] = backend->pending;
    backend->has_pending = false;
  }
  return count;
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue != 0)
    return sonde_fail(error, SONDE_INVALID, 0, "a file has one queue");
  if (max == 0 || atomic_load_explicit(&backend->quiesced, memory_order_relaxed))
    return 0;
  uint32_t count = backend->pace.speed > 0 ? read_paced(backend, packets, max, timeout_ms)
                                           : reader_next(&backend->reader, packets, max, true);
  if (count == 0 && !backend->has_pending && backend->reader.ended)
    return sonde_fail(error, SONDE_END, 0, "%s", backend->reader.detail);
  return (int)count;
}

static void wake(struct sonde_backend *backend) {
  eventfd_write(backend->wake_fd, 1);
}

static void quiesce(struct sonde_backend *backend) {
  atomic_store(&backend->quiesced, true);
  wake(backend);
}

/* A file drops no packets. */
static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  (void)backend;
  memset(out, 0, sizeof *out);
}

static void stop(struct sonde_backend *backend) {
  (void)backend;
}

SONDE_BACKEND(.name = "file", .description = "replay of a pcap or pcapng file",
              .features = SONDE_FEATURES_ALL, .probe = probe)
