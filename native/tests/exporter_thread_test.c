/* exporter_thread_test.c - the loop of the export thread on a simulated clock: how long it sleeps,
 * when records are sent or dropped, and what statistics and a flush report.
 */
#include "simulated_exporter.h"

/* ---- sleeping --------------------------------------------------------------------------- */

static uint64_t step_of_lingering(int number, uint64_t asked) {
  struct sonde_collector *collector = exporter->collectors[0];
  switch (number) {
  case 0: /* nothing to do */
    CHECK_EQ(asked, SECOND);
    put(0, 3);
    CHECK(signalled(&session->export_wake));
    return 5 * MS;
  case 1: /* a few records wait for more, whose arrival needs no system call */
    CHECK_EQ(asked, 20 * MS);
    CHECK_EQ(received(), 0);
    put(1, 2);
    CHECK(!signalled(&session->export_wake));
    return 8 * MS;
  case 2: /* more records do not extend the wait */
    CHECK_EQ(asked, 12 * MS);
    CHECK_EQ(received(), 0);
    return asked;
  case 3:
    CHECK_EQ(received(), 5);
    CHECK_EQ(asked, SECOND);
    put(0, 200);
    put(1, 55);
    return 1 * MS;
  case 4: /* the wait starts with the batch's first record */
    CHECK_EQ(asked, 20 * MS);
    CHECK_EQ(received(), 0);
    put(1, 1);
    return 1 * MS;
  case 5: /* 256 records wait no longer */
    CHECK_EQ(received(), 256);
    CHECK_EQ(asked, SECOND);
    put_silently(0, 1); /* just before the sleep ends */
    return asked;
  case 6:
    CHECK_EQ(asked, 20 * MS);
    CHECK_EQ(received(), 0);
    sonde_wake_signal(&session->export_wake);
    CHECK(!signalled(&session->export_wake));
    atomic_store(&session->state, SONDE_SESSION_STOPPED);
    return 1 * MS;
  default: /* after stop no more records can arrive */
    CHECK_EQ(received(), 1);
    CHECK_EQ(asked, SECOND);
    CHECK_EQ(collector->stats.records_sent, 262);
    for (uint32_t i = 0; i < WORKERS; i++)
      CHECK_EQ(sonde_ring_waiting(&session->workers[i].ring), 0);
    end();
    return 0;
  }
}

static uint64_t step_of_waking(int number, uint64_t asked) {
  static const uint32_t counts[] = {700, 600, RING - 700 + 256};
  CHECK_EQ(asked, SECOND);
  CHECK(!signalled(&session->export_wake)); /* the thread reads the descriptor after each wake */
  CHECK_EQ(received(), number ? counts[number - 1] : 0); /* all, also across the end of a ring */
  if (number == 3)
    end();
  else
    put((uint32_t)number % 2, counts[number]);
  return number == 2 ? asked : 0;
}

/* ---- flush ------------------------------------------------------------------------------ */

static uint64_t step_of_flush(int number, uint64_t asked) {
  struct sonde_collector *collector = exporter->collectors[0];
  switch (number) {
  case 0:
    put(0, 7);
    exporter->flush_requested = 1;
    atomic_store(&exporter->urgent, true);
    return 1 * MS;
  case 1: /* no lingering; the flush is done once everything is sent */
    CHECK_EQ(received(), 7);
    CHECK_EQ(asked, SECOND);
    CHECK_EQ(exporter->flush_done, 1);
    CHECK(!atomic_load(&exporter->urgent));
    stall(collector);
    put(0, 7);
    exporter->flush_requested = 2;
    atomic_store(&exporter->urgent, true);
    return 1 * MS;
  case 2: /* encoded, but the pace does not allow the message yet */
    CHECK_EQ(received(), 0);
    CHECK_EQ(lag(collector, 0), 0);
    CHECK_EQ(exporter->flush_done, 1);
    CHECK(atomic_load(&exporter->urgent));
    put(0, 7);
    collector->pace = SECOND;
    return SECOND / 2;
  default:
    CHECK_EQ(received(), 14);
    CHECK_EQ(exporter->flush_done, 2);
    end();
    return 0;
  }
}

/* The thread looks again before it sleeps: nothing that happens after its last look at the rings
 * is missed. */
static void request_flush(void) {
  exporter->flush_requested++;
  atomic_store(&exporter->urgent, true);
}

static void put_three(void) {
  put(0, 3);
}

static uint64_t step_of_late_records(int number, uint64_t asked) {
  if (number == 0) {
    request_flush();
    at_second_lock = put_three;
  } else {
    CHECK_EQ(asked, 20 * MS);
    end();
  }
  return 1 * MS;
}

static uint64_t step_of_late_flush(int number, uint64_t asked) {
  CHECK_EQ(asked, SECOND);
  CHECK_EQ(exporter->flush_done, number * 2);
  CHECK(!atomic_load(&exporter->urgent));
  if (number == 0) {
    request_flush();
    at_second_lock = request_flush;
  } else {
    end();
  }
  return 1 * MS;
}

static uint64_t step_of_late_end(int number, uint64_t asked) {
  CHECK_EQ(number, 0);
  CHECK_EQ(asked, SECOND);
  request_flush();
  at_second_lock = end;
  return 1 * MS;
}

/* After stop, the flows that are left become records, which wake the stream's reader too. */
static uint64_t step_of_stop(int number, uint64_t asked) {
  struct sonde_delta delta = {
      .key = {.lo_ip = {10, 0, 0, 1}, .hi_ip = {10, 0, 0, 2}, .ip_version = 4, .protocol = 17},
      .first_ns = {WALL},
      .last_ns = {WALL},
      .packets = {4},
      .ip_bytes = {400},
      .frames = 4,
  };
  struct sonde_packet packets[] = {
      {.linktype = SONDE_LINKTYPE_DELTA, .caplen = sizeof delta, .data = (const uint8_t *)&delta},
      {.linktype = SONDE_LINKTYPE_DELTA, .time_ns = WALL},
  };
  CHECK_EQ(asked, SECOND);
  switch (number) {
  case 0:
    sonde_wake_arm(&session->events.wake);
    sonde_worker_merge(&session->workers[1], packets, 2);
    return asked;
  case 1: /* a flow of a running session stays */
    CHECK_EQ(received(), 0);
    CHECK(!signalled(&session->events.wake));
    atomic_store(&session->state, SONDE_SESSION_STOPPED);
    return asked;
  default:
    CHECK_EQ(received(), 1);
    CHECK(signalled(&session->events.wake));
    CHECK_EQ(exporter->collectors[0]->stats.packets_sent, 4);
    end();
    return 0;
  }
}

/* ---- several collectors and rings ------------------------------------------------------- */

static uint32_t released(uint32_t worker) {
  return atomic_load(&session->workers[worker].ring.consumers[SONDE_RING_EXPORT].tail);
}

/* The second collector's batch is full after two messages. */
static uint64_t step_of_slowest(int number, uint64_t asked) {
  struct sonde_collector *fast = exporter->collectors[0], *slow = exporter->collectors[1];
  switch (number) {
  case 0:
    stall(slow);
    slow->messages.capacity = 3000;
    put(0, 300);
    put(1, 280);
    return 0;
  case 1:
    CHECK_EQ(asked, SECOND); /* at most, also if the next message is due in years */
    CHECK_EQ(received(), 580);
    CHECK_EQ(fast->stats.records_sent, 580);
    CHECK(slow->positions[0] > 0);
    CHECK(slow->positions[0] < 100);
    CHECK_EQ(slow->positions[1], 0);
    CHECK_EQ(released(0), slow->positions[0]);
    CHECK_EQ(released(1), 0);
    CHECK_EQ(lag(slow, 0) + lag(slow, 1), 580 - slow->positions[0]);
    slow->pace = SECOND;
    return SECOND;
  case 2: /* one ring after the other; the last records wait for more */
    CHECK_EQ(asked, 20 * MS);
    CHECK_EQ(received(), slow->positions[0] + slow->positions[1]);
    CHECK_EQ(slow->positions[0], 300);
    exporter->flush_requested = 1;
    atomic_store(&exporter->urgent, true);
    return 1 * MS;
  default: /* nothing twice, nothing missing */
    CHECK_EQ(received(), 580 - 300 - 28);
    CHECK_EQ(slow->stats.records_sent, 580);
    CHECK_EQ(released(0), 300);
    CHECK_EQ(released(1), 280);
    CHECK_EQ(exporter->published.count, 2);
    CHECK_EQ(exporter->published.stats[1].records_sent, 580);
    end();
    return 0;
  }
}

/* The thread sleeps until the first of several collectors is due. */
static uint64_t step_of_soonest(int number, uint64_t asked) {
  struct sonde_collector *first = exporter->collectors[0], *second = exporter->collectors[1];
  if (number == 0) {
    stall(first);
    stall(second);
    first->pace = 72 * 5;
    second->pace = 72 * 10;
    put(0, 1);
    return 20 * MS;
  }
  if (number == 1) {
    CHECK_EQ(asked, 20 * MS);
    return asked;
  }
  if (number == 2) {
    CHECK(asked > 50 * MS);
    CHECK(asked < 80 * MS);
    return asked;
  }
  CHECK_EQ(received(), number == 3);
  if (number == 3)
    CHECK(asked > 80 * MS);
  end();
  return asked;
}

static uint64_t step_of_nobody(int number, uint64_t asked) {
  CHECK_EQ(asked, SECOND);
  if (number == 0)
    put(0, 5);
  else
    end();
  CHECK_EQ(released(0), 0);
  return asked;
}

/* ---- a backlog -------------------------------------------------------------------------- */

static uint64_t step_of_backlog(int number, uint64_t asked) {
  struct sonde_collector *collector = exporter->collectors[0];
  const uint64_t *lost = &collector->stats.records_lost_no_room;
  switch (number) {
  case 0:
    stall(collector);
    put(0, 256); /* the batch */
    return 0;
  case 1:
    CHECK_EQ(lag(collector, 0), 0);
    put(0, 512); /* more than half a ring, from now on */
    put(1, 511);
    return 0;
  case 2:
    return SECOND - 1;
  case 3: /* not yet for a second */
    CHECK_EQ(*lost, 0);
    put(0, 1);
    return 1;
  case 4: /* the newest quarter of a ring is kept; the other worker's ring is not behind */
    CHECK_EQ(*lost, 513 - 256);
    CHECK_EQ(collector->stats.packets_lost, *lost);
    CHECK_EQ(lag(collector, 0), 256);
    CHECK_EQ(lag(collector, 1), 511);
    CHECK_EQ(released(0), collector->positions[0]);
    return 0;
  case 5:
    put(0, 704);
    return 0;
  case 6: /* a sixteenth of the ring is free */
    CHECK_EQ(*lost, 257);
    put(0, 1);
    return 0;
  case 7: /* nearly full: dropped at once */
    CHECK_EQ(*lost, 257 + 961 - 256);
    CHECK_EQ(lag(collector, 0), 256);
    put(0, 300);
    return 0;
  case 8:
    return 600 * MS;
  case 9: /* the collector catches up */
    CHECK_EQ(*lost, 962);
    collector->pace = 125000000;
    return 100 * MS;
  case 10:
    CHECK_EQ(asked, SECOND);
    CHECK_EQ(lag(collector, 0) + lag(collector, 1), 0);
    stall(collector);
    put(0, 256);
    return 0;
  case 11:
    put(1, 600);
    return 0;
  case 12:
    return 600 * MS;
  case 13: /* behind for 0.6 s again, not for 1.3 s */
    CHECK_EQ(*lost, 962);
    CHECK_EQ(lag(collector, 1), 600);
    put(0, 1);
    return 400 * MS;
  default:
    CHECK_EQ(*lost, 962 + 600 - 256);
    CHECK_EQ(lag(collector, 0), 1);
    end();
    return 0;
  }
}

/* The records of a file, or of a session that was stopped, are never dropped. */
static uint64_t step_of_patient_source(int number, uint64_t asked) {
  struct sonde_collector *collector = exporter->collectors[0];
  if (number == 0)
    stall(collector);
  if (number < 2)
    put(0, number == 0 ? 256 : RING);
  CHECK_EQ(asked, SECOND);
  CHECK_EQ(collector->stats.records_lost_no_room, 0);
  if (number == 5)
    end();
  return number < 2 ? 0 : asked;
}

/* Refusals that arrive while a few records wait for more are counted before those are sent. */
static uint64_t step_of_refusal(int number, uint64_t asked) {
  switch (number) {
  case 0:
    put(0, 256);
    return 1 * MS;
  case 1:
    close(receiver);
    for (int i = 0; i < 2; i++) {
      CHECK_EQ(exporter->collectors[i]->stats.records_sent, 256);
      CHECK_EQ(send(exporter->collectors[i]->fd, "x", 1, 0), 1);
    }
    put_silently(0, 1);
    return 1 * MS;
  case 2:
    CHECK_EQ(asked, 20 * MS);
    for (int i = 0; i < 2; i++) {
      CHECK_EQ(exporter->collectors[i]->stats.refusals, 1);
      CHECK_EQ(exporter->collectors[i]->stats.records_lost_refused, 256 % V5_RECORDS);
    }
    return asked;
  default: /* the refusal of the last message is counted before the thread sleeps */
    CHECK_EQ(asked, SECOND);
    for (int i = 0; i < 2; i++) {
      CHECK_EQ(exporter->collectors[i]->stats.refusals, 2);
      CHECK_EQ(exporter->collectors[i]->stats.records_lost_refused, 256 % V5_RECORDS + 1);
    }
    end();
    return 0;
  }
}

/* ---- statistics ------------------------------------------------------------------------- */

static void check_number(const struct sonde_decoded_message *message, const char *name,
                         uint64_t expected) {
  char text[64];
  snprintf(text, sizeof text, "\"%s\":%llu", name, (unsigned long long)expected);
  const char *found = memmem(message->text, message->text_bytes, text, strlen(text));
  CHECK(found && (found[strlen(text)] == ',' || found[strlen(text)] == '}'));
  if (!found)
    fprintf(stderr, "%s is not in %.*s\n", text, (int)message->text_bytes, message->text);
}

/* Returns the number of statistics messages received. Checks the last one. */
static int read_statistics(uint64_t packets_ignored, uint64_t bytes_ignored) {
  struct sonde_export_decoder *decoder = sonde_export_decoder_create();
  struct sonde_decoded_message decoded;
  uint8_t message[2048];
  int count = 0;
  for (ssize_t bytes; (bytes = recv(receiver, message, sizeof message, 0)) > 0; count++) {
    CHECK_EQ(sonde_export_decode(decoder, 0, message, (uint32_t)bytes, &decoded), 0);
    check_number(&decoded, "packets_ignored", packets_ignored);
    check_number(&decoded, "bytes_ignored", bytes_ignored);
    check_number(&decoded, "records_lost", packets_ignored ? 11 : 0);
    check_number(&decoded, "packets_lost", packets_ignored ? 22 : 0);
  }
  sonde_export_decoder_destroy(decoder);
  return count;
}

static uint64_t step_of_statistics(int number, uint64_t asked) {
  struct sonde_worker_counters *counters = &session->workers[1].published;
  CHECK_EQ(asked, SECOND);
  if (number == 0) { /* dropped packets before the first captured one have no known size */
    CHECK_EQ(read_statistics(0, 0), 2);
    dropped = 50;
    counters->packets_captured = 100;
    counters->packets_non_flow = 20;
    counters->flow.ip_bytes = 8000;
    counters->flow.records_dropped = 11;
    counters->flow.packets_records_dropped = 22;
  } else if (number == 60) { /* the mean of the 80 packets in flows is 100 bytes */
    CHECK_EQ(read_statistics(50, 5000), 1);
    end();
  } else {
    CHECK_EQ(read_statistics(0, 0), 0);
  }
  return asked;
}

int main(void) {
  static const struct {
    uint64_t (*test)(int number, uint64_t asked);
    int steps, version, collectors;
    bool live;
    enum sonde_session_state state;
  } tests[] = {
      {step_of_lingering, 8, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_waking, 4, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_flush, 4, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_late_records, 2, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_late_flush, 2, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_late_end, 1, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_stop, 3, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_slowest, 4, 5, 2, true, SONDE_SESSION_RUNNING},
      {step_of_soonest, 4, 5, 2, true, SONDE_SESSION_RUNNING},
      {step_of_nobody, 2, 5, 0, true, SONDE_SESSION_RUNNING},
      {step_of_backlog, 15, 5, 1, true, SONDE_SESSION_RUNNING},
      {step_of_patient_source, 6, 5, 1, false, SONDE_SESSION_RUNNING},
      {step_of_patient_source, 6, 5, 1, true, SONDE_SESSION_STOPPED},
      {step_of_statistics, 61, 10, 1, true, SONDE_SESSION_RUNNING},
      {step_of_refusal, 4, 5, 2, true, SONDE_SESSION_RUNNING}, /* closes the receiver */
  };
  listen_on_loopback();
  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    make_session();
    while (recv(receiver, &(char){0}, 1, 0) > 0) /* a datagram that an earlier test left */
      ;
    session->info.live = tests[i].live;
    session->state = tests[i].state;
    for (int added = 0; added < tests[i].collectors; added++)
      add_collector(tests[i].version);
    unsigned long failures = check_failures;
    run(tests[i].test, tests[i].steps);
    if (check_failures > failures)
      fprintf(stderr, "the failures above are of test %zu\n", i);
    release_session();
  }
  return check_report();
}
