/* packet_clock_test.c - a live capture's clock with simulated system clocks.
 *
 * The core calls this file's clock_gettime. Each call takes a moment of simulated time, and the
 * thread can be stopped before any call.
 */
#include <time.h>

#include "check.h"
#include "core/packet_clock.h"

static const int64_t SECOND = 1000000000, LOOK_NS = 30;
static int64_t monotonic_ns = 1000000000000, wall_offset_ns = 1700000000000000000;
static int64_t stopped_ns; /* duration of the stop */
static int stopped_at;     /* number of calls from now until the stop, 0: no stop */

int clock_gettime(clockid_t id, struct timespec *time) {
  if (stopped_at > 0 && --stopped_at == 0)
    monotonic_ns += stopped_ns;
  monotonic_ns += LOOK_NS;
  int64_t now = id == CLOCK_REALTIME ? monotonic_ns + wall_offset_ns : monotonic_ns;
  *time = (struct timespec){.tv_sec = now / SECOND, .tv_nsec = now % SECOND};
  return 0;
}

static void expect_no_step(struct sonde_packet_clock *clock) {
  sonde_packet_clock_tick(clock);
  CHECK_EQ(clock->stepped_ns, 0);
  CHECK_EQ(clock->epoch_offset, 0);
}

static void stopped_thread_is_not_a_step(void) {
  stopped_ns = SECOND / 5;
  for (int look = 1; look <= 3; look++) {
    struct sonde_packet_clock clock;
    stopped_at = look;
    sonde_packet_clock_start(&clock, true);
    stopped_at = 0;
    expect_no_step(&clock);
    for (int turn = 0; turn < 3; turn++) {
      stopped_at = look;
      expect_no_step(&clock);
      stopped_at = 0;
      expect_no_step(&clock);
    }
  }
}

static void step_is_detected(void) {
  static const int64_t steps[] = {3600, -3600, 1};
  struct sonde_packet_clock clock;
  uint64_t time_ns;
  sonde_packet_clock_start(&clock, true);
  for (int i = 0; i < 3; i++) {
    uint64_t before_ns = clock.now_ns;
    int64_t offset = clock.epoch_offset;
    wall_offset_ns += steps[i] * SECOND;
    sonde_packet_clock_tick(&clock);
    CHECK(clock.stepped_ns / 1000 == steps[i] * SECOND / 1000);
    CHECK((clock.epoch_offset - offset) / 1000 == steps[i] * SECOND / 1000);
    CHECK(clock.now_ns - before_ns < 1000); /* flow times do not step */
    uint64_t packet_ns = (uint64_t)(monotonic_ns + wall_offset_ns);
    CHECK(sonde_packet_clock_stamp(&clock, packet_ns, &time_ns));
    CHECK(time_ns <= clock.now_ns && clock.now_ns - time_ns < 1000);
    clock.stepped_ns = 0;
  }
}

/* Deadlines are times plus an offset, so there is a latest valid time. */
static void time_beyond_the_maximum_is_rejected(void) {
  const uint64_t now_ns = UINT64_C(1700000000) * 1000000000;
  for (int live = 0; live < 2; live++) {
    static const uint64_t far[] = {UINT64_C(1) << 63, (UINT64_C(1) << 63) - 1, UINT64_MAX};
    struct sonde_packet_clock clock;
    uint64_t time_ns;
    sonde_packet_clock_start(&clock, live);
    CHECK(live || sonde_packet_clock_stamp(&clock, now_ns, &time_ns));
    for (int i = 0; i < 100; i++) {
      CHECK(!sonde_packet_clock_stamp(&clock, far[i % 3], &time_ns));
      CHECK_EQ(time_ns, clock.now_ns);
      CHECK(live || clock.now_ns == now_ns);
    }
  }
}

/* A stamp may be 50 ms later than the clock and a minute older. A later one counts as now. */
static void stamps_have_exact_limits(void) {
  static const struct {
    int64_t offset_ns;
    bool accepted;
  } rows[] = {{0, true},       {50000000, true},     {50000001, false},
              {-SECOND, true}, {-60 * SECOND, true}, {-60 * SECOND - 1, false}};
  struct sonde_packet_clock clock;
  sonde_packet_clock_start(&clock, true);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint64_t time_ns, packet_ns = clock.now_ns + (uint64_t)rows[i].offset_ns;
    CHECK_EQ(sonde_packet_clock_stamp(&clock, packet_ns, &time_ns), rows[i].accepted);
    bool older = rows[i].accepted && rows[i].offset_ns < 0;
    CHECK_EQ(time_ns, older ? packet_ns : clock.now_ns);
  }
}

/* In a file a leap of more than an hour counts once 16 packets agree. */
static void leap_needs_sixteen_packets(void) {
  const uint64_t start_ns = 1700000000000000000, hour_ns = 3600 * (uint64_t)SECOND;
  struct sonde_packet_clock clock;
  uint64_t time_ns;
  sonde_packet_clock_start(&clock, false);
  CHECK(sonde_packet_clock_stamp(&clock, start_ns, &time_ns));
  CHECK_EQ(clock.now_ns, start_ns);
  CHECK(sonde_packet_clock_stamp(&clock, start_ns + hour_ns, &time_ns));
  CHECK_EQ(clock.now_ns, start_ns + hour_ns);
  uint64_t far_ns = clock.now_ns + hour_ns + 1;
  for (int packet = 1; packet <= 16; packet++) {
    CHECK(sonde_packet_clock_stamp(&clock, far_ns, &time_ns));
    CHECK_EQ(time_ns, far_ns);
    CHECK_EQ(clock.now_ns, packet < 16 ? start_ns + hour_ns : far_ns);
  }
  CHECK(sonde_packet_clock_stamp(&clock, far_ns + 2 * hour_ns, &time_ns));
  CHECK(sonde_packet_clock_stamp(&clock, far_ns, &time_ns)); /* not in a row */
  sonde_packet_clock_finish(&clock);
  CHECK_EQ(clock.now_ns, far_ns);
  CHECK(sonde_packet_clock_stamp(&clock, far_ns + 2 * hour_ns, &time_ns));
  sonde_packet_clock_finish(&clock); /* the end of the file */
  CHECK_EQ(clock.now_ns, far_ns + 2 * hour_ns);
}

int main(void) {
  stamps_have_exact_limits();
  leap_needs_sixteen_packets();
  time_beyond_the_maximum_is_rejected();
  stopped_thread_is_not_a_step();
  step_is_detected();
  return check_report();
}
