/* disk_writer.h - chunks on their way to disk: a thread, a bounded queue, one file at a time.
 *
 * A file goes through the states of segment_file.h. Whatever fails or kills the process, the file
 * is left in one of them, and each can be gone on from: what is hidden gets its name when the
 * directory is opened again (segment_dir.c), and every whole frame in it can be read.
 *
 * What is on disk: a frame is written, with one write, when its extent is a second old or
 * full. A file is synced when it is finished; until then a power cut, not a kill, may take
 * its last frames.
 */
#ifndef SONDE_STORE_DISK_WRITER_H
#define SONDE_STORE_DISK_WRITER_H

#include "chunk.h"
#include "segment_file.h"
#include "store_config.h"

struct sonde_disk_writer;

int sonde_disk_writer_open(struct sonde_store *store, const char *dir, uint64_t disk_bytes,
                           struct sonde_disk_writer **writer, struct sonde_error *error);
/* Writes what is queued, finishes the file. NULL is allowed. */
void sonde_disk_writer_close(struct sonde_disk_writer *writer);

/* The sealer is through with the chunk's first `extents`, and has it pinned. Queues it, or
 * counts what is new in it as lost if the queue is full. */
void sonde_disk_writer_offer(struct sonde_disk_writer *writer, struct sonde_chunk *chunk,
                             uint32_t extents);
/* Removes every segment file in clear, the one being written included; what is in memory is
 * sealed by now. Waits for the disk. Errors: SYSTEM. */
int sonde_disk_writer_drop_clear(struct sonde_disk_writer *writer, struct sonde_error *error);
void sonde_disk_writer_stats(struct sonde_disk_writer *writer, struct sonde_store_stats *stats);
int sonde_disk_writer_scan(struct sonde_disk_writer *writer, struct sonde_segment_scan *scan);

#endif
