/* pace.c - see pace.h. */
#include "pace.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "host/clock.h"

static const uint64_t jump_max_ns = UINT64_C(3600) * 1000000000;

void pace_begin(struct pace *pace, double speed) {
  memset(pace, 0, sizeof *pace);
  pace->speed = speed > 0 ? speed : 0;
}

void pace_plan(struct pace *pace, uint64_t packet_ns) {
  uint64_t jump_ns =
      packet_ns > pace->packet_ns ? packet_ns - pace->packet_ns : pace->packet_ns - packet_ns;
  if (!pace->begun || jump_ns > jump_max_ns) {
    pace->begun = true;
    pace->packet_base_ns = packet_ns;
    pace->clock_base_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  }
  pace->packet_ns = packet_ns;
  double after_ns = packet_ns > pace->packet_base_ns
                        ? (double)(packet_ns - pace->packet_base_ns) / pace->speed
                        : 0;
  /* A speed near zero must not overflow the clock: wait at most about a century. */
  pace->due_ns = pace->clock_base_ns + (uint64_t)(after_ns < 3e18 ? after_ns : 3e18);
}

bool pace_wait(struct pace *pace, int timeout_ms, int wake_fd) {
  uint64_t now_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  uint64_t until_ns = now_ns + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000;
  until_ns = pace->due_ns < until_ns ? pace->due_ns : until_ns;
  if (until_ns > now_ns) {
    struct pollfd wake = {.fd = wake_fd, .events = POLLIN};
    struct timespec wait = {.tv_sec = (time_t)((until_ns - now_ns) / 1000000000),
                            .tv_nsec = (long)((until_ns - now_ns) % 1000000000)};
    eventfd_t ignored;
    if (ppoll(&wake, 1, &wait, NULL) > 0)
      eventfd_read(wake_fd, &ignored);
    now_ns = sonde_clock_ns(CLOCK_MONOTONIC);
  }
  return now_ns >= pace->due_ns;
}
