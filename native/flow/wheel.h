/* wheel.h - a timing wheel over entry numbers.
 *
 * One level of 4096 slots of 134 ms (9 minutes). When an entry's slot is due, the table checks the
 * entry and arms it again for the time that is left, so packets never touch the timer. A clock that
 * jumps by years turns the wheel only once. Links are two 32-bit numbers per entry; slot heads
 * are numbers past the last entry.
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
  struct sonde_wheel_link *links; /* entries, then slot heads, then the head of the due list */
  uint32_t entries;
  bool started;
  uint64_t tick;   /* the last tick whose slot was opened */
  uint64_t target; /* the tick that advance has reached */
};

/* links: a zeroed array of sonde_wheel_links(entries). */
static inline uint64_t sonde_wheel_links(uint32_t entries) {
  return (uint64_t)entries + SONDE_WHEEL_SLOTS + 1;
}
void sonde_wheel_init(struct sonde_wheel *wheel, struct sonde_wheel_link *links, uint32_t entries);

void sonde_wheel_arm(struct sonde_wheel *wheel, uint32_t entry, uint64_t deadline_ns);
void sonde_wheel_disarm(struct sonde_wheel *wheel, uint32_t entry);

/* Moves the clock forward. An earlier now_ns does nothing. */
void sonde_wheel_advance(struct sonde_wheel *wheel, uint64_t now_ns);
/* Returns the time that advance has reached, rounded down to a tick. */
static inline uint64_t sonde_wheel_clock(const struct sonde_wheel *wheel) {
  return wheel->target << SONDE_WHEEL_TICK_SHIFT;
}
/* Disarms and returns one due entry, or SONDE_WHEEL_NONE. */
uint32_t sonde_wheel_due(struct sonde_wheel *wheel);

#endif
