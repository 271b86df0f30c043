/* segment_test.c - segment files: every bit flipped, every length cut, frames dropped, repeated
 * and swapped, wrong keys, a disk that fails, and a kill in every state.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/seal.h"
#include "store/segment.h"
#include "store/segment_file.h"
#include "store/state.h"
#include "store/store.h"
#include "stored_packets.h"

static struct store_events store_events;
static struct sonde_decoder *decoder;
static const uint8_t key_one[32] = {1, 2, 3}, key_two[32] = {4, 5, 6};
static char directory[] = "/tmp/netsonde-segment-XXXXXX";

/* ---- a store on a directory --------------------------------------------------------------- */

static struct sonde_store *open_store(const uint8_t *key, uint64_t disk_bytes) {
  struct sonde_store *store = NULL;
  struct sonde_error error = {0};
  struct sonde_store_config config = {.bytes = 8 << 20,
                                      .workers = 1,
                                      .dir = directory,
                                      .disk_bytes = disk_bytes,
                                      .raise = note_event,
                                      .context = &store_events};
  CHECK_EQ(sonde_store_open(&config, &store, &error), SONDE_OK);
  if (key)
    CHECK_EQ(sonde_store_key_set(store, key, &error), SONDE_OK);
  return store;
}

static void sleep_ms(long ms) {
  nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Appends extents of `each` packets and waits until they reach the disk. */
static void append(struct sonde_store *store, uint64_t from, uint64_t to, uint64_t each) {
  struct sonde_appender *appender = sonde_store_appender(store, 0);
  for (uint64_t number = from; number < to; number++) {
    append_made(appender, decoder, number);
    if ((number + 1 - from) % each == 0) {
      sonde_appender_cut(appender, 0);
      wait_until_idle(store);
    }
  }
  sonde_appender_cut(appender, 0);
  wait_until_idle(store);
}

static void empty_directory(void) {
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    if (strstr(entry->d_name, "netsonde-"))
      unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
}

/* Counts files whose name contains `part`. The last such name is stored in `name`. */
static uint32_t count_files(const char *part, char name[300]) {
  uint32_t count = 0;
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    if (strstr(entry->d_name, part)) {
      count++;
      snprintf(name, 300, "%s/%s", directory, entry->d_name);
    }
  closedir(dir);
  return count;
}

static void check_no_marker(void) {
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
    int fd = openat(dirfd(dir), entry->d_name, O_RDONLY);
    struct stat status;
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
      uint8_t *bytes = malloc((size_t)status.st_size + 1);
      CHECK_EQ(read(fd, bytes, (size_t)status.st_size), status.st_size);
      CHECK(memmem(bytes, (size_t)status.st_size, MARKER, sizeof MARKER - 1) == NULL);
      free(bytes);
    }
    close(fd);
  }
  closedir(dir);
}

/* ---- one file, in memory -------------------------------------------------------------------- */

struct image {
  uint8_t bytes[65536];
  size_t length;
};

static void write_image(const struct image *image, int fd) {
  CHECK(ftruncate(fd, 0) == 0);
  CHECK_EQ(pwrite(fd, image->bytes, image->length, 0), image->length);
}

/* Reads the whole file. Returns the status at its end, or the reason why open failed. */
static int read_segment(int fd, const uint8_t *key, uint64_t *packets) {
  struct sonde_segment *segment;
  struct sonde_error error = {0};
  static uint8_t buffer[SONDE_PACKETS_READ_MIN];
  int status = sonde_segment_open(fd, key, "eth0", &segment, &error);
  *packets = 0;
  if (status < 0)
    return status;
  do {
    status = sonde_segment_read(segment, buffer, sizeof buffer, &error);
    struct answer answer = {.bytes = buffer, .length = status > 0 ? (size_t)status : 0};
    for (struct sonde_packet packet; next_answer(&answer, &packet); ++*packets)
      check_packet(&packet, 0, *packets);
  } while (status >= 0);
  sonde_segment_close(segment);
  return status;
}

/* The same with the frame reader, which maps no large buffers: for tens of thousands of tests. */
static int read_frames(int fd, const uint8_t *key, uint64_t *packets) {
  static uint8_t clear[SONDE_FRAME_PAYLOAD_MAX];
  struct sonde_segment_reader reader;
  struct sonde_segment_frame frame;
  int status = sonde_segment_reader_open(&reader, fd, key);
  *packets = 0;
  while (status == SONDE_OK) {
    status = sonde_segment_reader_next(&reader, &frame);
    if (status == SONDE_OK)
      status = sonde_segment_reader_load(&reader, &frame, clear);
    if (status == SONDE_OK)
      *packets += frame.packets;
  }
  sonde_segment_reader_close(&reader);
  return status;
}

static void make_image(struct image *image, const uint8_t *key) {
  char name[300];
  empty_directory();
  struct sonde_store *store = open_store(key, 64 << 20);
  append(store, 0, 6, 2);
  sonde_store_close(store);
  CHECK_EQ(count_files(".segment", name), 1);
  int fd = open(name, O_RDONLY);
  image->length = (size_t)read(fd, image->bytes, sizeof image->bytes);
  close(fd);
}

/* Returns the offset of frame `number`. Frame 3 is the final one. */
static size_t frame_at(const struct image *image, uint32_t number) {
  size_t at = sizeof(struct sonde_segment_header);
  for (; number > 0; number--) {
    struct sonde_segment_frame frame;
    memcpy(&frame, image->bytes + at, sizeof frame);
    at += sonde_frame_bytes(frame.payload_bytes);
  }
  return at;
}

static void test_bits(const struct image *image, int fd, const uint8_t *key) {
  uint64_t packets;
  write_image(image, fd);
  for (size_t bit = 0; bit < image->length * 8; bit++) {
    uint8_t changed = image->bytes[bit / 8] ^ (uint8_t)(1 << bit % 8);
    CHECK_EQ(pwrite(fd, &changed, 1, (off_t)(bit / 8)), 1);
    int status = read_frames(fd, key, &packets);
    CHECK(status != SONDE_END && status < 0);
    CHECK(packets % 2 == 0 && packets <= 6);
    if (bit / 8 >= frame_at(image, 0) && packets < 2)
      CHECK(bit / 8 < frame_at(image, 1));
    CHECK_EQ(pwrite(fd, &image->bytes[bit / 8], 1, (off_t)(bit / 8)), 1);
  }
  CHECK_EQ(read_frames(fd, key, &packets), SONDE_END);
}

static void test_cuts(const struct image *image, int fd, const uint8_t *key) {
  uint64_t packets;
  write_image(image, fd);
  for (size_t length = image->length; length-- > 0;) {
    CHECK(ftruncate(fd, (off_t)length) == 0);
    CHECK_EQ(read_frames(fd, key, &packets), SONDE_TRUNCATED);
    uint32_t whole = 0;
    while (whole < 3 && length >= frame_at(image, whole + 1))
      whole++;
    CHECK_EQ(packets, 2 * whole);
  }
}

/* order: indices of the frames that the file then contains, ended by -1. */
static void check_order(const struct image *image, int fd, const uint8_t *key, const int *order,
                        int status_expected, uint64_t packets_expected) {
  static struct image other;
  uint64_t packets;
  memcpy(other.bytes, image->bytes, other.length = frame_at(image, 0));
  for (; *order >= 0; order++) {
    size_t at = frame_at(image, (uint32_t)*order), end = frame_at(image, (uint32_t)*order + 1);
    memcpy(other.bytes + other.length, image->bytes + at, end - at);
    other.length += end - at;
  }
  write_image(&other, fd);
  CHECK_EQ(read_segment(fd, key, &packets), status_expected);
  CHECK_EQ(packets, packets_expected);
}

static void test_frames(const struct image *image, int fd, const uint8_t *key) {
  check_order(image, fd, key, (int[]){0, 1, 2, 3, -1}, SONDE_END, 6);
  check_order(image, fd, key, (int[]){0, 2, 3, -1}, SONDE_REORDERED, 2);
  check_order(image, fd, key, (int[]){1, 2, 3, -1}, SONDE_REORDERED, 0);
  check_order(image, fd, key, (int[]){0, 0, 1, 2, 3, -1}, SONDE_REORDERED, 2);
  check_order(image, fd, key, (int[]){0, 2, 1, 3, -1}, SONDE_REORDERED, 2);
  check_order(image, fd, key, (int[]){0, 1, 3, -1}, SONDE_REORDERED, 4);
  check_order(image, fd, key, (int[]){0, 1, 2, 3, 3, -1}, SONDE_DAMAGED, 6);
  check_order(image, fd, key, (int[]){0, 1, 2, 3, 0, -1}, SONDE_DAMAGED, 6);
  check_order(image, fd, key, (int[]){3, -1}, SONDE_REORDERED, 0);

  /* An attacker who renumbers frames 1 and 2 fails the tag check. */
  static struct image renumbered;
  uint64_t packets;
  renumbered = *image;
  size_t one = frame_at(image, 1), two = frame_at(image, 2);
  renumbered.length = one;
  memcpy(renumbered.bytes + one, image->bytes + two, frame_at(image, 3) - two);
  renumbered.length += frame_at(image, 3) - two;
  renumbered.bytes[one + 8] = 1;
  write_image(&renumbered, fd);
  CHECK_EQ(read_segment(fd, key, &packets), SONDE_DAMAGED);
  CHECK_EQ(packets, 2);
}

static void test_format(const uint8_t *key) {
  static struct image image, other;
  uint64_t packets;
  char path[300];
  make_image(&image, key);
  snprintf(path, sizeof path, "%s/copy", directory);
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  test_bits(&image, fd, key);
  test_cuts(&image, fd, key);
  test_frames(&image, fd, key);
  write_image(&image, fd);
  CHECK_EQ(read_segment(fd, key_two, &packets), key ? SONDE_KEY_WRONG : SONDE_END);
  CHECK_EQ(read_segment(fd, NULL, &packets), key ? SONDE_KEY_WRONG : SONDE_END);
  if (key) { /* frames of another file with the same key: its salt gives another file key */
    make_image(&other, key);
    CHECK_EQ(other.length, image.length);
    memcpy(other.bytes + frame_at(&other, 1), image.bytes + frame_at(&image, 1),
           frame_at(&image, 2) - frame_at(&image, 1));
    write_image(&other, fd);
    CHECK_EQ(read_segment(fd, key, &packets), SONDE_DAMAGED);
    CHECK_EQ(packets, 2);
  }
  close(fd);
  unlink(path);
}

/* ---- queries over memory and disk ------------------------------------------------------------ */

static uint64_t check_query(struct sonde_store *store, uint64_t from, bool complete) {
  struct sonde_query *query;
  struct sonde_error error = {0};
  struct sonde_packets_summary summary;
  struct sonde_packet packet;
  struct sonde_query_config config = {.start_ns = made_start_ns + from * made_step_ns,
                                      .end_ns = UINT64_MAX};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  uint64_t number = from;
  for (; next_answer(&answer, &packet); number++)
    check_packet(&packet, 0, number);
  sonde_query_summary(query, &summary);
  CHECK_EQ(summary.complete, complete);
  free(answer.bytes);
  sonde_query_close(query);
  return number;
}

static void test_query(const uint8_t *key) {
  const uint64_t count = 40000; /* three times the memory */
  struct sonde_store_stats stats;
  empty_directory();
  struct sonde_store *store = open_store(key, 256 << 20);
  append(store, 0, count, 700);
  sonde_store_stats(store, &stats);
  CHECK(stats.packets_overwritten > count / 2);
  CHECK_EQ(stats.packets_spill_lost, 0);
  CHECK_EQ(check_query(store, 0, true), count);
  CHECK_EQ(check_query(store, 12345, true), count);
  if (key)
    check_no_marker();
  sonde_store_close(store);

  /* The next session reads the segments of the last one. With another key it reports so. */
  store = open_store(key, 256 << 20);
  CHECK_EQ(check_query(store, 0, true), count);
  sonde_store_close(store);
  if (key) {
    store = open_store(key_two, 256 << 20);
    CHECK_EQ(check_query(store, 0, false), 0);
    sonde_store_close(store);
  }
}

static void test_disk_bound(void) {
  struct sonde_store_stats stats;
  char name[300];
  empty_directory();
  struct sonde_store *store = open_store(key_one, 4 << 20);
  append(store, 0, 20000, 500);
  sonde_store_stats(store, &stats);
  CHECK(stats.segment_bytes <= 4 << 20);
  CHECK(stats.segment_bytes > 2 << 20);
  CHECK_EQ(stats.segments, count_files("netsonde-", name));
  uint64_t real = 0;
  DIR *dir = opendir(directory);
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
    struct stat status;
    if (strstr(entry->d_name, "netsonde-") && fstatat(dirfd(dir), entry->d_name, &status, 0) == 0)
      real += (uint64_t)status.st_size;
  }
  closedir(dir);
  CHECK(real <= 4 << 20);
  CHECK_EQ(real, stats.segment_bytes); /* with the final frame of each finished file */
  sonde_store_close(store);
}

/* Ranges include both ends, also where a frame or a file begins or ends. The files alone hold the
 * packets: their session has ended. */
static void test_edges(void) {
  enum { EACH = 250, LAST = 10000 };
  char name[300];
  empty_directory();
  struct sonde_store *store = open_store(key_one, 4 << 20);
  append(store, 0, LAST, EACH);
  sonde_store_close(store);
  store = open_store(key_one, 4 << 20);
  CHECK(count_files(".segment", name) >= 3);
  uint64_t found = 0;
  for (uint64_t edge = LAST; edge >= EACH; edge -= EACH) {
    for (uint64_t number = edge - EACH; number < edge; number += EACH - 1) {
      struct sonde_query *query;
      struct sonde_error error = {0};
      struct sonde_packet packet;
      uint64_t at_ns = made_start_ns + number * made_step_ns;
      struct sonde_query_config config = {.start_ns = at_ns, .end_ns = at_ns};
      CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
      struct answer answer = read_answer(query);
      if (next_answer(&answer, &packet)) {
        found++;
        check_packet(&packet, 0, number);
        CHECK(!next_answer(&answer, &packet));
      } else {
        CHECK(edge <= LAST - 3000); /* removed for the bound */
      }
      free(answer.bytes);
      sonde_query_close(query);
    }
  }
  CHECK(found >= 24);
  sonde_store_close(store);
}

/* Sealing removes the segments in clear, also those of an earlier session. */
static void test_sealing_removes_clear_segments(void) {
  struct sonde_store_stats stats;
  struct sonde_error error = {0};
  char name[300];
  empty_directory();
  struct sonde_store *store = open_store(NULL, 64 << 20);
  append(store, 0, 1000, 200);
  sonde_store_close(store);
  store = open_store(NULL, 64 << 20);
  append(store, 1000, 2000, 200);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.segments, 2);
  CHECK_EQ(sonde_store_key_set(store, key_one, &error), SONDE_OK);
  CHECK_EQ(sonde_store_seal_all(store, &error), SONDE_OK);
  CHECK_EQ(count_files(".segment", name), 0);
  sonde_store_close(store);
  check_no_marker();
}

/* ---- a disk that fails -------------------------------------------------------------- */

static _Atomic int write_errno;

static ssize_t failing_write(int fd, const void *bytes, size_t count, off_t offset) {
  if (!write_errno)
    return pwrite(fd, bytes, count, offset);
  if (count > 100) /* the disk writes a part and then fails */
    return pwrite(fd, bytes, 100, offset);
  errno = write_errno;
  return -1;
}

static int failing_sync(int fd) {
  if (!write_errno)
    return fdatasync(fd);
  errno = write_errno;
  return -1;
}

static void ignore_state(enum sonde_segment_file_state state) {
  (void)state;
}

static void test_failing_disk(int system_errno) {
  const struct sonde_segment_file_system failing = {failing_write, failing_sync, ignore_state};
  struct sonde_store_stats stats;
  uint32_t failed = store_events.spill_failed, resumed = store_events.spill_resumed;
  char name[300];
  empty_directory();
  sonde_segment_file_system = &failing;
  struct sonde_store *store = open_store(key_one, 64 << 20);
  append(store, 0, 1000, 200);
  write_errno = system_errno;
  append(store, 1000, 2000, 200);
  CHECK_EQ(store_events.spill_failed, failed + 1);
  sonde_store_stats(store, &stats);
  CHECK(stats.spill_failures > 0);
  CHECK_EQ(stats.packets_spill_lost, 1000);
  CHECK_EQ(check_query(store, 0, true), 2000); /* memory is unaffected */
  write_errno = 0;
  sleep_ms(1100);
  append(store, 2000, 3000, 200);
  CHECK_EQ(store_events.spill_resumed, resumed + 1);
  CHECK_EQ(check_query(store, 0, true), 3000);
  check_no_marker();
  sonde_store_close(store);
  sonde_segment_file_system = &sonde_segment_file_system_real;
  CHECK_EQ(count_files(".part", name), 0);
  check_no_marker();

  /* A new session finds the first and the last thousand. */
  store = open_store(key_one, 64 << 20);
  struct sonde_query *query;
  struct sonde_error error = {0};
  struct sonde_query_config config = {.end_ns = UINT64_MAX};
  CHECK_EQ(sonde_query_open(store, &config, &query, &error), SONDE_OK);
  struct answer answer = read_answer(query);
  struct sonde_packet packet;
  uint64_t found = 0;
  for (; next_answer(&answer, &packet); found++)
    check_packet(&packet, 0, found < 1000 ? found : found + 1000);
  CHECK_EQ(found, 2000);
  free(answer.bytes);
  sonde_query_close(query);
  sonde_store_close(store);
}

/* ---- killed in every state ---------------------------------------------------------- */

static enum sonde_segment_file_state fatal_state;

static void kill_in_state(enum sonde_segment_file_state state) {
  if (state == fatal_state)
    raise(SIGKILL);
}

static void test_kill(enum sonde_segment_file_state state) {
  const struct sonde_segment_file_system deadly = {pwrite, fdatasync, kill_in_state};
  const uint64_t on_disk[] = {
      [SONDE_SEGMENT_FILE_OPENED] = 0,    [SONDE_SEGMENT_FILE_VERIFIED] = 200,
      [SONDE_SEGMENT_FILE_FILLING] = 400, [SONDE_SEGMENT_FILE_ENDED] = 1000,
      [SONDE_SEGMENT_FILE_SYNCED] = 1000, [SONDE_SEGMENT_FILE_NAMED] = 1000,
      [SONDE_SEGMENT_FILE_DONE] = 1000};
  char name[300];
  empty_directory();
  fatal_state = state;
  pid_t child = fork();
  if (child == 0) {
    sonde_segment_file_system = &deadly;
    struct sonde_store *store = open_store(key_one, 64 << 20);
    append(store, 0, 1000, 200);
    sonde_store_close(store);
    _exit(0);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  check_no_marker();
  struct sonde_store *store = open_store(key_one, 64 << 20);
  CHECK_EQ(count_files(".part", name), 0);
  CHECK_EQ(check_query(store, 0, true), on_disk[state]);
  sonde_store_close(store);
  if (on_disk[state]) {
    uint64_t packets;
    CHECK_EQ(count_files(".segment", name), 1);
    int fd = open(name, O_RDONLY);
    CHECK_EQ(read_segment(fd, key_one, &packets),
             state < SONDE_SEGMENT_FILE_ENDED ? SONDE_TRUNCATED : SONDE_END);
    CHECK_EQ(packets, on_disk[state]);
    close(fd);
  } else {
    CHECK_EQ(count_files("netsonde-", name), 0);
  }
}

static int fail_final(EVP_CIPHER_CTX *context, unsigned char *out, int *length) {
  (void)context, (void)out, (void)length;
  return 0;
}

static _Atomic bool disk_hangs;

static ssize_t hanging_write(int fd, const void *bytes, size_t count, off_t offset) {
  while (disk_hangs)
    sleep_ms(1);
  return pwrite(fd, bytes, count, offset);
}

/* Packets that could not be sealed are not counted again when the disk's queue is full. */
static void test_unsealed_packets_count_once(void) {
  const struct sonde_segment_file_system hanging = {hanging_write, fdatasync, ignore_state};
  struct sonde_libcrypto broken = sonde_libcrypto_real;
  struct sonde_store_stats stats = {0};
  struct sonde_error error = {0};
  broken.final = fail_final;
  empty_directory();
  sonde_segment_file_system = &hanging;
  disk_hangs = true;
  struct sonde_store *store = open_store(NULL, 64 << 20);
  struct sonde_appender *appender = sonde_store_appender(store, 0);
  for (uint64_t number = 0; number < 1500; number++)
    append_made(appender, decoder, number);
  sonde_libcrypto = &broken;
  CHECK_EQ(sonde_store_key_set(store, key_one, &error), SONDE_OK);
  for (uint64_t number = 1500; number < 6000; number++)
    append_made(appender, decoder, number);
  sonde_appender_cut(appender, 0);
  for (int turn = 0; turn < 20000 && stats.packets_seal_lost < 4500; turn++) {
    sleep_ms(1);
    sonde_store_stats(store, &stats);
  }
  CHECK(stats.packets_seal_lost >= 4500);
  disk_hangs = false;
  wait_until_idle(store);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.packets_spill_lost, 0);
  sonde_libcrypto = &sonde_libcrypto_real;
  sonde_store_close(store);
  sonde_segment_file_system = &sonde_segment_file_system_real;
}

/* Nor are packets that the disk refused, when sealing them in memory fails later. */
static void test_unwritten_packets_count_once(void) {
  const struct sonde_segment_file_system failing = {failing_write, failing_sync, ignore_state};
  struct sonde_libcrypto broken = sonde_libcrypto_real;
  struct sonde_store_stats stats;
  struct sonde_error error = {0};
  broken.final = fail_final;
  empty_directory();
  sonde_segment_file_system = &failing;
  write_errno = EIO;
  struct sonde_store *store = open_store(NULL, 64 << 20);
  append(store, 0, 1000, 200);
  sonde_libcrypto = &broken;
  CHECK_EQ(sonde_store_key_set(store, key_one, &error), SONDE_OK);
  CHECK_EQ(sonde_store_seal_all(store, &error), SONDE_OK);
  sonde_store_stats(store, &stats);
  CHECK_EQ(stats.packets_spill_lost, 1000);
  CHECK_EQ(stats.packets_seal_lost, 0);
  CHECK_EQ(stats.seal_failures, 5);
  sonde_libcrypto = &sonde_libcrypto_real;
  write_errno = 0;
  sonde_store_close(store);
  sonde_segment_file_system = &sonde_segment_file_system_real;
}

int main(void) {
  decoder = sonde_decoder_create(1, NULL);
  CHECK(mkdtemp(directory) != NULL);
  for (enum sonde_segment_file_state state = SONDE_SEGMENT_FILE_OPENED;
       state <= SONDE_SEGMENT_FILE_DONE; state++)
    test_kill(state);
  test_format(key_one);
  test_format(NULL);
  test_query(key_one);
  test_query(NULL);
  test_disk_bound();
  test_edges();
  test_sealing_removes_clear_segments();
  test_failing_disk(ENOSPC);
  test_failing_disk(EIO);
  test_unsealed_packets_count_once();
  test_unwritten_packets_count_once();
  empty_directory();
  rmdir(directory);
  sonde_decoder_destroy(decoder);
  return check_report();
}
