/* cgroup.c - finds a control group by its id; see cgroup.h.
 *
 * A handle opens it at once, but needs CAP_DAC_READ_SEARCH. Without that, the tree is read: the id
 * is the inode number of the directory.
 */
#include "owner/cgroup.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cgroup_root.h"
#include "host/clock.h"
#include "owner/process.h"

enum { CACHED = 1024, KERNFS_HANDLE = 0xfe, READ_MAX = 65536, READ_SHARE = 19 };

struct cached_path {
  uint64_t id;
  char path[SONDE_OWNER_CGROUP_MAX + 1];
};

struct sonde_cgroup_paths {
  int root_fd;            /* -1: not found */
  uint64_t read_again_ns; /* when the tree may be read again, CLOCK_MONOTONIC */
  char mount[512];
  struct cached_path cached[CACHED];
};

struct sonde_cgroup_paths *sonde_cgroup_paths_create(void) {
  struct sonde_cgroup_paths *paths = calloc(1, sizeof *paths);
  if (paths)
    paths->root_fd = sonde_cgroup_root_open(paths->mount, sizeof paths->mount);
  return paths;
}

void sonde_cgroup_paths_destroy(struct sonde_cgroup_paths *paths) {
  if (!paths)
    return;
  if (paths->root_fd >= 0)
    close(paths->root_fd);
  free(paths);
}

static void keep(struct sonde_cgroup_paths *paths, uint64_t id, const char *path) {
  struct cached_path *cached = &paths->cached[id % CACHED];
  cached->id = id;
  sonde_process_copy_text(cached->path, sizeof cached->path, *path ? path : "/",
                          strlen(path) + !*path);
}

/* Caches the path of an open directory. */
static bool keep_open(struct sonde_cgroup_paths *paths, uint64_t id, int fd) {
  char link[64], path[4096];
  size_t mount = strlen(paths->mount);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < (ssize_t)mount || strncmp(path, paths->mount, mount) != 0)
    return false;
  path[length] = 0;
  keep(paths, id, path + mount);
  return true;
}

/* Reads the tree until it has the id. Spends a twentieth of the time at most. */
static void read_tree(struct sonde_cgroup_paths *paths, uint64_t id) {
  char *roots[] = {paths->mount, NULL};
  uint64_t began_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  size_t mount = strlen(paths->mount);
  bool found = false;
  if (!mount || began_ns < paths->read_again_ns)
    return;
  FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
  FTSENT *one;
  for (uint32_t read = 0; tree && !found && read < READ_MAX && (one = fts_read(tree)); read++) {
    if (one->fts_info != FTS_D)
      continue;
    keep(paths, one->fts_statp->st_ino, one->fts_path + mount);
    found = one->fts_statp->st_ino == id;
  }
  if (tree)
    fts_close(tree);
  if (!found)
    paths->cached[id % CACHED] = (struct cached_path){.id = id}; /* it has ended */
  uint64_t ended_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  paths->read_again_ns = ended_ns + READ_SHARE * (ended_ns - began_ns);
}

static bool find_path(struct sonde_cgroup_paths *paths, uint64_t id) {
  uint64_t storage[2 + sizeof(struct file_handle) / sizeof(uint64_t)] = {0};
  struct file_handle *handle = (struct file_handle *)(void *)storage;
  handle->handle_bytes = sizeof id;
  handle->handle_type = KERNFS_HANDLE;
  memcpy(handle->f_handle, &id, sizeof id);
  int fd = open_by_handle_at(paths->root_fd, handle, O_PATH | O_CLOEXEC);
  if (fd >= 0) {
    bool kept = keep_open(paths, id, fd);
    close(fd);
    return kept;
  }
  if (errno == EPERM)
    read_tree(paths, id);
  return paths->cached[id % CACHED].id == id;
}

/* Finds the path in /proc/PID/cgroup: of version 2, or if that is the root, the first path of
 * version 1 that is not the root. */
static bool read_of_process(uint32_t pid, bool version_2, char path[4096]) {
  char text[8192], *rest = text, *line;
  bool found = false;
  if (sonde_process_read_file(pid, "cgroup", text, sizeof text) <= 0)
    return false;
  while ((line = strsep(&rest, "\n"))) {
    char *colon = strchr(line, ':'), *second = colon ? strchr(colon + 1, ':') : NULL;
    if (!second || second[1] != '/')
      continue;
    bool is_2 = strncmp(line, "0::", 3) == 0;
    if (version_2 ? is_2 : !is_2 && second[2]) {
      strncpy(path, second + 1, 4095);
      path[4095] = 0;
      found = true;
    }
  }
  return found;
}

static bool ends_with(const char *part, size_t length, const char *suffix) {
  size_t bytes = strlen(suffix);
  return length > bytes && memcmp(part + length - bytes, suffix, bytes) == 0;
}

static void read_container(const char *part, size_t length, struct sonde_owner *owner) {
  for (size_t start = 0; start + SONDE_OWNER_CONTAINER_MAX <= length; start++) {
    size_t digits = 0;
    while (start + digits < length && isxdigit((unsigned char)part[start + digits]))
      digits++;
    if (digits == SONDE_OWNER_CONTAINER_MAX) {
      sonde_process_copy_text(owner->container, SONDE_OWNER_CONTAINER_MAX + 1, part + start,
                              digits);
      return;
    }
    start += digits;
  }
}

/* "pod", then a UUID whose groups are joined by '-' or '_'. */
static void read_pod(const char *part, size_t length, struct sonde_owner *owner) {
  for (size_t start = 0; start + 3 + SONDE_OWNER_POD_MAX <= length; start++) {
    char uid[SONDE_OWNER_POD_MAX + 1] = "";
    if (memcmp(part + start, "pod", 3) != 0)
      continue;
    memcpy(uid, part + start + 3, SONDE_OWNER_POD_MAX);
    size_t valid = 0;
    for (; valid < SONDE_OWNER_POD_MAX; valid++) {
      bool dash = valid == 8 || valid == 13 || valid == 18 || valid == 23;
      if (dash && uid[valid] == '_')
        uid[valid] = '-';
      if (dash ? uid[valid] != '-' : !isxdigit((unsigned char)uid[valid]))
        break;
    }
    if (valid == SONDE_OWNER_POD_MAX)
      memcpy(owner->pod, uid, sizeof uid);
  }
}

void sonde_cgroup_read_path(struct sonde_owner *owner) {
  for (const char *part = owner->cgroup; *part;) {
    part += *part == '/';
    size_t length = strcspn(part, "/");
    if (ends_with(part, length, ".service") || ends_with(part, length, ".scope"))
      sonde_process_copy_text(owner->unit, sizeof owner->unit, part, length);
    read_container(part, length, owner);
    read_pod(part, length, owner);
    part += length;
  }
}

void sonde_cgroup_describe(struct sonde_cgroup_paths *paths, uint64_t id, bool has_process,
                           struct sonde_owner *owner) {
  char path[4096] = "";
  const struct cached_path *cached = &paths->cached[id % CACHED];
  bool found =
      id && paths->root_fd >= 0 && (cached->id == id || find_path(paths, id)) && cached->path[0];
  if (!found && has_process && read_of_process(owner->pid, true, path) && id)
    keep(paths, id, path);
  if (id && cached->id == id)
    memcpy(owner->cgroup, cached->path, sizeof owner->cgroup);
  else
    sonde_process_copy_text(owner->cgroup, sizeof owner->cgroup, path, strlen(path));
  /* In the hybrid mode a container may be in the root of version 2. */
  if (has_process && (strcmp(owner->cgroup, "/") == 0 || !owner->cgroup[0]) &&
      read_of_process(owner->pid, false, path))
    sonde_process_copy_text(owner->cgroup, sizeof owner->cgroup, path, strlen(path));
  sonde_cgroup_read_path(owner);
}
