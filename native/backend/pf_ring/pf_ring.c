/* pf_ring.c - the `pf_ring` backend: the user's libpfring over its kernel module, its
 * zero-copy drivers, or a capture file. One queue.
 *
 * Packets are read without blocking. Waiting polls the ring's descriptor and the wake-up one,
 * because the library misses a wake-up that arrives before its wait. Packets are always copied:
 * the library's buffer is valid only until the next call.
 *
 * The lock prevents reading the counters of a handle that is being closed.
 */
#include <net/if.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "host/clock.h"
#include "host/dedicated_check.h"
#include "host/plugin.h"
#include "source.h"

enum {
  ARENA_BYTES = 4 << 20,
  DRAIN_MS = 200,   /* for rings that do not report their fill */
  POLL_NS = 200000, /* between two reads of a ring that cannot be polled */
  DRAIN_UNKNOWN = INT32_MAX,
};

struct sonde_backend {
  struct source source;
  uint8_t *arena; /* the frames of one receive, one after the other */
  int wake_fd;
  bool ended; /* a file was read to its end */
  bool waits; /* the interface was down at start: receive opens the ring when it is up */
  _Atomic bool quiesced;
  int drain_left; /* packets to hand over once quiesced; -1: not yet known */
  uint64_t drain_until_ms;
  pthread_mutex_t lock;
  uint64_t dropped; /* by closed rings, and by this one up to `counted` */
  uint64_t counted; /* the library's counter when last read */
};

static int probe(struct sonde_error *error) {
  const struct library *library;
  int status = library_load(&library, error);
  return status ? status : source_probe(library, error);
}

static void backend_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  source_close(&backend->source);
  free(backend->arena);
  sonde_fd_close(&backend->wake_fd);
  pthread_mutex_destroy(&backend->lock);
  free(backend);
}

static int check_source(struct sonde_backend *backend, const struct sonde_backend_config *config,
                        struct sonde_error *error) {
  struct source *source = &backend->source;
  int status = library_load(&source->library, error);
  status = status ? status : source_set(source, config->interface, error);
  source->promiscuous = config->promiscuous != 0;
  source->caplen = config->snaplen < PFRING_CAPLEN_MAX ? config->snaplen : PFRING_CAPLEN_MAX;
  if (!status && source->kind == SOURCE_ZERO_COPY)
    status = sonde_dedicated_check(source->interface, config->dedicated, error);
  if (!status && source->kind != SOURCE_FILE)
    status = source_probe(source->library, error);
  status = status ? status : source_open(source, error);
  backend->waits = status == SONDE_LINK_DOWN;
  return backend->waits ? 0 : status;
}

static int backend_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                        struct sonde_error *error) {
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  if (!backend)
    return sonde_fail_memory(error);
  pthread_mutex_init(&backend->lock, NULL);
  backend->arena = malloc(ARENA_BYTES);
  int status = sonde_wake_open(&backend->wake_fd, error);
  if (!status && !backend->arena)
    status = sonde_fail_memory(error);
  status = status ? status : check_source(backend, config, error);
  if (status) {
    backend_close(backend);
    return status;
  }
  *out = backend;
  return 0;
}

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  static const char *const kinds[] = {"kernel ring", "zero-copy", "file"};
  const struct source *source = &backend->source;
  char version[16];
  library_version(source->library, version);
  *out = (struct sonde_backend_info){.queues = 1, .live = source->kind != SOURCE_FILE};
  out->ifindex = source->interface[0] ? (int)if_nametoindex(source->interface) : 0;
  snprintf(out->attach, sizeof out->attach, "libpfring %s, %s%s", version, kinds[source->kind],
           source->received_only ? ", received packets only (enable_tx_capture=0)" : "");
}

static int start(struct sonde_backend *backend, struct sonde_error *error) {
  backend->drain_left = -1;
  return backend->waits ? 0 : source_enable(&backend->source, error);
}

/* Closes the source on failure. */
static int open_and_enable(struct source *source, struct sonde_error *error) {
  int status = source_open(source, error);
  status = status ? status : source_enable(source, error);
  if (status)
    source_close(source);
  return status;
}

/* Opens the ring if the interface is up by now. */
static int come_up(struct sonde_backend *backend, struct sonde_error *error) {
  pthread_mutex_lock(&backend->lock);
  int status = open_and_enable(&backend->source, error);
  backend->waits = status == SONDE_LINK_DOWN;
  pthread_mutex_unlock(&backend->lock);
  return status;
}

/* Reads one packet to `to`. Returns 1, 0 if the ring is empty, or a negative number. The
 * library's pcap module returns 0 with and without a packet, so the header is checked. */
static int read_one(struct source *source, uint8_t *to, struct sonde_packet *packet) {
  struct pfring_header header;
  uint8_t *buffer = to;
  memset(&header, 0, offsetof(struct pfring_header, rest));
  int got = source->library->recv(source->ring, &buffer, source->caplen, &header, 0);
  if (got < 0 || (got == 0 && (source->kind != SOURCE_FILE || header.len == 0)))
    return got;
  uint64_t stamp_ns =
      (uint64_t)header.time.tv_sec * 1000000000 + (uint64_t)header.time.tv_usec * 1000;
  bool live = source->kind != SOURCE_FILE;
  uint32_t caplen = header.caplen < source->caplen ? header.caplen : source->caplen;
  *packet = (struct sonde_packet){
      .data = buffer,
      .time_ns = live && header.time_ns ? header.time_ns : stamp_ns,
      .caplen = caplen,
      .wirelen = header.len < caplen ? caplen : header.len,
      .linktype = SONDE_LINKTYPE_ETHERNET,
      .direction = !live             ? SONDE_DIRECTION_UNKNOWN
                   : header.received ? SONDE_DIRECTION_INGRESS
                                     : SONDE_DIRECTION_EGRESS,
  };
  return 1;
}

/* Reads ready packets until one of the arrays is full. Returns a count or a status. */
static int read_ready(struct sonde_backend *backend, struct sonde_packet *packets, uint32_t max,
                      struct sonde_error *error) {
  struct source *source = &backend->source;
  uint32_t used = 0;
  uint32_t count = 0;
  int got = 1;
  if (!source->ring)
    return sonde_fail(error, SONDE_SYSTEM, ENODEV, "%s: %s", source->name, strerror(ENODEV));
  while (count < max && ARENA_BYTES - used >= source->caplen) {
    got = read_one(source, backend->arena + used, &packets[count]);
    if (got <= 0)
      break;
    used += (packets[count++].caplen + 7) & ~7u;
  }
  if (count)
    return (int)count;
  if (got < 0)
    return sonde_fail(error, SONDE_SYSTEM, errno, "%s: pfring_recv returned %d", source->name, got);
  return 0;
}

/* Returns whether wake was called. */
static bool wait_for(struct sonde_backend *backend, int timeout_ms) {
  struct source *source = &backend->source;
  int woken;
  if (source->select_fd < 0) { /* zero-copy: there is no descriptor to wait on */
    nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    timeout_ms = 0;
  }
  short events = sonde_wake_wait(backend->wake_fd, source->select_fd, timeout_ms, &woken);
  if (events & (POLLERR | POLLHUP | POLLNVAL))
    nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL); /* the error stays set: do not spin */
  return woken;
}

/* Reads as many packets as the ring held at the first call after quiesce: the library cannot
 * reject new packets without dropping these. */
static int read_last(struct sonde_backend *backend, struct sonde_packet *packets, uint32_t max) {
  const struct source *source = &backend->source;
  if (backend->drain_left < 0) {
    bool live = source->ring && source->kind != SOURCE_FILE;
    int held = live ? source->library->get_num_queued_pkts(source->ring) : 0;
    backend->drain_left = held < 0 ? DRAIN_UNKNOWN : held;
    backend->drain_until_ms = sonde_clock_ms() + DRAIN_MS;
  }
  uint32_t left = (uint32_t)backend->drain_left;
  bool late = left == DRAIN_UNKNOWN && sonde_clock_ms() >= backend->drain_until_ms;
  if (left == 0 || late)
    return 0;
  int count = read_ready(backend, packets, max < left ? max : left, NULL);
  backend->drain_left -= count > 0 ? count : 0;
  return count > 0 ? count : 0;
}

static int receive_file(struct sonde_backend *backend, struct sonde_packet *packets, uint32_t max,
                        struct sonde_error *error) {
  int count = backend->ended ? 0 : read_ready(backend, packets, max, error);
  backend->ended = count == 0;
  return backend->ended ? SONDE_END : count;
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue != 0 || max == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  if (atomic_load(&backend->quiesced))
    return read_last(backend, packets, max);
  if (backend->source.kind == SOURCE_FILE)
    return receive_file(backend, packets, max, error);
  int status = backend->waits ? come_up(backend, error) : 0;
  if (status)
    return status;
  uint64_t now_ms = sonde_clock_ms();
  uint64_t until_ms = now_ms + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
  for (bool last = false;; last = now_ms >= until_ms) {
    int count = read_ready(backend, packets, max, error);
    if (count || last || atomic_load(&backend->quiesced))
      return count;
    if (wait_for(backend, (int)(until_ms - now_ms)))
      until_ms = 0; /* read once more */
    now_ms = sonde_clock_ms();
  }
}

static void wake(struct sonde_backend *backend) {
  eventfd_write(backend->wake_fd, 1);
}

/* Under the lock. Some modules of the library do not fill the structure, some restart their
 * counters. Neither reduces the count. */
static void count_drops(struct sonde_backend *backend) {
  struct pfring_counters counters = {0};
  const struct source *source = &backend->source;
  if (source->ring && source->kind != SOURCE_FILE && !atomic_load(&backend->quiesced) &&
      source->library->stats(source->ring, &counters) == 0) {
    backend->dropped +=
        counters.dropped > backend->counted ? counters.dropped - backend->counted : 0;
    backend->counted = counters.dropped;
  }
}

/* Counts drops until now. Later drops are of packets that must not be captured. */
static void quiesce(struct sonde_backend *backend) {
  pthread_mutex_lock(&backend->lock);
  count_drops(backend);
  pthread_mutex_unlock(&backend->lock);
  atomic_store(&backend->quiesced, true);
  wake(backend);
}

static void stats(struct sonde_backend *backend, struct sonde_backend_stats *out) {
  pthread_mutex_lock(&backend->lock);
  count_drops(backend);
  *out = (struct sonde_backend_stats){.dropped = backend->dropped};
  pthread_mutex_unlock(&backend->lock);
}

static int reopen(struct sonde_backend *backend, struct sonde_error *error) {
  pthread_mutex_lock(&backend->lock);
  count_drops(backend);
  backend->counted = 0;
  source_close(&backend->source);
  backend->waits = false;
  int status = open_and_enable(&backend->source, error);
  pthread_mutex_unlock(&backend->lock);
  return status;
}

static void stop(struct sonde_backend *backend) {
  pthread_mutex_lock(&backend->lock);
  source_close(&backend->source);
  pthread_mutex_unlock(&backend->lock);
}

SONDE_BACKEND(
        .name = "pf_ring",
        .description =
            "PF_RING module, zero-copy drivers; VLAN tags appear as 802.1Q, null tags are lost",
        .features = SONDE_FEATURES_ALL, .probe = probe, .reopen = reopen)
