/* link_watch.h - what happens to one network interface, told by rtnetlink as it happens.
 *
 * A watcher follows the interface, not the name: renamed, it is still the same one, to which
 * a capture stays attached. Only when it is gone does the watcher wait for a new interface
 * of the first name. One thread at a time; poll the descriptor, then read until 0.
 */
#ifndef SONDE_HOST_LINK_WATCH_H
#define SONDE_HOST_LINK_WATCH_H

#include <net/if.h>

#include "status.h"

enum sonde_link_kind {
  SONDE_LINK_CHANGE_DOWN = 1, /* set down, or without carrier */
  SONDE_LINK_CHANGE_UP = 2,
  SONDE_LINK_CHANGE_DELETED = 3,  /* or moved to another network namespace */
  SONDE_LINK_CHANGE_RETURNED = 4, /* one of the first name exists; DOWN or UP follows */
  SONDE_LINK_CHANGE_RENAMED = 5,
};

struct sonde_link_change {
  int kind;    /* enum sonde_link_kind */
  int ifindex; /* of the interface it happened to */
  char name[IF_NAMESIZE];
};

struct sonde_link_watch;

/* The state at open is where changes count from: an interface that is absent or down then is
 * not told of until it changes. Errors: INTERFACE_INVALID (no possible name), NO_MEMORY,
 * SYSTEM. */
int sonde_link_watch_open(const char *interface, struct sonde_link_watch **link,
                          struct sonde_error *error);
int sonde_link_watch_fd(const struct sonde_link_watch *link);
int sonde_link_watch_is_up(const struct sonde_link_watch *link); /* as of the last read */

/* The next change. Returns 1, 0 if nothing waits, or SYSTEM. Does not block, except that after
 * lost messages it waits for the kernel's answer, a second at most. */
int sonde_link_watch_read(struct sonde_link_watch *link, struct sonde_link_change *change,
                          struct sonde_error *error);
void sonde_link_watch_close(struct sonde_link_watch *link); /* NULL is allowed */

#endif
