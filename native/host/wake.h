/* wake.h - waking one sleeping reader without a system call for each arrival.
 *
 * The reader arms, checks its queue again, then sleeps. Producers signal each arrival. Only
 * the first signal after arming writes to the descriptor.
 */
#ifndef SONDE_HOST_WAKE_H
#define SONDE_HOST_WAKE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

struct sonde_wake {
  int fd;             /* an eventfd, non-blocking */
  _Atomic bool armed; /* the reader may sleep: the next signal writes to fd */
};

/* Wakes the reader even if it is not armed. */
static inline void sonde_wake_write(struct sonde_wake *wake) {
  uint64_t one = 1;
  ssize_t written = write(wake->fd, &one, sizeof one);
  (void)written; /* EAGAIN: the counter is full, so the descriptor is readable */
}

static inline void sonde_wake_signal(struct sonde_wake *wake) {
  /* The caller stores its item before it reads `armed`. The reader stores `armed` before it
   * reads the items. So at least one of them sees the other's store. */
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
