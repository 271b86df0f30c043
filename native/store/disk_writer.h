/* disk_writer.h - chunks on their way to disk: a thread, a bounded queue, one file at a time.
 *
 * A file goes through the states below. Whatever fails or kills the process, the file is left
 * in one of them, and each can be gone on from: what is hidden gets its name when the
 * directory is opened again (segment_dir.c), and every whole frame in it can be read.
 *
 * What is on disk: a frame is written, with one write, when its extent is a second old or
 * full. A file is synced when it is finished; until then a power cut, not a kill, may take
 * its last frames.
 */
#ifndef SONDE_STORE_DISK_WRITER_H
#define SONDE_STORE_DISK_WRITER_H

#include "chunk.h"
#include "segment_dir.h"
#include "store.h"

struct sonde_spill;

enum sonde_spill_state {
  SONDE_SPILL_IDLE = 0, /* no file */
  SONDE_SPILL_OPENED,   /* a hidden file with a header */
  SONDE_SPILL_PROVED,   /* its first frame has been written, read back and opened */
  SONDE_SPILL_FILLING,  /* one more frame has been written */
  SONDE_SPILL_ENDED,    /* the final frame has been written */
  SONDE_SPILL_SYNCED,   /* the file is on the disk */
  SONDE_SPILL_NAMED,    /* it has its final name */
  SONDE_SPILL_SHELVED,  /* the name is on the disk: a finished file */
};

/* What a spill does to files; tests put faults and full stops here. */
struct sonde_spill_system {
  ssize_t (*write)(int fd, const void *bytes, size_t count, off_t offset);
  int (*sync)(int fd);
  void (*reached)(enum sonde_spill_state state);
};
extern _Atomic(const struct sonde_spill_system *) sonde_spill_system;
extern const struct sonde_spill_system sonde_spill_system_real;

int sonde_spill_open(struct sonde_store *store, const char *dir, uint64_t disk_bytes,
                     struct sonde_spill **spill, struct sonde_error *error);
/* Writes what is queued, finishes the file. NULL is allowed. */
void sonde_spill_close(struct sonde_spill *spill);

/* The keeper is through with the chunk's first `extents`, and has it pinned. Queues it, or
 * counts what is new in it as lost if the queue is full. */
void sonde_spill_offer(struct sonde_spill *spill, struct sonde_chunk *chunk, uint32_t extents);
/* Removes every segment file in clear, the one being written included; what is in memory is
 * sealed by now. Waits for the disk. Errors: SYSTEM. */
int sonde_spill_drop_clear(struct sonde_spill *spill, struct sonde_error *error);
void sonde_spill_stats(struct sonde_spill *spill, struct sonde_store_stats *stats);
int sonde_spill_view(struct sonde_spill *spill, struct sonde_shelf_view *view);

#endif
