/* file.c - the `file` backend: replays a pcap or pcapng file as if it were an interface.
 *
 * One queue. Packets point into the reader's window and are handed over in file order, as
 * fast as they are asked for or paced by their timestamps. The file's own lies end the
 * replay with END and a detail; a clean end has none.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backend.h"
#include "failure.h"
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

static void file_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  reader_close(&backend->reader);
  if (backend->wake_fd >= 0)
    close(backend->wake_fd);
  if (backend->file_fd >= 0)
    close(backend->file_fd);
  free(backend);
}

static int file_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                     struct sonde_error *error) {
  const char *name = config->interface ? config->interface : "the file";
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  if (!backend) {
    if (config->file_fd >= 0)
      close(config->file_fd);
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s: %s", name, strerror(ENOMEM));
  }
  backend->file_fd = config->file_fd;
  backend->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int status;
  if (backend->wake_fd < 0) {
    status = sonde_fail(error, SONDE_SYSTEM, errno, "eventfd: %s", strerror(errno));
  } else if (backend->file_fd < 0) {
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
  file_close(backend);
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

/* Packets read together stay in the window together: it is refilled only for the first. */
static uint32_t take_paced(struct sonde_backend *backend, struct sonde_packet *packets,
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
  uint32_t count = backend->pace.speed > 0 ? take_paced(backend, packets, max, timeout_ms)
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

/* A file loses nothing: what is not asked for is not read. */
static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  (void)backend;
  memset(out, 0, sizeof *out);
}

static void stop(struct sonde_backend *backend) {
  (void)backend;
}

static const struct sonde_backend_ops ops = {
    .abi = SONDE_BACKEND_ABI,
    .features = SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING |
                SONDE_FEATURE_FLOW_METERING | SONDE_FEATURE_NETFLOW_EXPORT |
                SONDE_FEATURE_BUFFER_ENCRYPTION,
    .name = "file",
    .description = "replay of a pcap or pcapng file",
    .probe = probe,
    .open = file_open,
    .info = info,
    .start = start,
    .receive = receive,
    .wake = wake,
    .quiesce = quiesce,
    .stats = stats,
    .stop = stop,
    .close = file_close,
};

__attribute__((visibility("default"))) const struct sonde_backend_ops *sonde_backend_ops_v1(void);

const struct sonde_backend_ops *sonde_backend_ops_v1(void) {
  return &ops;
}
