/* pace.h - when is a replayed packet due?
 *
 * Timestamps are taken relative to the first packet, divided by the speed and laid over the
 * monotonic clock. A packet older than its predecessor is due at once. A jump of more than
 * an hour in either direction is a new recording, not silence: the clock is laid anew.
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
  uint64_t packet_ns;      /* of the planned packet */
  uint64_t due_ns;         /* monotonic */
};

void pace_begin(struct pace *pace, double speed);
void pace_plan(struct pace *pace, uint64_t packet_ns);

/* Waits at most timeout_ms, or until wake_fd is readable (and takes it), for the planned
 * packet. Returns whether it is due. */
bool pace_wait(struct pace *pace, int timeout_ms, int wake_fd);

#endif
