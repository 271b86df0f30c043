/* owner.h - the owner of one end of a flow: the process, control group and container of its socket.
 *
 * A record names its owners by 32-bit references. A reader copies an owner with
 * struct sonde_owner_source. The control group is more reliable than the process: see `how`.
 */
#ifndef SONDE_OWNER_H
#define SONDE_OWNER_H

#ifndef SONDE_FFI
#include <stdint.h>
#endif

enum sonde_owner_how {                           /* the use of the socket by the process */
                       SONDE_OWNER_NOTHING = 0,  /* owners are off */
                       SONDE_OWNER_UNKNOWN = 1,  /* see enum sonde_owner_reason */
                       SONDE_OWNER_CONNECT = 2,  /* connected or sent */
                       SONDE_OWNER_CREATE = 3,   /* bound a UDP socket */
                       SONDE_OWNER_LISTENER = 4, /* made the listening socket, not the reply */
                       SONDE_OWNER_FOUND = 5,    /* had it open when owners were turned on */
};

enum sonde_owner_reason { /* the cause of UNKNOWN */
                          SONDE_OWNER_KNOWN = 0,
                          SONDE_OWNER_FORWARDED = 1,    /* no end has an address of this host */
                          SONDE_OWNER_KERNEL = 2,       /* the kernel answers without a socket */
                          SONDE_OWNER_BEFORE_START = 3, /* the socket is older than the index */
                          SONDE_OWNER_LOST = 4,         /* the ring or a table was full */
                          SONDE_OWNER_NAT = 5,          /* no socket has these addresses */
                          SONDE_OWNER_REASONS
};

enum sonde_owner_side { SONDE_SIDE_UNKNOWN = 0, SONDE_SIDE_SOURCE = 1, SONDE_SIDE_DEST = 2 };

enum {
  SONDE_OWNER_NAME_MAX = 15,
  SONDE_OWNER_EXE_MAX = 191,
  SONDE_OWNER_CGROUP_MAX = 255,
  SONDE_OWNER_UNIT_MAX = 95,
  SONDE_OWNER_CONTAINER_MAX = 64,
  SONDE_OWNER_POD_MAX = 36,
};

#ifndef SONDE_FFI

/* Texts are printable ASCII without '"', and end with NUL; "": unknown. Whole 64-bit words. */
struct sonde_owner {
  uint64_t start_ticks; /* when the process started, in clock ticks since boot; 0: unknown */
  uint32_t pid;         /* UINT32_MAX: unknown, as in uid */
  uint32_t uid;
  uint8_t how;    /* enum sonde_owner_how */
  uint8_t reason; /* enum sonde_owner_reason */
  uint8_t shared; /* 1: a second process used the socket */
  char pod[SONDE_OWNER_POD_MAX + 1];
  char name[SONDE_OWNER_NAME_MAX + 1];
  char unit[SONDE_OWNER_UNIT_MAX + 1];
  char exe[SONDE_OWNER_EXE_MAX + 1];
  char cgroup[SONDE_OWNER_CGROUP_MAX + 1];
  char container[SONDE_OWNER_CONTAINER_MAX + 8];
};

_Static_assert(sizeof(struct sonde_owner) % sizeof(uint64_t) == 0, "a seqlock copies words");

/* Where renderers find owners. read: copies the owner of a reference, or an unknown one if it was
 * replaced since. Any thread. */
struct sonde_owner_source {
  void *context;
  void (*read)(void *context, uint32_t reference, struct sonde_owner *into);
};

#endif /* SONDE_FFI */

#endif
