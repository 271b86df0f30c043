/* uptime.h - the clock of v5 and v9 headers, which say times as ms since a base.
 *
 * Base and header time are chosen for each message so that every time in it can be said in
 * 32 bits and none is later than the header; between messages the base stays as long as
 * that holds, and is a whole second, so that collectors, which subtract SysUptime from a
 * time in seconds, always find the same base.
 */
#ifndef SONDE_NETFLOW_UPTIME_H
#define SONDE_NETFLOW_UPTIME_H

#include <stdbool.h>
#include <stdint.h>

struct sonde_uptime {
  uint64_t base_ms;
  bool known; /* base_ms is chosen */
};

struct sonde_window {
  uint64_t base_ms;
  uint64_t header_ms; /* SysUptime is header_ms - base_ms */
};

/* start_ns: when records begin, or 0: the first record tells. */
void sonde_uptime_start(struct sonde_uptime *uptime, uint64_t start_ns);

/* The window of a message with a record from first_ms to last_ms, sent at now_ms; the header
 * is in multiples of unit_ms. A record longer than 49 days is the one that does not fit. */
struct sonde_window sonde_uptime_window(struct sonde_uptime *uptime, uint64_t first_ms,
                                        uint64_t last_ms, uint64_t now_ms, uint32_t unit_ms);

static inline bool sonde_window_holds(const struct sonde_window *window, uint64_t first_ms,
                                      uint64_t last_ms) {
  return first_ms >= window->base_ms && last_ms <= window->header_ms;
}

#endif
