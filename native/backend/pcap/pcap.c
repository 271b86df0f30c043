/* pcap.c - the `pcap` backend: libpcap on a live interface, the portable fallback.
 *
 * libpcap may reuse a packet's memory once its callback returns, so frames are copied. It does
 * not report the direction (except on "any") or GRO super-packets, which count as one packet.
 * One queue.
 *
 * The lock separates filter changes and counters from a running dispatch. receive does not hold
 * it while waiting.
 */
#include <linux/if_packet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "device.h"
#include "host/clock.h"
#include "host/plugin.h"

enum {
  ARENA_BYTES = 4 << 20,
  DRAIN_MS = 10 * DEVICE_TIMEOUT_MS, /* the last block has arrived by then */
  SLL2_PACKET_TYPE_AT = 10,
};

/* The frames of one receive, copied one after the other. */
struct arena {
  uint8_t *memory;
  uint32_t used;
  uint32_t frame_bytes_max;
};

/* How many frames of the largest size fit. */
static uint32_t arena_frames(const struct arena *arena) {
  return (ARENA_BYTES - arena->used) / arena->frame_bytes_max;
}

static const uint8_t *arena_copy(struct arena *arena, const uint8_t *data, uint32_t length) {
  uint8_t *to = arena->memory + arena->used;
  memcpy(to, data, length);
  arena->used += length;
  return to;
}

struct sonde_backend {
  struct device device;
  struct arena arena;
  char *expression;
  pthread_mutex_t lock;
  _Atomic uint64_t quiesced_ms; /* monotonic; 0: running */
  uint64_t dropped;             /* by closed devices, and by this one up to `counted` */
  uint32_t counted;             /* libpcap's 32-bit counter when last read */
  int wake_fd;
  bool is_down; /* receive has reported LINK_DOWN */
};

static void backend_close(struct sonde_backend *backend) {
  if (!backend)
    return;
  device_close(&backend->device);
  free(backend->arena.memory);
  sonde_fd_close(&backend->wake_fd);
  pthread_mutex_destroy(&backend->lock);
  free(backend->expression);
  free(backend);
}

static int backend_open(const struct sonde_backend_config *config, struct sonde_backend **out,
                        struct sonde_error *error) {
  struct sonde_backend *backend = calloc(1, sizeof *backend);
  if (!backend)
    return sonde_fail_memory(error);
  pthread_mutex_init(&backend->lock, NULL);
  backend->expression = strdup(config->filter ? config->filter : "");
  backend->arena.memory = malloc(ARENA_BYTES);
  backend->arena.frame_bytes_max = config->snaplen;
  int status = sonde_wake_open(&backend->wake_fd, error);
  if (!status && (!backend->expression || !backend->arena.memory))
    status = sonde_fail_memory(error);
  if (!status) {
    status = device_set(&backend->device, config->interface, config->snaplen, config->ring_bytes,
                        config->promiscuous != 0, error);
  }
  if (!status) { /* report at open what start would fail on */
    status = device_open(&backend->device, backend->expression, error);
    device_close(&backend->device);
  }
  if (status) {
    backend_close(backend);
    return status;
  }
  *out = backend;
  return 0;
}

static void info(const struct sonde_backend *backend, struct sonde_backend_info *out) {
  *out = (struct sonde_backend_info){.queues = 1, .live = 1, .ifindex = backend->device.ifindex};
  snprintf(out->attach, sizeof out->attach, "libpcap %s, buffer %u MiB", device_version(),
           backend->device.buffer_bytes >> 20);
}

/* libpcap captures from activation on, so the device is opened only here. */
static int start(struct sonde_backend *backend, struct sonde_error *error) {
  backend->counted = 0;
  return device_open(&backend->device, backend->expression, error);
}

struct filling {
  struct sonde_backend *backend;
  struct sonde_packet *packets;
  uint32_t count;
};

static void keep(u_char *argument, const struct pcap_pkthdr *head, const u_char *data) {
  struct filling *filling = (void *)argument;
  const struct device *device = &filling->backend->device;
  uint32_t caplen = head->caplen < device->snaplen ? head->caplen : device->snaplen;
  struct sonde_packet *packet = &filling->packets[filling->count++];
  *packet = (struct sonde_packet){
      .data = arena_copy(&filling->backend->arena, data, caplen),
      .time_ns =
          (uint64_t)head->ts.tv_sec * 1000000000 + (uint64_t)head->ts.tv_usec * device->tick_ns,
      .caplen = caplen,
      .wirelen = head->len < caplen ? caplen : head->len,
      .linktype = device->linktype,
  };
  if (device->linktype == SONDE_LINKTYPE_SLL2 && caplen > SLL2_PACKET_TYPE_AT) {
    packet->direction = data[SLL2_PACKET_TYPE_AT] == PACKET_OUTGOING ? SONDE_DIRECTION_EGRESS
                                                                     : SONDE_DIRECTION_INGRESS;
  }
}

/* Reads ready packets until one of the arrays is full. Returns a count or a status. */
static int read_ready(struct sonde_backend *backend, struct sonde_packet *packets, uint32_t max,
                      struct sonde_error *error) {
  struct filling filling = {.backend = backend, .packets = packets};
  int status = 0;
  backend->arena.used = 0;
  pthread_mutex_lock(&backend->lock);
  if (!backend->device.pcap)
    status = sonde_fail(error, SONDE_SYSTEM, ENODEV, "%s", strerror(ENODEV));
  while (!status && filling.count < max) {
    uint32_t room = arena_frames(&backend->arena);
    room = room < max - filling.count ? room : max - filling.count;
    if (room == 0)
      break;
    int count = pcap_dispatch(backend->device.pcap, (int)room, keep, (u_char *)&filling);
    if (count < 0) {
      status = device_trouble(&backend->device, error);
      status = status ? status
                      : sonde_fail(error, SONDE_SYSTEM, 0, "%s", pcap_geterr(backend->device.pcap));
    }
    if (count <= 0)
      break;
  }
  pthread_mutex_unlock(&backend->lock);
  return filling.count ? (int)filling.count : status;
}

/* libpcap does not report that an interface went down and keeps waiting. Reports it once. */
static int link_trouble(struct sonde_backend *backend, struct sonde_error *error) {
  int status = device_trouble(&backend->device, error);
  bool was_down = backend->is_down;
  backend->is_down = status == SONDE_LINK_DOWN;
  return backend->is_down && was_down ? 0 : status;
}

static int receive(struct sonde_backend *backend, uint32_t queue, struct sonde_packet *packets,
                   uint32_t max, int timeout_ms, struct sonde_error *error) {
  if (queue != 0 || max == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "there is no queue %u", queue);
  for (bool waited = false;; waited = true) {
    int count = read_ready(backend, packets, max, error);
    uint64_t quiesced_ms = atomic_load(&backend->quiesced_ms);
    if (count > 0 || (count < 0 && !quiesced_ms))
      return count;
    if (count < 0 ||
        (quiesced_ms && (timeout_ms < 0 || sonde_clock_ms() - quiesced_ms >= DRAIN_MS)))
      return 0;
    if (waited && !quiesced_ms)
      return link_trouble(backend, error);
    sonde_wake_wait(backend->wake_fd, backend->device.select_fd,
                    quiesced_ms ? DEVICE_TIMEOUT_MS : timeout_ms, NULL);
  }
}

static int poll_fd(struct sonde_backend *backend, uint32_t queue, int *timeout_ms) {
  (void)queue;
  if (backend->device.select_fd < 0) /* libpcap cannot wait for this device */
    *timeout_ms = *timeout_ms < DEVICE_TIMEOUT_MS ? *timeout_ms : DEVICE_TIMEOUT_MS;
  return backend->device.select_fd;
}

static void wake(struct sonde_backend *backend) {
  eventfd_write(backend->wake_fd, 1);
}

static void quiesce(struct sonde_backend *backend) {
  pthread_mutex_lock(&backend->lock);
  device_refuse_all(&backend->device);
  pthread_mutex_unlock(&backend->lock);
  atomic_store(&backend->quiesced_ms, sonde_clock_ms());
  wake(backend);
}

/* Under the lock. The difference of two 32-bit counts is correct across one wrap. */
static void count_drops(struct sonde_backend *backend) {
  struct pcap_stat counters;
  if (backend->device.pcap && pcap_stats(backend->device.pcap, &counters) == 0) {
    backend->dropped += (uint32_t)(counters.ps_drop - backend->counted);
    backend->counted = counters.ps_drop;
  }
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
  device_close(&backend->device);
  int status = device_open(&backend->device, backend->expression, error);
  pthread_mutex_unlock(&backend->lock);
  return status;
}

static void stop(struct sonde_backend *backend) {
  pthread_mutex_lock(&backend->lock);
  count_drops(backend);
  device_close(&backend->device);
  pthread_mutex_unlock(&backend->lock);
}

SONDE_BACKEND(.name = "pcap", .description = "libpcap, the portable fallback (emulation mode)",
              .features = SONDE_FEATURES_FLOW, .probe = device_probe, .filters = 1,
              .reopen = reopen, .poll_fd = poll_fd)
