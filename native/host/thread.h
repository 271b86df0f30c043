/* thread.h - starts a thread with all signals blocked.
 *
 * So signals reach only threads that the application started. Inline, for core and plug-ins.
 */
#ifndef SONDE_HOST_THREAD_H
#define SONDE_HOST_THREAD_H

#include <pthread.h>
#include <signal.h>

/* Returns 0 or an errno. */
static inline int sonde_thread_start(pthread_t *thread, void *(*run)(void *), void *argument) {
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  int failed = pthread_create(thread, NULL, run, argument);
  pthread_sigmask(SIG_SETMASK, &previous, NULL);
  return failed;
}

#endif
