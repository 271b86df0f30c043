/* uptime_test.c - the window of a v5 or v9 message: exact limits, and an exporter that runs longer
 * than 49.7 days, after which 32 bits of milliseconds are used up.
 */
#include "check.h"
#include "export/netflow/uptime.h"

static const uint64_t START_MS = 1700000000500, DAY_MS = 86400000, MAX_MS = UINT32_MAX;
static const uint64_t BASE_MS = 1699999940000; /* a minute before the start, in whole seconds */

static struct sonde_uptime start(void) {
  struct sonde_uptime uptime;
  sonde_uptime_start(&uptime, START_MS * 1000000);
  return uptime;
}

/* The window of a record of one second that is sent at its end. */
static struct sonde_window send_at(struct sonde_uptime *uptime, uint64_t now_ms) {
  return sonde_uptime_window(uptime, now_ms - 1000, now_ms, now_ms, 1);
}

static void base_is_a_minute_before_the_start(void) {
  struct sonde_uptime uptime = start();
  struct sonde_window window = send_at(&uptime, START_MS + 1000);
  CHECK_EQ(window.base_ms, BASE_MS);
  CHECK_EQ(window.header_ms, START_MS + 1000);
  sonde_uptime_start(&uptime, 59999 * UINT64_C(1000000)); /* the epoch is the earliest base */
  CHECK_EQ(send_at(&uptime, 60000).base_ms, 0);
}

static void header_is_rounded_up(void) {
  struct sonde_uptime uptime = start();
  const uint64_t at_ms = START_MS + 60000; /* half a second after a whole one */
  CHECK_EQ(sonde_uptime_window(&uptime, at_ms, at_ms, at_ms, 1000).header_ms, at_ms + 500);
  CHECK_EQ(sonde_uptime_window(&uptime, at_ms, at_ms, at_ms + 500, 1000).header_ms, at_ms + 500);
  CHECK_EQ(sonde_uptime_window(&uptime, at_ms, at_ms, at_ms + 501, 1000).header_ms, at_ms + 1500);
  CHECK_EQ(sonde_uptime_window(&uptime, at_ms, at_ms + 7, at_ms, 1).header_ms, at_ms + 7);
}

static void first_record_sets_an_unknown_base(void) {
  struct sonde_uptime uptime;
  sonde_uptime_start(&uptime, 0);
  struct sonde_window window = sonde_uptime_window(&uptime, START_MS, START_MS, START_MS, 1);
  CHECK_EQ(window.base_ms, START_MS - 500 - DAY_MS);
  CHECK_EQ(send_at(&uptime, START_MS + 3 * DAY_MS).base_ms, window.base_ms);
}

static void base_moves_once_after_49_days(void) {
  struct sonde_uptime uptime = start();
  CHECK_EQ(send_at(&uptime, BASE_MS + MAX_MS).base_ms, BASE_MS); /* the last millisecond */
  uint64_t late_ms = BASE_MS + MAX_MS + 1;
  uint64_t moved_ms = (late_ms - DAY_MS) / 1000 * 1000;
  CHECK_EQ(send_at(&uptime, late_ms).base_ms, moved_ms);
  CHECK_EQ(send_at(&uptime, late_ms + DAY_MS).base_ms, moved_ms); /* and then stays */
  CHECK_EQ(send_at(&uptime, moved_ms + MAX_MS).base_ms, moved_ms);
  CHECK(send_at(&uptime, moved_ms + MAX_MS + 1).base_ms > moved_ms + MAX_MS - 2 * DAY_MS);
}

/* The base of a message with an older flow is a day back, or the flow's start. */
static void older_flow_moves_the_base_back(void) {
  struct sonde_uptime uptime = start();
  uint64_t first_ms = BASE_MS - 1;
  struct sonde_window window = sonde_uptime_window(&uptime, first_ms, START_MS, START_MS, 1);
  CHECK_EQ(window.base_ms, START_MS - 500 - DAY_MS);
  CHECK(sonde_window_holds(&window, first_ms, START_MS));
  CHECK_EQ(send_at(&uptime, START_MS + 1000).base_ms, window.base_ms);
}

/* Up to the limit an older flow moves the base. Beyond it the window is for one message alone. */
static void far_record_has_its_own_window(void) {
  struct sonde_uptime uptime = start();
  uint64_t now_ms = START_MS + 3 * DAY_MS;
  uint64_t limit_ms = MAX_MS - DAY_MS - 1000;
  struct sonde_window far =
      sonde_uptime_window(&uptime, now_ms - limit_ms - 1, now_ms - limit_ms + 9, now_ms, 1000);
  CHECK_EQ(far.base_ms, (now_ms - limit_ms - 1) / 1000 * 1000);
  CHECK_EQ(far.header_ms, (now_ms - limit_ms + 9 + 999) / 1000 * 1000);
  CHECK_EQ(send_at(&uptime, now_ms).base_ms, BASE_MS);
  struct sonde_window near =
      sonde_uptime_window(&uptime, now_ms - limit_ms, now_ms - limit_ms + 9, now_ms, 1);
  CHECK_EQ(near.base_ms, (now_ms - limit_ms) / 1000 * 1000);
  CHECK_EQ(near.header_ms, now_ms);
  CHECK_EQ(send_at(&uptime, now_ms).base_ms, near.base_ms);
}

/* A record of more than 49 days: its end is right, its start is cut. */
static void record_longer_than_the_clock_is_cut(void) {
  struct sonde_uptime uptime = start();
  uint64_t last_ms = START_MS + 60 * DAY_MS;
  struct sonde_window window = sonde_uptime_window(&uptime, START_MS, last_ms, last_ms, 1);
  CHECK_EQ(window.header_ms, last_ms);
  CHECK_EQ(window.base_ms, (last_ms - MAX_MS + 999) / 1000 * 1000);
  CHECK(!sonde_window_holds(&window, START_MS, last_ms));
  uint64_t first_ms = last_ms / 1000 * 1000 + 1000 - MAX_MS / 1000 * 1000; /* just fits */
  window = sonde_uptime_window(&uptime, first_ms, last_ms, last_ms, 1);
  CHECK_EQ(window.base_ms, first_ms);
}

static void window_holds_its_limits(void) {
  const struct sonde_window window = {.base_ms = 1000, .header_ms = 3000};
  CHECK(sonde_window_holds(&window, 1000, 3000));
  CHECK(!sonde_window_holds(&window, 999, 3000));
  CHECK(!sonde_window_holds(&window, 1000, 3001));
}

int main(void) {
  base_is_a_minute_before_the_start();
  header_is_rounded_up();
  first_record_sets_an_unknown_base();
  base_moves_once_after_49_days();
  older_flow_moves_the_base_back();
  far_record_has_its_own_window();
  record_longer_than_the_clock_is_cut();
  window_holds_its_limits();
  return check_report();
}
