/* af_packet.c - the `af_packet` backend: the host's own packets, copied by the kernel into
 * memory-mapped rings, one per queue. The host keeps its packets.
 *
 * Reading the kernel's counters resets them, so one place reads them, under the lock. `past`
 * keeps the counts of closed groups. At stop every packet that the kernel accepted has been
 * handed over or is counted as dropped.
 */
#include <linux/if_packet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "group.h"
#include "host/clock.h"
#include "host/plugin.h"

enum {
  DRAIN_MIN_MS = 3 * RING_RETIRE_MS, /* packets in flight arrive, and the timer has run twice */
  DRAIN_MAX_MS = 1000,               /* packets still in the kernel after this are lost */
};

struct sonde_backend {
  struct sonde_interface interface;
  struct program program;
  struct group group;
  char *expression;
  uint32_t queues;
  uint32_t ring_bytes;
  uint32_t snaplen;
  bool promiscuous;
  bool started;
  _Atomic uint64_t quiesced_ms; /* monotonic; 0: running */
  pthread_mutex_t count_lock;
  struct sonde_backend_stats past; /* the counts of closed groups */
  int wake_fds[QUEUES_MAX];
};

static int probe(struct sonde_error *error) {
  struct packet_ring ring;
  int status = packet_ring_open(&ring, RING_BLOCKS_MIN, 64, SONDE_LINKTYPE_ETHERNET, error);
  if (status == 0)
    packet_ring_close(&ring);
  return status;
}

/* Closes the group and counts its unread packets as dropped. Other threads see either group. */
static void replace(struct sonde_backend *backend, const struct group *next) {
  pthread_mutex_lock(&backend->count_lock);
  struct group before = backend->group;
  for (uint32_t i = 0; i < before.count; i++) {
    struct packet_ring *ring = &before.rings[i];
    packet_ring_attach(ring, &program_refuse_all, NULL);
    packet_ring_count(ring);
    backend->past.dropped += ring->dropped + (ring->accepted - ring->read);
    backend->past.freezes += ring->freezes;
  }
  backend->group = *next;
  pthread_mutex_unlock(&backend->count_lock);
  group_close(&before);
}

static void backend_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  group_close(&backend->group);
  program_free(&backend->program);
  for (uint32_t i = 0; i < backend->queues; i++)
    sonde_fd_close(&backend->wake_fds[i]);
  pthread_mutex_destroy(&backend->count_lock);
  free(backend->expression);
  free(backend);
}

/* Looks up the interface, compiles the filter for it and opens the rings. */
static int prepare(const struct sonde_backend *backend, const char *name,
                   struct sonde_interface *interface, struct program *program, struct group *group,
                   struct sonde_error *error) {
  int status = sonde_interface_find(name, SONDE_TAP_SOCKET, interface, error);
  if (!status)
    status = group_open(group, backend->queues, backend->ring_bytes, backend->snaplen,
                        interface->linktype, error);
  return status ? status
                : program_compile(interface, backend->snaplen, backend->expression, program, error);
}

static int backend_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                        struct sonde_error *error) {
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  if (!backend)
    return sonde_fail_memory(error);
  pthread_mutex_init(&backend->count_lock, NULL);
  backend->queues = sonde_queue_count(config->queues, QUEUES_MAX);
  backend->ring_bytes = config->ring_bytes;
  backend->snaplen = config->snaplen;
  backend->promiscuous = config->promiscuous != 0;
  backend->expression = strdup(config->filter ? config->filter : "");
  int status = backend->expression ? 0 : sonde_fail_memory(error);
  for (uint32_t i = 0; i < backend->queues; i++)
    status = sonde_wake_open(&backend->wake_fds[i], error) ? SONDE_SYSTEM : status;
  if (!status && config->interface && strcmp(config->interface, "any") == 0) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, ENODEV,
                        "any: af_packet captures on one interface; use backend pcap for any");
  }
  status = status ? status
                  : prepare(backend, config->interface, &backend->interface, &backend->program,
                            &backend->group, error);
  if (status) {
    backend_close(backend);
    return status;
  }
  *out = backend;
  return 0;
}

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  *out = (struct sonde_backend_info){
      .queues = backend->queues, .live = 1, .ifindex = backend->interface.index};
  uint32_t blocks = backend->ring_bytes / backend->queues / RING_BLOCK_BYTES;
  blocks = blocks < RING_BLOCKS_MIN ? RING_BLOCKS_MIN : blocks;
  int length = snprintf(out->attach, sizeof out->attach, "tpacket_v3 ring %u MiB",
                        blocks * backend->queues * (RING_BLOCK_BYTES >> 20));
  if (backend->queues > 1) {
    snprintf(out->attach + length, sizeof out->attach - (size_t)length, ", %u queues (fanout cbpf)",
             backend->queues);
  }
}

static int start(struct sonde_backend *backend, struct sonde_error *error) {
  int status = group_start(&backend->group, &backend->interface, backend->promiscuous,
                           &backend->program, error);
  backend->started = status == 0;
  return status;
}

/* The socket survives while its interface is down, and resumes when it is up again. */
static int socket_trouble(const struct packet_ring *ring, struct sonde_error *error) {
  int trouble = 0;
  socklen_t length = sizeof trouble;
  if (getsockopt(ring->fd, SOL_SOCKET, SO_ERROR, &trouble, &length))
    trouble = errno;
  if (trouble == 0)
    return 0;
  return sonde_fail(error, trouble == ENETDOWN ? SONDE_LINK_DOWN : SONDE_SYSTEM, trouble, "%s",
                    strerror(trouble));
}

static int wait_for(const struct packet_ring *ring, int wake_fd, int timeout_ms,
                    struct sonde_error *error) {
  short events = sonde_wake_wait(wake_fd, ring->fd, timeout_ms, NULL);
  return events & (POLLERR | POLLHUP | POLLNVAL) ? socket_trouble(ring, error) : 0;
}

/* The ring is drained once every packet that the kernel accepted was handed over. */
static bool is_drained(struct sonde_backend *backend, struct packet_ring *ring,
                       uint64_t quiesced_ms) {
  uint64_t since_ms = sonde_clock_ms() - quiesced_ms;
  if (since_ms < DRAIN_MIN_MS)
    return false;
  pthread_mutex_lock(&backend->count_lock);
  packet_ring_count(ring);
  bool drained = ring->read >= ring->accepted;
  pthread_mutex_unlock(&backend->count_lock);
  return drained || since_ms >= DRAIN_MAX_MS;
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue >= backend->group.count || max == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  struct packet_ring *ring = &backend->group.rings[queue];
  bool waited = false;
  for (;;) {
    uint32_t count = packet_ring_read(ring, packets, max);
    if (count)
      return (int)count;
    uint64_t quiesced_ms = atomic_load(&backend->quiesced_ms);
    if (quiesced_ms) {
      if (timeout_ms < 0 || is_drained(backend, ring, quiesced_ms))
        return 0;
      wait_for(ring, backend->wake_fds[queue], RING_RETIRE_MS, NULL);
      continue;
    }
    if (waited)
      return 0;
    int status = wait_for(ring, backend->wake_fds[queue], timeout_ms, error);
    if (status)
      return status;
    waited = true;
  }
}

static int poll_fd(struct sonde_backend *backend, uint32_t queue, int *timeout_ms) {
  (void)timeout_ms;
  return backend->group.rings[queue].fd;
}

static void wake(struct sonde_backend *backend) {
  for (uint32_t i = 0; i < backend->queues; i++)
    eventfd_write(backend->wake_fds[i], 1);
}

static void quiesce(struct sonde_backend *backend) {
  group_attach(&backend->group, &program_refuse_all, NULL);
  atomic_store(&backend->quiesced_ms, sonde_clock_ms());
  wake(backend);
}

static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  uint64_t used = 0;
  uint64_t blocks = 0;
  pthread_mutex_lock(&backend->count_lock);
  *out = backend->past;
  for (uint32_t i = 0; i < backend->group.count; i++) {
    struct packet_ring *ring = &backend->group.rings[i];
    packet_ring_count(ring);
    out->dropped += ring->dropped;
    out->freezes += ring->freezes;
    used += ring_blocks_used(ring);
    blocks += ring->block_count;
  }
  out->ring_used_permille = blocks ? used * 1000 / blocks : 0;
  pthread_mutex_unlock(&backend->count_lock);
}

static int reopen(struct sonde_backend *backend, struct sonde_error *error) {
  struct sonde_interface interface;
  struct program program = {0};
  struct group group = {0};
  int status = prepare(backend, backend->interface.name, &interface, &program, &group, error);
  status = status ? status : group_start(&group, &interface, backend->promiscuous, &program, error);
  if (status) {
    group_close(&group);
    program_free(&program);
    return status;
  }
  replace(backend, &group);
  program_free(&backend->program);
  backend->interface = interface;
  backend->program = program;
  return 0;
}

static void stop(struct sonde_backend *backend) {
  replace(backend, &(struct group){0});
  backend->started = false;
}

SONDE_BACKEND(.name = "af_packet",
              .description = "Linux packet sockets with a memory-mapped ring (TPACKET_V3)",
              .features = SONDE_FEATURES_ALL, .probe = probe, .filters = 1, .reopen = reopen,
              .poll_fd = poll_fd)
