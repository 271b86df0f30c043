/* xdp.c - the `xdp` backend: chooses between two modes.
 *
 * Shared (the default): eBPF programs at the TCX hooks copy packets or add up flows, and pass
 * every packet on to the host. Dedicated, if the request says so and sonde_dedicated_check
 * agrees: AF_XDP sockets take all packets away from the host.
 */
#include <stdlib.h>

#include "dedicated.h"
#include "host/dedicated_check.h"
#include "host/plugin.h"
#include "shared.h"

struct sonde_backend { /* one of the two is set */
  struct shared *shared;
  struct dedicated *dedicated;
};

static int backend_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                        struct sonde_error *error) {
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  struct sonde_interface interface;
  if (!backend)
    return sonde_fail_memory(error);
  int status = sonde_interface_find(config->interface, SONDE_TAP_HOOK, &interface, error);
  if (!status && config->dedicated) {
    status = sonde_dedicated_check(interface.name, 1, error);
    status = status ? status : dedicated_open(config, &interface, &backend->dedicated, error);
  } else if (!status) {
    status = shared_open(config, &interface, &backend->shared, error);
  }
  if (status) {
    free(backend);
    return status;
  }
  *out = backend;
  return 0;
}

#define MODE(backend, call, ...)                                                                   \
  ((backend)->dedicated ? dedicated_##call((backend)->dedicated, ##__VA_ARGS__)                    \
                        : shared_##call((backend)->shared, ##__VA_ARGS__))

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  MODE(backend, info, out);
}

static int start(struct sonde_backend *backend, struct sonde_error *error) {
  return MODE(backend, start, error);
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue >= (backend->dedicated ? 1 : backend->shared->queue_count) || max < 2)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  return backend->dedicated
             ? dedicated_receive(backend->dedicated, packets, max, timeout_ms, error)
             : shared_receive(backend->shared, queue, packets, max, timeout_ms, error);
}

static int poll_fd(struct sonde_backend *backend, uint32_t queue, int *timeout_ms) {
  return backend->dedicated ? dedicated_poll_fd(backend->dedicated, timeout_ms)
                            : shared_poll_fd(backend->shared, queue, timeout_ms);
}

static void wake(struct sonde_backend *backend) {
  MODE(backend, wake);
}

static void quiesce(struct sonde_backend *backend) {
  MODE(backend, quiesce);
}

static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  MODE(backend, stats, out);
}

static int reopen(struct sonde_backend *backend, struct sonde_error *error) {
  return MODE(backend, reopen, error);
}

static void stop(struct sonde_backend *backend) {
  MODE(backend, stop);
}

static void backend_close(struct sonde_backend *backend) {
  if (backend)
    MODE(backend, close);
  free(backend);
}

SONDE_BACKEND(
        .name = "xdp",
        .description = "eBPF at the traffic control hooks, or AF_XDP on a dedicated interface",
        .features = SONDE_FEATURES_ALL, .probe = object_probe, .reopen = reopen, .poll_fd = poll_fd)
