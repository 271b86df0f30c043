/* packet_clock.c - see packet_clock.h. */
#include "core/packet_clock.h"

#include "host/clock.h"

static const int64_t STEP_MIN_NS = 50000000;         /* less is slew or jitter */
static const int64_t STAMP_AGE_MAX_NS = 60000000000; /* no ring holds packets longer */
static const uint64_t LEAP_NS = 3600000000000;
/* The year 2116: later than any pcap time, and adding a timeout cannot overflow. */
static const uint64_t STAMP_MAX_NS = UINT64_C(1) << 62;
enum { LEAP_PACKETS = 16, START_TRIES = 5 };

/* True if the thread was suspended since `monotonic`: later clock readings do not match it. */
static bool was_suspended(int64_t monotonic) {
  return (int64_t)sonde_clock_ns(CLOCK_MONOTONIC) - monotonic > STEP_MIN_NS / 2;
}

void sonde_packet_clock_start(struct sonde_packet_clock *clock, bool live) {
  *clock = (struct sonde_packet_clock){.live = live};
  if (!live)
    return;
  int64_t monotonic;
  int tries = 0;
  do {
    monotonic = (int64_t)sonde_clock_ns(CLOCK_MONOTONIC);
    clock->start_offset = clock->wall_offset = (int64_t)sonde_clock_ns(CLOCK_REALTIME) - monotonic;
  } while (was_suspended(monotonic) && ++tries < START_TRIES);
  clock->now_ns = (uint64_t)(monotonic + clock->start_offset);
}

void sonde_packet_clock_tick(struct sonde_packet_clock *clock) {
  if (!clock->live)
    return;
  int64_t monotonic = (int64_t)sonde_clock_ns(CLOCK_MONOTONIC);
  int64_t offset = (int64_t)sonde_clock_ns(CLOCK_REALTIME) - monotonic;
  int64_t step = offset - clock->wall_offset;
  if ((step > STEP_MIN_NS || step < -STEP_MIN_NS) && !was_suspended(monotonic)) {
    clock->stepped_ns += step;
    clock->wall_offset = offset;
    clock->epoch_offset = offset - clock->start_offset;
  }
  clock->now_ns = (uint64_t)(monotonic + clock->start_offset);
}

static bool stamp_live(const struct sonde_packet_clock *clock, uint64_t packet_ns,
                       uint64_t *time_ns) {
  int64_t time = (int64_t)packet_ns - clock->epoch_offset;
  int64_t now = (int64_t)clock->now_ns;
  *time_ns = (uint64_t)(time < now ? time : now);
  /* A stamp may be later than the clock reading of this batch. */
  if (time <= now + STEP_MIN_NS && time >= now - STAMP_AGE_MAX_NS)
    return true;
  *time_ns = clock->now_ns;
  return false;
}

bool sonde_packet_clock_stamp(struct sonde_packet_clock *clock, uint64_t packet_ns,
                              uint64_t *time_ns) {
  if (packet_ns > STAMP_MAX_NS) {
    *time_ns = clock->now_ns;
    return false;
  }
  if (clock->live)
    return stamp_live(clock, packet_ns, time_ns);
  *time_ns = packet_ns;
  clock->leap_ns = packet_ns;
  if (packet_ns <= clock->now_ns) {
    clock->leap_packets = 0;
  } else if (packet_ns - clock->now_ns <= LEAP_NS || clock->now_ns == 0 ||
             ++clock->leap_packets >= LEAP_PACKETS) {
    clock->now_ns = packet_ns;
    clock->leap_packets = 0;
  }
  return true;
}

void sonde_packet_clock_finish(struct sonde_packet_clock *clock) {
  if (clock->leap_packets > 0)
    clock->now_ns = clock->leap_ns;
  clock->leap_packets = 0;
}
