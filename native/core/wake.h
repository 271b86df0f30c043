/* wake.h - waking one sleeping reader without a system call for each arrival.
 *
 * The reader arms before it sleeps and looks once more; whoever makes something signals,
 * and only the first signal after arming writes to the descriptor.
 */
#ifndef SONDE_CORE_WAKE_H
#define SONDE_CORE_WAKE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

struct sonde_wake {
  int fd;             /* an eventfd, non-blocking */
  _Atomic bool armed; /* the reader sleeps: the next arrival must write to fd */
};

/* Wakes the reader in any case. */
static inline void sonde_wake_write(struct sonde_wake *wake) {
  uint64_t one = 1;
  ssize_t written = write(wake->fd, &one, sizeof one);
  (void)written; /* EAGAIN: the counter is full, so the descriptor is readable anyway */
}

static inline void sonde_wake_signal(struct sonde_wake *wake) {
  /* The caller's store of what waits comes before the look at `armed`, and the reader's
   * store of `armed` before its look at what waits: one of the two sees the other. */
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&wake->armed, memory_order_relaxed) &&
      atomic_exchange(&wake->armed, false))
    sonde_wake_write(wake);
}

static inline void sonde_wake_arm(struct sonde_wake *wake) {
  atomic_store(&wake->armed, true);
  atomic_thread_fence(memory_order_seq_cst);
}

static inline void sonde_wake_disarm(struct sonde_wake *wake) {
  atomic_store_explicit(&wake->armed, false, memory_order_relaxed);
}

#endif
