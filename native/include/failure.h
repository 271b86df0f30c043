/* failure.h - fills a struct sonde_error in one line, for the core and every plugin.
 *
 * Inline because a plugin does not link to the core. sonde_fail returns the given status, for
 * `return sonde_fail(error, …)`. A NULL error is allowed. Users get errno.h, stdio.h
 * and string.h from here.
 */
#ifndef SONDE_FAILURE_H
#define SONDE_FAILURE_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "status.h"

__attribute__((format(printf, 4, 5))) static inline int
sonde_fail(struct sonde_error *error, int status, int system_errno, const char *format, ...) {
  if (error) {
    va_list arguments;
    error->status = status;
    error->system_errno = system_errno;
    va_start(arguments, format);
    vsnprintf(error->detail, sizeof error->detail, format, arguments);
    va_end(arguments);
  }
  return status;
}

/* A system call failed: reports `what` and errno's text. */
static inline int sonde_fail_system(struct sonde_error *error, const char *what) {
  int status = errno == ENOMEM ? SONDE_NO_MEMORY : SONDE_SYSTEM;
  return sonde_fail(error, status, errno, "%s: %s", what, strerror(errno));
}

static inline int sonde_fail_memory(struct sonde_error *error) {
  return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "%s", strerror(ENOMEM));
}

/* A packet socket could not be opened. */
static inline int sonde_fail_socket(struct sonde_error *error) {
  return errno == EPERM ? sonde_fail(error, SONDE_PERMISSION, errno, "needs CAP_NET_RAW")
                        : sonde_fail_system(error, "packet socket");
}

/* An interface cannot be captured on. A NULL name counts as "". */
static inline int sonde_fail_interface(struct sonde_error *error, const char *name, int cause) {
  return sonde_fail(error, SONDE_INTERFACE_INVALID, cause, "%.64s: %s", name ? name : "",
                    strerror(cause));
}

#endif
