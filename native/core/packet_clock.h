/* packet_clock.h - a capture thread's time.
 *
 * Live: flow time starts at the epoch's time and is monotonic: it never steps. Adding
 * `epoch_offset` gives wall-clock time. Packets carry wall-clock stamps. They are converted
 * and limited to the range from a minute ago to now.
 * Replay: packet stamps are the clock, which only moves forward. A leap of more than an hour
 * needs 16 packets in a row, or the end of the file: one bad stamp does not end every flow.
 */
#ifndef SONDE_CORE_PACKET_CLOCK_H
#define SONDE_CORE_PACKET_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct sonde_packet_clock {
  bool live;
  uint64_t now_ns;       /* flow time */
  int64_t epoch_offset;  /* flow time + this = time since the epoch */
  int64_t wall_offset;   /* live: wall clock minus monotonic clock, as last accepted */
  int64_t start_offset;  /* live: the same at start */
  uint32_t leap_packets; /* replay: packets in a row past a leap */
  uint64_t leap_ns;      /* replay: time of the last of them */
  int64_t stepped_ns;    /* live: unreported step of the wall clock */
};

void sonde_packet_clock_start(struct sonde_packet_clock *clock, bool live);
/* Live: reads the system's clocks, once a batch. Replay: does nothing. */
void sonde_packet_clock_tick(struct sonde_packet_clock *clock);
/* Converts a packet's stamp to flow time. False if it was implausible: *time_ns is now. */
bool sonde_packet_clock_stamp(struct sonde_packet_clock *clock, uint64_t packet_ns,
                              uint64_t *time_ns);
/* Replay: the file has ended; accepts a pending leap. */
void sonde_packet_clock_finish(struct sonde_packet_clock *clock);

#endif
