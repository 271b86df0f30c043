/* thread_failure_test.c - a thread that cannot be started fails open, start or the first collector
 * with the error of pthread_create, and everything is released.
 *
 * The linker redirects the core's pthread_create to this file (see CMakeLists.txt).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "netsonde.h"

enum { THREADS = 4 }; /* writer, sealer, exporter, capture */

static int created, fails_at;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
  errno = EDOM; /* a stale value, which must not be reported */
  if (created++ == fails_at)
    return EAGAIN;
  return __real_pthread_create(thread, attributes, run, argument);
}

static int open_empty_capture(void) {
  static const uint32_t head[6] = {0xa1b2c3d4, 4 << 16 | 2, 0, 0, 262144, 1};
  int fd = memfd_create("capture", MFD_CLOEXEC);
  CHECK_EQ(write(fd, head, sizeof head), sizeof head);
  lseek(fd, 0, SEEK_SET);
  return fd;
}

/* Returns the status of the step that failed, or 0. */
static int run(const char *directory, struct sonde_error *error) {
  struct sonde_session_config config = {
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = "file",
      .interfaces = (const char *const[]){"empty"},
      .interface_count = 1,
      .file_fd = open_empty_capture(),
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 1 << 20,
      .flow_table_size = 1024,
      .record_ring_size = 64,
      .metering = 1,
      .idle_timeout_ns = 1000000000,
      .active_timeout_ns = 1000000000,
      .buffer_bytes = 4 << 20,
      .buffer_dir = directory,
      .buffer_disk_bytes = 16 << 20,
  };
  struct sonde_collector_config collector = {.address = "127.0.0.1", .port = 9, .version = 9};
  struct sonde_session *session = NULL;
  int status = sonde_session_open(&config, &session, error);
  if (status < 0)
    return status;
  status = sonde_session_collector_add(session, &collector, error);
  if (status == 0)
    status = sonde_session_start(session, error);
  sonde_session_close(session);
  return status;
}

int main(void) {
  char directory[] = "/tmp/netsonde-threads-XXXXXX";
  struct sonde_error error;
  CHECK(mkdtemp(directory) != NULL);
  for (fails_at = 0; fails_at < THREADS; fails_at++) {
    created = 0;
    CHECK_EQ(run(directory, &error), SONDE_SYSTEM);
    CHECK_EQ(error.system_errno, EAGAIN);
    CHECK_EQ(created, fails_at + 1);
  }
  created = 0;
  fails_at = -1;
  CHECK_EQ(run(directory, &error), 0);
  CHECK_EQ(created, THREADS);
  rmdir(directory);
  return check_report();
}
