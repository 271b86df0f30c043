/* segment_dir.c - see segment_dir.h: lists and removes files. */
#include "segment_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "status.h"

void sonde_segment_dir_name(uint64_t number, bool hidden, char name[SONDE_SEGMENT_DIR_NAME_BYTES]) {
  snprintf(name, SONDE_SEGMENT_DIR_NAME_BYTES,
           hidden ? ".netsonde-%016llx.part" : "netsonde-%016llx.segment",
           (unsigned long long)number);
}

/* True only for the exact output of sonde_segment_dir_name. */
static bool parse_name(const char *name, bool hidden, uint64_t *number) {
  char again[SONDE_SEGMENT_DIR_NAME_BYTES];
  unsigned long long parsed;
  if (sscanf(name, hidden ? ".netsonde-%16llx.part" : "netsonde-%16llx.segment", &parsed) != 1)
    return false;
  *number = parsed;
  sonde_segment_dir_name(parsed, hidden, again);
  return strcmp(name, again) == 0;
}

static int compare_files(const void *left, const void *right) {
  const struct sonde_segment_entry *a = left, *b = right;
  return (a->number > b->number) - (a->number < b->number);
}

int sonde_segment_dir_add(struct sonde_segment_dir *segments,
                          const struct sonde_segment_entry *file) {
  if (segments->count == segments->room) {
    uint32_t room = segments->room ? 2 * segments->room : 64;
    struct sonde_segment_entry *files = realloc(segments->files, room * sizeof *files);
    if (!files)
      return SONDE_NO_MEMORY;
    segments->files = files;
    segments->room = room;
  }
  segments->files[segments->count++] = *file;
  segments->bytes += file->bytes;
  return SONDE_OK;
}

static bool drop(struct sonde_segment_dir *segments, uint32_t index) {
  char name[SONDE_SEGMENT_DIR_NAME_BYTES];
  sonde_segment_dir_name(segments->files[index].number, false, name);
  if (unlinkat(segments->dir_fd, name, 0) < 0 && errno != ENOENT)
    return false;
  segments->bytes -= segments->files[index].bytes;
  segments->count--;
  memmove(segments->files + index, segments->files + index + 1,
          (segments->count - index) * sizeof *segments->files);
  return true;
}

bool sonde_segment_dir_drop_oldest(struct sonde_segment_dir *segments) {
  return segments->count > 0 && drop(segments, 0);
}

bool sonde_segment_dir_drop_clear(struct sonde_segment_dir *segments) {
  uint32_t index = 0;
  while (index < segments->count)
    if (!segments->files[index].clear)
      index++;
    else if (!drop(segments, index))
      return false;
  return true;
}

/* Renames the file of a killed session; its whole frames are valid. */
static bool rename_hidden(struct sonde_segment_dir *segments, uint64_t number) {
  char hidden[SONDE_SEGMENT_DIR_NAME_BYTES], final[SONDE_SEGMENT_DIR_NAME_BYTES];
  struct stat file;
  sonde_segment_dir_name(number, true, hidden);
  sonde_segment_dir_name(number, false, final);
  if (fstatat(segments->dir_fd, hidden, &file, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(file.st_mode))
    return false;
  if (file.st_size <= (off_t)sizeof(struct sonde_segment_header)) {
    unlinkat(segments->dir_fd, hidden, 0);
    return false;
  }
  return renameat(segments->dir_fd, hidden, segments->dir_fd, final) == 0;
}

static int add_named(struct sonde_segment_dir *segments, uint64_t number) {
  char name[SONDE_SEGMENT_DIR_NAME_BYTES];
  struct sonde_segment_header header;
  struct stat status;
  struct sonde_segment_entry file = {.number = number, .last_ns = UINT64_MAX, .workers = 1};
  sonde_segment_dir_name(number, false, name);
  int fd = openat(segments->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return SONDE_OK; /* unreadable: not listed */
  bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (regular && pread(fd, &header, sizeof header, 0) == sizeof header && header.workers <= 64) {
    file.workers = header.workers;
    file.clear = header.suite == SONDE_SUITE_CLEAR;
  }
  close(fd);
  file.bytes = regular ? (uint64_t)status.st_size : 0;
  return regular ? sonde_segment_dir_add(segments, &file) : SONDE_OK;
}

static int list_files(struct sonde_segment_dir *segments, DIR *dir) {
  int status = SONDE_OK;
  for (struct dirent *entry = readdir(dir); entry && status == SONDE_OK; entry = readdir(dir)) {
    uint64_t number;
    bool hidden = parse_name(entry->d_name, true, &number);
    if (!hidden && !parse_name(entry->d_name, false, &number))
      continue;
    if (number >= segments->next_number)
      segments->next_number = number + 1;
    if (hidden && !rename_hidden(segments, number))
      continue;
    status = add_named(segments, number);
  }
  /* readdir may return a renamed file again: drop duplicates. */
  if (segments->count)
    qsort(segments->files, segments->count, sizeof *segments->files, compare_files);
  uint32_t kept = 0;
  for (uint32_t i = 0; i < segments->count; i++)
    if (kept && segments->files[kept - 1].number == segments->files[i].number)
      segments->bytes -= segments->files[i].bytes;
    else
      segments->files[kept++] = segments->files[i];
  segments->count = kept;
  return status;
}

int sonde_segment_dir_open(struct sonde_segment_dir *segments, const char *dir) {
  *segments = (struct sonde_segment_dir){.next_number = 1};
  segments->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int copy =
      segments->dir_fd < 0 ? -1 : openat(segments->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *listing = copy < 0 ? NULL : fdopendir(copy);
  if (!listing) {
    int saved = errno;
    if (copy >= 0)
      close(copy);
    sonde_segment_dir_close(segments);
    errno = saved;
    return SONDE_SYSTEM;
  }
  int status = list_files(segments, listing);
  closedir(listing);
  if (status < 0)
    sonde_segment_dir_close(segments);
  return status;
}

void sonde_segment_dir_close(struct sonde_segment_dir *segments) {
  if (segments->dir_fd >= 0)
    close(segments->dir_fd);
  free(segments->files);
  *segments = (struct sonde_segment_dir){.dir_fd = -1};
}
