/* segment_file.h - writes a segment file.
 *
 * On failure, functions set *failed to the failed step and return its errno, or 0 if
 * libcrypto failed. Other threads read bytes, frames and times under the writer's lock.
 */
#ifndef SONDE_STORE_SEGMENT_FILE_H
#define SONDE_STORE_SEGMENT_FILE_H

#include "segment.h"
#include "segment_dir.h"

enum sonde_segment_file_state {
  SONDE_SEGMENT_FILE_IDLE = 0, /* no file */
  SONDE_SEGMENT_FILE_OPENED,   /* a hidden file with a header */
  SONDE_SEGMENT_FILE_VERIFIED, /* its first frame was written, read back and decrypted */
  SONDE_SEGMENT_FILE_FILLING,  /* another frame was written */
  SONDE_SEGMENT_FILE_ENDED,    /* the final frame was written */
  SONDE_SEGMENT_FILE_SYNCED,   /* the file was synced */
  SONDE_SEGMENT_FILE_NAMED,    /* it has its final name */
  SONDE_SEGMENT_FILE_DONE,     /* the directory was synced */
};

/* System calls on segment files; tests inject errors and kills. */
struct sonde_segment_file_system {
  ssize_t (*write)(int fd, const void *bytes, size_t count, off_t offset);
  int (*sync)(int fd);
  void (*reached)(enum sonde_segment_file_state state);
};
extern _Atomic(const struct sonde_segment_file_system *) sonde_segment_file_system;
extern const struct sonde_segment_file_system sonde_segment_file_system_real;

struct sonde_segment_file {
  int dir_fd; /* this and the next three: set before init */
  uint32_t workers;
  uint64_t bytes_max;
  uint64_t disk_bytes;
  uint8_t session[16];
  uint8_t *sealed; /* one frame, as stored */
  uint8_t *key;    /* the file's, in locked memory */

  enum sonde_segment_file_state state;
  int fd;
  bool is_sealed;
  bool cut_failed; /* a failed frame is still in the file */
  struct sonde_segment_header header;
  _Atomic uint64_t bytes; /* up to the last whole frame */
  _Atomic uint64_t frames;
  _Atomic uint64_t first_ns;
  _Atomic uint64_t last_ns;
};

int sonde_segment_file_init(struct sonde_segment_file *file);
void sonde_segment_file_release(struct sonde_segment_file *file);

/* IDLE → OPENED. key: NULL for an unencrypted file. */
int sonde_segment_file_begin(struct sonde_segment_file *file, uint64_t number,
                             const struct sonde_sealkey *key, const char **failed);
/* OPENED → VERIFIED → FILLING. Sets the frame's magic and counter. */
int sonde_segment_file_write(struct sonde_segment_file *file,
                             const struct sonde_segment_frame *frame, const uint8_t *payload,
                             const char **failed);
/* Truncates a frame whose write failed. */
void sonde_segment_file_abandon(struct sonde_segment_file *file);
/* … → ENDED → SYNCED → NAMED → DONE. Removes a file without frames. A failed step is
 * reported, and the next steps still run: the file is readable. */
int sonde_segment_file_finish(struct sonde_segment_file *file, const char **failed);
void sonde_segment_file_reset(struct sonde_segment_file *file); /* → IDLE */

bool sonde_segment_file_sealed_with(const struct sonde_segment_file *file,
                                    const struct sonde_sealkey *key);
struct sonde_segment_entry sonde_segment_file_entry(const struct sonde_segment_file *file);

#endif
