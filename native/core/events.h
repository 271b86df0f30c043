/* events.h - a session's bounded queue of events, and its descriptor.
 *
 * Any thread may push. A full queue drops its oldest event. The record rings share the
 * descriptor: it is readable when events or records are queued.
 */
#ifndef SONDE_CORE_EVENTS_H
#define SONDE_CORE_EVENTS_H

#include <pthread.h>

#include "host/wake.h"
#include "netsonde.h"

enum { SONDE_EVENTS_MAX = 256 };

struct sonde_events {
  pthread_mutex_t lock;
  struct sonde_event queue[SONDE_EVENTS_MAX];
  uint32_t first;
  uint32_t count;
  struct sonde_wake wake;
};

int sonde_events_init(struct sonde_events *events); /* 0 or SONDE_SYSTEM, errno set */
void sonde_events_release(struct sonde_events *events);
void sonde_events_push(struct sonde_events *events, enum sonde_event_kind kind, int64_t value,
                       const char *detail);
uint32_t sonde_events_take(struct sonde_events *events, struct sonde_event *into, uint32_t max);

#endif
