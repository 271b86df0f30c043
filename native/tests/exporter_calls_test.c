/* exporter_calls_test.c - adding, replacing, listing and removing the collectors of a session. */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "netsonde.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SANITIZER_THREADS 1
#endif
#endif
#ifndef SANITIZER_THREADS
#define SANITIZER_THREADS 0
#endif

enum { DISCARD_PORT = 9 };

static struct sonde_session *open_session(void) {
  static const uint32_t head[6] = {0xa1b2c3d4, 4 << 16 | 2, 0, 0, 262144, 1};
  int fd = memfd_create("capture", MFD_CLOEXEC);
  CHECK_EQ(write(fd, head, sizeof head), sizeof head);
  lseek(fd, 0, SEEK_SET);
  struct sonde_session_config config = {
      .plugin_dir = SONDE_PLUGIN_DIR,
      .backend = "file",
      .interfaces = (const char *const[]){"empty"},
      .interface_count = 1,
      .file_fd = fd,
      .workers = 1,
      .snaplen = 262144,
      .ring_bytes = 1 << 20,
      .flow_table_size = 1024,
      .record_ring_size = 64,
      .metering = 1,
      .idle_timeout_ns = 1000000000,
      .active_timeout_ns = 1000000000,
  };
  struct sonde_session *session = NULL;
  struct sonde_error error;
  CHECK_EQ(sonde_session_open(&config, &session, &error), SONDE_OK);
  return session;
}

static int add(struct sonde_session *session, int host, int version, struct sonde_error *error) {
  char address[32];
  snprintf(address, sizeof address, "127.0.0.%d", host);
  const struct sonde_collector_config config = {
      .address = address, .port = DISCARD_PORT, .version = version};
  memset(error, 1, sizeof *error);
  return sonde_session_collector_add(session, &config, error);
}

static int remove_one(struct sonde_session *session, const char *address, uint16_t port,
                      struct sonde_error *error) {
  memset(error, 1, sizeof *error);
  return sonde_session_collector_remove(session, address, port, error);
}

static bool cleared(const struct sonde_error *error) {
  const struct sonde_error none = {0};
  return memcmp(error, &none, sizeof none) == 0;
}

/* A letter is a host: its code is the last octet of the address. */
static void check_listed(struct sonde_session *session, const char *hosts) {
  struct sonde_collector_stats stats[SONDE_COLLECTORS_MAX + 1];
  CHECK_EQ(sonde_session_collectors(session, stats, SONDE_COLLECTORS_MAX + 1), strlen(hosts));
  for (size_t i = 0; i < strlen(hosts); i++) {
    CHECK_EQ(atoi(strrchr(stats[i].address, '.') + 1), hosts[i]);
    CHECK_EQ(stats[i].port, DISCARD_PORT);
  }
}

static int count_threads(void) {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *task = readdir(tasks); task; task = readdir(tasks))
    count += task->d_name[0] != '.';
  closedir(tasks);
  return count;
}

/* Waits for the count: a joined thread can still be listed for a moment. Returns the last count. */
static int await_threads(int expected) {
  int count = count_threads();
  for (int tries = 0; count != expected && tries < 5000; tries++) {
    usleep(1000);
    count = count_threads();
  }
  return count;
}

static void the_thread_runs_while_there_are_collectors(void) {
  struct sonde_session *session = open_session();
  struct sonde_error error;
  /* The first thread of a process starts one of the thread sanitizer, too. */
  CHECK_EQ(add(session, 'a', 9, &error), SONDE_OK);
  CHECK_EQ(remove_one(session, "127.0.0.97", DISCARD_PORT, &error), SONDE_OK);
  int without = 1 + SANITIZER_THREADS;
  CHECK_EQ(await_threads(without), without);
  for (int turn = 0; turn < 2; turn++) {
    CHECK_EQ(add(session, 'a', 9, &error), SONDE_OK);
    CHECK_EQ(add(session, 'b', 9, &error), SONDE_OK);
    CHECK_EQ(await_threads(without + 1), without + 1);
    CHECK_EQ(remove_one(session, "127.0.0.97", DISCARD_PORT, &error), SONDE_OK);
    CHECK_EQ(await_threads(without + 1), without + 1);
    CHECK_EQ(remove_one(session, "127.0.0.98", DISCARD_PORT, &error), SONDE_OK);
    CHECK_EQ(await_threads(without), without);
  }
  sonde_session_close(session);
}

static void collectors_are_added_and_removed(void) {
  static const char all[] = "abcdefghijklmnop";
  struct sonde_session *session = open_session();
  struct sonde_collector_stats stats[2];
  struct sonde_error error;
  check_listed(session, "");
  CHECK_EQ(strlen(all), SONDE_COLLECTORS_MAX);
  for (const char *host = all; *host; host++) {
    CHECK_EQ(add(session, *host, 9, &error), SONDE_OK);
    CHECK(cleared(&error));
  }
  check_listed(session, all);
  CHECK_EQ(add(session, 'q', 9, &error), SONDE_INVALID);
  CHECK(strstr(error.detail, "already has 16 collectors") != NULL);
  CHECK_EQ(add(session, 'c', 10, &error), SONDE_OK); /* replaces, also when no place is free */
  check_listed(session, all);
  CHECK_EQ(sonde_session_collectors(session, stats, 2), 2);
  CHECK_EQ(stats[1].version, 9);
  CHECK_EQ(remove_one(session, "127.0.0.9", DISCARD_PORT, &error), SONDE_INVALID);
  CHECK(strstr(error.detail, "no collector 127.0.0.9 port 9") != NULL);
  CHECK_EQ(remove_one(session, "127.0.0.97", DISCARD_PORT + 1, &error), SONDE_INVALID);
  CHECK_EQ(remove_one(session, NULL, DISCARD_PORT, &error), SONDE_INVALID);
  CHECK_EQ(remove_one(session, "127.0.0.98", DISCARD_PORT, &error), SONDE_OK);
  CHECK(cleared(&error));
  check_listed(session, "acdefghijklmnop");
  CHECK_EQ(sonde_session_collectors(session, stats, 2), 2);
  CHECK_EQ(stats[1].version, 10);
  CHECK_EQ(remove_one(session, "127.0.0.112", DISCARD_PORT, &error), SONDE_OK);
  check_listed(session, "acdefghijklmno");
  CHECK_EQ(add(session, 'b', 5, &error), SONDE_OK);
  check_listed(session, "acdefghijklmnob");
  for (const char *host = "acdefghijklmnob"; *host; host++) {
    char address[32];
    snprintf(address, sizeof address, "127.0.0.%d", *host);
    CHECK_EQ(remove_one(session, address, DISCARD_PORT, &error), SONDE_OK);
  }
  check_listed(session, "");
  CHECK_EQ(add(session, 'd', 9, &error), SONDE_OK); /* the thread starts again */
  check_listed(session, "d");
  CHECK_EQ(sonde_session_export_flush(session, 60000, &error), SONDE_OK);
  sonde_session_close(session);
}

static void stopped_session_takes_no_collector(void) {
  struct sonde_session *session = open_session();
  struct sonde_error error;
  CHECK_EQ(sonde_session_export_flush(session, 0, &error), SONDE_OK); /* without a thread */
  CHECK_EQ(add(session, 1, 4, &error), SONDE_INVALID);
  check_listed(session, "");
  CHECK_EQ(sonde_session_start(session, &error), SONDE_OK);
  CHECK_EQ(sonde_session_stop(session, &error), SONDE_OK);
  CHECK_EQ(add(session, 1, 9, &error), SONDE_STATE);
  CHECK(error.detail[0] != '\0');
  CHECK_EQ(error.system_errno, 0);
  check_listed(session, "");
  sonde_session_close(session);
}

int main(void) {
  the_thread_runs_while_there_are_collectors();
  collectors_are_added_and_removed();
  stopped_session_takes_no_collector();
  return check_report();
}
