/* dedicated.c - see dedicated.h. */
#include "dedicated.h"

#include <bpf/bpf.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "host/clock.h"
#include "host/plugin.h"
#include "object.h"
#include "packet.h"
#include "socket.h"

enum {
  SOCKETS_MAX = 128,
  POLL_MS = 1,   /* between two reads of several sockets, if other interfaces are captured too */
  DRAIN_MS = 20, /* after detaching, frames in flight arrive within this */
};

struct dedicated {
  struct sonde_interface interface;
  struct bpf_object *object;
  uint32_t count;
  uint32_t next; /* the socket to read next */
  uint32_t ring_bytes;
  uint32_t snaplen;
  bool promiscuous;
  int link;
  int promiscuous_fd;
  int wake_fd;
  _Atomic uint64_t quiesced_ns; /* monotonic; 0: running */
  pthread_mutex_t lock;         /* guards the sockets: reopen replaces them while stats may run */
  uint64_t past_dropped;        /* by closed sockets */
  struct socket *sockets;
  struct pollfd *polled;
};

/* Returns 1 if the driver does not report its queues. */
static uint32_t count_queues(const struct sonde_interface *interface) {
  struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
  struct ifreq request = {.ifr_data = (void *)&channels};
  memcpy(request.ifr_name, interface->name, sizeof interface->name);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  uint32_t count = 0;
  if (fd >= 0 && ioctl(fd, SIOCETHTOOL, &request) == 0)
    count = channels.rx_count + channels.combined_count;
  if (fd >= 0)
    close(fd);
  return count < 1 ? 1 : count > SOCKETS_MAX ? SOCKETS_MAX : count;
}

/* Counts packets that arrived at a socket and were not read as dropped. */
static void close_sockets(struct dedicated *dedicated) {
  struct sonde_packet packet;
  pthread_mutex_lock(&dedicated->lock);
  for (uint32_t i = 0; dedicated->sockets && i < dedicated->count; i++) {
    struct socket *socket = &dedicated->sockets[i];
    if (socket->fd < 0)
      continue;
    socket_release(socket);
    while (socket_read(socket, 0, 0, &packet, 1)) {
      dedicated->past_dropped++;
      socket_release(socket);
    }
    dedicated->past_dropped += socket_dropped(socket);
    socket_close(socket);
  }
  pthread_mutex_unlock(&dedicated->lock);
}

/* Binds the sockets. They get no frames before the program is attached. */
static int open_sockets(struct dedicated *dedicated, struct sonde_error *error) {
  int map = bpf_map__fd(bpf_object__find_map_by_name(dedicated->object, "sockets"));
  int status = 0;
  for (uint32_t i = 0; i < dedicated->count && !status; i++) {
    struct socket *socket = &dedicated->sockets[i];
    status = socket_open(socket, dedicated->ring_bytes / dedicated->count, error);
    status = status ? status : socket_bind(socket, dedicated->interface.index, i, error);
    if (!status && bpf_map_update_elem(map, &i, &socket->fd, 0))
      status = sonde_fail(error, SONDE_SYSTEM, errno, "cannot add a socket to the map: %s",
                          strerror(errno));
    dedicated->polled[i] = (struct pollfd){.fd = socket->fd, .events = POLLIN};
  }
  return status;
}

int dedicated_open(const struct sonde_backend_config *config,
                   const struct sonde_interface *interface, struct dedicated **out,
                   struct sonde_error *error) {
  struct dedicated *dedicated = calloc(1, sizeof *dedicated);
  void *settings = NULL;
  if (!dedicated)
    return sonde_fail_memory(error);
  pthread_mutex_init(&dedicated->lock, NULL);
  dedicated->interface = *interface;
  dedicated->snaplen = config->snaplen;
  dedicated->ring_bytes = config->ring_bytes;
  dedicated->promiscuous = config->promiscuous != 0;
  dedicated->link = dedicated->promiscuous_fd = -1;
  dedicated->count = count_queues(interface);
  dedicated->sockets = calloc(dedicated->count, sizeof *dedicated->sockets);
  dedicated->polled = calloc(dedicated->count + 1, sizeof *dedicated->polled);
  int status = sonde_wake_open(&dedicated->wake_fd, error);
  if (!status && (!dedicated->sockets || !dedicated->polled)) {
    status = sonde_fail_memory(error);
  } else if (!status && interface->linktype != SONDE_LINKTYPE_ETHERNET) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, 0, "%s: not an Ethernet interface",
                        interface->name);
  }
  for (uint32_t i = 0; dedicated->sockets && i < dedicated->count; i++)
    dedicated->sockets[i].fd = -1;
  status =
      status ? status : object_open(object_dedicated(), &dedicated->object, &settings, 0, error);
  status = status ? status : object_load(dedicated->object, error);
  status = status ? status : open_sockets(dedicated, error);
  if (status) {
    dedicated_close(dedicated);
    return status;
  }
  *out = dedicated;
  return 0;
}

void dedicated_info(const struct dedicated *dedicated, struct sonde_backend_info *info) {
  *info =
      (struct sonde_backend_info){.queues = 1, .live = 1, .ifindex = dedicated->interface.index};
  snprintf(info->attach, sizeof info->attach, "%s, native xdp, %u queue%s, %u frames, dedicated",
           dedicated->sockets->zero_copy ? "AF_XDP zero-copy" : "AF_XDP copy", dedicated->count,
           dedicated->count == 1 ? "" : "s", dedicated->sockets->frames);
}

static int attach_program(struct dedicated *dedicated, struct sonde_error *error) {
  struct bpf_program *program = bpf_object__find_program_by_name(dedicated->object, "redirect");
  LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_DRV_MODE);
  dedicated->link =
      bpf_link_create(bpf_program__fd(program), dedicated->interface.index, BPF_XDP, &options);
  if (dedicated->link >= 0)
    return 0;
  int number = errno;
  const char *name = dedicated->interface.name;
  switch (number) {
  case EBUSY:
  case EEXIST:
    return sonde_fail(error, SONDE_INTERFACE_SHARED, number,
                      "%s: another XDP program is attached; detach it first", name);
  case EOPNOTSUPP:
    return sonde_fail(error, SONDE_INTERFACE_INVALID, number,
                      "%s: its driver has no native XDP; capture without dedicated", name);
  case ENODEV:
    return sonde_fail_interface(error, name, number);
  default:
    return sonde_fail(error, number == EPERM ? SONDE_PERMISSION : SONDE_SYSTEM, number,
                      "attaching to XDP: %s", strerror(number));
  }
}

int dedicated_start(struct dedicated *dedicated, struct sonde_error *error) {
  int status = 0;
  if (dedicated->promiscuous) {
    dedicated->promiscuous_fd = sonde_interface_promiscuous(&dedicated->interface, error);
    status = dedicated->promiscuous_fd < 0 ? dedicated->promiscuous_fd : 0;
  }
  status = status ? status : attach_program(dedicated, error);
  if (status) {
    dedicated->link = -1;
    sonde_fd_close(&dedicated->promiscuous_fd);
  }
  return status;
}

int dedicated_reopen(struct dedicated *dedicated, struct sonde_error *error) {
  struct sonde_interface found;
  int status = sonde_interface_find(dedicated->interface.name, SONDE_TAP_HOOK, &found, error);
  if (status)
    return status;
  sonde_fd_close(&dedicated->link);
  sonde_fd_close(&dedicated->promiscuous_fd);
  close_sockets(dedicated);
  dedicated->interface = found;
  pthread_mutex_lock(&dedicated->lock);
  status = open_sockets(dedicated, error);
  pthread_mutex_unlock(&dedicated->lock);
  return status ? status : dedicated_start(dedicated, error);
}

static uint32_t read_sockets(struct dedicated *dedicated, struct sonde_packet *packets,
                             uint32_t max) {
  uint64_t now_ns = sonde_clock_ns(CLOCK_REALTIME);
  uint32_t count = 0;
  for (uint32_t i = 0; i < dedicated->count && count < max; i++) {
    struct socket *socket = &dedicated->sockets[dedicated->next];
    dedicated->next = dedicated->next + 1 == dedicated->count ? 0 : dedicated->next + 1;
    if (socket->fd >= 0)
      count += socket_read(socket, now_ns, dedicated->snaplen, &packets[count], max - count);
  }
  return count;
}

/* Returns LINK_DOWN if a socket has lost its interface. reopen is called when it is back. */
static int wait(struct dedicated *dedicated, int timeout_ms, struct sonde_error *error) {
  dedicated->polled[dedicated->count] = (struct pollfd){.fd = dedicated->wake_fd, .events = POLLIN};
  if (poll(dedicated->polled, dedicated->count + 1, timeout_ms) <= 0)
    return 0;
  if (dedicated->polled[dedicated->count].revents) {
    eventfd_t ignored;
    eventfd_read(dedicated->wake_fd, &ignored);
  }
  for (uint32_t i = 0; i < dedicated->count; i++)
    if (dedicated->polled[i].revents & (POLLERR | POLLHUP | POLLNVAL))
      return sonde_fail(error, SONDE_LINK_DOWN, ENETDOWN, "%s", strerror(ENETDOWN));
  return 0;
}

int dedicated_receive(struct dedicated *dedicated, struct sonde_packet *packets, uint32_t max,
                      int timeout_ms, struct sonde_error *error) {
  for (uint32_t i = 0; i < dedicated->count; i++)
    if (dedicated->sockets[i].fd >= 0)
      socket_release(&dedicated->sockets[i]);
  for (bool waited = false;; waited = true) {
    uint64_t quiesced_ns = atomic_load(&dedicated->quiesced_ns);
    bool last =
        quiesced_ns && sonde_clock_ns(CLOCK_MONOTONIC) - quiesced_ns >= DRAIN_MS * 1000000ull;
    uint32_t count = read_sockets(dedicated, packets, max);
    if (count || last || (waited && !quiesced_ns) || (quiesced_ns && timeout_ms < 0))
      return (int)count;
    int status = wait(dedicated, timeout_ms < 0 ? 0 : quiesced_ns ? 1 : timeout_ms, error);
    if (status && !quiesced_ns)
      return status;
  }
}

/* One descriptor cannot stand for several sockets, so the caller reads them often. */
int dedicated_poll_fd(struct dedicated *dedicated, int *timeout_ms) {
  if (dedicated->count == 1 && dedicated->sockets[0].fd >= 0)
    return dedicated->sockets[0].fd;
  *timeout_ms = *timeout_ms < POLL_MS ? *timeout_ms : POLL_MS;
  return -1;
}

void dedicated_wake(struct dedicated *dedicated) {
  eventfd_write(dedicated->wake_fd, 1);
}

void dedicated_quiesce(struct dedicated *dedicated) {
  sonde_fd_close(&dedicated->link);
  sonde_fd_close(&dedicated->promiscuous_fd);
  atomic_store(&dedicated->quiesced_ns, sonde_clock_ns(CLOCK_MONOTONIC));
  dedicated_wake(dedicated);
}

void dedicated_stats(struct dedicated *dedicated, struct sonde_backend_stats *stats) {
  pthread_mutex_lock(&dedicated->lock);
  *stats = (struct sonde_backend_stats){.dropped = dedicated->past_dropped};
  for (uint32_t i = 0; i < dedicated->count; i++) {
    const struct socket *socket = &dedicated->sockets[i];
    if (socket->fd < 0)
      continue;
    uint32_t used = socket_used_permille(socket);
    stats->dropped += socket_dropped(socket);
    stats->ring_used_permille = used > stats->ring_used_permille ? used : stats->ring_used_permille;
  }
  pthread_mutex_unlock(&dedicated->lock);
}

void dedicated_stop(struct dedicated *dedicated) {
  sonde_fd_close(&dedicated->link);
  sonde_fd_close(&dedicated->promiscuous_fd);
  close_sockets(dedicated);
}

void dedicated_close(struct dedicated *dedicated) {
  dedicated_stop(dedicated);
  sonde_fd_close(&dedicated->wake_fd);
  bpf_object__close(dedicated->object);
  free(dedicated->sockets);
  free(dedicated->polled);
  pthread_mutex_destroy(&dedicated->lock);
  free(dedicated);
}
