/* cgroup_root.c - reads the mounts of this process; see cgroup_root.h.
 *
 * The root's id, which is its inode number, is 1. A container may have its group at the usual
 * place, and the host's root at another. `ip netns exec` hides all mounts below /sys: there, a
 * process with CAP_SYS_ADMIN makes a mount that has no place and ends with its descriptor.
 */
#include "host/cgroup_root.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ROOT_INODE = 1 };

enum { CONFIG_CREATE = 6, CLOSE_ON_EXEC = 1 }; /* linux/mount.h: FSCONFIG_CMD_CREATE */

static int keep_if_root(int fd) {
  struct stat found;
  if (fd >= 0 && fstat(fd, &found) == 0 && found.st_ino == ROOT_INODE)
    return fd;
  if (fd >= 0)
    close(fd);
  return -1;
}

static int mount_nowhere(void) {
  int fd, mount = -1, context = (int)syscall(SYS_fsopen, "cgroup2", CLOSE_ON_EXEC);
  if (context < 0)
    return -1;
  if (syscall(SYS_fsconfig, context, CONFIG_CREATE, NULL, NULL, 0) == 0)
    mount = (int)syscall(SYS_fsmount, context, CLOSE_ON_EXEC, 0);
  close(context);
  if (mount < 0)
    return -1;
  fd = openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* mount has O_PATH */
  close(mount);
  return fd;
}

int sonde_cgroup_root_open(char *mount, size_t room) {
  FILE *mounts = fopen("/proc/self/mountinfo", "re");
  char line[4096], point[512];
  int fd = -1;
  while (mounts && fd < 0 && fgets(line, sizeof line, mounts))
    if (strstr(line, " - cgroup2 ") && sscanf(line, "%*s %*s %*s %*s %511s", point) == 1)
      fd = keep_if_root(open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (mounts)
    fclose(mounts);
  snprintf(mount, room, "%s", fd >= 0 ? point : "");
  return fd >= 0 ? fd : keep_if_root(mount_nowhere());
}
