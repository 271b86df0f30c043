/* cgroup_root.h - finds the root of the cgroup hierarchy of version 2. */
#ifndef SONDE_CGROUP_ROOT_H
#define SONDE_CGROUP_ROOT_H

#include <stddef.h>

/* Opens the root, and copies the path of its mount: "" for a mount without a place. Returns a
 * descriptor, or -1 if the root is not visible: a container may see only its own control group. */
int sonde_cgroup_root_open(char *mount, size_t room);

#endif
