/* wheel.h - a timing wheel over entry numbers.
 *
 * One level of 4096 slots of 134 ms (9 minutes); each entry is armed once and looked at when its
 * slot comes round, then armed again for what is still to come. So a packet never touches
 * its timer, and a clock that jumps by years turns the wheel once, not a billion times.
 * Links are two 32-bit numbers an entry; slot heads are numbers past the last entry.
 */
#ifndef SONDE_FLOW_WHEEL_H
#define SONDE_FLOW_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

enum { SONDE_WHEEL_SLOTS = 4096, SONDE_WHEEL_TICK_SHIFT = 27 };
#define SONDE_WHEEL_NONE UINT32_MAX

struct sonde_wheel_link {
  uint32_t next;
  uint32_t prev;
};

struct sonde_wheel {
  struct sonde_wheel_link *links; /* entries, then slot heads, then the head of those due */
  uint32_t entries;
  bool started;
  uint64_t tick;   /* the last tick whose slot was emptied */
  uint64_t target; /* go on until this one */
};

/* links: zeroed room for sonde_wheel_links(entries). */
static inline uint64_t sonde_wheel_links(uint32_t entries) {
  return (uint64_t)entries + SONDE_WHEEL_SLOTS + 1;
}
void sonde_wheel_init(struct sonde_wheel *wheel, struct sonde_wheel_link *links, uint32_t entries);

void sonde_wheel_arm(struct sonde_wheel *wheel, uint32_t entry, uint64_t deadline_ns);
void sonde_wheel_disarm(struct sonde_wheel *wheel, uint32_t entry);

/* Moves the clock on; the past does nothing. */
void sonde_wheel_advance(struct sonde_wheel *wheel, uint64_t now_ns);
/* The time that advance has reached, to the tick below. */
static inline uint64_t sonde_wheel_clock(const struct sonde_wheel *wheel) {
  return wheel->target << SONDE_WHEEL_TICK_SHIFT;
}
/* Takes one entry whose slot has come, disarmed, or SONDE_WHEEL_NONE. */
uint32_t sonde_wheel_due(struct sonde_wheel *wheel);

#endif
