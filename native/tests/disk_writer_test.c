/* disk_writer_test.c - statistics of segment files do not wait while the disk writer removes
 * files, which a slow disk delays.
 */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/segment_file.h"
#include "store/store.h"
#include "stored_packets.h"

static struct store_events store_events;
static struct sonde_decoder *decoder;
static char directory[] = "/tmp/netsonde-writer-XXXXXX"; /* for mkdtemp */

static struct sonde_store *removing; /* its statistics are read during each removal */
static uint32_t removals;

int __real_unlinkat(int dir_fd, const char *name, int flags);
int __wrap_unlinkat(int dir_fd, const char *name, int flags);

/* Runs on the writer's thread, which holds the writer's lock: a lock would never be free. */
int __wrap_unlinkat(int dir_fd, const char *name, int flags) {
  struct sonde_store_stats stats;
  if (removing) {
    sonde_store_stats(removing, &stats);
    removals++;
  }
  return __real_unlinkat(dir_fd, name, flags);
}

static struct sonde_store *open_store(void) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {.bytes = 8 << 20,
                                      .workers = 1,
                                      .dir = directory,
                                      .disk_bytes = 64 << 20,
                                      .raise = note_event,
                                      .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  return store;
}

static void append(struct sonde_store *store, uint64_t from, uint64_t to) {
  struct sonde_appender *appender = sonde_store_appender(store, 0);
  while (from < to)
    append_made(appender, decoder, from++);
  sonde_appender_cut(appender, 0);
  wait_until_idle(store);
}

static void statistics_do_not_wait_for_the_disk(void) {
  static const uint8_t key[32] = {1, 2, 3};
  struct sonde_store_stats stats;
  struct sonde_error error = {0};
  struct sonde_store *store = open_store();
  append(store, 0, 1000);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.segments, 1);
  uint64_t bytes = stats.segment_bytes;
  CHECK(bytes > 0);
  sonde_store_close(store);
  store = open_store();
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.segments, 1); /* the earlier session has finished it */
  CHECK(stats.segment_bytes > bytes);
  append(store, 1000, 2000);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.segments, 2);
  CHECK_EQ(sonde_store_key_set(store, key, &error), SONDE_OK);
  removing = store;
  CHECK_EQ(sonde_store_seal_all(store, &error), SONDE_OK); /* removes both files */
  removing = NULL;
  CHECK_EQ(removals, 2);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.segments, 0);
  CHECK_EQ(stats.segment_bytes, 0);
  sonde_store_close(store);
}

static void remove_directory(void) {
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    if (entry->d_name[0] != '.' || entry->d_name[1] == 'n')
      unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
  CHECK_EQ(rmdir(directory), 0);
}

int main(void) {
  CHECK(mkdtemp(directory) != NULL);
  decoder = sonde_decoder_create(0, NULL);
  statistics_do_not_wait_for_the_disk();
  sonde_decoder_destroy(decoder);
  remove_directory();
  return check_report();
}
