/* gap_log.h - a bounded log of gaps: time ranges of missing packets, with the reason.
 *
 * A gap joins a recent one of the same reason that is at most a second away. When the log is
 * full, its two oldest ranges are joined.
 */
#ifndef SONDE_STORE_GAP_LOG_H
#define SONDE_STORE_GAP_LOG_H

#include <stdint.h>
#include <string.h>

enum { SONDE_GAP_LOG_MAX = 64 };

struct sonde_gap {
  uint64_t from_ns;
  uint64_t to_ns;
  uint32_t reason; /* enum sonde_gap_reason */
  uint32_t packets;
};

struct sonde_gap_log {
  uint32_t count;
  struct sonde_gap ranges[SONDE_GAP_LOG_MAX];
};

static inline void sonde_gap_join(struct sonde_gap *range, const struct sonde_gap *more) {
  if (more->from_ns < range->from_ns)
    range->from_ns = more->from_ns;
  if (more->to_ns > range->to_ns)
    range->to_ns = more->to_ns;
  range->packets += more->packets;
}

static inline void sonde_gap_log_add(struct sonde_gap_log *gaps, const struct sonde_gap *gap) {
  const uint64_t close_ns = 1000000000;
  for (uint32_t i = gaps->count; i-- > 0 && i + 4 >= gaps->count;) {
    struct sonde_gap *range = &gaps->ranges[i];
    if (range->reason == gap->reason && gap->from_ns <= range->to_ns + close_ns &&
        range->from_ns <= gap->to_ns + close_ns) {
      sonde_gap_join(range, gap);
      return;
    }
  }
  if (gaps->count == SONDE_GAP_LOG_MAX) {
    sonde_gap_join(&gaps->ranges[0], &gaps->ranges[1]);
    gaps->count--;
    memmove(&gaps->ranges[1], &gaps->ranges[2], (gaps->count - 1) * sizeof gaps->ranges[0]);
  }
  gaps->ranges[gaps->count++] = *gap;
}

#endif
