/* clock.h - reading the system's clocks, for the core and every plug-in.
 *
 * Inline, because the store and some backends read a clock once a batch.
 */
#ifndef SONDE_HOST_CLOCK_H
#define SONDE_HOST_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t sonde_clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* CLOCK_REALTIME - CLOCK_MONOTONIC. A thread that is suspended between the two readings reads them
 * again, so the result is exact to some microseconds. */
static inline uint64_t sonde_clock_epoch_offset(void) {
  const uint64_t close_ns = 20000;
  uint64_t best_ns = UINT64_MAX, offset = 0;
  for (int tries = 0; tries < 5 && best_ns > close_ns; tries++) {
    uint64_t before_ns = sonde_clock_ns(CLOCK_MONOTONIC);
    uint64_t epoch_ns = sonde_clock_ns(CLOCK_REALTIME);
    uint64_t took_ns = sonde_clock_ns(CLOCK_MONOTONIC) - before_ns;
    if (took_ns < best_ns) {
      best_ns = took_ns;
      offset = epoch_ns - before_ns - took_ns / 2;
    }
  }
  return offset;
}

static inline uint64_t sonde_clock_ms(void) { /* monotonic */
  return sonde_clock_ns(CLOCK_MONOTONIC) / 1000000;
}

/* The monotonic time `ms` from now, for pthread_cond_timedwait. */
static inline struct timespec sonde_clock_deadline(uint32_t ms) {
  uint64_t until_ns = sonde_clock_ns(CLOCK_MONOTONIC) + (uint64_t)ms * 1000000;
  return (struct timespec){(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
}

#endif
