/* stepped_clock.c - a preloaded library: a wall clock that a test can step, for one process.
 *
 * The file named by STEPPED_CLOCK holds one int64_t: the offset of CLOCK_REALTIME in nanoseconds,
 * which each call reads. The machine's clock and every other clock of the process are
 * unchanged, and so are kernel timestamps of packets.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t second_ns = 1000000000;

static int (*next_clock_gettime)(clockid_t, struct timespec *);
static const volatile int64_t *offset_ns;

__attribute__((constructor)) static void open_clock(void) {
  const char *path = getenv("STEPPED_CLOCK");
  int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
  next_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  if (map == MAP_FAILED || next_clock_gettime == NULL) {
    perror("STEPPED_CLOCK");
    abort(); /* a test whose clock never steps would prove nothing */
  }
  close(fd);
  offset_ns = map;
}

int clock_gettime(clockid_t id, struct timespec *now) {
  if (next_clock_gettime == NULL) /* called before this library's constructor */
    open_clock();
  int result = next_clock_gettime(id, now);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    int64_t time_ns = now->tv_sec * second_ns + now->tv_nsec + *offset_ns;
    now->tv_sec = time_ns / second_ns;
    now->tv_nsec = time_ns % second_ns;
  }
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec time;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec;
  now->tv_usec = time.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != NULL)
    *out = now.tv_sec;
  return now.tv_sec;
}
