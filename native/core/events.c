/* events.c - see events.h. */
#include "events.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "host/clock.h"

int sonde_events_init(struct sonde_events *events) {
  *events = (struct sonde_events){.wake.armed = true};
  pthread_mutex_init(&events->lock, NULL);
  events->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return events->wake.fd < 0 ? SONDE_SYSTEM : SONDE_OK;
}

void sonde_events_release(struct sonde_events *events) {
  if (events->wake.fd >= 0)
    close(events->wake.fd);
  pthread_mutex_destroy(&events->lock);
}

void sonde_events_push(struct sonde_events *events, enum sonde_event_kind kind, int64_t value,
                       const char *detail) {
  struct sonde_event event = {.kind = kind, .value = value};
  event.time_ns = sonde_clock_ns(CLOCK_REALTIME);
  if (detail)
    strncpy(event.detail, detail, sizeof event.detail - 1);
  pthread_mutex_lock(&events->lock);
  if (events->count == SONDE_EVENTS_MAX) {
    events->first = (events->first + 1) % SONDE_EVENTS_MAX;
    events->count--;
  }
  events->queue[(events->first + events->count++) % SONDE_EVENTS_MAX] = event;
  pthread_mutex_unlock(&events->lock);
  sonde_wake_signal(&events->wake);
}

uint32_t sonde_events_take(struct sonde_events *events, struct sonde_event *into, uint32_t max) {
  sonde_wake_arm(&events->wake);
  pthread_mutex_lock(&events->lock);
  uint32_t count = events->count < max ? events->count : max;
  for (uint32_t i = 0; i < count; i++)
    into[i] = events->queue[(events->first + i) % SONDE_EVENTS_MAX];
  events->first = (events->first + count) % SONDE_EVENTS_MAX;
  events->count -= count;
  pthread_mutex_unlock(&events->lock);
  return count;
}
