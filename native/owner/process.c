/* process.c - reads /proc; see process.h. */
#include "owner/process.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const ino_t INIT_PIDS = 0xEFFFFFFC; /* PROC_PID_INIT_INO of linux/proc_ns.h */

bool sonde_process_ids_agree(void) {
  struct stat own;
  return stat("/proc/self/ns/pid", &own) == 0 && own.st_ino == INIT_PIDS;
}

void sonde_process_copy_text(char *to, size_t room, const char *from, size_t bytes) {
  size_t count = bytes < room - 1 ? bytes : room - 1;
  for (size_t i = 0; i < count; i++)
    to[i] = from[i] > ' ' - 1 && from[i] < 127 && from[i] != '"' ? from[i] : '?';
  to[count] = 0;
}

ssize_t sonde_process_read_file(uint32_t pid, const char *name, char *buffer, size_t room) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%u/%s", pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  ssize_t length = read(fd, buffer, room - 1);
  close(fd);
  if (length >= 0)
    buffer[length] = 0;
  return length;
}

/* The name is that of the leading thread; the event has that of the thread which called. */
static bool read_stat(uint64_t seen_boot_ns, struct sonde_owner *owner) {
  char stat[1024];
  if (sonde_process_read_file(owner->pid, "stat", stat, sizeof stat) <= 0)
    return false;
  char *open = strchr(stat, '('), *close = strrchr(stat, ')');
  unsigned long long start = 0;
  uint64_t tick_ns = 1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
  if (!open || !close || close < open)
    return false;
  if (sscanf(close + 2,
             "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
             "%*d %llu",
             &start) != 1 ||
      start * tick_ns > seen_boot_ns)
    return false;
  owner->start_ticks = start;
  memset(owner->name, 0, sizeof owner->name);
  sonde_process_copy_text(owner->name, sizeof owner->name, open + 1, (size_t)(close - open - 1));
  return true;
}

static void read_exe(struct sonde_owner *owner) {
  char path[64], target[4096];
  snprintf(path, sizeof path, "/proc/%u/exe", owner->pid);
  ssize_t length = readlink(path, target, sizeof target);
  if (length > 0)
    sonde_process_copy_text(owner->exe, sizeof owner->exe, target, (size_t)length);
}

bool sonde_process_describe(uint64_t seen_boot_ns, struct sonde_owner *owner) {
  if (!read_stat(seen_boot_ns, owner))
    return false;
  read_exe(owner);
  return true;
}
