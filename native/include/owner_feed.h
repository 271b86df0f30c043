/* owner_feed.h - the events of sockets, from the kernel's programs to the owner index.
 *
 * The plug-in owner/feed/ loads the programs. It needs libbpf, which the core does not. An event
 * is also what the programs keep with a socket, so its layout is shared with owner.bpf.c.
 */
#ifndef SONDE_OWNER_FEED_H
#define SONDE_OWNER_FEED_H

#ifdef __bpf__
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
#else
#include <stdbool.h>
#include <stdint.h>

#include "status.h"
#endif

enum sonde_owner_event_kind {
  SONDE_SOCKET_NAMED = 1,    /* local and remote are set; again with `shared` */
  SONDE_SOCKET_PORTLESS = 2, /* UDP, connected: the kernel chooses the port later */
  SONDE_SOCKET_ACCEPTED = 3, /* named, but its listener is older than the programs: no owner */
  SONDE_SOCKET_GONE = 4,     /* closed by its last process */
};

struct sonde_owner_event {
  uint64_t cookie;  /* identifies the socket */
  uint64_t netns;   /* cookie of its network namespace */
  uint64_t cgroup;  /* id in the hierarchy of version 2 */
  uint64_t time_ns; /* CLOCK_MONOTONIC */
  uint32_t pid;
  uint32_t uid;
  char name[16];     /* the thread's */
  uint8_t local[16]; /* IPv4 in the first four bytes */
  uint8_t remote[16];
  uint16_t local_port; /* host order */
  uint16_t remote_port;
  uint8_t ip_version;
  uint8_t protocol;
  uint8_t how; /* enum sonde_owner_how */
  uint8_t shared;
  uint8_t kind; /* enum sonde_owner_event_kind */
  uint8_t told; /* programs: user space knows the socket */
  uint8_t late; /* 1: NAMED after its first packet was sent */
  uint8_t reserved[5];
};

#define SONDE_OWNER_EVENT_BYTES 104

/* A page that programs and user space share. */
struct sonde_owner_control {
  uint32_t armed;    /* 1: the next event wakes the reader */
  uint32_t list_all; /* 1: `list` has all sockets */
  uint64_t lost;     /* events that the full ring did not take */
  uint64_t lost_ns;  /* when the last one was lost, CLOCK_MONOTONIC */
};

#ifndef __bpf__
_Static_assert(sizeof(struct sonde_owner_event) == SONDE_OWNER_EVENT_BYTES, "as in owner.bpf.c");

enum { SONDE_OWNER_FEED_ABI = 4 };

/* The interface of the plug-in, from its function sonde_owner_feed. */
struct sonde_owner_feed_ops {
  uint32_t abi;
  /* Loads and attaches the programs. Without a privilege or the kernel's part: PERMISSION,
   * SYSTEM, BACKEND_UNAVAILABLE. ring_bytes: a power of two of whole pages. */
  int (*open)(uint32_t ring_bytes, void **feed, struct sonde_error *error);
  int (*fd)(void *feed); /* readable after an event, if armed */
  void (*arm)(void *feed);
  /* Calls `take` for each waiting event, `max` at most. Returns the number. */
  uint32_t (*read)(void *feed, uint32_t max,
                   void (*take)(void *context, const struct sonde_owner_event *event),
                   void *context);
  /* Bytes that programs wrote to the ring, and bytes whose `take` has returned. Any thread. */
  uint64_t (*written)(void *feed);
  uint64_t (*taken)(void *feed);
  /* Whether the programs read the ports of connected UDP sockets: GONE has the port, and `list`
   * calls `take` with NAMED for each open socket that was PORTLESS, or for all open sockets; more
   * than once if several processes have it. */
  bool (*has_ports)(void *feed);
  int (*list)(void *feed, bool all,
              void (*take)(void *context, const struct sonde_owner_event *event), void *context);
  /* Whether the programs notice a second process that uses a socket: NAMED again, with `shared`. */
  bool (*sees_uses)(void *feed);
  /* While it follows, each socket is NAMED before its first packet. Else a UDP socket without bind
   * and connect is NAMED after it: each send to an address costs less then. */
  int (*follow)(void *feed, bool follows, struct sonde_error *error);
  const volatile struct sonde_owner_control *(*control)(void *feed);
  void (*close)(void *feed);
};
#endif

#endif
