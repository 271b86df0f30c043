/* segment_file.h - the segment file that is being written.
 *
 * Functions return the errno of what failed and its name in *failed; 0 with *failed is
 * libcrypto. The figures (bytes, frames, times) are read by others under the spill's lock.
 */
#ifndef SONDE_STORE_SEGMENT_FILE_H
#define SONDE_STORE_SEGMENT_FILE_H

#include "disk_writer.h"
#include "segment.h"
#include "segment_dir.h"

struct sonde_file_config {
  int dir_fd;
  uint32_t workers;
  uint64_t bytes_max;
  uint64_t disk_bytes;
};

struct sonde_file {
  int dir_fd;
  uint32_t workers;
  uint64_t bytes_max;
  uint64_t disk_bytes;
  uint8_t session[16];
  uint8_t *sealed; /* one frame, as it goes to the file */
  uint8_t *key;    /* the file's own, locked */

  enum sonde_spill_state state;
  int fd;
  bool is_sealed;
  bool given_up;
  struct sonde_segment_header header;
  _Atomic uint64_t bytes; /* whole frames */
  _Atomic uint64_t frames;
  _Atomic uint64_t first_ns;
  _Atomic uint64_t last_ns;
};

int sonde_file_init(struct sonde_file *file, const struct sonde_file_config *config);
void sonde_file_release(struct sonde_file *file);

/* IDLE → OPENED. key: NULL for a file in clear. */
int sonde_file_begin(struct sonde_file *file, uint64_t number, const struct sonde_sealkey *key,
                     const char **failed);
/* OPENED → PROVED → FILLING. Counter and flags of the frame are set here. */
int sonde_file_write(struct sonde_file *file, const struct sonde_segment_frame *frame,
                     const uint8_t *payload, const char **failed);
/* A frame failed: what was written of it is cut off. */
void sonde_file_give_up(struct sonde_file *file);
/* … → ENDED → SYNCED → NAMED → SHELVED; a file without a frame is removed. What fails is
 * told, and the file goes on to the next state all the same: it can be read. */
int sonde_file_finish(struct sonde_file *file, const char **failed);
void sonde_file_reset(struct sonde_file *file); /* → IDLE */

bool sonde_file_sealed_with(const struct sonde_file *file, const struct sonde_sealkey *key);
struct sonde_shelf_file sonde_file_entry(const struct sonde_file *file);

#endif
