/* seal_test.c - no packet remains in clear: chunks in memory under a key, a key that changes, a
 * libcrypto that fails, and a marker that must not be found.
 */
#include <time.h>

#include "host/clock.h"
#include "store/seal.h"
#include "stored_packets.h"

static struct store_events store_events;
static struct sonde_decoder *decoder;
static const uint8_t key_one[32] = {1, 2, 3}, key_two[32] = {4, 5, 6};

static struct sonde_store *open_store(void) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {
      .bytes = 16 << 20, .workers = 1, .raise = note_event, .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  return store;
}

static void append(struct sonde_store *store, uint64_t from, uint64_t to) {
  struct sonde_appender *appender = sonde_store_appender(store, 0);
  for (uint64_t number = from; number < to; number++)
    append_made(appender, decoder, number);
  sonde_appender_publish(appender);
}

/* Does the steps of enabling: key, cut, wipe, seal. */
static void set_key(struct sonde_store *store, const uint8_t *key) {
  struct sonde_error error = {0};
  CHECK_EQ(sonde_store_key_set(store, key, &error), SONDE_OK);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  if (key) {
    sonde_appender_wipe(sonde_store_appender(store, 0));
    CHECK_EQ(sonde_store_seal_all(store, &error), SONDE_OK);
  }
}

/* Counts markers in all packet bytes, also while threads use them. */
static uint32_t count_markers(const struct sonde_store *store) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < store->fresh; i++) {
    struct sonde_chunk *chunk = sonde_store_chunk(store, i);
    const uint8_t *at = sonde_chunk_data(chunk), *end = at + sonde_store_data_bytes(store);
    pthread_mutex_lock(&chunk->data_lock);
    while (at < end && (at = memmem(at, (size_t)(end - at), MARKER, sizeof MARKER - 1))) {
      found++;
      at++;
    }
    pthread_mutex_unlock(&chunk->data_lock);
  }
  return found;
}

/* Checks that packets from … to-1 are returned, whole and in order. */
static void check_all(struct sonde_store *store, uint64_t from, uint64_t to, bool complete) {
  struct sonde_query *query;
  struct sonde_error error = {0};
  struct sonde_packets_summary summary;
  struct sonde_packet packet;
  struct sonde_query_config config = {.end_ns = UINT64_MAX};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  uint64_t number = from;
  for (; next_answer(&answer, &packet); number++)
    check_packet(&packet, 0, number);
  CHECK_EQ(number, to);
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.complete, complete);
  free(answer.bytes);
  sonde_query_close(query);
}

static void test_enable_midway(void) {
  struct sonde_store *store = open_store();
  append(store, 0, 5000);
  CHECK(count_markers(store) > 4000);
  set_key(store, key_one);
  CHECK_EQ(count_markers(store), 0);
  check_all(store, 0, 5000, true);
  CHECK_EQ(count_markers(store), 0);

  /* The worker cuts an open chunk when it is a second old. Then it is sealed. */
  append(store, 5000, 6000);
  uint64_t appended_ns = sonde_clock_ns(CLOCK_MONOTONIC), now_ns;
  do {
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    now_ns = sonde_clock_ns(CLOCK_MONOTONIC);
    sonde_appender_turn(sonde_store_appender(store, 0));
  } while (now_ns - appended_ns < 1000000000);
  wait_until_idle(store);
  CHECK_EQ(count_markers(store), 0);
  check_all(store, 0, 6000, true);

  /* Rotation: chunks of the old key remain readable. Then sealing is turned off again. */
  append(store, 6000, 7000);
  set_key(store, key_two);
  append(store, 7000, 12000);
  set_key(store, key_two);
  CHECK_EQ(count_markers(store), 0);
  check_all(store, 0, 12000, true);
  set_key(store, NULL);
  append(store, 12000, 13000);
  CHECK(count_markers(store) > 900);
  check_all(store, 0, 13000, true);
  sonde_store_close(store);
}

/* Fills the buffer three times under a key. */
static void test_wrap(void) {
  struct sonde_store *store = open_store();
  struct sonde_store_stats stats;
  set_key(store, key_one);
  for (uint64_t number = 0; number < 70000; number += 1000) {
    append(store, number, number + 1000);
    wait_until_idle(store); /* the sealer keeps up, also on a busy machine */
  }
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  wait_until_idle(store);
  CHECK_EQ(count_markers(store), 0);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.packets + stats.packets_overwritten, 70000);
  CHECK_EQ(stats.packets_unrecorded, 0);
  CHECK(stats.chunks_overwritten > 20);
  check_all(store, 70000 - stats.packets, 70000, false);

  /* Packets arrive faster than the sealer works: some may be lost, none is in clear. */
  append(store, 70000, 140000);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  wait_until_idle(store);
  CHECK_EQ(count_markers(store), 0);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.packets + stats.packets_overwritten + stats.packets_unrecorded, 140000);
  sonde_store_close(store);
}

/* Reused chunks hold old packets after the new ones: in the open chunk, and after the last packet
 * of each full one. */
static void test_wrapped_in_clear(void) {
  struct sonde_store *store = open_store();
  struct sonde_error error = {0};
  append(store, 0, 70000);
  CHECK(count_markers(store) > 10000);
  set_key(store, key_one);
  CHECK_EQ(count_markers(store), 0);

  /* The worker reuses a chunk in clear before it is sealed. */
  set_key(store, NULL);
  append(store, 70000, 140000);
  CHECK_EQ(sonde_store_key_set(store, key_two, &error), SONDE_OK);
  append(store, 140000, 142000);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  CHECK_EQ(sonde_store_seal_all(store, &error), SONDE_OK);
  CHECK_EQ(count_markers(store), 0);
  sonde_store_close(store);
}

/* An extent that was moved, or changed by a bit, is rejected. */
static void test_tampering(void) {
  struct sonde_store *store = open_store();
  struct sonde_query *query;
  struct sonde_error error = {0};
  struct sonde_packets_summary summary;
  set_key(store, key_one);
  append(store, 0, 100);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  wait_until_idle(store);
  append(store, 100, 200);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  wait_until_idle(store);
  sonde_chunk_data(store->lists[0].oldest)[1000] ^= 4;
  struct sonde_query_config config = {.end_ns = UINT64_MAX};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  struct sonde_packet packet;
  uint64_t number = 100;
  for (; next_answer(&answer, &packet); number++)
    check_packet(&packet, 0, number);
  CHECK_EQ(number, 200);
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.complete, 0);
  CHECK_EQ(summary.gap_count, 1);
  CHECK_EQ(summary.gaps[0].reason, SONDE_GAP_UNOPENABLE);
  CHECK_EQ(summary.gaps[0].to_ns, made_start_ns + 99 * made_step_ns);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

/* ---- a libcrypto that fails ------------------------------------------------------------- */

static int fail_update(EVP_CIPHER_CTX *context, unsigned char *out, int *out_bytes,
                       const unsigned char *in, int in_bytes) {
  /* The worst failure: half of the output is written in clear. */
  if (out)
    memcpy(out, in, (size_t)in_bytes / 2);
  (void)context;
  *out_bytes = in_bytes;
  return 0;
}

static int fail_final(EVP_CIPHER_CTX *context, unsigned char *out, int *out_bytes) {
  (void)context;
  (void)out;
  (void)out_bytes;
  return 0;
}

static int fail_init(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, ENGINE *engine,
                     const unsigned char *key, const unsigned char *nonce, int encrypt) {
  (void)context, (void)cipher, (void)engine, (void)key, (void)nonce, (void)encrypt;
  return 0;
}

static int fail_control(EVP_CIPHER_CTX *context, int type, int number, void *pointer) {
  (void)context, (void)type, (void)number, (void)pointer;
  return 0;
}

static void test_failure(const struct sonde_libcrypto *broken) {
  struct sonde_store *store = open_store();
  struct sonde_store_stats stats;
  uint32_t failed_before = store_events.seal_failed;
  append(store, 0, 3000);
  sonde_libcrypto = broken;
  set_key(store, key_one);
  append(store, 3000, 6000);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  wait_until_idle(store);
  CHECK_EQ(count_markers(store), 0);
  sonde_libcrypto = &sonde_libcrypto_real;
  sonde_store_stats(store, &stats);
  CHECK(stats.seal_failures > 0);
  CHECK_EQ(stats.packets_seal_lost, 6000);
  CHECK(store_events.seal_failed > failed_before);

  /* More failures are reported again once a second has passed. */
  failed_before = store_events.seal_failed;
  sonde_libcrypto = broken;
  store->seal_reported_ns = sonde_clock_ns(CLOCK_MONOTONIC) - 1100000000;
  append(store, 6000, 6100);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  wait_until_idle(store);
  CHECK(store_events.seal_failed > failed_before);
  sonde_libcrypto = &sonde_libcrypto_real;

  /* Capture continues and keeps new packets. */
  append(store, 6000, 7000);
  check_all(store, 6000, 7000, false);
  sonde_store_close(store);
}

/* docs/segment.md: three zero bytes, the counter from its highest byte on, and the last flag. */
static void test_nonce(void) {
  uint8_t nonce[SONDE_NONCE_BYTES];
  sonde_nonce(UINT64_C(0x0102030405060708), 1, nonce);
  CHECK(memcmp(nonce, "\0\0\0\1\2\3\4\5\6\7\10\1", sizeof nonce) == 0);
  sonde_nonce(UINT64_C(0xff00000000000000), 0, nonce);
  CHECK(memcmp(nonce, "\0\0\0\377\0\0\0\0\0\0\0\0", sizeof nonce) == 0);
}

int main(void) {
  decoder = sonde_decoder_create(1, NULL);
  test_nonce();
  test_enable_midway();
  test_wrap();
  test_wrapped_in_clear();
  test_tampering();
  struct sonde_libcrypto broken[4] = {sonde_libcrypto_real, sonde_libcrypto_real,
                                      sonde_libcrypto_real, sonde_libcrypto_real};
  broken[0].init = fail_init;
  broken[1].update = fail_update;
  broken[2].final = fail_final;
  broken[3].control = fail_control;
  for (int i = 0; i < 4; i++)
    test_failure(&broken[i]);
  sonde_decoder_destroy(decoder);
  return check_report();
}
