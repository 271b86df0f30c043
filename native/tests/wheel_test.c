/* wheel_test.c - the timing wheel: an entry is due with the first tick after its deadline, and an
 * entry whose deadline has passed with the next tick.
 */
#include "check.h"
#include "flow/wheel.h"

enum { ENTRIES = 4 };
static const uint64_t TICK = UINT64_C(1) << SONDE_WHEEL_TICK_SHIFT, START = 1700000000000000000;

static struct sonde_wheel wheel;
static struct sonde_wheel_link links[ENTRIES + SONDE_WHEEL_SLOTS + 1];

static uint64_t begin(void) {
  uint64_t now_ns = START / TICK * TICK;
  sonde_wheel_init(&wheel, links, ENTRIES);
  sonde_wheel_advance(&wheel, now_ns);
  return now_ns;
}

/* Returns the ticks until the entry is due. */
static uint64_t ticks_until_due(uint64_t now_ns) {
  for (uint64_t ticks = 0; ticks <= SONDE_WHEEL_SLOTS; ticks++) {
    sonde_wheel_advance(&wheel, now_ns + ticks * TICK);
    uint32_t entry = sonde_wheel_due(&wheel);
    if (entry != SONDE_WHEEL_NONE) {
      CHECK_EQ(entry, 2);
      CHECK_EQ(sonde_wheel_due(&wheel), SONDE_WHEEL_NONE);
      return ticks;
    }
  }
  return UINT64_MAX;
}

static void entries_are_due_after_their_deadline(void) {
  const struct {
    int64_t deadline_ns;
    uint64_t ticks;
  } rows[] = {
      {0, 1},
      {1, 1},
      {(int64_t)TICK - 1, 1},
      {(int64_t)TICK, 2},
      {(int64_t)TICK * 9, 10},
      {-1, 1},
      {-(int64_t)TICK, 1},
      {-(int64_t)TICK * 99999, 1},
      {(int64_t)TICK * (SONDE_WHEEL_SLOTS - 2), SONDE_WHEEL_SLOTS - 1},
      {(int64_t)TICK * SONDE_WHEEL_SLOTS * 3, SONDE_WHEEL_SLOTS - 1}, /* then armed again */
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint64_t now_ns = begin();
    sonde_wheel_arm(&wheel, 2, now_ns + (uint64_t)rows[i].deadline_ns);
    CHECK_EQ(ticks_until_due(now_ns), rows[i].ticks);
  }
}

static void disarmed_entries_are_never_due(void) {
  uint64_t now_ns = begin();
  for (uint32_t entry = 0; entry < ENTRIES; entry++)
    sonde_wheel_arm(&wheel, entry, now_ns + TICK);
  for (uint32_t entry = 0; entry < ENTRIES; entry++)
    if (entry != 2)
      sonde_wheel_disarm(&wheel, entry);
  CHECK_EQ(ticks_until_due(now_ns), 2);
}

static void the_clock_only_moves_forward(void) {
  uint64_t now_ns = begin();
  sonde_wheel_arm(&wheel, 2, now_ns + 5 * TICK);
  sonde_wheel_advance(&wheel, now_ns - 1000 * TICK);
  CHECK_EQ(sonde_wheel_clock(&wheel), now_ns);
  CHECK_EQ(sonde_wheel_due(&wheel), SONDE_WHEEL_NONE);
  sonde_wheel_advance(&wheel, now_ns + 1000000 * TICK); /* by years: one turn */
  CHECK_EQ(sonde_wheel_due(&wheel), 2);
  CHECK_EQ(sonde_wheel_clock(&wheel), now_ns + 1000000 * TICK);
}

int main(void) {
  entries_are_due_after_their_deadline();
  disarmed_entries_are_never_due();
  the_clock_only_moves_forward();
  return check_report();
}
