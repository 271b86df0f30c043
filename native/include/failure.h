/* failure.h - filling a struct sonde_error in one line, for the core and every plugin.
 *
 * Inline because a plugin links to nothing of the core. `return sonde_fail(error, …)` is
 * the idiom: it returns the status it was given. A NULL error is allowed.
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

/* A system call failed: `what` and errno's words. */
static inline int sonde_fail_system(struct sonde_error *error, const char *what) {
  int status = errno == ENOMEM ? SONDE_NO_MEMORY : SONDE_SYSTEM;
  return sonde_fail(error, status, errno, "%s: %s", what, strerror(errno));
}

#endif
