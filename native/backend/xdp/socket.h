/* socket.h - one AF_XDP socket: the frames of one receive queue of the device.
 *
 * The memory is cut into frames of FRAME_BYTES. A frame is the kernel's (in the fill ring, or
 * being written) or ours (held until the next release). Larger packets take several.
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
  bool multi_buffer; /* packets larger than a frame come in parts, and not at all without it */
  uint8_t *memory;
  uint32_t frames; /* a power of two, and the size of both rings */
  struct socket_ring fill;
  struct socket_ring receive;
  uint64_t held[SOCKET_HELD_MAX]; /* frames to be given back by release */
  uint32_t held_count;
  uint8_t *arena; /* where packets of several frames are put together */
  uint32_t arena_used;
};

/* bytes: of memory for frames, rounded down to a power of two. */
int socket_open(struct socket *socket, uint32_t bytes, struct sonde_error *error);
/* Zero-copy if the driver has it for this queue, else copied. */
int socket_bind(struct socket *socket, int ifindex, uint32_t queue, struct sonde_error *error);
void socket_close(struct socket *socket);
/* Gives back the frames of the last take. */
void socket_release(struct socket *socket);
uint32_t socket_take(struct socket *socket, uint64_t time_ns, uint32_t snaplen,
                     struct sonde_packet *packets, uint32_t max);
/* Packets that the kernel had for this socket and could not leave here. */
uint64_t socket_dropped(const struct socket *socket);
uint32_t socket_used_permille(const struct socket *socket);

#endif
