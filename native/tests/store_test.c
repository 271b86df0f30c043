/* store_test.c - the buffer in memory: filled three times, ranges, filters, limits, several
 * workers, and a query that is overtaken by the capture.
 */
#include "store/segment_file.h"
#include "store/state.h"
#include "store/store.h"
#include "stored_packets.h"

static struct store_events store_events;
static struct sonde_decoder *decoder;

static struct sonde_store *open_store(uint64_t bytes, uint32_t workers) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {
      .bytes = bytes, .workers = workers, .raise = note_event, .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  return store;
}

static void append(struct sonde_store *store, uint32_t worker, uint64_t from, uint64_t to) {
  struct sonde_appender *appender = sonde_store_appender(store, worker);
  for (uint64_t number = from; number < to; number++)
    append_made(appender, decoder, number);
  sonde_appender_publish(appender);
}

static uint64_t number_of(const struct sonde_packet *packet) {
  return (packet->time_ns - made_start_ns) / made_step_ns;
}

static struct sonde_query *open_query(struct sonde_store *store, uint64_t from, uint64_t to) {
  struct sonde_query *query = NULL;
  struct sonde_error error = {0};
  struct sonde_query_config config = {.start_ns = made_start_ns + from * made_step_ns,
                                      .end_ns = made_start_ns + to * made_step_ns};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  return query;
}

static void test_wrap(void) {
  const uint64_t count = 3 * (16u << 20) / 700; /* about 700 bytes per packet with its head */
  struct sonde_store *store = open_store(16 << 20, 1);
  struct sonde_store_stats stats;
  append(store, 0, 0, count);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.bytes_capacity, 16 << 20);
  CHECK_EQ(stats.bytes_used, stats.bytes_capacity);
  CHECK_EQ(stats.packets + stats.packets_overwritten, count);
  CHECK_EQ(stats.newest_ns, made_start_ns + (count - 1) * made_step_ns);
  CHECK_EQ(stats.packets_unrecorded, 0);
  CHECK(stats.chunks_overwritten >= 30 && stats.chunks_overwritten <= 50);
  CHECK(stats.bytes_overwritten > stats.packets_overwritten * 600);
  CHECK(stats.bytes_overwritten < stats.packets_overwritten * 800);

  struct sonde_query *query = open_query(store, 0, count);
  struct answer answer = read_answer(query);
  struct sonde_packets_summary summary;
  struct sonde_packet packet;
  uint64_t number = count - stats.packets;
  CHECK_EQ(answer.status, SONDE_END);
  for (; next_answer(&answer, &packet); number++)
    check_packet(&packet, 0, number);
  CHECK_EQ(number, count);
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.packets, stats.packets);
  CHECK_EQ(summary.bytes, answer.length);
  CHECK_EQ(summary.complete, 0);
  CHECK_EQ(summary.gap_count, 1);
  CHECK_EQ(summary.gaps[0].reason, SONDE_GAP_OVERWRITTEN);
  CHECK_EQ(summary.gaps[0].from_ns, made_start_ns);
  CHECK_EQ(summary.gaps[0].to_ns, made_start_ns + (count - stats.packets - 1) * made_step_ns);
  free(answer.bytes);
  sonde_query_close(query);

  /* A range that the buffer still holds is returned completely. */
  query = open_query(store, count - 1000, count - 501);
  answer = read_answer(query);
  for (number = count - 1000; next_answer(&answer, &packet); number++)
    check_packet(&packet, 0, number);
  CHECK_EQ(number, count - 500);
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.complete, 1);
  CHECK(summary.chunks_skipped > summary.chunks_read);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

static void test_limits(void) {
  struct sonde_store *store = open_store(8 << 20, 1);
  struct sonde_error error = {0};
  struct sonde_packets_summary summary;
  struct sonde_query *query;
  append(store, 0, 0, 2000);
  struct sonde_query_config config = {.end_ns = UINT64_MAX, .max_packets = 17};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.packets, 17);
  CHECK_EQ(summary.complete, 0);
  CHECK_EQ(summary.gaps[0].reason, SONDE_GAP_LIMIT);
  CHECK_EQ(summary.gaps[0].from_ns, made_start_ns + 17 * made_step_ns);
  CHECK_EQ(summary.gaps[0].to_ns, made_start_ns + 1999 * made_step_ns);
  free(answer.bytes);
  sonde_query_close(query);

  config = (struct sonde_query_config){.end_ns = UINT64_MAX, .max_bytes = 10000};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  answer = read_answer(query);
  CHECK(answer.length <= 10000 && answer.length > 8000);
  uint8_t small[64];
  CHECK_EQ(sonde_query_read(query, small, sizeof small), SONDE_END);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

/* Packets of all workers are merged in order of time. */
static void test_workers(void) {
  enum { WORKERS = 5, EACH = 3000 };
  struct sonde_store *store = open_store(64 << 20, WORKERS);
  for (uint32_t worker = 0; worker < WORKERS; worker++)
    append(store, worker, worker * 100, worker * 100 + EACH);
  struct sonde_query *query = open_query(store, 0, UINT32_MAX);
  struct answer answer = read_answer(query);
  struct sonde_packet packet;
  uint64_t next[WORKERS] = {0, 100, 200, 300, 400}, last = 0, count = 0;
  for (; next_answer(&answer, &packet); count++) {
    uint32_t worker = packet.data[27];
    if (worker >= WORKERS)
      break;
    CHECK(packet.time_ns >= last);
    last = packet.time_ns;
    check_packet(&packet, worker, next[worker]++);
  }
  CHECK_EQ(count, WORKERS * EACH);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

struct wanted_host {
  uint8_t address[4];
};

static bool match_host(void *context, const struct sonde_packet *packet) {
  const struct wanted_host *wanted = context;
  uint32_t at = packet->data[13] == 6 ? 28 : 26; /* the sender in ARP, the source in IPv4 */
  return memcmp(packet->data + at, wanted->address, 4) == 0;
}

/* Skipped chunks do not change the answer. */
static void test_filter(void) {
  struct sonde_store *store = open_store(32 << 20, 1);
  const uint64_t count = 30000;
  struct sonde_error error = {0};
  append(store, 0, 0, count);
  uint32_t skipped = 0;
  for (uint32_t host = 0; host < 1000; host += 111) {
    char expression[64];
    struct wanted_host wanted = {{10, 0, (uint8_t)(host >> 8), (uint8_t)host}};
    struct sonde_query *query;
    struct sonde_packet packet;
    struct sonde_packets_summary summary;
    snprintf(expression, sizeof expression, "src host 10.0.%u.%u", host >> 8, host & 255);
    struct sonde_query_config config = {
        .end_ns = UINT64_MAX, .expression = expression, .match = match_host, .context = &wanted};
    CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
    struct answer answer = read_answer(query);
    uint64_t found = 0, expected = 0;
    while (next_answer(&answer, &packet)) {
      CHECK(match_host(&wanted, &packet));
      found++;
      CHECK_EQ(number_of(&packet) / 7 % 1000 == host || packet.data[13] == 6, 1);
    }
    for (uint64_t number = 0; number < count; number++) {
      struct made made;
      make_packet(&made, 0, number);
      expected += match_host(&wanted, &made.packet);
    }
    CHECK_EQ(found, expected);
    sonde_query_summary(query, &summary);
    skipped += (uint32_t)summary.chunks_skipped;
    free(answer.bytes);
    sonde_query_close(query);
  }
  CHECK(skipped > 20);
  sonde_store_close(store);
}

/* The query pins one chunk. The rest is overwritten before the query reads it. */
static void test_overtaken(void) {
  struct sonde_store *store = open_store(16 << 20, 1);
  append(store, 0, 0, 20000);
  struct sonde_query *query = open_query(store, 0, UINT32_MAX);
  append(store, 0, 20000, 90000);
  struct answer answer = read_answer(query);
  struct sonde_packet packet;
  struct sonde_packets_summary summary;
  uint64_t count = 0;
  for (; next_answer(&answer, &packet); count++)
    check_packet(&packet, 0, number_of(&packet));
  sonde_query_summary(query, &summary);
  CHECK(count > 1000 && count < 5000);
  CHECK_EQ(summary.packets, count);
  CHECK_EQ(summary.complete, 0);
  free(answer.bytes);
  sonde_query_close(query);
  struct sonde_store_stats stats;
  append(store, 0, 90000, 120000);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.packets + stats.packets_overwritten, 120000);
  CHECK_EQ(stats.packets_unrecorded, 0);
  sonde_store_close(store);
}

static void pin_all(struct sonde_store *store, int pins) {
  pthread_mutex_lock(&store->lock);
  for (uint32_t i = 0; i < store->fresh; i++)
    sonde_store_chunk(store, i)->pins += (uint32_t)pins;
  pthread_mutex_unlock(&store->lock);
}

/* Every chunk is pinned by a reader: new packets are counted and reported as a gap. */
static void test_no_free_chunk(void) {
  struct sonde_store *store = open_store(1 << 20, 1);
  struct sonde_store_stats stats;
  const uint64_t number = 2400;
  append(store, 0, 0, number);
  pin_all(store, 1);
  append(store, 0, number, number + 4000);
  sonde_store_stats(store, &stats);
  CHECK(stats.packets_unrecorded > 0);
  CHECK_EQ(stats.packets + stats.packets_overwritten + stats.packets_unrecorded, number + 4000);
  pin_all(store, -1);
  append(store, 0, number + 4000, number + 6000);
  struct sonde_query *query = open_query(store, 0, UINT32_MAX);
  struct answer answer = read_answer(query);
  struct sonde_packets_summary summary;
  sonde_query_summary(query, &summary);
  bool reported = false;
  for (uint32_t i = 0; i < summary.gap_count; i++)
    reported |= summary.gaps[i].reason == SONDE_GAP_UNRECORDED;
  CHECK(reported);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

static void check_one_packet(struct sonde_store *store, uint64_t number) {
  struct sonde_query *query = open_query(store, number, number);
  struct answer answer = read_answer(query);
  struct sonde_packet packet;
  struct sonde_packets_summary summary;
  CHECK(next_answer(&answer, &packet));
  check_packet(&packet, 0, number);
  CHECK(!next_answer(&answer, &packet));
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.packets, 1);
  CHECK_EQ(summary.first_ns, made_start_ns + number * made_step_ns);
  CHECK_EQ(summary.last_ns, summary.first_ns);
  CHECK_EQ(summary.complete, 1);
  free(answer.bytes);
  sonde_query_close(query);
}

/* A range includes both ends, also where they are the first or the last packet of a chunk. */
static void test_chunk_edges(void) {
  struct sonde_store *store = open_store(8 << 20, 1);
  append(store, 0, 0, 6000);
  CHECK(store->fresh >= 4);
  for (uint32_t i = 0; i < store->fresh; i++) {
    const struct sonde_chunk *chunk = sonde_store_chunk(store, i);
    if (atomic_load(&chunk->committed) == 0)
      continue;
    check_one_packet(store, (chunk->first_ns - made_start_ns) / made_step_ns);
    check_one_packet(store, (atomic_load(&chunk->last_ns) - made_start_ns) / made_step_ns);
  }
  sonde_store_close(store);
}

/* The first worker lost packets ten seconds after the second one. Gaps are listed by time. */
static void test_gaps_of_workers(void) {
  const uint64_t later = 10000000, count = 60000;
  struct sonde_store *store = open_store(16 << 20, 2);
  append(store, 0, later, later + count);
  append(store, 1, 0, count);
  append(store, 0, later + count, later + count + 30000);
  struct sonde_query *query = open_query(store, 0, UINT32_MAX);
  struct answer answer = read_answer(query);
  struct sonde_packets_summary summary;
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.gap_count, 2);
  CHECK_EQ(summary.gaps[0].from_ns, made_start_ns);
  CHECK(summary.gaps[0].to_ns < made_start_ns + count * made_step_ns);
  CHECK_EQ(summary.gaps[1].from_ns, made_start_ns + later * made_step_ns);
  CHECK(summary.gaps[1].to_ns < made_start_ns + (later + count + 30000) * made_step_ns);
  CHECK_EQ(summary.gaps[1].reason, SONDE_GAP_OVERWRITTEN);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

/* The newest packet is known also while the newest chunk is empty. */
static void test_newest(void) {
  struct sonde_store *store = open_store(16 << 20, 1);
  struct sonde_store_stats stats;
  uint64_t count = 0;
  do {
    append(store, 0, count, count + 50);
    count += 50;
    sonde_store_stats(store, &stats);
    CHECK_EQ(stats.newest_ns, made_start_ns + (count - 1) * made_step_ns);
    CHECK_EQ(stats.oldest_ns, made_start_ns);
  } while (count < 5000);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.newest_ns, made_start_ns + (count - 1) * made_step_ns);
  sonde_store_close(store);
}

/* A limit of bytes or packets is exact, and a range that ends with the limit is complete. */
static void test_exact_limits(void) {
  struct sonde_store *store = open_store(8 << 20, 1);
  struct sonde_error error = {0};
  append(store, 0, 0, 10);
  struct sonde_query *query = open_query(store, 0, UINT32_MAX);
  struct answer whole = read_answer(query);
  sonde_query_close(query);
  const struct {
    uint64_t max_bytes, max_packets, packets;
  } rows[] = {{whole.length, 0, 10}, {whole.length - 1, 0, 9}, {0, 10, 10}, {0, 9, 9}, {0, 1, 1}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sonde_query_config config = {
        .end_ns = UINT64_MAX, .max_bytes = rows[i].max_bytes, .max_packets = rows[i].max_packets};
    struct sonde_packets_summary summary;
    CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
    struct answer answer = read_answer(query);
    sonde_query_summary(query, &summary);
    CHECK_EQ(summary.packets, rows[i].packets);
    CHECK_EQ(summary.bytes, answer.length);
    CHECK_EQ(summary.complete, rows[i].packets == 10);
    CHECK_EQ(summary.gap_count, rows[i].packets == 10 ? 0 : 1);
    free(answer.bytes);
    sonde_query_close(query);
  }
  free(whole.bytes);
  sonde_store_close(store);
}

int main(void) {
  decoder = sonde_decoder_create(1, NULL);
  test_chunk_edges();
  test_gaps_of_workers();
  test_exact_limits();
  test_newest();
  test_wrap();
  test_limits();
  test_workers();
  test_filter();
  test_overtaken();
  test_no_free_chunk();
  sonde_decoder_destroy(decoder);
  return check_report();
}
