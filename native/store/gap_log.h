/* gap_log.h - when packets were lost to the buffer, or dropped before they got there, and why.
 *
 * A bounded log of time ranges; a range that follows its predecessor closely for the same
 * reason joins it. When the log is full the two oldest ranges of it become one.
 */
#ifndef SONDE_STORE_GAP_LOG_H
#define SONDE_STORE_GAP_LOG_H

#include <stdint.h>
#include <string.h>

enum { SONDE_LOSSES_MAX = 64 };

struct sonde_loss {
  uint64_t from_ns;
  uint64_t to_ns;
  uint32_t reason; /* enum sonde_gap_reason */
  uint32_t packets;
};

struct sonde_losses {
  uint32_t count;
  struct sonde_loss ranges[SONDE_LOSSES_MAX];
};

static inline void sonde_loss_join(struct sonde_loss *range, const struct sonde_loss *more) {
  if (more->from_ns < range->from_ns)
    range->from_ns = more->from_ns;
  if (more->to_ns > range->to_ns)
    range->to_ns = more->to_ns;
  range->packets += more->packets;
}

static inline void sonde_losses_add(struct sonde_losses *losses, const struct sonde_loss *loss) {
  const uint64_t close_ns = 1000000000;
  for (uint32_t i = losses->count; i-- > 0 && i + 4 >= losses->count;) {
    struct sonde_loss *range = &losses->ranges[i];
    if (range->reason == loss->reason && loss->from_ns <= range->to_ns + close_ns &&
        range->from_ns <= loss->to_ns + close_ns) {
      sonde_loss_join(range, loss);
      return;
    }
  }
  if (losses->count == SONDE_LOSSES_MAX) {
    sonde_loss_join(&losses->ranges[0], &losses->ranges[1]);
    losses->count--;
    memmove(&losses->ranges[1], &losses->ranges[2], (losses->count - 1) * sizeof losses->ranges[0]);
  }
  losses->ranges[losses->count++] = *loss;
}

#endif
