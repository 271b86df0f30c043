/* keys_test.c - keys of a session: setting the same key again changes nothing. Packets sealed with
 * an earlier key remain readable, from disk too, after any number of changes.
 */
#include <dirent.h>
#include <unistd.h>

#include "stored_packets.h"

enum { TIMES = 12, EACH = 20, EARLIER = 4000 };

static struct store_events store_events;
static struct sonde_decoder *decoder;
static const uint8_t key_one[32] = {1, 2, 3}, key_two[32] = {4, 5, 6};
static char directory[] = "/tmp/netsonde-keys-XXXXXX";

static void append(struct sonde_store *store, uint64_t from, uint64_t to) {
  struct sonde_appender *appender = sonde_store_appender(store, 0);
  for (uint64_t number = from; number < to; number++) {
    append_made(appender, decoder, number);
    if (number % 100 == 0)
      wait_until_idle(store);
  }
  sonde_appender_cut(appender, 0);
  wait_until_idle(store);
}

static void set_key(struct sonde_store *store, const uint8_t *key) {
  struct sonde_error error = {0};
  CHECK_EQ(sonde_store_key_set(store, key, &error), SONDE_OK);
  sonde_appender_cut(sonde_store_appender(store, 0), 0);
  if (key)
    CHECK_EQ(sonde_store_seal_all(store, &error), SONDE_OK);
}

static void test_earlier_keys_open(void) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {.bytes = 1 << 20,
                                      .workers = 1,
                                      .dir = directory,
                                      .disk_bytes = 64 << 20,
                                      .raise = note_event,
                                      .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  set_key(store, key_one);
  append(store, 0, EARLIER); /* more than fits in memory */
  for (uint64_t turn = 0, next = EARLIER; turn < TIMES; turn++, next += 2 * EACH) {
    set_key(store, NULL);
    append(store, next, next + EACH);
    set_key(store, key_two);
    append(store, next + EACH, next + 2 * EACH);
  }
  struct sonde_query *query;
  struct sonde_query_config question = {.end_ns = made_start_ns + 99 * made_step_ns};
  struct sonde_packet packet;
  CHECK_EQ(sonde_query_open(store, &question, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  uint64_t number = 0;
  for (; next_answer(&answer, &packet); number++)
    check_packet(&packet, 0, number);
  CHECK_EQ(number, 100);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

static void test_the_same_key_is_kept(void) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {
      .bytes = 8 << 20, .workers = 1, .raise = note_event, .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  set_key(store, key_one);
  const struct sonde_sealkey *first = store->key;
  set_key(store, key_one);
  CHECK(store->key == first);
  set_key(store, key_two);
  CHECK(store->key != first);
  sonde_store_close(store);
}

static void remove_directory(void) {
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    if (strstr(entry->d_name, "netsonde-"))
      unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
  rmdir(directory);
}

int main(void) {
  decoder = sonde_decoder_create(0, NULL);
  CHECK(mkdtemp(directory) != NULL);
  test_earlier_keys_open();
  test_the_same_key_is_kept();
  remove_directory();
  sonde_decoder_destroy(decoder);
  return check_report();
}
