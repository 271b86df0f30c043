/* segment_open_test.c - opening a file without a segment's header is a format error. A file that
 * cannot be read is a system error with its number.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "netsonde.h"

static int open_segment(int fd, struct sonde_error *error) {
  struct sonde_segment *segment = NULL;
  int status = sonde_segment_open(fd, NULL, "eth0", &segment, error);
  CHECK(segment == NULL);
  return status;
}

int main(void) {
  struct sonde_error error = {0};
  static const uint8_t zeros[4096];
  int fd = memfd_create("zeros", MFD_CLOEXEC), unreadable = open("/dev/null", O_WRONLY | O_CLOEXEC);
  CHECK_EQ(write(fd, zeros, sizeof zeros), sizeof zeros);
  CHECK_EQ(open_segment(fd, &error), SONDE_FORMAT);
  CHECK_EQ(error.system_errno, 0);
  CHECK(error.detail[0] != '\0');
  CHECK_EQ(open_segment(unreadable, &error), SONDE_SYSTEM);
  CHECK_EQ(error.system_errno, EBADF);
  close(fd);
  close(unreadable);
  return check_report();
}
