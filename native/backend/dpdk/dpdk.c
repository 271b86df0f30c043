/* dpdk.c - the `dpdk` backend: reads packets in place from shared memory, one ring per queue,
 * which the DPDK process writes. It does not link DPDK.
 *
 * The rings belong to this side and outlive the process: packets of a killed process are still
 * handed over, and the next process appends. Dropped packets are those that found a ring full,
 * and those that the port, or the kernel below it, reports as missed.
 */
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "child.h"
#include "host/plugin.h"
#include "shm_ring_reader.h"
#include "target.h"

enum {
  FILE_RING_BYTES = 4 << 20,
  SHM_RING_BYTES_MAX = 256 << 20,
};

/* The reader's state of one ring. */
struct reader {
  _Alignas(64) struct shm_ring_reader ring;
  uint64_t last; /* once quiesced: where reading ends */
  int doorbell;
};

struct sonde_backend {
  struct target target;
  struct engine_setup setup;
  struct child child;
  pthread_mutex_t exit_lock; /* guards the next two */
  bool described;
  char exit_reason[200];
  struct area *area;
  int area_fd;
  uint64_t shm_ring_bytes;
  uint32_t queues;
  char driver[32];
  _Atomic bool quiesced;
  pthread_mutex_t count_lock; /* guards moving area->missed to: */
  uint64_t missed_before;     /* by exited processes */
  struct reader readers[SHM_RINGS_MAX];
};

static void backend_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  child_close(&backend->child);
  if (backend->area)
    munmap(backend->area, backend->setup.area_bytes);
  sonde_fd_close(&backend->area_fd);
  for (uint32_t i = 0; i < SHM_RINGS_MAX; i++)
    sonde_fd_close(&backend->readers[i].doorbell);
  pthread_mutex_destroy(&backend->count_lock);
  pthread_mutex_destroy(&backend->exit_lock);
  free(backend);
}

/* The size is sealed: otherwise a process with the descriptor could truncate the memory and
 * crash the agent at its next read. */
static int make_memory(uint64_t bytes) {
  int fd = memfd_create("netsonde-dpdk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd >= 0 && (ftruncate(fd, (off_t)bytes) ||
                  fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))) {
    int cause = errno;
    close(fd);
    errno = cause;
    return -1;
  }
  return fd;
}

/* Creates a ring and a doorbell per queue. Pages are allocated on use. */
static int make_shm_rings(struct sonde_backend *backend, const struct sonde_backend_config *config,
                          struct sonde_error *error) {
  uint64_t shm_ring_bytes = SHM_RING_BYTES_MIN;
  uint64_t wanted =
      backend->target.kind == ENGINE_FILE ? FILE_RING_BYTES : config->ring_bytes / backend->queues;
  while (shm_ring_bytes * 2 <= wanted && shm_ring_bytes < SHM_RING_BYTES_MAX)
    shm_ring_bytes *= 2;
  backend->setup.area_bytes = AREA_HEAD_BYTES + shm_ring_bytes * backend->queues;
  backend->shm_ring_bytes = shm_ring_bytes;
  backend->area_fd = make_memory(backend->setup.area_bytes);
  if (backend->area_fd < 0)
    return sonde_fail(error, SONDE_SYSTEM, errno, "memfd: %s", strerror(errno));
  void *memory = mmap(NULL, backend->setup.area_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                      backend->area_fd, 0);
  if (memory == MAP_FAILED)
    return sonde_fail(error, SONDE_NO_MEMORY, errno, "mmap: %s", strerror(errno));
  backend->area = memory;
  int status = 0;
  for (uint32_t i = 0; i < backend->queues && !status; i++)
    status = sonde_wake_open(&backend->readers[i].doorbell, error);
  return status;
}

static int make_child(struct sonde_backend *backend, uint32_t *queues, struct sonde_error *error) {
  int doorbells[SHM_RINGS_MAX];
  struct engine_reply reply = {0};
  backend->area->shm_ring_bytes = backend->shm_ring_bytes;
  for (uint32_t i = 0; i < backend->queues; i++)
    doorbells[i] = backend->readers[i].doorbell;
  backend->setup.queues = backend->queues;
  int status =
      child_open(&backend->child, &backend->setup, backend->area_fd, doorbells, &reply, error);
  if (!status && (reply.queues < 1 || reply.queues > backend->queues)) {
    status = sonde_fail(error, SONDE_SYSTEM, 0, "the port offers %u queues, expected 1 to %u",
                        reply.queues, backend->queues);
  }
  if (!status) {
    *queues = reply.queues;
    memcpy(backend->driver, reply.driver, sizeof backend->driver);
  }
  backend->described = false;
  return status;
}

static int backend_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                        struct sonde_error *error) {
  struct sonde_backend *backend = aligned_alloc(64, sizeof *backend);
  if (!backend)
    return sonde_fail_memory(error);
  memset(backend, 0, sizeof *backend);
  pthread_mutex_init(&backend->exit_lock, NULL);
  pthread_mutex_init(&backend->count_lock, NULL);
  backend->area_fd = -1;
  backend->child = (struct child){.control = -1, .output = -1};
  for (uint32_t i = 0; i < SHM_RINGS_MAX; i++)
    backend->readers[i].doorbell = -1;
  int status = target_set(&backend->target, config, error);
  /* Only these spread packets over queues; others get memory for one. */
  bool spreads = backend->target.kind == ENGINE_DEVICE || backend->target.flows;
  backend->queues = sonde_queue_count(config->queues, spreads ? SHM_RINGS_MAX : 1);
  backend->setup = (struct engine_setup){.abi = ENGINE_ABI,
                                         .kind = backend->target.kind,
                                         .snaplen = config->snaplen,
                                         .ring_bytes = config->ring_bytes,
                                         .promiscuous = config->promiscuous != 0,
                                         .loopback = backend->target.loopback,
                                         .flows = backend->target.flows};
  memcpy(backend->setup.device, backend->target.device, sizeof backend->setup.device);
  status = status ? status : make_shm_rings(backend, config, error);
  status = status ? status : make_child(backend, &backend->queues, error);
  if (status) {
    backend_close(backend);
    return status;
  }
  *out = backend;
  return 0;
}

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  const struct target *target = &backend->target;
  *out =
      (struct sonde_backend_info){.queues = backend->queues, .live = target->kind != ENGINE_FILE};
  out->ifindex = target->interface[0] ? (int)if_nametoindex(target->interface) : 0;
  snprintf(out->attach, sizeof out->attach, "dpdk %s, %u queue%s, process %d", backend->driver,
           backend->queues, backend->queues > 1 ? "s" : "", (int)backend->child.pid);
}

static int start(struct sonde_backend *backend, struct sonde_error *error) {
  return child_ask(&backend->child, ENGINE_START, error);
}

/* ---- packets ---------------------------------------------------------------------------- */

static void update_head(const struct sonde_backend *backend, struct reader *reader,
                        const struct shm_ring *ring) {
  if (reader->ring.head == reader->ring.position) {
    reader->ring.head = atomic_load(&backend->quiesced)
                            ? reader->last
                            : atomic_load_explicit(&ring->head, memory_order_acquire);
  }
}

/* Reads up to `max` packets of the ring. */
static int read_ready(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                      uint32_t max, struct sonde_error *error) {
  struct reader *reader = &backend->readers[queue];
  const uint8_t *ring = shm_ring_data(backend->area, backend->shm_ring_bytes, queue);
  update_head(backend, reader, &backend->area->rings[queue]);
  uint32_t count = shm_ring_read(&reader->ring, ring, backend->shm_ring_bytes,
                                 backend->setup.snaplen, packets, max);
  if (count == 0 && reader->ring.damaged)
    return sonde_fail(error, SONDE_SYSTEM, 0, "the DPDK process wrote a damaged record");
  return (int)count;
}

/* Reports how the process ended. The first caller reaps it. */
static int report_exit(struct sonde_backend *backend, struct sonde_error *error) {
  pthread_mutex_lock(&backend->exit_lock);
  if (!backend->described) {
    child_describe(&backend->child, backend->exit_reason, sizeof backend->exit_reason);
    backend->described = true;
  }
  int status = sonde_fail(error, SONDE_SYSTEM, 0, "%s", backend->exit_reason);
  pthread_mutex_unlock(&backend->exit_lock);
  return status;
}

/* Waits until the doorbell rings, the process exits or the timeout passes. */
static void wait_for(struct sonde_backend *backend, uint32_t queue, int timeout_ms) {
  struct shm_ring *ring = &backend->area->rings[queue];
  struct reader *reader = &backend->readers[queue];
  struct pollfd fds[2] = {{.fd = reader->doorbell, .events = POLLIN},
                          {.fd = backend->child.control, .events = POLLRDHUP}};
  eventfd_t ignored;
  atomic_store(&ring->waiting, 1); /* before the second read: see shm_ring_publish */
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load(&ring->head) == reader->ring.position)
    poll(fds, 2, timeout_ms < 0 ? 0 : timeout_ms);
  atomic_store(&ring->waiting, 0);
  eventfd_read(reader->doorbell, &ignored);
}

/* The status of an empty ring. 0: more packets may come. */
static int judge_empty(struct sonde_backend *backend, uint32_t queue, struct sonde_error *error) {
  struct shm_ring *ring = &backend->area->rings[queue];
  if (atomic_load(&backend->quiesced))
    return 0;
  if (backend->target.kind == ENGINE_FILE && atomic_load(&ring->finished))
    return atomic_load(&ring->head) == backend->readers[queue].ring.position ? SONDE_END : 0;
  return child_exited(&backend->child) ? report_exit(backend, error) : 0;
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue >= backend->queues || max == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  /* Release the packets of the last call. */
  atomic_store_explicit(&backend->area->rings[queue].tail, backend->readers[queue].ring.position,
                        memory_order_release);
  int count = read_ready(backend, queue, packets, max, error);
  if (count == 0 && !atomic_load(&backend->quiesced)) {
    wait_for(backend, queue, timeout_ms);
    count = read_ready(backend, queue, packets, max, error);
  }
  return count ? count : judge_empty(backend, queue, error);
}

static void wake(struct sonde_backend *backend) {
  for (uint32_t i = 0; i < backend->queues; i++)
    eventfd_write(backend->readers[i].doorbell, 1);
}

/* After the process replies, every packet it received is in the rings. Reading ends there, even
 * if a faulty process continues to write. */
static void quiesce(struct sonde_backend *backend) {
  struct sonde_error error;
  if (!child_exited(&backend->child))
    child_ask(&backend->child, ENGINE_QUIESCE, &error);
  for (uint32_t i = 0; i < backend->queues; i++)
    backend->readers[i].last = atomic_load(&backend->area->rings[i].head);
  atomic_store(&backend->quiesced, true);
  wake(backend);
}

static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  uint64_t used = 0;
  struct area *area = backend->area;
  pthread_mutex_lock(&backend->count_lock);
  *out =
      (struct sonde_backend_stats){.dropped = backend->missed_before + atomic_load(&area->missed)};
  pthread_mutex_unlock(&backend->count_lock);
  for (uint32_t i = 0; i < backend->queues; i++) {
    struct shm_ring *ring = &area->rings[i];
    out->dropped += atomic_load(&ring->dropped);
    out->freezes += atomic_load(&ring->freezes);
    uint64_t tail = atomic_load(&ring->tail);
    used += atomic_load(&ring->head) - tail;
  }
  out->ring_used_permille = used * 1000 / (backend->shm_ring_bytes * backend->queues);
}

/* ---- reopening -------------------------------------------------------------------------- */

/* Bytes after a damaged record cannot be read. The next process appends at the read position. */
static void repair_shm_ring(struct sonde_backend *backend, uint32_t queue) {
  struct reader *reader = &backend->readers[queue];
  struct shm_ring *ring = &backend->area->rings[queue];
  uint64_t written = atomic_load(&ring->head) - reader->ring.position;
  if (reader->ring.damaged || written > backend->shm_ring_bytes) {
    reader->ring.head = reader->ring.position;
    atomic_store(&ring->head, reader->ring.position);
    atomic_store(&ring->tail, reader->ring.position);
    reader->ring.damaged = false;
  }
}

/* May take seconds, so it does not hold the lock that stats needs. */
static int reopen(struct sonde_backend *backend, struct sonde_error *error) {
  uint32_t queues = 0;
  child_close(&backend->child);
  pthread_mutex_lock(&backend->count_lock);
  backend->missed_before += atomic_exchange(&backend->area->missed, 0);
  pthread_mutex_unlock(&backend->count_lock);
  for (uint32_t i = 0; i < backend->queues; i++)
    repair_shm_ring(backend, i);
  int status = make_child(backend, &queues, error);
  status = status ? status : child_ask(&backend->child, ENGINE_START, error);
  if (!status && backend->queues != queues)
    status = sonde_fail(error, SONDE_SYSTEM, 0, "the port now has %u queues instead of %u", queues,
                        backend->queues);
  if (status) {
    child_close(&backend->child);
    snprintf(backend->exit_reason, sizeof backend->exit_reason, "%.190s", error->detail);
    backend->described = true;
  }
  return status;
}

static void stop(struct sonde_backend *backend) {
  child_close(&backend->child);
}

SONDE_BACKEND(.name = "dpdk", .description = "DPDK poll-mode drivers on a dedicated interface",
              .features = SONDE_FEATURES_ALL, .probe = child_probe, .reopen = reopen)
