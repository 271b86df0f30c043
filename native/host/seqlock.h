/* seqlock.h - publishes a struct from one writer to any number of readers, without waiting.
 *
 * The writer never waits. A reader copies again if the writer wrote meanwhile. The words are
 * atomic, so no reader sees a torn number. A published struct consists of whole 64-bit words.
 */
#ifndef SONDE_HOST_SEQLOCK_H
#define SONDE_HOST_SEQLOCK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct sonde_seqlock {
  _Atomic uint32_t sequence; /* odd while the copy is being written */
};

static inline void sonde_seqlock_write(struct sonde_seqlock *lock, void *published,
                                       const void *from, size_t bytes) {
  const uint64_t *source = from;
  uint64_t *target = published;
  uint32_t sequence = atomic_load_explicit(&lock->sequence, memory_order_relaxed);
  atomic_store_explicit(&lock->sequence, sequence + 1, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
  for (size_t i = 0; i < bytes / sizeof *source; i++)
    __atomic_store_n(&target[i], source[i], __ATOMIC_RELAXED);
  atomic_store_explicit(&lock->sequence, sequence + 2, memory_order_release);
}

static inline void sonde_seqlock_read(struct sonde_seqlock *lock, const void *published, void *into,
                                      size_t bytes) {
  const uint64_t *source = published;
  uint64_t *target = into;
  uint32_t before, after;
  do {
    before = atomic_load_explicit(&lock->sequence, memory_order_acquire);
    for (size_t i = 0; i < bytes / sizeof *source; i++)
      target[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_acquire);
    after = atomic_load_explicit(&lock->sequence, memory_order_relaxed);
  } while (before != after || (before & 1));
}

#endif
