/* link_watch.h - reports the changes of one network interface, by rtnetlink.
 *
 * A watcher follows the interface across a rename, like a capture that is attached to it. After
 * the interface is deleted, the watcher waits for a new one with the first name. One thread at
 * a time; poll the descriptor, then read until 0.
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
  int ifindex; /* the changed interface */
  char name[IF_NAMESIZE];
};

struct sonde_link_watch;

/* Reports changes from the state at open: an interface that is absent or down then is reported
 * when that changes. Errors: INTERFACE_INVALID (malformed name), NO_MEMORY, SYSTEM. */
int sonde_link_watch_open(const char *interface, struct sonde_link_watch **link,
                          struct sonde_error *error);
int sonde_link_watch_fd(const struct sonde_link_watch *link);
int sonde_link_watch_is_up(const struct sonde_link_watch *link); /* at the last read */

/* Reads the next change. Returns 1, 0 if none is queued, or SYSTEM. Does not block, except after
 * lost messages: then it waits up to a second for the kernel's answer. */
int sonde_link_watch_read(struct sonde_link_watch *link, struct sonde_link_change *change,
                          struct sonde_error *error);
void sonde_link_watch_close(struct sonde_link_watch *link); /* NULL is allowed */

#endif
