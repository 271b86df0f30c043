/* segment_dir.h - the segment files of a directory, oldest first, and reading them for a query.
 *
 * A finished file is "netsonde-<16 hex digits>.segment"; the one being written is hidden:
 * ".netsonde-<…>.part". Numbers grow for ever, so names sort by age.
 */
#ifndef SONDE_STORE_SEGMENT_DIR_H
#define SONDE_STORE_SEGMENT_DIR_H

#include "segment.h"

enum { SONDE_SHELF_NAME_BYTES = 48, SONDE_SHELF_KEYS_MAX = 8 };

struct sonde_store;
struct sonde_source;
struct sonde_search;

struct sonde_shelf_file {
  uint64_t number;
  uint64_t bytes;
  uint64_t first_ns; /* 0 and UINT64_MAX: not known, written by an earlier session */
  uint64_t last_ns;
  uint32_t workers;
  bool clear; /* its frames are not sealed */
};

struct sonde_shelf {
  int dir_fd;
  uint32_t count;
  uint32_t room;
  struct sonde_shelf_file *files;
  uint64_t bytes;
  uint64_t next_number;
};

void sonde_shelf_name(uint64_t number, bool hidden, char name[SONDE_SHELF_NAME_BYTES]);

/* Opens the directory and takes stock: what a killed session left hidden gets its name, or
 * is removed if it holds no frame. Errors: SYSTEM, NO_MEMORY; errno is set. */
int sonde_shelf_open(struct sonde_shelf *shelf, const char *dir);
void sonde_shelf_close(struct sonde_shelf *shelf);
int sonde_shelf_add(struct sonde_shelf *shelf, const struct sonde_shelf_file *file);
/* Removes the oldest file. False: there is none, or it cannot be removed. */
bool sonde_shelf_drop_oldest(struct sonde_shelf *shelf);
/* Removes every file in clear. False: one cannot be removed; errno is set. */
bool sonde_shelf_drop_clear(struct sonde_shelf *shelf);

/* ---- for queries ------------------------------------------------------------------------- */

/* The files there were, the one being written last; and the keys that may open them. */
struct sonde_shelf_view {
  int dir_fd; /* a duplicate */
  uint32_t count;
  struct sonde_shelf_file *files;
  uint64_t hidden; /* number of the one being written; its `bytes` are whole frames */
  uint32_t workers;
  uint8_t session[16];
  uint32_t key_count;
  struct sonde_sealkey *keys[SONDE_SHELF_KEYS_MAX];
};

/* Errors: NO_MEMORY, SYSTEM. Without a directory the view is empty. */
int sonde_shelf_view(struct sonde_store *store, struct sonde_shelf_view *view);
void sonde_shelf_view_close(struct sonde_shelf_view *view);

struct sonde_shelf_cursor {
  uint32_t next_file;
  int fd; /* with `open` */
  bool open;
  uint64_t end; /* of what the open file held at the time of the view */
  struct sonde_segment_reader reader;
};

/* Loads the next frame of the source's worker that lies in range and not in memory. False:
 * there is none. */
bool sonde_shelf_load(struct sonde_source *source, struct sonde_search *search);
void sonde_shelf_cursor_close(struct sonde_shelf_cursor *cursor);

#endif
