/* packet_clock.h - a capture thread's time.
 *
 * Live: flows live on a monotonic time line that starts as the epoch's and never steps;
 * `epoch_offset` leads from it back to the wall clock of now. Packets carry wall-clock
 * stamps, which are brought over and held between a minute ago and now.
 * Replay: the packets' own stamps are the clock. It follows them forward; a leap of more
 * than an hour counts only when several packets in a row agree, or no other follows, so one
 * bad stamp does not end every flow.
 */
#ifndef SONDE_CORE_PACKET_CLOCK_H
#define SONDE_CORE_PACKET_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct sonde_packet_clock {
  bool live;
  uint64_t now_ns;       /* on the flows' time line */
  int64_t epoch_offset;  /* add to get the epoch's time */
  int64_t wall_offset;   /* live: wall clock minus monotonic clock, as last accepted */
  int64_t start_offset;  /* live: the same at start */
  uint32_t leap_packets; /* replay: packets in a row past a leap … */
  uint64_t leap_ns;      /* … and the time of the last one */
  int64_t stepped_ns;    /* live: a step since the last look, else 0 */
};

void sonde_packet_clock_start(struct sonde_packet_clock *clock, bool live);
/* Live: reads the system's clocks; once a batch. Replay: nothing. */
void sonde_packet_clock_tick(struct sonde_packet_clock *clock);
/* The packet's stamp on the flows' time line. False: it could not be believed and was
 * replaced by now. */
bool sonde_packet_clock_stamp(struct sonde_packet_clock *clock, uint64_t packet_ns,
                              uint64_t *time_ns);

/* Replay: the file has ended, so nothing will contradict a leap any more. */
void sonde_packet_clock_finish(struct sonde_packet_clock *clock);

#endif
