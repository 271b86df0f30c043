/* leftover.h - closes rings that the library leaves open.
 *
 * pfring_close of stock releases 8.6 to 8.9 frees its handle but neither unmaps nor closes the
 * ring, unless the environment has PF_RING_RUNTIME_MANAGER. A failed pfring_open can leave a
 * mapping. A mapping alone keeps the ring, and its interface promiscuous. A ring is recognized
 * by the inode of its socket, which is the same in /proc/self/maps and /proc/self/fd.
 */
#ifndef SONDE_PF_RING_LEFTOVER_H
#define SONDE_PF_RING_LEFTOVER_H

#include <stddef.h>
#include <stdint.h>

enum { LEFTOVER_MAX = 512, RING_SOCKETS_MAX = 4 };

struct leftover { /* the rings and socket mappings of this process at one moment */
  uint64_t inodes[LEFTOVER_MAX];
  size_t count; /* LEFTOVER_MAX: there may be more */
};

struct ring_sockets { /* the sockets of one ring */
  uint64_t inodes[RING_SOCKETS_MAX];
  size_t count;
};

/* Call before pfring_open. Hold one lock until leftover_opened or leftover_release. */
void leftover_note(struct leftover *before);
/* After a success: finds the ring's sockets. */
void leftover_opened(const struct leftover *before, struct ring_sockets *sockets);
/* After a failure: releases what is new, except sockets of other families that still have a
 * descriptor, because those belong to other threads. */
void leftover_release(const struct leftover *before);
/* After pfring_close: unmaps and closes those of the ring's sockets that are left. */
void leftover_close(const struct ring_sockets *sockets);

#endif
