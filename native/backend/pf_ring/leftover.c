/* leftover.c - see leftover.h. */
#include "leftover.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "library.h"

struct mapping {
  uintptr_t begin;
  uintptr_t end;
  uint64_t inode;
};

/* Returns the inode of a socket, or 0. */
static uint64_t socket_inode(int fd) {
  struct stat about;
  return fd >= 0 && fstat(fd, &about) == 0 && S_ISSOCK(about.st_mode) ? about.st_ino : 0;
}

/* Reads the next mapping of a socket. */
static bool next_mapping(FILE *maps, struct mapping *mapping) {
  char line[512];
  while (maps && fgets(line, sizeof line, maps))
    if (strstr(line, " socket:[") && sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %" SCNu64,
                                            &mapping->begin, &mapping->end, &mapping->inode) == 3)
      return true;
  return false;
}

/* Reads the next descriptor of a socket. */
static bool next_socket(DIR *descriptors, int *fd, uint64_t *inode) {
  const struct dirent *entry;
  while (descriptors && (entry = readdir(descriptors))) {
    *fd = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
    *inode = socket_inode(*fd);
    if (*inode)
      return true;
  }
  return false;
}

static bool is_ring(int fd) {
  int family = 0;
  socklen_t length = sizeof family;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 && family == PFRING_FAMILY;
}

static int descriptor_of(uint64_t wanted) {
  DIR *descriptors = opendir("/proc/self/fd");
  uint64_t inode = 0;
  int fd = -1;
  while (next_socket(descriptors, &fd, &inode) && inode != wanted) {
  }
  if (descriptors)
    closedir(descriptors);
  return inode == wanted ? fd : -1;
}

static bool contains(const struct leftover *set, uint64_t inode) {
  for (size_t i = 0; i < set->count; i++)
    if (set->inodes[i] == inode)
      return true;
  return false;
}

static void add(struct leftover *set, uint64_t inode) {
  if (set->count < LEFTOVER_MAX && !contains(set, inode))
    set->inodes[set->count++] = inode;
}

void leftover_note(struct leftover *before) {
  struct mapping mapping;
  uint64_t inode;
  int fd;
  FILE *maps = fopen("/proc/self/maps", "re");
  DIR *descriptors = opendir("/proc/self/fd");
  before->count = 0;
  while (next_mapping(maps, &mapping))
    add(before, mapping.inode);
  while (next_socket(descriptors, &fd, &inode))
    if (is_ring(fd))
      add(before, inode);
  if (maps)
    fclose(maps);
  if (descriptors)
    closedir(descriptors);
}

/* Reads the mappings again: another thread may have reused the addresses. */
static void release(uint64_t inode) {
  struct mapping mapping;
  int fd = descriptor_of(inode);
  FILE *maps = fopen("/proc/self/maps", "re");
  while (next_mapping(maps, &mapping))
    if (mapping.inode == inode)
      munmap((void *)mapping.begin, mapping.end - mapping.begin);
  if (maps)
    fclose(maps);
  if (fd >= 0)
    close(fd);
}

void leftover_opened(const struct leftover *before, struct ring_sockets *sockets) {
  struct leftover now;
  leftover_note(&now);
  sockets->count = 0;
  for (size_t i = 0; i < now.count && sockets->count < RING_SOCKETS_MAX; i++)
    if (!contains(before, now.inodes[i]) && is_ring(descriptor_of(now.inodes[i])))
      sockets->inodes[sockets->count++] = now.inodes[i];
}

void leftover_release(const struct leftover *before) {
  struct leftover now;
  leftover_note(&now);
  if (before->count == LEFTOVER_MAX || now.count == LEFTOVER_MAX)
    return; /* some old ones may be missing in `before` */
  for (size_t i = 0; i < now.count; i++) {
    int fd = descriptor_of(now.inodes[i]);
    if (!contains(before, now.inodes[i]) && (fd < 0 || is_ring(fd)))
      release(now.inodes[i]);
  }
}

void leftover_close(const struct ring_sockets *sockets) {
  for (size_t i = 0; i < sockets->count; i++)
    release(sockets->inodes[i]);
}
