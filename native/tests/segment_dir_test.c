/* segment_dir_test.c - the list of a directory's segment files: what a file's header says, and what
 * the list leaves out.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store/segment.h"
#include "store/segment_dir.h"

static char directory[] = "/tmp/netsonde-dir-XXXXXX"; /* for mkdtemp */
static int dir_fd;

static void make_file(uint64_t number, uint32_t workers, uint16_t suite, size_t bytes) {
  char name[SONDE_SEGMENT_DIR_NAME_BYTES], content[512] = {0};
  struct sonde_segment_header header = {
      .magic = {'S', 'O', 'N', 'D', 'E', 'S', 'E', 'G'},
      .version = SONDE_SEGMENT_VERSION,
      .suite = suite,
      .workers = workers,
      .number = number,
  };
  memcpy(content, &header, sizeof header);
  sonde_segment_dir_name(number, false, name);
  int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK_EQ(write(fd, content, bytes), bytes);
  close(fd);
}

static void remove_files(struct sonde_segment_dir *segments) {
  for (uint32_t left = segments->count; left > 0; left--)
    CHECK(sonde_segment_dir_drop_oldest(segments));
  CHECK(!sonde_segment_dir_drop_oldest(segments));
  CHECK_EQ(segments->bytes, 0);
  sonde_segment_dir_close(segments);
}

/* A session has at most 64 workers. A header that claims more is not believed. */
static void headers_name_the_workers(void) {
  const struct {
    uint32_t workers, listed;
    size_t bytes;
  } rows[] = {{1, 1, 200},  {2, 2, 300},          {63, 63, 200}, {64, 64, 200},
              {65, 1, 200}, {UINT32_MAX, 1, 200}, {9, 1, 95}};
  enum { ROWS = sizeof rows / sizeof rows[0] };
  struct sonde_segment_dir segments;
  for (uint64_t i = 0; i < ROWS; i++)
    make_file(ROWS - i, rows[i].workers, i % 2 ? SONDE_SUITE_CLEAR : SONDE_SUITE_AES_256_GCM,
              rows[i].bytes);
  CHECK_EQ(sonde_segment_dir_open(&segments, directory), SONDE_OK);
  CHECK_EQ(segments.count, ROWS);
  CHECK_EQ(segments.next_number, ROWS + 1);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < segments.count; i++) {
    uint32_t row = ROWS - 1 - i;
    bytes += rows[row].bytes;
    CHECK_EQ(segments.files[i].number, i + 1); /* the oldest first */
    CHECK_EQ(segments.files[i].bytes, rows[row].bytes);
    CHECK_EQ(segments.files[i].workers, rows[row].listed);
    CHECK_EQ(segments.files[i].clear, row % 2 == 1 && rows[row].workers <= 64);
  }
  CHECK_EQ(segments.bytes, bytes);
  remove_files(&segments);
}

static void only_a_directory_is_opened(void) {
  struct sonde_segment_dir segments;
  CHECK_EQ(mkfifoat(dir_fd, "fifo", 0600), 0);
  int fd = openat(dir_fd, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const char *const names[] = {"fifo", "file", "absent"};
  for (int i = 0; i < 3; i++) {
    char path[sizeof directory + 16];
    snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    CHECK_EQ(sonde_segment_dir_open(&segments, path), SONDE_SYSTEM);
    CHECK_EQ(errno, i == 2 ? ENOENT : ENOTDIR);
  }
  close(fd);
  unlinkat(dir_fd, "fifo", 0);
  unlinkat(dir_fd, "file", 0);
}

/* A killed session leaves its open file hidden. Without a frame, nothing is lost with it. */
static void hidden_files_are_renamed_or_removed(void) {
  struct sonde_segment_dir segments;
  char hidden[SONDE_SEGMENT_DIR_NAME_BYTES], name[SONDE_SEGMENT_DIR_NAME_BYTES];
  const size_t bytes[] = {sizeof(struct sonde_segment_header),
                          sizeof(struct sonde_segment_header) + 1};
  for (uint64_t i = 0; i < 2; i++) {
    make_file(i + 1, 1, SONDE_SUITE_CLEAR, bytes[i]);
    sonde_segment_dir_name(i + 1, false, name);
    sonde_segment_dir_name(i + 1, true, hidden);
    CHECK_EQ(renameat(dir_fd, name, dir_fd, hidden), 0);
  }
  CHECK_EQ(sonde_segment_dir_open(&segments, directory), SONDE_OK);
  CHECK_EQ(segments.count, 1);
  CHECK_EQ(segments.files[0].number, 2);
  CHECK_EQ(faccessat(dir_fd, name, F_OK, 0), 0);
  CHECK_EQ(segments.next_number, 3); /* the number of a removed file is not used again */
  remove_files(&segments);
}

int main(void) {
  CHECK(mkdtemp(directory) != NULL);
  dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  headers_name_the_workers();
  only_a_directory_is_opened();
  hidden_files_are_renamed_or_removed();
  close(dir_fd);
  CHECK_EQ(rmdir(directory), 0);
  return check_report();
}
