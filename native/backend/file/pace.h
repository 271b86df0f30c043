/* pace.h - computes when a replayed packet is due and waits until then.
 *
 * Timestamps count from the first packet, are divided by the speed and mapped onto the monotonic
 * clock. A packet older than its predecessor is due at once. A jump of more than an hour in
 * either direction starts a new recording, and the mapping restarts.
 */
#ifndef SONDE_FILE_PACE_H
#define SONDE_FILE_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
  double speed; /* 0: as fast as possible */
  bool begun;
  uint64_t packet_base_ns; /* this packet time… */
  uint64_t clock_base_ns;  /* …is this monotonic time */
  uint64_t packet_ns;      /* the planned packet's timestamp */
  uint64_t due_ns;         /* monotonic */
};

void pace_begin(struct pace *pace, double speed);
void pace_plan(struct pace *pace, uint64_t packet_ns);

/* Waits for the planned packet, at most timeout_ms or until a wake-up at wake_fd, which it
 * resets. Returns whether the packet is due. */
bool pace_wait(struct pace *pace, int timeout_ms, int wake_fd);

#endif
