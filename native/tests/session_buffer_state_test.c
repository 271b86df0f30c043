/* session_buffer_state_test.c - the capture buffer of a session whose source is simulated: drops
 * become gaps of queries, a key leaves nothing in clear, failures become events.
 *
 * No worker thread runs, so commands run on the test's thread and each step is complete when it
 * returns. The linker redirects the core's mlock to this file (see CMakeLists.txt).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/session_state.h"
#include "host/clock.h"
#include "store/seal.h"
#include "stored_packets.h"

enum { WORKERS = 2, ALLOCATED = WORKERS + 1 };
static const uint8_t key[32] = {1, 2, 3};
static struct sonde_decoder *decoder;
static uint64_t dropped;
static uint32_t stats_calls;

static int lock_errno; /* 0: memory for keys can be locked */

int __wrap_mlock(const void *memory, size_t bytes);
int __real_mlock(const void *memory, size_t bytes);

int __wrap_mlock(const void *memory, size_t bytes) {
  if (lock_errno == 0)
    return __real_mlock(memory, bytes);
  errno = lock_errno;
  return -1;
}

static void source_stats(struct sonde_backend *backend, struct sonde_backend_stats *stats) {
  (void)backend;
  stats->dropped = dropped;
  stats_calls++;
}

static const struct sonde_backend_ops source = {.stats = source_stats};

static struct sonde_session *make_session(void) {
  struct sonde_session *session = calloc(1, sizeof *session);
  struct sonde_session_config config = {.buffer_bytes = 16 << 20};
  struct sonde_error error;
  dropped = stats_calls = 0;
  static struct sonde_source first = {.ops = &source};
  session->ops = &source;
  session->state = SONDE_SESSION_RUNNING;
  session->names[0] = strcpy(session->slots[0].name, "eth0");
  session->slots[0].source = &first;
  session->slot_count = 1;
  session->worker_count = WORKERS;
  session->workers = aligned_alloc(64, ALLOCATED * sizeof *session->workers);
  memset(session->workers, 0, ALLOCATED * sizeof *session->workers);
  for (uint32_t i = 0; i < WORKERS; i++) {
    sonde_worker_init(&session->workers[i]);
    session->workers[i].number = i;
    session->workers[i].joined = true;
    session->workers[i].table = sonde_flow_table_create(
        &(struct sonde_flow_config){.flows_max = 16, .sink = sonde_worker_sink(session->workers)});
  }
  pthread_mutex_init(&session->control, NULL);
  pthread_mutex_init(&session->drops_lock, NULL);
  pthread_mutex_init(&session->info_lock, NULL);
  CHECK_EQ(sonde_events_init(&session->events), SONDE_OK);
  CHECK_EQ(sonde_session_buffer_open(session, &config, &error), SONDE_OK);
  CHECK(session->workers[WORKERS].appender == NULL); /* behind the last worker */
  return session;
}

static void release_session(struct sonde_session *session) {
  sonde_store_close(session->store);
  for (uint32_t i = 0; i < WORKERS; i++)
    sonde_worker_release(&session->workers[i]);
  sonde_events_release(&session->events);
  pthread_mutex_destroy(&session->drops_lock);
  pthread_mutex_destroy(&session->control);
  free(session->workers);
  free(session);
}

static void append(struct sonde_session *session, uint32_t worker, uint64_t from, uint64_t to) {
  struct sonde_appender *appender = session->workers[worker].appender;
  for (uint64_t number = from; number < to; number++)
    append_made(appender, decoder, number);
  sonde_appender_publish(appender);
}

/* Queries everything. Returns the number of packets. */
static uint64_t query(struct sonde_session *session, uint64_t end_ns,
                      struct sonde_packets_summary *summary) {
  static uint8_t buffer[SONDE_PACKETS_READ_MIN];
  struct sonde_packets *packets;
  struct sonde_error error;
  int status;
  CHECK_EQ(sonde_session_packets_open(session, NULL, 0, end_ns, 0, 0, &packets, &error), SONDE_OK);
  do
    status = sonde_session_packets_read(packets, buffer, sizeof buffer);
  while (status >= 0);
  CHECK_EQ(status, SONDE_END);
  sonde_session_packets_summary(packets, summary);
  sonde_session_packets_close(packets);
  return summary->packets;
}

static void drops_become_gaps(void) {
  struct sonde_packets_summary summary;
  uint64_t before_ns = sonde_clock_ns(CLOCK_REALTIME);
  struct sonde_session *session = make_session();
  uint64_t opened_ns = sonde_clock_ns(CLOCK_REALTIME);
  append(session, 0, 0, 10);
  session->state = SONDE_SESSION_OPEN; /* the source has not started */
  CHECK_EQ(query(session, 0, &summary), 10);
  CHECK_EQ(stats_calls, 0);
  session->state = SONDE_SESSION_RUNNING;
  CHECK_EQ(query(session, 0, &summary), 10); /* a query checks the source's drops */
  CHECK_EQ(stats_calls, 1);
  CHECK_EQ(summary.complete, 1);
  uint64_t checked_ns = sonde_clock_ns(CLOCK_REALTIME);
  dropped = 5;
  CHECK_EQ(query(session, 0, &summary), 10);
  CHECK_EQ(summary.complete, 0);
  CHECK_EQ(summary.gap_count, 1);
  CHECK_EQ(summary.gaps[0].reason, SONDE_GAP_DROPPED);
  CHECK(summary.gaps[0].from_ns >= opened_ns);
  CHECK(summary.gaps[0].from_ns <= checked_ns);
  CHECK(summary.gaps[0].to_ns >= checked_ns);
  uint64_t end_ns = sonde_clock_ns(CLOCK_REALTIME);
  CHECK(summary.gaps[0].to_ns <= end_ns);
  sonde_session_buffer_note_drops(session); /* no further drops */
  query(session, 0, &summary);
  CHECK(summary.gaps[0].to_ns <= end_ns);
  CHECK_EQ(query(session, before_ns, &summary), 10); /* the gap is later */
  CHECK_EQ(summary.complete, 1);
  release_session(session);

  session = make_session();
  dropped = 1;
  query(session, 0, &summary);
  CHECK_EQ(summary.gap_count, 1);
  CHECK(summary.gaps[0].from_ns >= end_ns); /* since the session was opened */
  release_session(session);
}

/* Counts markers in all packet bytes. */
static uint32_t count_markers(struct sonde_store *store) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < store->fresh; i++) {
    const uint8_t *at = sonde_chunk_data(sonde_store_chunk(store, i));
    const uint8_t *end = at + sonde_store_data_bytes(store);
    while (at < end && (at = memmem(at, (size_t)(end - at), MARKER, sizeof MARKER - 1))) {
      found++;
      at++;
    }
  }
  return found;
}

/* A call fails with a message, or clears the message of an earlier failure. */
static void errors_are_set_or_cleared(void) {
  struct sonde_session *session = make_session();
  const struct sonde_error cleared = {0};
  struct sonde_error error;
  struct sonde_packets *packets;
  CHECK_EQ(sonde_session_packets_open(session, "(", 0, 0, 0, 0, &packets, &error),
           SONDE_FILTER_INVALID);
  CHECK(error.detail[0] != '\0');
  CHECK_EQ(sonde_session_packets_open(session, "arp", 0, 0, 0, 0, &packets, &error), SONDE_OK);
  CHECK(memcmp(&error, &cleared, sizeof error) == 0);
  sonde_session_packets_close(packets);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "none", key, &error), SONDE_CIPHER_UNKNOWN);
  CHECK(error.detail[0] != '\0');
  CHECK_EQ(error.system_errno, 0);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_OK);
  CHECK(memcmp(&error, &cleared, sizeof error) == 0);
  release_session(session);
}

static void key_leaves_nothing_in_clear(void) {
  struct sonde_session *session = make_session();
  struct sonde_packets_summary summary;
  struct sonde_stats stats = {0};
  struct sonde_error error;
  for (uint32_t worker = 0; worker < WORKERS; worker++)
    append(session, worker, 0, 100);
  CHECK_EQ(count_markers(session->store), 200);
  CHECK_EQ(sonde_session_encryption_set(session, 1, NULL, key, &error), SONDE_CIPHER_UNKNOWN);
  CHECK_EQ(error.system_errno, 0);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", NULL, &error), SONDE_INVALID);
  CHECK_EQ(error.system_errno, 0);
  lock_errno = ENOMEM;
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_SYSTEM);
  CHECK_EQ(error.system_errno, ENOMEM);
  lock_errno = 0;
  CHECK_EQ(count_markers(session->store), 200);
  sonde_session_buffer_stats(session, &stats);
  CHECK_EQ(stats.encrypted, 0);

  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_OK);
  CHECK_EQ(count_markers(session->store), 0);
  sonde_session_buffer_stats(session, &stats);
  CHECK_EQ(stats.encrypted, 1);
  CHECK_EQ(stats.buffer_packets, 200);
  CHECK_EQ(stats.buffer_bytes_capacity, 16 << 20);
  CHECK(stats.buffer_bytes_used > 0);
  CHECK_EQ(stats.buffer_oldest_ns, made_start_ns);
  CHECK_EQ(stats.buffer_newest_ns, made_start_ns + 99 * made_step_ns);
  CHECK_EQ(query(session, 0, &summary), 200);
  CHECK_EQ(summary.complete, 1);

  /* After the key is turned off new packets stay in clear; the others stay sealed. */
  CHECK_EQ(sonde_session_encryption_set(session, 0, NULL, NULL, &error), SONDE_OK);
  append(session, 0, 100, 140);
  CHECK_EQ(count_markers(session->store), 40);
  sonde_session_buffer_stats(session, &stats);
  CHECK_EQ(stats.encrypted, 0);
  CHECK_EQ(query(session, 0, &summary), 240);
  CHECK_EQ(summary.complete, 1);
  release_session(session);
}

/* A chunk that was reused keeps old packets after the new ones, until a key wipes them. */
static void key_wipes_what_a_reused_chunk_kept(void) {
  struct sonde_session *session = make_session();
  struct sonde_error error;
  struct sonde_stats stats = {0};
  uint64_t number = 0;
  do {
    append(session, 0, number, number + 100);
    number += 100;
    sonde_session_buffer_stats(session, &stats);
  } while (stats.packets_overwritten == 0);
  CHECK(count_markers(session->store) > stats.buffer_packets);
  CHECK_EQ(sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error), SONDE_OK);
  CHECK_EQ(count_markers(session->store), 0);
  release_session(session);
}

static int fail_final(EVP_CIPHER_CTX *context, unsigned char *out, int *out_bytes) {
  (void)context, (void)out, (void)out_bytes;
  return 0;
}

static void failed_seal_is_an_event(void) {
  struct sonde_session *session = make_session();
  struct sonde_libcrypto broken = sonde_libcrypto_real;
  struct sonde_event events[8];
  struct sonde_stats stats = {0};
  struct sonde_error error;
  append(session, 0, 0, 100);
  CHECK_EQ(sonde_session_events(session, events, 8), 0);
  broken.final = fail_final;
  sonde_libcrypto = &broken;
  sonde_session_encryption_set(session, 1, "AES-256-GCM", key, &error);
  wait_until_idle(session->store);
  sonde_libcrypto = &sonde_libcrypto_real;
  CHECK_EQ(sonde_session_events(session, events, 8), 1);
  CHECK_EQ(events[0].kind, SONDE_EVENT_SEAL_FAILED);
  sonde_session_buffer_stats(session, &stats);
  CHECK_EQ(stats.packets_seal_lost, 100);
  CHECK_EQ(count_markers(session->store), 0);
  release_session(session);
}

static void session_without_a_buffer(void) {
  struct sonde_session session = {.ops = &source};
  const struct sonde_session_config config = {0};
  struct sonde_packets *packets;
  struct sonde_stats stats = {.encrypted = 7};
  struct sonde_error error;
  stats_calls = 0;
  CHECK_EQ(sonde_session_buffer_open(&session, &config, &error), SONDE_OK);
  CHECK(session.store == NULL);
  sonde_session_buffer_note_drops(&session);
  sonde_session_buffer_stats(&session, &stats);
  CHECK_EQ(stats_calls, 0);
  CHECK_EQ(stats.encrypted, 7);
  CHECK_EQ(sonde_session_packets_open(&session, NULL, 0, 0, 0, 0, &packets, &error), SONDE_STATE);
  CHECK_EQ(error.system_errno, 0);
  CHECK_EQ(sonde_session_encryption_set(&session, 1, "AES-256-GCM", key, &error), SONDE_STATE);
}

int main(void) {
  decoder = sonde_decoder_create(1, NULL);
  drops_become_gaps();
  errors_are_set_or_cleared();
  key_leaves_nothing_in_clear();
  key_wipes_what_a_reused_chunk_kept();
  failed_seal_is_an_event();
  session_without_a_buffer();
  sonde_decoder_destroy(decoder);
  return check_report();
}
