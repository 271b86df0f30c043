/* segment_dir.c - see segment_dir.h: the directory. */
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

void sonde_shelf_name(uint64_t number, bool hidden, char name[SONDE_SHELF_NAME_BYTES]) {
  snprintf(name, SONDE_SHELF_NAME_BYTES,
           hidden ? ".netsonde-%016llx.part" : "netsonde-%016llx.segment",
           (unsigned long long)number);
}

/* Exactly a name that sonde_shelf_name makes, or nothing of ours. */
static bool parse_name(const char *name, bool hidden, uint64_t *number) {
  char again[SONDE_SHELF_NAME_BYTES];
  unsigned long long parsed;
  if (sscanf(name, hidden ? ".netsonde-%16llx.part" : "netsonde-%16llx.segment", &parsed) != 1)
    return false;
  *number = parsed;
  sonde_shelf_name(parsed, hidden, again);
  return strcmp(name, again) == 0;
}

static int compare_files(const void *left, const void *right) {
  const struct sonde_shelf_file *a = left, *b = right;
  return (a->number > b->number) - (a->number < b->number);
}

int sonde_shelf_add(struct sonde_shelf *shelf, const struct sonde_shelf_file *file) {
  if (shelf->count == shelf->room) {
    uint32_t room = shelf->room ? 2 * shelf->room : 64;
    struct sonde_shelf_file *files = realloc(shelf->files, room * sizeof *files);
    if (!files)
      return SONDE_NO_MEMORY;
    shelf->files = files;
    shelf->room = room;
  }
  shelf->files[shelf->count++] = *file;
  shelf->bytes += file->bytes;
  return SONDE_OK;
}

static bool drop(struct sonde_shelf *shelf, uint32_t index) {
  char name[SONDE_SHELF_NAME_BYTES];
  sonde_shelf_name(shelf->files[index].number, false, name);
  if (unlinkat(shelf->dir_fd, name, 0) < 0 && errno != ENOENT)
    return false;
  shelf->bytes -= shelf->files[index].bytes;
  shelf->count--;
  memmove(shelf->files + index, shelf->files + index + 1,
          (shelf->count - index) * sizeof *shelf->files);
  return true;
}

bool sonde_shelf_drop_oldest(struct sonde_shelf *shelf) {
  return shelf->count > 0 && drop(shelf, 0);
}

bool sonde_shelf_drop_clear(struct sonde_shelf *shelf) {
  uint32_t index = 0;
  while (index < shelf->count) {
    if (!shelf->files[index].clear)
      index++;
    else if (!drop(shelf, index))
      return false;
  }
  return true;
}

/* A session was killed while it wrote this one. Its whole frames are good. */
static bool name_hidden(struct sonde_shelf *shelf, uint64_t number) {
  char hidden[SONDE_SHELF_NAME_BYTES], final[SONDE_SHELF_NAME_BYTES];
  struct stat file;
  sonde_shelf_name(number, true, hidden);
  sonde_shelf_name(number, false, final);
  if (fstatat(shelf->dir_fd, hidden, &file, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(file.st_mode))
    return false;
  if (file.st_size <= (off_t)sizeof(struct sonde_segment_header)) {
    unlinkat(shelf->dir_fd, hidden, 0);
    return false;
  }
  return renameat(shelf->dir_fd, hidden, shelf->dir_fd, final) == 0;
}

static int take_stock_of(struct sonde_shelf *shelf, uint64_t number) {
  char name[SONDE_SHELF_NAME_BYTES];
  struct sonde_segment_header header;
  struct stat status;
  struct sonde_shelf_file file = {.number = number, .last_ns = UINT64_MAX, .workers = 1};
  sonde_shelf_name(number, false, name);
  int fd = openat(shelf->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return SONDE_OK; /* not ours to read; it does not count */
  bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (regular && pread(fd, &header, sizeof header, 0) == sizeof header && header.workers <= 64) {
    file.workers = header.workers;
    file.clear = header.suite == SONDE_SUITE_CLEAR;
  }
  close(fd);
  file.bytes = regular ? (uint64_t)status.st_size : 0;
  return regular ? sonde_shelf_add(shelf, &file) : SONDE_OK;
}

static int take_stock(struct sonde_shelf *shelf, DIR *dir) {
  int status = SONDE_OK;
  for (struct dirent *entry = readdir(dir); entry && status == SONDE_OK; entry = readdir(dir)) {
    uint64_t number;
    bool hidden = parse_name(entry->d_name, true, &number);
    if (!hidden && !parse_name(entry->d_name, false, &number))
      continue;
    if (number >= shelf->next_number)
      shelf->next_number = number + 1;
    if (hidden && !name_hidden(shelf, number))
      continue;
    status = take_stock_of(shelf, number);
  }
  /* A file renamed above may be met again under its new name. */
  if (shelf->count)
    qsort(shelf->files, shelf->count, sizeof *shelf->files, compare_files);
  uint32_t kept = 0;
  for (uint32_t i = 0; i < shelf->count; i++) {
    if (kept && shelf->files[kept - 1].number == shelf->files[i].number)
      shelf->bytes -= shelf->files[i].bytes;
    else
      shelf->files[kept++] = shelf->files[i];
  }
  shelf->count = kept;
  return status;
}

int sonde_shelf_open(struct sonde_shelf *shelf, const char *dir) {
  *shelf = (struct sonde_shelf){.next_number = 1};
  shelf->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int copy =
      shelf->dir_fd < 0 ? -1 : openat(shelf->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *listing = copy < 0 ? NULL : fdopendir(copy);
  if (!listing) {
    int saved = errno;
    if (copy >= 0)
      close(copy);
    sonde_shelf_close(shelf);
    errno = saved;
    return SONDE_SYSTEM;
  }
  int status = take_stock(shelf, listing);
  closedir(listing);
  if (status < 0)
    sonde_shelf_close(shelf);
  return status;
}

void sonde_shelf_close(struct sonde_shelf *shelf) {
  if (shelf->dir_fd >= 0)
    close(shelf->dir_fd);
  free(shelf->files);
  *shelf = (struct sonde_shelf){.dir_fd = -1};
}
