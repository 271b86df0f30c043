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

enum { CHECKED_BYTES_MAX = 64 << 20 };

struct sonde_backend {
  struct reader reader;
  struct pace pace;
  struct sonde_packet pending; /* paced: the next packet, read but not due yet */
  bool has_pending;
  bool checked; /* `cut` says whether the file is whole */
  char cut[DETAIL_MAX];
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

/* The file's name, without its directories if it is long: the detail must fit too. */
static const char *shorten(const char *name) {
  enum { NAME_BYTES_SHOWN = 80 };
  const char *slash = strrchr(name, '/');
  if (strlen(name) > NAME_BYTES_SHOWN && slash && slash[1])
    name = slash + 1;
  size_t length = strlen(name);
  return length > NAME_BYTES_SHOWN ? name + length - NAME_BYTES_SHOWN : name;
}

/* Reads a file of up to CHECKED_BYTES_MAX to its end, so that `start` can report a cut file. */
static void check_end(struct sonde_backend *backend) {
  struct reader reader;
  struct sonde_packet packets[64];
  if (reader_open(&reader, backend->file_fd, FRAME_MAX))
    return;
  while (!reader.ended && reader.window.end_offset < CHECKED_BYTES_MAX)
    reader_next(&reader, packets, 64, true);
  if (reader.ended) {
    backend->checked = true;
    memcpy(backend->cut, reader.detail, sizeof backend->cut);
  }
  reader_close(&reader);
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
    check_end(backend);
    pace_begin(&backend->pace, config->replay_speed);
    *out = backend;
    return 0;
  } else if (errno == ENOMEM) {
    status = sonde_fail(error, SONDE_NO_MEMORY, errno, "%s: %s", name, strerror(errno));
  } else if (errno) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s: %s", name, strerror(errno));
  } else {
    status = sonde_fail(error, SONDE_FORMAT, 0, "%s is %s", shorten(name), backend->reader.detail);
  }
  backend_close(backend);
  return status;
}

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  *out = (struct sonde_backend_info){.queues = 1, .checked = backend->checked};
  _Static_assert(sizeof out->cut == sizeof backend->cut, "copied as a whole");
  memcpy(out->cut, backend->cut, sizeof out->cut);
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
