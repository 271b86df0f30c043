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

static inline uint64_t sonde_clock_ms(void) { /* monotonic */
  return sonde_clock_ns(CLOCK_MONOTONIC) / 1000000;
}

/* The monotonic time `ms` from now, for pthread_cond_timedwait. */
static inline struct timespec sonde_clock_deadline(uint32_t ms) {
  uint64_t until_ns = sonde_clock_ns(CLOCK_MONOTONIC) + (uint64_t)ms * 1000000;
  return (struct timespec){(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
}

#endif
