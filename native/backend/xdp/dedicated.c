/* dedicated.c - see dedicated.h. */
#include "dedicated.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "object.h"
#include "packet.h"
#include "socket.h"

enum {
  SOCKETS_MAX = 128,
  DRAIN_MS = 20, /* after detaching: frames on their way have arrived by then */
};

struct ports {
  struct interface interface;
  struct bpf_object *object;
  uint32_t count;
  uint32_t next; /* whose turn it is to be read */
  uint32_t ring_bytes;
  uint32_t snaplen;
  bool promiscuous;
  int link;
  int promiscuous_fd;
  int wake_fd;
  _Atomic uint64_t quiesced_ns; /* monotonic; 0: running */
  pthread_mutex_t lock;         /* the sockets, as reopen replaces them under stats */
  uint64_t past_dropped;        /* of sockets that are closed */
  struct socket *sockets;
  struct pollfd *polled;
};

static uint64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A driver that does not tell has one. */
static uint32_t count_queues(const struct interface *interface) {
  struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
  struct ifreq request = {.ifr_data = (void *)&channels};
  memcpy(request.ifr_name, interface->name, sizeof interface->name);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  uint32_t count = 0;
  if (fd >= 0 && ioctl(fd, SIOCETHTOOL, &request) == 0) {
    count = channels.rx_count + channels.combined_count;
  }
  if (fd >= 0) {
    close(fd);
  }
  return count < 1 ? 1 : count > SOCKETS_MAX ? SOCKETS_MAX : count;
}

static void close_fd(int *fd) {
  if (*fd >= 0) {
    close(*fd);
  }
  *fd = -1;
}

/* What arrived at a socket and nobody took is lost with it. */
static void close_sockets(struct ports *ports) {
  struct sonde_packet packet;
  pthread_mutex_lock(&ports->lock);
  for (uint32_t i = 0; ports->sockets && i < ports->count; i++) {
    struct socket *socket = &ports->sockets[i];
    if (socket->fd < 0) {
      continue;
    }
    socket_release(socket);
    while (socket_take(socket, 0, 0, &packet, 1)) {
      ports->past_dropped++;
      socket_release(socket);
    }
    ports->past_dropped += socket_dropped(socket);
    socket_close(socket);
  }
  pthread_mutex_unlock(&ports->lock);
}

/* A bound socket gets nothing yet: frames come when the program is attached. */
static int open_sockets(struct ports *ports, struct sonde_error *error) {
  int map = bpf_map__fd(bpf_object__find_map_by_name(ports->object, "sockets"));
  int status = 0;
  for (uint32_t i = 0; i < ports->count && !status; i++) {
    struct socket *socket = &ports->sockets[i];
    status = socket_open(socket, ports->ring_bytes / ports->count, error);
    status = status ? status : socket_bind(socket, ports->interface.index, i, error);
    if (!status && bpf_map_update_elem(map, &i, &socket->fd, 0)) {
      status = sonde_fail(error, SONDE_SYSTEM, errno, "handing over a socket: %s", strerror(errno));
    }
    ports->polled[i] = (struct pollfd){.fd = socket->fd, .events = POLLIN};
  }
  return status;
}

int ports_open(const struct sonde_backend_config *config, const struct interface *interface,
               struct ports **out, struct sonde_error *error) {
  struct ports *ports = calloc(1, sizeof *ports);
  void *settings = NULL;
  if (!ports) {
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s", strerror(ENOMEM));
  }
  pthread_mutex_init(&ports->lock, NULL);
  ports->interface = *interface;
  ports->snaplen = config->snaplen;
  ports->ring_bytes = config->ring_bytes;
  ports->promiscuous = config->promiscuous != 0;
  ports->link = ports->promiscuous_fd = -1;
  ports->count = count_queues(interface);
  ports->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  ports->sockets = calloc(ports->count, sizeof *ports->sockets);
  ports->polled = calloc(ports->count + 1, sizeof *ports->polled);
  int status = 0;
  if (ports->wake_fd < 0 || !ports->sockets || !ports->polled) {
    status = sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s", strerror(ENOMEM));
  } else if (interface->linktype != SONDE_LINKTYPE_ETHERNET) {
    status = sonde_fail(error, SONDE_INTERFACE_INVALID, 0, "%s is not an Ethernet interface",
                        interface->name);
  }
  for (uint32_t i = 0; ports->sockets && i < ports->count; i++) {
    ports->sockets[i].fd = -1;
  }
  status = status ? status : object_open(object_dedicated(), &ports->object, &settings, 0, error);
  status = status ? status : object_load(ports->object, error);
  status = status ? status : open_sockets(ports, error);
  if (status) {
    ports_close(ports);
    return status;
  }
  *out = ports;
  return 0;
}

void ports_info(const struct ports *ports, struct sonde_backend_info *info) {
  *info = (struct sonde_backend_info){.queues = 1, .live = 1, .ifindex = ports->interface.index};
  snprintf(info->attach, sizeof info->attach, "%s, native xdp, %u queue%s, %u frames, dedicated",
           ports->sockets->zero_copy ? "AF_XDP zero-copy" : "AF_XDP copy", ports->count,
           ports->count == 1 ? "" : "s", ports->sockets->frames);
}

static int attach_program(struct ports *ports, struct sonde_error *error) {
  struct bpf_program *program = bpf_object__find_program_by_name(ports->object, "take");
  LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_DRV_MODE);
  ports->link =
      bpf_link_create(bpf_program__fd(program), ports->interface.index, BPF_XDP, &options);
  if (ports->link >= 0) {
    return 0;
  }
  int number = errno;
  const char *name = ports->interface.name;
  switch (number) {
  case EBUSY:
  case EEXIST:
    return sonde_fail(error, SONDE_INTERFACE_SHARED, number,
                      "%s: another XDP program is attached, and is not replaced", name);
  case EOPNOTSUPP:
    return sonde_fail(error, SONDE_INTERFACE_INVALID, number, "%s: its driver has no native XDP",
                      name);
  case ENODEV:
    return sonde_fail(error, SONDE_INTERFACE_INVALID, number, "%s: %s", name, strerror(number));
  default:
    return sonde_fail(error, number == EPERM ? SONDE_PERMISSION : SONDE_SYSTEM, number,
                      "attaching to XDP: %s", strerror(number));
  }
}

static int attach(struct ports *ports, struct sonde_error *error) {
  int status = 0;
  if (ports->promiscuous) {
    ports->promiscuous_fd = interface_promiscuous(&ports->interface, error);
    status = ports->promiscuous_fd < 0 ? ports->promiscuous_fd : 0;
  }
  status = status ? status : attach_program(ports, error);
  if (status) {
    ports->link = -1;
    close_fd(&ports->promiscuous_fd);
  }
  return status;
}

int ports_start(struct ports *ports, struct sonde_error *error) {
  return attach(ports, error);
}

int ports_reopen(struct ports *ports, struct sonde_error *error) {
  struct interface found;
  int status = interface_find(ports->interface.name, &found, error);
  if (status) {
    return status;
  }
  close_fd(&ports->link);
  close_fd(&ports->promiscuous_fd);
  close_sockets(ports);
  ports->interface = found;
  pthread_mutex_lock(&ports->lock);
  status = open_sockets(ports, error);
  pthread_mutex_unlock(&ports->lock);
  return status ? status : attach(ports, error);
}

static uint32_t take(struct ports *ports, struct sonde_packet *packets, uint32_t max) {
  uint64_t now_ns = clock_ns(CLOCK_REALTIME);
  uint32_t count = 0;
  for (uint32_t turn = 0; turn < ports->count && count < max; turn++) {
    struct socket *socket = &ports->sockets[ports->next];
    ports->next = ports->next + 1 == ports->count ? 0 : ports->next + 1;
    if (socket->fd >= 0) {
      count += socket_take(socket, now_ns, ports->snaplen, &packets[count], max - count);
    }
  }
  return count;
}

/* LINK_DOWN if a socket has lost its interface: it is back when reopen is called. */
static int wait(struct ports *ports, int timeout_ms, struct sonde_error *error) {
  ports->polled[ports->count] = (struct pollfd){.fd = ports->wake_fd, .events = POLLIN};
  if (poll(ports->polled, ports->count + 1, timeout_ms) <= 0) {
    return 0;
  }
  if (ports->polled[ports->count].revents) {
    eventfd_t ignored;
    eventfd_read(ports->wake_fd, &ignored);
  }
  for (uint32_t i = 0; i < ports->count; i++) {
    if (ports->polled[i].revents & (POLLERR | POLLHUP | POLLNVAL)) {
      return sonde_fail(error, SONDE_LINK_DOWN, ENETDOWN, "%s", strerror(ENETDOWN));
    }
  }
  return 0;
}

int ports_receive(struct ports *ports, struct sonde_packet *packets, uint32_t max, int timeout_ms,
                  struct sonde_error *error) {
  for (uint32_t i = 0; i < ports->count; i++) {
    if (ports->sockets[i].fd >= 0) {
      socket_release(&ports->sockets[i]);
    }
  }
  for (bool waited = false;; waited = true) {
    uint64_t quiesced_ns = atomic_load(&ports->quiesced_ns);
    bool last = quiesced_ns && clock_ns(CLOCK_MONOTONIC) - quiesced_ns >= DRAIN_MS * 1000000ull;
    uint32_t count = take(ports, packets, max);
    if (count || last || (waited && !quiesced_ns)) {
      return (int)count;
    }
    int status = wait(ports, quiesced_ns || timeout_ms < 0 ? 1 : timeout_ms, error);
    if (status && !quiesced_ns) {
      return status;
    }
  }
}

void ports_wake(struct ports *ports) {
  eventfd_write(ports->wake_fd, 1);
}

void ports_quiesce(struct ports *ports) {
  close_fd(&ports->link);
  close_fd(&ports->promiscuous_fd);
  atomic_store(&ports->quiesced_ns, clock_ns(CLOCK_MONOTONIC));
  ports_wake(ports);
}

void ports_stats(struct ports *ports, struct sonde_backend_stats *stats) {
  pthread_mutex_lock(&ports->lock);
  *stats = (struct sonde_backend_stats){.dropped = ports->past_dropped};
  for (uint32_t i = 0; i < ports->count; i++) {
    const struct socket *socket = &ports->sockets[i];
    if (socket->fd < 0) {
      continue;
    }
    uint32_t used = socket_used_permille(socket);
    stats->dropped += socket_dropped(socket);
    stats->ring_used_permille = used > stats->ring_used_permille ? used : stats->ring_used_permille;
  }
  pthread_mutex_unlock(&ports->lock);
}

void ports_stop(struct ports *ports) {
  close_fd(&ports->link);
  close_fd(&ports->promiscuous_fd);
  close_sockets(ports);
}

void ports_close(struct ports *ports) {
  ports_stop(ports);
  close_fd(&ports->wake_fd);
  bpf_object__close(ports->object);
  free(ports->sockets);
  free(ports->polled);
  pthread_mutex_destroy(&ports->lock);
  free(ports);
}
