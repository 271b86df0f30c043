/* slots.c - see slots.h. The lock is shared with the programs. Neither side waits long for it: a
 * hypervisor may pause a program that holds it. */
#include "slots.h"

#include <stddef.h>
#include <string.h>

enum { LOCK_TRIES = 1000, BITS = 64, USED_MIN = 1024, SPARE = 4, SHRINK = 8 };

static bool lock(struct xdp_slot *slot) {
  for (int i = 0; i < LOCK_TRIES; i++) {
    uint32_t open = 0;
    if (__atomic_compare_exchange_n(&slot->lock, &open, 1, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED)) {
      return true;
    }
  }
  return false;
}

static void unlock(struct xdp_slot *slot) {
  __atomic_store_n(&slot->lock, 0, __ATOMIC_RELEASE);
}

static uint64_t begun_ns(const struct sonde_delta *delta) {
  return delta->first_ns[delta->first_side & 1];
}

/* Reads a slot. False if the next scan must read it again. */
static bool read_slot(const struct slots *slots, uint32_t index, struct sonde_delta *delta,
                      bool *taken) {
  struct xdp_slot *slot = &slots->slot[index];
  *taken = false;
  if (!lock(slot))
    return false;
  bool used = slot->tag != 0;
  bool late = used && begun_ns(&slot->delta) > slots->before_ns;
  if (used && !late) {
    memcpy(delta, &slot->delta, sizeof *delta);
    slot->tag = slots->tags[index / XDP_SLOT_WAYS].way[index % XDP_SLOT_WAYS] = 0;
    *taken = true;
  }
  unlock(slot);
  return !late;
}

void slots_begin(struct slots *slots, uint64_t before_ns) {
  slots->before_ns = before_ns;
  slots->word = 0;
  slots->left = 0;
  slots->taken = 0;
}

static void prefetch(const struct slots *slots, uint32_t base, uint64_t bits) {
  for (int ahead = 0; bits && ahead < 4; ahead++, bits &= bits - 1) {
    const char *line = (const char *)&slots->slot[base + (uint32_t)__builtin_ctzll(bits)];
    for (int i = 0; i < 4; i++)
      __builtin_prefetch(line + (ptrdiff_t)64 * i, 1);
  }
}

uint32_t slots_read(struct slots *slots, struct sonde_delta *deltas, uint32_t max) {
  uint32_t count = 0;
  uint32_t words = slots->count / BITS;
  while (count < max) {
    if (!slots->left) {
      if (slots->word == words)
        break;
      uint64_t *word = &slots->bits[slots->word++];
      if (__atomic_load_n(word, __ATOMIC_RELAXED)) {
        slots->left = __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL);
        prefetch(slots, (slots->word - 1) * BITS, slots->left);
      }
      continue;
    }
    uint32_t base = (slots->word - 1) * BITS;
    uint32_t bit = (uint32_t)__builtin_ctzll(slots->left);
    bool taken;
    slots->left &= slots->left - 1;
    if (!read_slot(slots, base + bit, &deltas[count], &taken))
      __atomic_fetch_or(&slots->bits[slots->word - 1], 1ull << bit, __ATOMIC_RELEASE);
    count += taken;
  }
  slots->taken += count;
  return count;
}

void slots_use(const struct slots *slots, uint32_t *used) {
  uint32_t before = *used, next = USED_MIN;
  while (next < slots->taken * SPARE)
    next *= 2;
  if (next < before && next * SHRINK > before)
    next = before;
  next = next < slots->count ? next : slots->count;
  __atomic_store_n(used, next, __ATOMIC_RELEASE);
}

bool slots_any(const struct slots *slots) {
  for (uint32_t i = 0; i < slots->count / BITS; i++)
    if (__atomic_load_n(&slots->bits[i], __ATOMIC_RELAXED))
      return true;
  return false;
}
