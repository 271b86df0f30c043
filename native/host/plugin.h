/* plugin.h - the parts that every backend plug-in has: its exported operations, its wake-up
 * descriptors and the wait on them. Inline, so that a plug-in needs no library for them.
 */
#ifndef SONDE_HOST_PLUGIN_H
#define SONDE_HOST_PLUGIN_H

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backend.h"
#include "failure.h"

/* Exports a plug-in whose functions have these names. The arguments are the other members of
 * struct sonde_backend_ops: name, description, features, probe, filters, reopen, poll_fd. */
#define SONDE_BACKEND(...)                                                                         \
  static const struct sonde_backend_ops ops = {.abi = SONDE_BACKEND_ABI,                           \
                                               .open = backend_open,                               \
                                               .info = info,                                       \
                                               .start = start,                                     \
                                               .receive = receive,                                 \
                                               .wake = wake,                                       \
                                               .quiesce = quiesce,                                 \
                                               .stats = stats,                                     \
                                               .stop = stop,                                       \
                                               .close = backend_close,                             \
                                               __VA_ARGS__};                                       \
  __attribute__((visibility("default"))) sonde_backend_entry sonde_backend_ops_v4;                 \
  const struct sonde_backend_ops *sonde_backend_ops_v4(void) {                                     \
    return &ops;                                                                                   \
  }

enum {
  SONDE_FEATURES_FLOW = SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING,
  SONDE_FEATURES_ALL = SONDE_FEATURES_FLOW | SONDE_FEATURE_FLOW_METERING |
      SONDE_FEATURE_NETFLOW_EXPORT | SONDE_FEATURE_BUFFER_ENCRYPTION,
};

static inline uint32_t sonde_queue_count(uint32_t requested, uint32_t max) {
  return requested < 1 ? 1 : requested > max ? max : requested;
}

static inline void sonde_fd_close(int *fd) {
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

static inline int sonde_wake_open(int *fd, struct sonde_error *error) {
  *fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return *fd < 0 ? sonde_fail(error, SONDE_SYSTEM, errno, "eventfd: %s", strerror(errno)) : 0;
}

/* Waits for packets at `fd` (-1: none) or a wake-up, which it resets. Returns the events at
 * `fd`; *woken (NULL is allowed): a wake-up came. */
static inline short sonde_wake_wait(int wake_fd, int fd, int timeout_ms, int *woken) {
  struct pollfd fds[2] = {{.fd = wake_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
  eventfd_t ignored;
  poll(fds, 2, timeout_ms < 0 ? 0 : timeout_ms);
  if (fds[0].revents)
    eventfd_read(wake_fd, &ignored);
  if (woken)
    *woken = fds[0].revents != 0;
  return fds[1].revents;
}

#endif
