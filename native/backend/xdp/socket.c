/* socket.c - see socket.h. Rings and options: Documentation/networking/af_xdp.rst. */
#include "socket.h"

#include <net/if.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

enum { FRAMES_MIN = 256, FRAMES_MAX = 1 << 16, ARENA_PACKET_MAX = SOCKET_ARENA_BYTES / 4 };
enum { BUSY_TRIES = 50, BUSY_PAUSE_NS = 10000000 };

static int fail(struct sonde_error *error, const char *what) {
  if (errno == EPERM) {
    return sonde_fail(error, SONDE_PERMISSION, errno, "%s: needs CAP_NET_RAW and CAP_NET_ADMIN",
                      what);
  }
  return sonde_fail_system(error, what);
}

static int map_ring(const struct socket *socket, const struct xdp_ring_offset *offsets,
                    uint64_t entry_bytes, int64_t page_offset, struct socket_ring *ring) {
  uint64_t bytes = offsets->desc + socket->frames * entry_bytes;
  void *map =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, socket->fd, page_offset);
  if (map == MAP_FAILED)
    return -1;
  ring->map = map;
  ring->map_bytes = bytes;
  ring->producer = (void *)((char *)map + offsets->producer);
  ring->consumer = (void *)((char *)map + offsets->consumer);
  ring->flags = (void *)((char *)map + offsets->flags);
  ring->entries = (char *)map + offsets->desc;
  return 0;
}

static int make_rings(struct socket *socket, struct sonde_error *error) {
  struct xdp_umem_reg region = {.addr = (uint64_t)(uintptr_t)socket->memory,
                                .len = (uint64_t)socket->frames * SOCKET_FRAME_BYTES,
                                .chunk_size = SOCKET_FRAME_BYTES};
  struct xdp_mmap_offsets offsets;
  socklen_t length = sizeof offsets;
  uint32_t frames = socket->frames, unused = 2; /* the transmit ring must exist */
  if (setsockopt(socket->fd, SOL_XDP, XDP_UMEM_REG, &region, sizeof region) ||
      setsockopt(socket->fd, SOL_XDP, XDP_UMEM_FILL_RING, &frames, sizeof frames) ||
      setsockopt(socket->fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &unused, sizeof unused) ||
      setsockopt(socket->fd, SOL_XDP, XDP_RX_RING, &frames, sizeof frames) ||
      getsockopt(socket->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length)) {
    return fail(error, "AF_XDP memory");
  }
  if (map_ring(socket, &offsets.fr, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING, &socket->fill) ||
      map_ring(socket, &offsets.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING, &socket->receive)) {
    return fail(error, "AF_XDP rings");
  }
  uint64_t *entries = socket->fill.entries;
  for (uint32_t i = 0; i < frames; i++)
    entries[i] = (uint64_t)i * SOCKET_FRAME_BYTES;
  __atomic_store_n(socket->fill.producer, frames, __ATOMIC_RELEASE);
  return 0;
}

/* Frames are used in order, each on a separate page: with small pages every packet needs a walk
 * of the page tables. Huge pages, measured over veth, save a quarter of the kernel's and the
 * reader's time. Pages are allocated when XDP_UMEM_REG pins them. */
static void *map_frames(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return NULL;
  madvise(memory, bytes, MADV_HUGEPAGE); /* a hint: without huge pages it is slower */
  return memory;
}

int socket_open(struct socket *made, uint32_t bytes, struct sonde_error *error) {
  uint32_t frames = FRAMES_MIN;
  while (frames < FRAMES_MAX && frames * 2 <= bytes / SOCKET_FRAME_BYTES)
    frames *= 2;
  memset(made, 0, sizeof *made);
  made->frames = frames;
  made->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (made->fd < 0)
    return fail(error, "AF_XDP socket");
  made->memory = map_frames((size_t)frames * SOCKET_FRAME_BYTES);
  made->arena = malloc(SOCKET_ARENA_BYTES);
  int status = made->memory && made->arena ? make_rings(made, error) : sonde_fail_memory(error);
  if (status)
    socket_close(made);
  return status;
}

/* A kernel worker releases a closed socket's queue slightly later, so a busy queue is retried
 * for half a second. */
static int bind_retrying(int fd, const struct sockaddr_xdp *address) {
  for (int i = 0;; i++) {
    int failed = bind(fd, (const struct sockaddr *)address, sizeof *address);
    if (!failed || errno != EBUSY || i == BUSY_TRIES)
      return failed;
    nanosleep(&(struct timespec){.tv_nsec = BUSY_PAUSE_NS}, NULL);
  }
}

int socket_bind(struct socket *socket, int ifindex, uint32_t queue, struct sonde_error *error) {
  static const uint16_t ways[] = {XDP_ZEROCOPY | XDP_USE_SG, XDP_ZEROCOPY, XDP_COPY | XDP_USE_SG,
                                  XDP_COPY};
  for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
    struct sockaddr_xdp address = {.sxdp_family = AF_XDP,
                                   .sxdp_flags = ways[i] | XDP_USE_NEED_WAKEUP,
                                   .sxdp_ifindex = (uint32_t)ifindex,
                                   .sxdp_queue_id = queue};
    if (bind_retrying(socket->fd, &address) == 0) {
      socket->zero_copy = ways[i] & XDP_ZEROCOPY;
      socket->multi_buffer = ways[i] & XDP_USE_SG;
      return 0;
    }
    if (errno == EBUSY) { /* another socket has the queue */
      return sonde_fail(error, SONDE_INTERFACE_SHARED, errno,
                        "queue %u is used by another AF_XDP socket; close it first", queue);
    }
  }
  return fail(error, "binding an AF_XDP socket");
}

static void unmap_ring(struct socket_ring *ring) {
  if (ring->map)
    munmap(ring->map, ring->map_bytes);
}

void socket_close(struct socket *socket) {
  unmap_ring(&socket->fill);
  unmap_ring(&socket->receive);
  if (socket->fd >= 0)
    close(socket->fd);
  if (socket->memory)
    munmap(socket->memory, (size_t)socket->frames * SOCKET_FRAME_BYTES);
  free(socket->arena);
  memset(socket, 0, sizeof *socket);
  socket->fd = -1;
}

/* The fill ring always has space: it has an entry for every frame. */
void socket_release(struct socket *socket) {
  socket->arena_used = 0;
  if (socket->held_count) {
    uint64_t *entries = socket->fill.entries;
    uint32_t at = *socket->fill.producer;
    for (uint32_t i = 0; i < socket->held_count; i++)
      entries[at++ & (socket->frames - 1)] = socket->held[i];
    __atomic_store_n(socket->fill.producer, at, __ATOMIC_RELEASE);
    socket->held_count = 0;
  }
  if (__atomic_load_n(socket->fill.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP)
    recvfrom(socket->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL); /* the driver waits for frames */
}

static const struct xdp_desc *part(const struct socket *socket, uint32_t at) {
  const struct xdp_desc *entries = socket->receive.entries;
  return &entries[at & (socket->frames - 1)];
}

/* Counts the parts of the packet at `at`. Returns 0 if the last has not arrived. */
static uint32_t count_parts(const struct socket *socket, uint32_t at, uint32_t end) {
  for (uint32_t i = at; i != end; i++)
    if (!(part(socket, i)->options & XDP_PKT_CONTD))
      return i - at + 1;
  return 0;
}

static void gather(struct socket *socket, uint32_t at, uint32_t parts, uint32_t snaplen,
                   struct sonde_packet *packet) {
  uint8_t *to = socket->arena + socket->arena_used;
  uint32_t filled = 0, length = 0;
  uint32_t limit = snaplen < ARENA_PACKET_MAX ? snaplen : ARENA_PACKET_MAX;
  for (uint32_t i = 0; i < parts; i++) {
    const struct xdp_desc *from = part(socket, at + i);
    uint32_t bytes = from->len < limit - filled ? from->len : limit - filled;
    memcpy(to + filled, socket->memory + from->addr, bytes);
    filled += bytes;
    length += from->len;
  }
  socket->arena_used += filled;
  packet->data = to;
  packet->caplen = filled;
  packet->wirelen = length;
}

uint32_t socket_read(struct socket *socket, uint64_t time_ns, uint32_t snaplen,
                     struct sonde_packet *packets, uint32_t max) {
  uint32_t at = *socket->receive.consumer;
  uint32_t end = __atomic_load_n(socket->receive.producer, __ATOMIC_ACQUIRE);
  uint32_t count = 0;
  while (count < max && at != end) {
    uint32_t parts = count_parts(socket, at, end);
    if (parts == 0 || socket->held_count + parts > SOCKET_HELD_MAX ||
        (parts > 1 && SOCKET_ARENA_BYTES - socket->arena_used < ARENA_PACKET_MAX)) {
      break;
    }
    struct sonde_packet *packet = &packets[count++];
    const struct xdp_desc *first = part(socket, at);
    *packet = (struct sonde_packet){
        .data = socket->memory + first->addr,
        .time_ns = time_ns,
        .caplen = first->len < snaplen ? first->len : snaplen,
        .wirelen = first->len,
        .linktype = SONDE_LINKTYPE_ETHERNET,
        .direction = SONDE_DIRECTION_INGRESS,
    };
    __builtin_prefetch(packet->data);
    if (parts > 1)
      gather(socket, at, parts, snaplen, packet);
    for (uint32_t i = 0; i < parts; i++) {
      socket->held[socket->held_count++] =
          part(socket, at + i)->addr & ~(uint64_t)(SOCKET_FRAME_BYTES - 1);
    }
    at += parts;
  }
  __atomic_store_n(socket->receive.consumer, at, __ATOMIC_RELEASE);
  return count;
}

uint64_t socket_dropped(const struct socket *socket) {
  struct xdp_statistics counted;
  socklen_t length = sizeof counted;
  if (socket->fd < 0 || getsockopt(socket->fd, SOL_XDP, XDP_STATISTICS, &counted, &length))
    return 0;
  return counted.rx_dropped + counted.rx_ring_full;
}

uint32_t socket_used_permille(const struct socket *socket) {
  uint32_t used = __atomic_load_n(socket->receive.producer, __ATOMIC_RELAXED) -
                  __atomic_load_n(socket->receive.consumer, __ATOMIC_RELAXED);
  return used > socket->frames ? 1000 : (uint32_t)((uint64_t)used * 1000 / socket->frames);
}
