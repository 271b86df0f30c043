/* uptime.c - see uptime.h. */
#include "uptime.h"

/* Packets in a ring are at most a minute old. A later record of a file can start before the first,
 * but no segment is longer than a day. */
static const uint64_t START_MARGIN_MS = 60000, DAY_MS = 86400000;
static const uint64_t UPTIME_MAX_MS = UINT32_MAX;

static uint64_t round_down(uint64_t time_ms, uint64_t unit_ms) {
  return time_ms - time_ms % unit_ms;
}

static uint64_t round_up(uint64_t time_ms, uint64_t unit_ms) {
  return round_down(time_ms + unit_ms - 1, unit_ms);
}

static uint64_t before(uint64_t time_ms, uint64_t margin_ms) {
  return round_down(time_ms > margin_ms ? time_ms - margin_ms : 0, 1000);
}

void sonde_uptime_start(struct sonde_uptime *uptime, uint64_t start_ns) {
  uptime->known = start_ns != 0;
  uptime->base_ms = before(start_ns / 1000000, START_MARGIN_MS);
}

struct sonde_window sonde_uptime_window(struct sonde_uptime *uptime, uint64_t first_ms,
                                        uint64_t last_ms, uint64_t now_ms, uint32_t unit_ms) {
  struct sonde_window window;
  window.header_ms = round_up(now_ms > last_ms ? now_ms : last_ms, unit_ms);
  if (!uptime->known)
    *uptime = (struct sonde_uptime){before(first_ms, DAY_MS), true};
  window.base_ms = uptime->base_ms;
  bool fits = first_ms >= window.base_ms && window.header_ms - window.base_ms <= UPTIME_MAX_MS;
  if (fits)
    return window;
  if (window.header_ms - first_ms <= UPTIME_MAX_MS - DAY_MS - 1000) {
    /* Seven weeks have passed, or a flow is older than the base: set a new base. */
    uint64_t recent_ms = before(window.header_ms, DAY_MS);
    window.base_ms = first_ms < recent_ms ? round_down(first_ms, 1000) : recent_ms;
    uptime->base_ms = window.base_ms;
    return window;
  }
  /* The clock of a file jumped: this message gets the time of its record. */
  window.header_ms = round_up(last_ms, unit_ms);
  window.base_ms = round_down(first_ms, 1000);
  if (window.header_ms - window.base_ms > UPTIME_MAX_MS)
    window.base_ms = round_up(window.header_ms - UPTIME_MAX_MS, 1000);
  return window;
}
