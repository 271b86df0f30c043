/* disk_writer.h - writes chunks to segment files: a thread and a bounded queue.
 *
 * A failure or a kill leaves the file in one of the states of segment_file.h. Every whole
 * frame in it stays readable. segment_dir.c renames a hidden file when the directory is
 * opened next.
 *
 * A frame is written with one write when its extent is a second old or full. A file is
 * synced when it is finished. Until then a power failure, but not a kill, may lose its last
 * frames.
 */
#ifndef SONDE_STORE_DISK_WRITER_H
#define SONDE_STORE_DISK_WRITER_H

#include "chunk.h"
#include "segment_file.h"
#include "store_config.h"

struct sonde_disk_writer;

int sonde_disk_writer_open(struct sonde_store *store, const char *dir, uint64_t disk_bytes,
                           struct sonde_disk_writer **writer, struct sonde_error *error);
/* Writes all queued extents and finishes the file. NULL is allowed. */
void sonde_disk_writer_close(struct sonde_disk_writer *writer);

/* Queues a chunk whose first `extents` are sealed; the sealer has it pinned. If the queue is
 * full, counts its unwritten extents as lost. */
void sonde_disk_writer_offer(struct sonde_disk_writer *writer, struct sonde_chunk *chunk,
                             uint32_t extents);
/* Removes every unencrypted segment file, also the open one. Memory must be sealed already.
 * Waits for the disk. Errors: SYSTEM. */
int sonde_disk_writer_drop_clear(struct sonde_disk_writer *writer, struct sonde_error *error);
void sonde_disk_writer_stats(struct sonde_disk_writer *writer, struct sonde_store_stats *stats);
int sonde_disk_writer_scan(struct sonde_disk_writer *writer, struct sonde_segment_scan *scan);

#endif
