/* segment_dir.h - the segment files of a directory, oldest first, and reading them for queries.
 *
 * A finished file is "netsonde-<16 hex digits>.segment". The open file is hidden:
 * ".netsonde-<…>.part". Numbers only grow, so names sort by age.
 */
#ifndef SONDE_STORE_SEGMENT_DIR_H
#define SONDE_STORE_SEGMENT_DIR_H

#include "segment.h"

enum { SONDE_SEGMENT_DIR_NAME_BYTES = 48, SONDE_SEGMENT_DIR_KEYS_MAX = 8 };

struct sonde_store;
struct sonde_packet_source;
struct sonde_search;

struct sonde_segment_entry {
  uint64_t number;
  uint64_t bytes;
  uint64_t first_ns; /* 0 to UINT64_MAX: unknown, written by an earlier session */
  uint64_t last_ns;
  uint32_t workers;
  bool clear; /* unencrypted */
};

struct sonde_segment_dir {
  int dir_fd;
  uint32_t count;
  uint32_t room;
  struct sonde_segment_entry *files;
  uint64_t bytes;
  uint64_t next_number;
};

void sonde_segment_dir_name(uint64_t number, bool hidden, char name[SONDE_SEGMENT_DIR_NAME_BYTES]);

/* Opens the directory and lists its files. Renames a hidden file of a killed session, or
 * removes it if it holds no frame. Errors: SYSTEM, NO_MEMORY; errno is set. */
int sonde_segment_dir_open(struct sonde_segment_dir *segments, const char *dir);
void sonde_segment_dir_close(struct sonde_segment_dir *segments);
int sonde_segment_dir_add(struct sonde_segment_dir *segments,
                          const struct sonde_segment_entry *file);
/* Removes the oldest file. False without files, or if it cannot be removed. */
bool sonde_segment_dir_drop_oldest(struct sonde_segment_dir *segments);
/* Removes every unencrypted file. False if one cannot be removed; errno is set. */
bool sonde_segment_dir_drop_clear(struct sonde_segment_dir *segments);

/* ---- for queries ------------------------------------------------------------------------- */

/* A snapshot of the files, the open one last, and of the keys that may open them. */
struct sonde_segment_scan {
  int dir_fd; /* a duplicate */
  uint32_t count;
  struct sonde_segment_entry *files;
  uint64_t hidden; /* number of the open file; its `bytes` count whole frames */
  uint32_t workers;
  uint8_t session[16];
  uint32_t key_count;
  struct sonde_sealkey *keys[SONDE_SEGMENT_DIR_KEYS_MAX];
};

/* Empty without a directory. Errors: NO_MEMORY, SYSTEM. */
int sonde_segment_scan_open(struct sonde_store *store, struct sonde_segment_scan *scan);
void sonde_segment_scan_close(struct sonde_segment_scan *scan);

struct sonde_segment_cursor {
  uint32_t next_file;
  int fd; /* if `open` */
  bool open;
  uint64_t end; /* size of the file in the snapshot */
  struct sonde_segment_reader reader;
};

/* Loads the worker's next frame that is in range and not in memory. False at the end. */
bool sonde_segment_scan_load(struct sonde_packet_source *source, struct sonde_search *search);
void sonde_segment_cursor_close(struct sonde_segment_cursor *cursor);

#endif
