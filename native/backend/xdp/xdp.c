/* xdp.c - the `xdp` backend: eBPF beside the host's own packets, or in their place.
 *
 * Shared (the default): programs at the TCX hooks copy packets, or add up flows, and let
 * everything pass. Dedicated, when the caller vouches for it and the interface looks it:
 * AF_XDP sockets take all that arrives. Each is a module of its own; this file chooses.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "dedicated.h"
#include "failure.h"
#include "host/dedicated_check.h"
#include "shared.h"

struct sonde_backend { /* one of the two is there */
  struct shared *shared;
  struct dedicated *dedicated;
};

/* `dedicated` is the caller's word that the host can do without; the pre-flight looks. */
static int xdp_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                    struct sonde_error *error) {
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  struct sonde_interface interface;
  if (!backend)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s", strerror(ENOMEM));
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

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  if (backend->dedicated)
    dedicated_info(backend->dedicated, out);
  else
    shared_info(backend->shared, out);
}

static int start(struct sonde_backend *backend, struct sonde_error *error) {
  return backend->dedicated ? dedicated_start(backend->dedicated, error)
                            : shared_start(backend->shared, error);
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue >= (backend->dedicated ? 1 : backend->shared->queue_count) || max < 2)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  return backend->dedicated
             ? dedicated_receive(backend->dedicated, packets, max, timeout_ms, error)
             : shared_receive(backend->shared, queue, packets, max, timeout_ms, error);
}

static void wake(struct sonde_backend *backend) {
  if (backend->dedicated)
    dedicated_wake(backend->dedicated);
  else
    shared_wake(backend->shared);
}

static void quiesce(struct sonde_backend *backend) {
  if (backend->dedicated)
    dedicated_quiesce(backend->dedicated);
  else
    shared_quiesce(backend->shared);
}

static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  if (backend->dedicated)
    dedicated_stats(backend->dedicated, out);
  else
    shared_stats(backend->shared, out);
}

static int reopen(struct sonde_backend *backend, struct sonde_error *error) {
  return backend->dedicated ? dedicated_reopen(backend->dedicated, error)
                            : shared_reopen(backend->shared, error);
}

static void stop(struct sonde_backend *backend) {
  if (backend->dedicated)
    dedicated_stop(backend->dedicated);
  else
    shared_stop(backend->shared);
}

static void xdp_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  if (backend->dedicated)
    dedicated_close(backend->dedicated);
  else
    shared_close(backend->shared);
  free(backend);
}

static const struct sonde_backend_ops ops = {
    .abi = SONDE_BACKEND_ABI,
    .features = SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING |
                SONDE_FEATURE_FLOW_METERING | SONDE_FEATURE_NETFLOW_EXPORT |
                SONDE_FEATURE_BUFFER_ENCRYPTION,
    .name = "xdp",
    .description = "eBPF at the traffic control hooks, or AF_XDP on a dedicated interface",
    .probe = object_probe,
    .open = xdp_open,
    .info = info,
    .start = start,
    .receive = receive,
    .wake = wake,
    .quiesce = quiesce,
    .stats = stats,
    .reopen = reopen,
    .stop = stop,
    .close = xdp_close,
};

__attribute__((visibility("default"))) const struct sonde_backend_ops *sonde_backend_ops_v1(void);

const struct sonde_backend_ops *sonde_backend_ops_v1(void) {
  return &ops;
}
