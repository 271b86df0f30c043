/* segment_file.h - the segment file that is being written.
 *
 * Functions return the errno of what failed and its name in *failed; 0 with *failed is
 * libcrypto. The figures (bytes, frames, times) are read by others under the writer's lock.
 */
#ifndef SONDE_STORE_SEGMENT_FILE_H
#define SONDE_STORE_SEGMENT_FILE_H

#include "segment.h"
#include "segment_dir.h"

enum sonde_segment_file_state {
  SONDE_SEGMENT_FILE_IDLE = 0, /* no file */
  SONDE_SEGMENT_FILE_OPENED,   /* a hidden file with a header */
  SONDE_SEGMENT_FILE_PROVED,   /* its first frame has been written, read back and opened */
  SONDE_SEGMENT_FILE_FILLING,  /* one more frame has been written */
  SONDE_SEGMENT_FILE_ENDED,    /* the final frame has been written */
  SONDE_SEGMENT_FILE_SYNCED,   /* the file is on the disk */
  SONDE_SEGMENT_FILE_NAMED,    /* it has its final name */
  SONDE_SEGMENT_FILE_DONE,     /* the name is on the disk: a finished file */
};

/* System calls on segment files; tests put faults and full stops here. */
struct sonde_segment_file_system {
  ssize_t (*write)(int fd, const void *bytes, size_t count, off_t offset);
  int (*sync)(int fd);
  void (*reached)(enum sonde_segment_file_state state);
};
extern _Atomic(const struct sonde_segment_file_system *) sonde_segment_file_system;
extern const struct sonde_segment_file_system sonde_segment_file_system_real;

struct sonde_segment_file_config {
  int dir_fd;
  uint32_t workers;
  uint64_t bytes_max;
  uint64_t disk_bytes;
};

struct sonde_segment_file {
  int dir_fd;
  uint32_t workers;
  uint64_t bytes_max;
  uint64_t disk_bytes;
  uint8_t session[16];
  uint8_t *sealed; /* one frame, as it goes to the file */
  uint8_t *key;    /* the file's own, locked */

  enum sonde_segment_file_state state;
  int fd;
  bool is_sealed;
  bool given_up;
  struct sonde_segment_header header;
  _Atomic uint64_t bytes; /* whole frames */
  _Atomic uint64_t frames;
  _Atomic uint64_t first_ns;
  _Atomic uint64_t last_ns;
};

int sonde_segment_file_init(struct sonde_segment_file *file,
                            const struct sonde_segment_file_config *config);
void sonde_segment_file_release(struct sonde_segment_file *file);

/* IDLE → OPENED. key: NULL for a file in clear. */
int sonde_segment_file_begin(struct sonde_segment_file *file, uint64_t number,
                             const struct sonde_sealkey *key, const char **failed);
/* OPENED → PROVED → FILLING. Counter and flags of the frame are set here. */
int sonde_segment_file_write(struct sonde_segment_file *file,
                             const struct sonde_segment_frame *frame, const uint8_t *payload,
                             const char **failed);
/* A frame failed: what was written of it is cut off. */
void sonde_segment_file_abandon(struct sonde_segment_file *file);
/* … → ENDED → SYNCED → NAMED → DONE; a file without a frame is removed. What fails is
 * told, and the file goes on to the next state all the same: it can be read. */
int sonde_segment_file_finish(struct sonde_segment_file *file, const char **failed);
void sonde_segment_file_reset(struct sonde_segment_file *file); /* → IDLE */

bool sonde_segment_file_sealed_with(const struct sonde_segment_file *file,
                                    const struct sonde_sealkey *key);
struct sonde_segment_entry sonde_segment_file_entry(const struct sonde_segment_file *file);

#endif
