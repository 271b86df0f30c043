/* uptime.h - the clock of v5 and v9 headers, which have times in ms since a base.
 *
 * In each message every time must fit 32 bits and be no later than the header's. The base stays the
 * same between messages as long as possible. It is a whole second, so that collectors, which
 * subtract SysUptime from a time in seconds, always compute the same base.
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

/* start_ns: start of the export. 0: the first record sets the base. */
void sonde_uptime_start(struct sonde_uptime *uptime, uint64_t start_ns);

/* Returns the window of a message that is sent at now_ms with a record from first_ms to last_ms.
 * The header time is a multiple of unit_ms. Every record of up to 49 days fits. */
struct sonde_window sonde_uptime_window(struct sonde_uptime *uptime, uint64_t first_ms,
                                        uint64_t last_ms, uint64_t now_ms, uint32_t unit_ms);

static inline bool sonde_window_holds(const struct sonde_window *window, uint64_t first_ms,
                                      uint64_t last_ms) {
  return first_ms >= window->base_ms && last_ms <= window->header_ms;
}

#endif
