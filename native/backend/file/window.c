/* window.c - see window.h. */
#include "window.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int window_open(struct window *window, int fd) {
  memset(window, 0, sizeof *window);
  window->memory = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (window->memory == MAP_FAILED) {
    window->memory = NULL;
    return -1;
  }
  window->fd = fd;
  window->cursor = window->memory;
  window->end = window->memory;
  posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  return 0;
}

void window_close(struct window *window) {
  if (window->memory)
    munmap(window->memory, WINDOW_BYTES);
  window->memory = NULL;
}

bool window_fill(struct window *window) {
  size_t left = window_left(window);
  if (window->at_end || left == WINDOW_BYTES)
    return false;
  memmove(window->memory, window->cursor, left);
  window->cursor = window->memory;
  window->end = window->memory + left;

  ssize_t count;
  do {
    count =
        pread(window->fd, window->memory + left, WINDOW_BYTES - left, (off_t)window->end_offset);
  } while (count < 0 && errno == EINTR);
  if (count <= 0) {
    window->read_errno = count < 0 ? errno : 0;
    window->at_end = true;
    return false;
  }
  window->end += count;
  window->end_offset += (uint64_t)count;
  /* The kernel reads the next chunk while this one is parsed. */
  posix_fadvise(window->fd, (off_t)window->end_offset, WINDOW_BYTES, POSIX_FADV_WILLNEED);
  return true;
}
