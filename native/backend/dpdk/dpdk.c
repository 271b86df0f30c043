/* dpdk.c - the `dpdk` backend: reads, in place, what the DPDK process writes into one ring of
 * shared memory a queue. It links nothing of DPDK.
 *
 * The rings belong to this side and outlive the process: what a killed one had written is
 * still handed over, and its successor writes on behind it. Dropped are: packets that found a
 * ring full, and those that the port, or the kernel below it, says it missed.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend.h"
#include "child.h"
#include "failure.h"
#include "target.h"

enum {
  FILE_RING_BYTES = 4 << 20,
  SHM_RING_BYTES_MAX = 256 << 20,
};

/* The reader's own of a ring. */
struct reader {
  _Alignas(64) uint64_t position; /* up to here packets have been handed over */
  uint64_t head;                  /* as last seen */
  uint64_t last;                  /* once quiesced: the head beyond which nothing is taken */
  bool damaged;                   /* what lies at `position` is no record */
  int doorbell;
};

struct sonde_backend {
  struct target target;
  struct engine_setup setup;
  struct child child;
  pthread_mutex_t telling; /* the child's end is described once */
  bool described;
  char death[200];
  struct area *area;
  int area_fd;
  uint64_t shm_ring_bytes;
  uint32_t queues;
  char driver[32];
  _Atomic bool quiesced;
  pthread_mutex_t counting; /* what was missed moves from `area` to: */
  uint64_t missed_before;   /* by processes that are gone */
  struct reader readers[SHM_RINGS_MAX];
};

static int probe(struct sonde_error *error) {
  return child_probe(error);
}

static void dpdk_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  child_close(&backend->child);
  if (backend->area)
    munmap(backend->area, backend->setup.area_bytes);
  if (backend->area_fd >= 0)
    close(backend->area_fd);
  for (uint32_t i = 0; i < SHM_RINGS_MAX; i++)
    if (backend->readers[i].doorbell >= 0)
      close(backend->readers[i].doorbell);
  pthread_mutex_destroy(&backend->counting);
  pthread_mutex_destroy(&backend->telling);
  free(backend);
}

/* Whoever has the descriptor could cut the memory off, and the agent's next look would be its
 * last: so its size is sealed. */
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

/* Memory for as many queues as are wanted, and a doorbell each. Pages come as they are used. */
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
  for (uint32_t i = 0; i < backend->queues; i++) {
    backend->readers[i].doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (backend->readers[i].doorbell < 0)
      return sonde_fail(error, SONDE_SYSTEM, errno, "eventfd: %s", strerror(errno));
  }
  return 0;
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
  if (!status && (reply.queues < 1 || reply.queues > backend->queues))
    status = sonde_fail(error, SONDE_SYSTEM, 0, "the port offers %u queues", reply.queues);
  if (!status) {
    *queues = reply.queues;
    memcpy(backend->driver, reply.driver, sizeof backend->driver);
  }
  backend->described = false;
  return status;
}

static int dpdk_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                     struct sonde_error *error) {
  struct sonde_backend *backend = aligned_alloc(64, sizeof *backend);
  if (!backend)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s", strerror(ENOMEM));
  memset(backend, 0, sizeof *backend);
  pthread_mutex_init(&backend->telling, NULL);
  pthread_mutex_init(&backend->counting, NULL);
  backend->area_fd = -1;
  backend->child = (struct child){.control = -1, .output = -1};
  for (uint32_t i = 0; i < SHM_RINGS_MAX; i++)
    backend->readers[i].doorbell = -1;
  int status = target_set(&backend->target, config, error);
  /* Nobody can spread the others' packets over queues: no memory for more than one. */
  bool spreads = backend->target.kind == ENGINE_DEVICE || backend->target.flows;
  bool single = !spreads || config->queues < 1;
  backend->queues = single ? 1 : config->queues > SHM_RINGS_MAX ? SHM_RINGS_MAX : config->queues;
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
    dpdk_close(backend);
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

/* Read once: the process could change it after it has been checked. */
static struct shm_ring_record read_head(const uint8_t *at) {
  const volatile struct shm_ring_record *record = (const volatile void *)at;
  struct shm_ring_record head = {.bytes = record->bytes, .caplen = record->caplen};
  if (head.caplen != SHM_RING_GAP) {
    head.wirelen = record->wirelen;
    head.direction = record->direction;
    head.time_ns = record->time_ns;
  }
  return head;
}

/* A record that cannot be is a process gone mad. */
static bool can_be(const struct sonde_backend *backend, const struct reader *reader,
                   const struct shm_ring_record *head) {
  uint64_t at = reader->position & (backend->shm_ring_bytes - 1);
  uint64_t written = reader->head - reader->position;
  if (head->bytes < 8 || head->bytes % 8 || head->bytes > backend->shm_ring_bytes - at ||
      head->bytes > written || written > backend->shm_ring_bytes) {
    return false;
  }
  return head->caplen == SHM_RING_GAP ||
         (head->caplen >= 0 && (uint32_t)head->caplen <= backend->setup.snaplen &&
          sizeof *head + (uint32_t)head->caplen <= head->bytes);
}

static void look(const struct sonde_backend *backend, struct reader *reader,
                 const struct shm_ring *ring) {
  if (reader->head == reader->position) {
    reader->head = atomic_load(&backend->quiesced)
                       ? reader->last
                       : atomic_load_explicit(&ring->head, memory_order_acquire);
  }
}

/* What the ring holds, up to `max`. */
static int take(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                uint32_t max, struct sonde_error *error) {
  struct reader *reader = &backend->readers[queue];
  const uint8_t *ring = shm_ring_data(backend->area, backend->shm_ring_bytes, queue);
  uint32_t count = 0;
  look(backend, reader, &backend->area->rings[queue]);
  while (count < max && reader->position != reader->head) {
    const uint8_t *at = ring + (reader->position & (backend->shm_ring_bytes - 1));
    struct shm_ring_record head = read_head(at);
    if (!can_be(backend, reader, &head)) {
      reader->damaged = true;
      return sonde_fail(error, SONDE_SYSTEM, 0, "the DPDK process wrote a damaged record");
    }
    reader->position += head.bytes;
    if (head.caplen == SHM_RING_GAP)
      continue;
    uint32_t caplen = (uint32_t)head.caplen;
    packets[count++] = (struct sonde_packet){
        .data = at + sizeof head,
        .time_ns = head.time_ns,
        .caplen = caplen,
        .wirelen = head.wirelen < caplen ? caplen : head.wirelen,
        .linktype = SONDE_LINKTYPE_ETHERNET,
        .direction = head.direction <= SONDE_DIRECTION_EGRESS ? (uint8_t)head.direction
                                                              : SONDE_DIRECTION_UNKNOWN,
    };
  }
  return (int)count;
}

/* Says how the process ended; the first to ask collects it. */
static int tell_death(struct sonde_backend *backend, struct sonde_error *error) {
  pthread_mutex_lock(&backend->telling);
  if (!backend->described) {
    child_describe(&backend->child, backend->death, sizeof backend->death);
    backend->described = true;
  }
  int status = sonde_fail(error, SONDE_SYSTEM, 0, "%s", backend->death);
  pthread_mutex_unlock(&backend->telling);
  return status;
}

/* Until the doorbell rings, the process dies or time is up. */
static void wait_for(struct sonde_backend *backend, uint32_t queue, int timeout_ms) {
  struct shm_ring *ring = &backend->area->rings[queue];
  struct reader *reader = &backend->readers[queue];
  struct pollfd fds[2] = {{.fd = reader->doorbell, .events = POLLIN},
                          {.fd = backend->child.control, .events = POLLRDHUP}};
  eventfd_t ignored;
  atomic_store(&ring->waiting, 1); /* and only then look again: see shm_ring_publish */
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load(&ring->head) == reader->position)
    poll(fds, 2, timeout_ms < 0 ? 0 : timeout_ms);
  atomic_store(&ring->waiting, 0);
  eventfd_read(reader->doorbell, &ignored);
}

/* What an empty ring means. 0: nothing now. */
static int judge_empty(struct sonde_backend *backend, uint32_t queue, struct sonde_error *error) {
  struct shm_ring *ring = &backend->area->rings[queue];
  if (atomic_load(&backend->quiesced))
    return 0;
  if (backend->target.kind == ENGINE_FILE && atomic_load(&ring->finished))
    return atomic_load(&ring->head) == backend->readers[queue].position ? SONDE_END : 0;
  return child_gone(&backend->child) ? tell_death(backend, error) : 0;
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue >= backend->queues || max == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  /* What was handed over last time is done with. */
  atomic_store_explicit(&backend->area->rings[queue].tail, backend->readers[queue].position,
                        memory_order_release);
  int count = take(backend, queue, packets, max, error);
  if (count == 0 && !atomic_load(&backend->quiesced)) {
    wait_for(backend, queue, timeout_ms);
    count = take(backend, queue, packets, max, error);
  }
  return count ? count : judge_empty(backend, queue, error);
}

static void wake(struct sonde_backend *backend) {
  for (uint32_t i = 0; i < backend->queues; i++)
    eventfd_write(backend->readers[i].doorbell, 1);
}

/* When the process has answered, all that it took is in the rings. It is not waited for the end
 * of what one writes that goes on all the same. */
static void quiesce(struct sonde_backend *backend) {
  struct sonde_error error;
  if (!child_gone(&backend->child))
    child_ask(&backend->child, ENGINE_QUIESCE, &error);
  for (uint32_t i = 0; i < backend->queues; i++)
    backend->readers[i].last = atomic_load(&backend->area->rings[i].head);
  atomic_store(&backend->quiesced, true);
  wake(backend);
}

static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  uint64_t used = 0;
  struct area *area = backend->area;
  pthread_mutex_lock(&backend->counting);
  *out =
      (struct sonde_backend_stats){.dropped = backend->missed_before + atomic_load(&area->missed)};
  pthread_mutex_unlock(&backend->counting);
  for (uint32_t i = 0; i < backend->queues; i++) {
    struct shm_ring *ring = &area->rings[i];
    out->dropped += atomic_load(&ring->dropped);
    out->freezes += atomic_load(&ring->freezes);
    uint64_t tail = atomic_load(&ring->tail);
    used += atomic_load(&ring->head) - tail;
  }
  out->ring_used_permille = used * 1000 / (backend->shm_ring_bytes * backend->queues);
}

/* ---- and again -------------------------------------------------------------------------- */

/* What lies behind damage cannot be read. The next process goes on where this side is. */
static void mend_shm_ring(struct sonde_backend *backend, uint32_t queue) {
  struct reader *reader = &backend->readers[queue];
  struct shm_ring *ring = &backend->area->rings[queue];
  uint64_t written = atomic_load(&ring->head) - reader->position;
  if (reader->damaged || written > backend->shm_ring_bytes) {
    reader->head = reader->position;
    atomic_store(&ring->head, reader->position);
    atomic_store(&ring->tail, reader->position);
    reader->damaged = false;
  }
}

/* It may take seconds, and nobody who asks for statistics waits for it. */
static int reopen(struct sonde_backend *backend, struct sonde_error *error) {
  uint32_t queues = 0;
  child_close(&backend->child);
  pthread_mutex_lock(&backend->counting);
  backend->missed_before += atomic_exchange(&backend->area->missed, 0);
  pthread_mutex_unlock(&backend->counting);
  for (uint32_t i = 0; i < backend->queues; i++)
    mend_shm_ring(backend, i);
  int status = make_child(backend, &queues, error);
  status = status ? status : child_ask(&backend->child, ENGINE_START, error);
  if (!status && backend->queues != queues)
    status = sonde_fail(error, SONDE_SYSTEM, 0, "the port has another number of queues now");
  if (status) {
    child_close(&backend->child);
    snprintf(backend->death, sizeof backend->death, "%.190s", error->detail);
    backend->described = true;
  }
  return status;
}

static void stop(struct sonde_backend *backend) {
  child_close(&backend->child);
}

static const struct sonde_backend_ops ops = {
    .abi = SONDE_BACKEND_ABI,
    .features = SONDE_FEATURE_BASIC_CAPTURE | SONDE_FEATURE_FLOW_TRACKING |
                SONDE_FEATURE_FLOW_METERING | SONDE_FEATURE_NETFLOW_EXPORT |
                SONDE_FEATURE_BUFFER_ENCRYPTION,
    .name = "dpdk",
    .description = "DPDK poll-mode drivers on a dedicated interface",
    .probe = probe,
    .open = dpdk_open,
    .info = info,
    .start = start,
    .receive = receive,
    .wake = wake,
    .quiesce = quiesce,
    .stats = stats,
    .reopen = reopen,
    .stop = stop,
    .close = dpdk_close,
};

__attribute__((visibility("default"))) const struct sonde_backend_ops *sonde_backend_ops_v1(void);

const struct sonde_backend_ops *sonde_backend_ops_v1(void) {
  return &ops;
}
