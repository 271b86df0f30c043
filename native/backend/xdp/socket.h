/* socket.h - one AF_XDP socket: the frames of one receive queue of the device.
 *
 * The memory is divided into frames of SOCKET_FRAME_BYTES. The kernel owns a frame (in the fill
 * ring or being written), or this side holds it until the next release. Larger packets use
 * several frames.
 */
#ifndef SONDE_XDP_SOCKET_H
#define SONDE_XDP_SOCKET_H

#include <linux/if_xdp.h>
#include <stdbool.h>
#include <stdint.h>

#include "packet.h"
#include "status.h"

enum { SOCKET_FRAME_BYTES = 4096, SOCKET_HELD_MAX = 4096, SOCKET_ARENA_BYTES = 1 << 20 };

struct socket_ring {
  uint32_t *producer;
  uint32_t *consumer;
  uint32_t *flags;
  void *entries;
  void *map;
  uint64_t map_bytes;
};

struct socket {
  int fd;
  bool zero_copy;
  bool multi_buffer; /* packets larger than a frame arrive in parts; without it they are lost */
  uint8_t *memory;
  uint32_t frames; /* a power of two; also the size of both rings */
  struct socket_ring fill;
  struct socket_ring receive;
  uint64_t held[SOCKET_HELD_MAX]; /* frames to release */
  uint32_t held_count;
  uint8_t *arena; /* packets of several frames are joined here */
  uint32_t arena_used;
};

/* bytes: memory for frames, rounded down to a power of two. */
int socket_open(struct socket *socket, uint32_t bytes, struct sonde_error *error);
/* Uses zero-copy if the driver supports it for this queue, else copies. */
int socket_bind(struct socket *socket, int ifindex, uint32_t queue, struct sonde_error *error);
void socket_close(struct socket *socket);
/* Releases the frames of the last read. */
void socket_release(struct socket *socket);
uint32_t socket_read(struct socket *socket, uint64_t time_ns, uint32_t snaplen,
                     struct sonde_packet *packets, uint32_t max);
/* Packets for this socket that the kernel could not deliver. */
uint64_t socket_dropped(const struct socket *socket);
uint32_t socket_used_permille(const struct socket *socket);

#endif
