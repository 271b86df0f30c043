/* found.c - the sockets that are open now, from the kernel's list and /proc.
 *
 * Run once when owners are turned on, and after events were lost: a listed socket that the index
 * has was not closed meanwhile.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ip_protocol.h"
#include "owner/state.h"

enum { FOUND_MAX = 65536, HASHED = 2 * FOUND_MAX };

struct found_socket {
  struct sonde_listed_socket listed;
  uint32_t pid; /* 0: no process has it */
  bool shared;
};

struct scan {
  struct sonde_owner_tracker *tracker;
  struct found_socket *found;
  uint32_t *places; /* hash of inodes: index + 1 */
  uint32_t count;
};

static void collect(void *context, const struct sonde_listed_socket *listed) {
  struct scan *scan = context;
  if (scan->count == FOUND_MAX || listed->inode == 0)
    return;
  uint32_t at = listed->inode * 2654435761u % HASHED;
  while (scan->places[at])
    at = (at + 1) % HASHED;
  scan->found[scan->count] = (struct found_socket){.listed = *listed};
  scan->places[at] = ++scan->count;
}

static void note_process(struct scan *scan, uint32_t inode, uint32_t pid) {
  for (uint32_t at = inode * 2654435761u % HASHED; scan->places[at]; at = (at + 1) % HASHED) {
    struct found_socket *one = &scan->found[scan->places[at] - 1];
    if (one->listed.inode != inode)
      continue;
    one->shared |= one->pid && one->pid != pid;
    if (!one->pid || pid < one->pid)
      one->pid = pid;
  }
}

static void scan_process(struct scan *scan, uint32_t pid) {
  char path[64], target[64];
  snprintf(path, sizeof path, "/proc/%u/fd", pid);
  DIR *directory = opendir(path);
  struct dirent *entry;
  while (directory && (entry = readdir(directory))) {
    ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
    unsigned inode;
    if (length <= 0)
      continue;
    target[length] = 0;
    if (sscanf(target, "socket:[%u]", &inode) == 1)
      note_process(scan, inode, pid);
  }
  if (directory)
    closedir(directory);
}

/* The socket, if the index has it from an event. */
static bool is_known(struct sonde_owner_tracker *tracker, const struct sonde_socket *socket) {
  struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
  uint32_t count = sonde_owner_index_find(tracker->index, &socket->key, found);
  for (uint32_t i = 0; i < count; i++) {
    if (found[i].cookie != socket->cookie || found[i].netns != socket->netns)
      continue;
    if (!found[i].gone_ns) {
      found[i].checked_ns = tracker->now_ns;
      sonde_owner_index_add(tracker->index, &found[i], tracker->now_ns);
    }
    return true;
  }
  return false;
}

static void add(struct sonde_owner_tracker *tracker, const struct found_socket *one) {
  struct sonde_socket socket = {
      .key = one->listed.key,
      .cookie = one->listed.cookie,
      .netns = tracker->netns,
      .since_ns = one->pid ? 1 : 0, /* older than every flow */
      .checked_ns = tracker->now_ns,
  };
  sonde_owner_unmap(&socket.key);
  if (one->listed.listens || socket.key.protocol == SONDE_IP_UDP)
    sonde_owner_drop_remote(&socket.key);
  if (is_known(tracker, &socket) || !one->pid)
    return;
  struct sonde_owner owner = {
      .pid = one->pid,
      .uid = one->listed.uid,
      .how = SONDE_OWNER_FOUND,
  };
  sonde_owner_describe(tracker, one->listed.cgroup, UINT64_MAX, &owner);
  socket.owner = sonde_owner_share(sonde_owner_table_add(tracker->table, &owner), one->shared);
  sonde_owner_add_socket(tracker, &socket);
}

void sonde_owner_find_open(struct sonde_owner_tracker *tracker) {
  struct scan scan = {.tracker = tracker};
  scan.found = calloc(FOUND_MAX, sizeof *scan.found);
  scan.places = calloc(HASHED, sizeof *scan.places);
  DIR *processes = opendir("/proc");
  struct dirent *entry;
  tracker->found_ns = tracker->now_ns;
  if (tracker->same_pids && scan.found && scan.places) {
    sonde_sockets_list(SONDE_IP_TCP, collect, &scan);
    sonde_sockets_list(SONDE_IP_UDP, collect, &scan);
    while (scan.count && processes && (entry = readdir(processes)))
      if (isdigit((unsigned char)entry->d_name[0]))
        scan_process(&scan, (uint32_t)strtoul(entry->d_name, NULL, 10));
    for (uint32_t i = 0; i < scan.count; i++)
      add(tracker, &scan.found[i]);
  }
  if (processes)
    closedir(processes);
  free(scan.found);
  free(scan.places);
}
