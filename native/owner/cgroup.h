/* cgroup.h - the path of a control group, and what it says: unit, container and pod.
 *
 * Used by one thread. Paths are cached by the id of the control group.
 */
#ifndef SONDE_OWNER_CGROUP_H
#define SONDE_OWNER_CGROUP_H

#include <stdbool.h>
#include <stddef.h>

#include "owner.h"

struct sonde_cgroup_paths;

struct sonde_cgroup_paths *sonde_cgroup_paths_create(void);
void sonde_cgroup_paths_destroy(struct sonde_cgroup_paths *paths);

/* Sets cgroup, unit, container and pod. id 0: unknown. has_process: /proc has the owner's pid. */
void sonde_cgroup_describe(struct sonde_cgroup_paths *paths, uint64_t id, bool has_process,
                           struct sonde_owner *owner);

/* Sets unit, container and pod from the control group's path. */
void sonde_cgroup_read_path(struct sonde_owner *owner);

#endif
