/* events_test.c - a session's queue of events: order, the limit, and details that are too long. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core/events.h"

static struct sonde_events events;

static void the_oldest_make_room(void) {
  struct sonde_event taken[SONDE_EVENTS_MAX + 1];
  for (int64_t number = 0; number < SONDE_EVENTS_MAX + 3; number++)
    sonde_events_push(&events, SONDE_EVENT_FINISHED, number, NULL);
  CHECK_EQ(sonde_events_take(&events, taken, 2), 2);
  CHECK_EQ(taken[0].value, 3);
  CHECK_EQ(taken[1].value, 4);
  CHECK(taken[0].time_ns > 0 && taken[0].time_ns <= taken[1].time_ns);
  CHECK_EQ(taken[0].kind, SONDE_EVENT_FINISHED);
  CHECK_EQ(taken[0].detail[0], 0);
  CHECK_EQ(sonde_events_take(&events, taken, SONDE_EVENTS_MAX + 1), SONDE_EVENTS_MAX - 2);
  CHECK_EQ(taken[SONDE_EVENTS_MAX - 3].value, SONDE_EVENTS_MAX + 2);
  CHECK_EQ(sonde_events_take(&events, taken, 1), 0);
}

/* A detail keeps all its room but the final zero. */
static void long_details_are_cut(void) {
  struct sonde_event event;
  char detail[2 * sizeof event.detail];
  memset(detail, 'x', sizeof detail);
  for (size_t length = sizeof event.detail - 2; length <= sizeof event.detail + 1; length++) {
    size_t kept = length < sizeof event.detail ? length : sizeof event.detail - 1;
    detail[length] = 0;
    sonde_events_push(&events, SONDE_EVENT_FINISHED, 0, detail);
    CHECK_EQ(sonde_events_take(&events, &event, 1), 1);
    CHECK_EQ(strnlen(event.detail, sizeof event.detail), kept);
    detail[length] = 'x';
  }
}

int main(void) {
  CHECK_EQ(sonde_events_init(&events), 0);
  the_oldest_make_room();
  long_details_are_cut();
  sonde_events_release(&events);
  return check_report();
}
