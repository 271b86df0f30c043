/* segment_file.c - see segment_file.h. */
#include "segment_file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "host/clock.h"

static void reach_nothing(enum sonde_segment_file_state state) {
  (void)state;
}

const struct sonde_segment_file_system sonde_segment_file_system_real = {
    .write = pwrite,
    .sync = fdatasync,
    .reached = reach_nothing,
};
_Atomic(const struct sonde_segment_file_system *) sonde_segment_file_system =
    &sonde_segment_file_system_real;

static void reach(struct sonde_segment_file *file, enum sonde_segment_file_state state) {
  file->state = state;
  sonde_segment_file_system->reached(state);
}

static int fail(const char **failed, int system_errno, const char *what) {
  *failed = what;
  return system_errno;
}

int sonde_segment_file_init(struct sonde_segment_file *file) {
  file->fd = -1;
  file->sealed = malloc(SONDE_FRAME_BYTES_MAX);
  file->key = sonde_secret_map(SONDE_KEY_BYTES, 1);
  bool random = getrandom(file->session, sizeof file->session, 0) == sizeof file->session;
  return file->sealed && file->key && random ? SONDE_OK : SONDE_SYSTEM;
}

void sonde_segment_file_release(struct sonde_segment_file *file) {
  if (file->state != SONDE_SEGMENT_FILE_IDLE && file->fd >= 0)
    close(file->fd);
  free(file->sealed);
  sonde_secret_unmap(file->key, SONDE_KEY_BYTES);
}

/* Returns 0 or an errno. */
static int write_fully(struct sonde_segment_file *file, const uint8_t *bytes, size_t count,
                       uint64_t at) {
  size_t done = 0;
  while (done < count) {
    ssize_t wrote =
        sonde_segment_file_system->write(file->fd, bytes + done, count - done, (off_t)(at + done));
    if (wrote < 0 && errno != EINTR)
      return errno;
    if (wrote == 0)
      return EIO;
    done += wrote > 0 ? (size_t)wrote : 0;
  }
  return 0;
}

static int make_header(struct sonde_segment_file *file, uint64_t number,
                       const struct sonde_sealkey *key) {
  file->is_sealed = key != NULL;
  file->header = (struct sonde_segment_header){
      .magic = "SONDESE",
      .version = SONDE_SEGMENT_VERSION,
      .suite = key ? SONDE_SUITE_AES_256_GCM : SONDE_SUITE_CLEAR,
      .workers = file->workers,
      .created_ns = sonde_clock_ns(CLOCK_REALTIME),
      .number = number,
  };
  memcpy(file->header.magic, "SONDESEG", 8);
  memcpy(file->header.session, file->session, sizeof file->session);
  if (!key)
    return SONDE_OK;
  memcpy(file->header.key_id, key->id, sizeof key->id);
  if (getrandom(file->header.salt, SONDE_SALT_BYTES, 0) != SONDE_SALT_BYTES)
    return SONDE_SYSTEM;
  return sonde_segment_key(&file->header, key->master, file->key);
}

int sonde_segment_file_begin(struct sonde_segment_file *file, uint64_t number,
                             const struct sonde_sealkey *key, const char **failed) {
  char name[SONDE_SEGMENT_DIR_NAME_BYTES];
  if (make_header(file, number, key) < 0)
    return fail(failed, 0, "derive the key of a segment");
  sonde_segment_dir_name(number, true, name);
  file->fd = openat(file->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file->fd < 0)
    return fail(failed, errno, "create a segment");
  file->state = SONDE_SEGMENT_FILE_OPENED;
  file->cut_failed = false;
  file->bytes = sizeof file->header;
  file->first_ns = UINT64_MAX;
  file->last_ns = 0;
  int system_errno = write_fully(file, (const uint8_t *)&file->header, sizeof file->header, 0);
  if (system_errno)
    return fail(failed, system_errno, "write a segment");
  reach(file, SONDE_SEGMENT_FILE_OPENED);
  return 0;
}

/* Reads the header and the first frame of `bytes` back from the file, and decrypts the frame. */
static int verify(struct sonde_segment_file *file, uint32_t bytes, const char **failed) {
  struct sonde_segment_header header;
  struct sonde_segment_frame frame;
  ssize_t head = pread(file->fd, &header, sizeof header, 0);
  ssize_t rest = pread(file->fd, file->sealed, bytes, sizeof header);
  if (head < 0 || rest < 0)
    return fail(failed, errno, "read a segment back");
  memcpy(&frame, file->sealed, sizeof frame);
  if (head != sizeof header || rest != (ssize_t)bytes ||
      memcmp(&header, &file->header, sizeof header) != 0 ||
      sonde_frame_bytes(frame.payload_bytes) != bytes)
    return fail(failed, EIO, "read a segment back");
  uint8_t *clear = sonde_secret_map(SONDE_FRAME_PAYLOAD_MAX, 0);
  int status = clear ? sonde_frame_open(&header, file->is_sealed ? file->key : NULL, &frame,
                                        file->sealed + sizeof frame, clear)
                     : SONDE_NO_MEMORY;
  sonde_secret_unmap(clear, SONDE_FRAME_PAYLOAD_MAX);
  return status < 0 ? fail(failed, status == SONDE_DAMAGED ? EIO : 0, "open the first frame") : 0;
}

static int append(struct sonde_segment_file *file, struct sonde_segment_frame *frame,
                  const uint8_t *payload, const char **failed) {
  uint32_t bytes = sonde_frame_bytes(frame->payload_bytes);
  frame->magic = SONDE_FRAME_MAGIC;
  frame->counter = file->frames;
  if (sonde_frame_seal(&file->header, file->is_sealed ? file->key : NULL, frame, payload,
                       file->sealed) < 0) {
    OPENSSL_cleanse(file->sealed, bytes);
    return fail(failed, 0, "seal a frame");
  }
  int system_errno = write_fully(file, file->sealed, bytes, file->bytes);
  return system_errno ? fail(failed, system_errno, "write a segment") : 0;
}

int sonde_segment_file_write(struct sonde_segment_file *file,
                             const struct sonde_segment_frame *given, const uint8_t *payload,
                             const char **failed) {
  struct sonde_segment_frame frame = *given;
  int system_errno = append(file, &frame, payload, failed);
  if (!*failed && file->frames == 0)
    system_errno = verify(file, sonde_frame_bytes(frame.payload_bytes), failed);
  if (*failed)
    return system_errno;
  if (frame.first_ns < file->first_ns)
    file->first_ns = frame.first_ns;
  if (frame.last_ns > file->last_ns)
    file->last_ns = frame.last_ns;
  file->bytes += sonde_frame_bytes(frame.payload_bytes);
  file->frames++;
  reach(file, file->frames == 1 ? SONDE_SEGMENT_FILE_VERIFIED : SONDE_SEGMENT_FILE_FILLING);
  return 0;
}

void sonde_segment_file_abandon(struct sonde_segment_file *file) {
  /* If this fails too, readers find a damaged frame after the whole ones. */
  file->cut_failed =
      file->state != SONDE_SEGMENT_FILE_IDLE && ftruncate(file->fd, (off_t)file->bytes) < 0;
}

/* Reuses the number of a failed frame: the final flag makes the nonce unique. */
static int end(struct sonde_segment_file *file, const char **failed) {
  struct sonde_segment_frame frame = {.flags = SONDE_FRAME_FINAL};
  if (file->cut_failed)
    return 0;
  int system_errno = append(file, &frame, NULL, failed);
  if (!*failed)
    file->bytes += sonde_frame_bytes(0);
  else
    sonde_segment_file_abandon(file);
  return system_errno;
}

static int drop(struct sonde_segment_file *file, const char *hidden, const char **failed) {
  close(file->fd);
  file->fd = -1;
  return unlinkat(file->dir_fd, hidden, 0) < 0 ? fail(failed, errno, "remove a segment") : 0;
}

int sonde_segment_file_finish(struct sonde_segment_file *file, const char **failed) {
  char hidden[SONDE_SEGMENT_DIR_NAME_BYTES], final[SONDE_SEGMENT_DIR_NAME_BYTES];
  int system_errno = 0;
  sonde_segment_dir_name(file->header.number, true, hidden);
  sonde_segment_dir_name(file->header.number, false, final);
  if (file->frames == 0)
    return drop(file, hidden, failed);
  system_errno = end(file, failed);
  reach(file, SONDE_SEGMENT_FILE_ENDED);
  if (sonde_segment_file_system->sync(file->fd) < 0 && !*failed)
    system_errno = fail(failed, errno, "sync a segment");
  reach(file, SONDE_SEGMENT_FILE_SYNCED);
  if (renameat(file->dir_fd, hidden, file->dir_fd, final) < 0 && !*failed)
    system_errno = fail(failed, errno, "rename a segment");
  reach(file, SONDE_SEGMENT_FILE_NAMED);
  if (sonde_segment_file_system->sync(file->dir_fd) < 0 && !*failed)
    system_errno = fail(failed, errno, "sync the segments' directory");
  reach(file, SONDE_SEGMENT_FILE_DONE);
  close(file->fd);
  file->fd = -1;
  return system_errno;
}

void sonde_segment_file_reset(struct sonde_segment_file *file) {
  file->state = SONDE_SEGMENT_FILE_IDLE;
  file->bytes = file->frames = 0;
  OPENSSL_cleanse(file->key, SONDE_KEY_BYTES);
  OPENSSL_cleanse(file->sealed, SONDE_FRAME_BYTES_MAX); /* plaintext if unencrypted */
}

bool sonde_segment_file_sealed_with(const struct sonde_segment_file *file,
                                    const struct sonde_sealkey *key) {
  if (!key)
    return !file->is_sealed;
  return file->is_sealed && memcmp(file->header.key_id, key->id, sizeof key->id) == 0;
}

struct sonde_segment_entry sonde_segment_file_entry(const struct sonde_segment_file *file) {
  return (struct sonde_segment_entry){
      .number = file->header.number,
      .clear = !file->is_sealed,
      .bytes = file->bytes,
      .first_ns = file->first_ns,
      .last_ns = file->last_ns,
      .workers = file->workers,
  };
}
