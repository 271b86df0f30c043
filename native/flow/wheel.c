/* wheel.c - see wheel.h. */
#include "wheel.h"

static uint32_t slot_head(const struct sonde_wheel *wheel, uint64_t tick) {
  return wheel->entries + (uint32_t)(tick & (SONDE_WHEEL_SLOTS - 1));
}

static uint32_t due_head(const struct sonde_wheel *wheel) {
  return wheel->entries + SONDE_WHEEL_SLOTS;
}

static void link_behind(struct sonde_wheel *wheel, uint32_t head, uint32_t entry) {
  struct sonde_wheel_link *links = wheel->links;
  uint32_t last = links[head].prev;
  links[entry].next = head;
  links[entry].prev = last;
  links[last].next = entry;
  links[head].prev = entry;
}

void sonde_wheel_init(struct sonde_wheel *wheel, struct sonde_wheel_link *links, uint32_t entries) {
  *wheel = (struct sonde_wheel){.links = links, .entries = entries};
  for (uint32_t i = entries; i < entries + SONDE_WHEEL_SLOTS + 1; i++)
    links[i] = (struct sonde_wheel_link){.next = i, .prev = i};
}

void sonde_wheel_arm(struct sonde_wheel *wheel, uint32_t entry, uint64_t deadline_ns) {
  /* Round up, so that an entry is never due before its deadline. */
  uint64_t tick = (deadline_ns >> SONDE_WHEEL_TICK_SHIFT) + 1;
  if ((int64_t)(tick - wheel->tick) < 1)
    tick = wheel->tick + 1;
  if (tick - wheel->tick > SONDE_WHEEL_SLOTS - 1)
    tick = wheel->tick + SONDE_WHEEL_SLOTS - 1;
  link_behind(wheel, slot_head(wheel, tick), entry);
}

void sonde_wheel_disarm(struct sonde_wheel *wheel, uint32_t entry) {
  struct sonde_wheel_link *links = wheel->links;
  links[links[entry].prev].next = links[entry].next;
  links[links[entry].next].prev = links[entry].prev;
}

void sonde_wheel_advance(struct sonde_wheel *wheel, uint64_t now_ns) {
  uint64_t tick = now_ns >> SONDE_WHEEL_TICK_SHIFT;
  if (!wheel->started) {
    wheel->started = true;
    wheel->tick = wheel->target = tick;
  }
  if ((int64_t)(tick - wheel->target) > 0)
    wheel->target = tick;
}

/* Moves a slot's list to the due list. Entries armed for the same slot meanwhile then wait a full
 * turn of the wheel. */
static void open_slot(struct sonde_wheel *wheel, uint32_t slot) {
  struct sonde_wheel_link *links = wheel->links;
  uint32_t due = due_head(wheel);
  if (links[slot].next == slot)
    return;
  links[due] = links[slot];
  links[links[due].next].prev = due;
  links[links[due].prev].next = due;
  links[slot] = (struct sonde_wheel_link){.next = slot, .prev = slot};
}

uint32_t sonde_wheel_due(struct sonde_wheel *wheel) {
  uint32_t due = due_head(wheel);
  while (wheel->links[due].next == due) {
    if (wheel->tick == wheel->target)
      return SONDE_WHEEL_NONE;
    /* After a jump longer than the wheel, open each slot once. */
    if (wheel->target - wheel->tick > SONDE_WHEEL_SLOTS)
      wheel->tick = wheel->target - SONDE_WHEEL_SLOTS;
    wheel->tick++;
    open_slot(wheel, slot_head(wheel, wheel->tick));
  }
  uint32_t entry = wheel->links[due].next;
  sonde_wheel_disarm(wheel, entry);
  return entry;
}
