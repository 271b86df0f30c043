/* library.h - the functions of the user's libpfring that are called, loaded at run time.
 *
 * netsonde neither ships nor links libpfring. The declarations are this project's own.
 * docs/dpdk-and-pf_ring.md names the source of each name, number and offset. Only members at
 * the same offset in all versions are used. Both structures are longer than any version's, and
 * zeroed before each call.
 */
#ifndef SONDE_PF_RING_LIBRARY_H
#define SONDE_PF_RING_LIBRARY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>

#include "status.h"

struct pfring; /* the library's handle, opaque */

struct pfring_header {
  struct timeval time;
  uint32_t caplen;
  uint32_t len;     /* on the wire */
  uint64_t time_ns; /* the extended header from here on; 0: use `time` */
  uint32_t flags;
  uint8_t received; /* 1: came in, 0: was sent */
  uint8_t rest[1024 - 37];
};
_Static_assert(offsetof(struct pfring_header, time_ns) == 24, "the library's layout");
_Static_assert(offsetof(struct pfring_header, received) == 36, "the library's layout");

struct pfring_counters {
  uint64_t received;
  uint64_t dropped;
  uint64_t rest[14];
};

enum pfring_flag {
  PFRING_LONG_HEADER = 1 << 2,
  PFRING_PROMISCUOUS = 1 << 3,
  PFRING_TIMESTAMP = 1 << 4, /* zero-copy drivers need it to set timestamps */
  PFRING_DO_NOT_PARSE = 1 << 9,
};

enum {
  PFRING_FAMILY = 27,       /* address family of the module's sockets */
  PFRING_RECEIVED_ONLY = 1, /* rx_only_direction */
  PFRING_RECEIVE_MODE = 2,  /* recv_only_mode; 1 is send_only_mode, in which recv fails */
  PFRING_CAPLEN_MAX = 65535,
  PFRING_CHANNELS_MAX = 64,
};

struct library {
  struct pfring *(*open)(const char *device, uint32_t caplen, uint32_t flags);
  void (*close)(struct pfring *ring);
  int (*enable_ring)(struct pfring *ring);
  int (*recv)(struct pfring *ring, uint8_t **buffer, unsigned buffer_bytes,
              struct pfring_header *header, uint8_t wait);
  int (*get_selectable_fd)(struct pfring *ring);
  int (*get_num_queued_pkts)(struct pfring *ring);
  int (*stats)(struct pfring *ring, struct pfring_counters *counters);
  int (*set_direction)(struct pfring *ring, int direction);
  int (*set_socket_mode)(struct pfring *ring, int mode);
  int (*set_poll_watermark)(struct pfring *ring, uint16_t packets);
  int (*set_application_name)(struct pfring *ring, char *name);
  int (*version_noring)(uint32_t *version);
  uint8_t (*get_num_rx_channels)(struct pfring *ring);
  int (*get_bound_device_ifindex)(struct pfring *ring, int *ifindex);
};

/* Loads the library once and keeps it, and libpcap before it. While it is missing, each call tries
 * again. Errors: BACKEND_UNAVAILABLE with dlerror's text. */
int library_load(const struct library **library, struct sonde_error *error);
/* Writes the library's version, for example "8.9.0". */
void library_version(const struct library *library, char text[16]);

#endif
