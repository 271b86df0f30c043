/* source.h - one open backend of a session: one interface that is being captured.
 *
 * A session has up to SONDE_SOURCES_MAX of them. Each keeps its slot, the number in packets, flow
 * keys and records. Workers receive from sources, the monitor watches and reopens them, and
 * sources.c adds and removes them under the session's control lock.
 */
#ifndef SONDE_CORE_SOURCE_H
#define SONDE_CORE_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "backend.h"

struct sonde_link_watch;

struct sonde_source {
  const struct sonde_backend_ops *ops;
  struct sonde_backend *backend;
  struct sonde_backend_info info; /* ifindex and attach: under the session's info_lock */
  uint16_t slot;
  _Atomic bool broken;  /* receive failed; cleared when the source is reopened */
  _Atomic bool leaving; /* quiesced, and soon removed */

  struct sonde_link_watch *link; /* NULL if it is not a kernel interface; under the info_lock */
  _Atomic bool link_up;

  /* Owned by the monitor. */
  bool deleted;      /* the interface is deleted */
  bool reopen;       /* it must be reopened … */
  int backoff_ms;    /* … after this time */
  uint64_t retry_ms; /* … which ends at this monotonic time */
};

#endif
