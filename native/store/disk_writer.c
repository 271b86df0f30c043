/* disk_writer.c - see disk_writer.h. The queue and the thread; segment_file.c writes files. */
#include "disk_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "failure.h"
#include "host/clock.h"
#include "host/thread.h"
#include "segment_file.h"
#include "state.h"

enum { QUEUE_MAX = 64, DISK_BYTES_MIN = 4 << 20, FILE_BYTES_MAX = 64 << 20, FILES_MIN = 4 };
static const uint64_t RETRY_NS = 1000000000;

struct sonde_disk_writer {
  struct sonde_store *store;
  uint32_t queue_max;
  pthread_t thread;
  bool runs;
  pthread_mutex_t lock; /* take data_lock first, the store's lock last */
  pthread_cond_t work;
  struct sonde_chunk *first, *last;
  uint32_t count;
  bool ends;
  bool drops_clear; /* a request to the thread, which then sets drop_errno */
  int drop_errno;
  pthread_cond_t dropped;
  struct sonde_segment_dir segments; /* under the lock */
  struct sonde_segment_file file;    /* the thread's; a scan reads its figures under the lock */
  struct sonde_sealkey *keys[SONDE_SEGMENT_DIR_KEYS_MAX]; /* under the lock; the newest first */
  _Atomic uint64_t failures;      /* this and the next two are read without the lock, */
  _Atomic uint64_t segment_count; /* which is held while files are removed */
  _Atomic uint64_t segment_bytes;
  bool failing; /* under the lock, like the next two */
  uint64_t failing_packets;
  uint64_t resume_ns; /* success is not reported before */
  uint64_t retry_ns;  /* the thread's: write nothing before */
  uint8_t *clear;     /* one extent's plaintext, secret */
};

/* ---- failures ------------------------------------------------------------------------- */

/* The chunk's data_lock and the lock are held. */
static void count_lost(struct sonde_disk_writer *writer, struct sonde_extent *extent) {
  uint32_t packets = sonde_extent_count_loss(extent);
  writer->failing_packets += packets;
  if (packets)
    sonde_store_note_gap(writer->store, extent->first_ns, extent->last_ns, SONDE_GAP_SPILL_LOST,
                         packets);
}

static void publish(struct sonde_disk_writer *writer) {
  atomic_store(&writer->segment_count, writer->segments.count + (writer->file.frames > 0));
  atomic_store(&writer->segment_bytes, writer->segments.bytes + writer->file.bytes);
}

/* Counts a failure; raises an event for the first of a series. */
static void fail_writing(struct sonde_disk_writer *writer, int system_errno, const char *detail) {
  pthread_mutex_lock(&writer->lock);
  bool first = !writer->failing;
  atomic_fetch_add(&writer->failures, 1);
  writer->failing = true;
  writer->resume_ns = sonde_clock_ns(CLOCK_MONOTONIC_COARSE) + RETRY_NS;
  pthread_mutex_unlock(&writer->lock);
  if (first)
    writer->store->config.raise(writer->store->config.context, SONDE_STORE_SPILL_FAILED,
                                system_errno, detail);
}

static void fail_file(struct sonde_disk_writer *writer, int system_errno, const char *what) {
  char detail[96];
  writer->retry_ns = sonde_clock_ns(CLOCK_MONOTONIC_COARSE) + RETRY_NS;
  snprintf(detail, sizeof detail, "%s: %s", what,
           system_errno ? strerror(system_errno) : "libcrypto failed");
  fail_writing(writer, system_errno, detail);
}

static void succeed(struct sonde_disk_writer *writer) {
  pthread_mutex_lock(&writer->lock);
  bool over = writer->failing && sonde_clock_ns(CLOCK_MONOTONIC_COARSE) >= writer->resume_ns;
  int64_t packets = (int64_t)writer->failing_packets;
  if (over) {
    writer->failing = false;
    writer->failing_packets = 0;
  }
  pthread_mutex_unlock(&writer->lock);
  if (over)
    writer->store->config.raise(writer->store->config.context, SONDE_STORE_SPILL_RESUMED, packets,
                                "");
}

/* ---- queue ---------------------------------------------------------------------------- */

static void enqueue(struct sonde_disk_writer *writer, struct sonde_chunk *chunk) {
  chunk->write_queued = true;
  chunk->write_next = NULL;
  *(writer->last ? &writer->last->write_next : &writer->first) = chunk;
  writer->last = chunk;
  writer->count++;
  pthread_cond_signal(&writer->work);
}

void sonde_disk_writer_offer(struct sonde_disk_writer *writer, struct sonde_chunk *chunk,
                             uint32_t extents) {
  struct sonde_store *store = writer->store;
  bool pin = false, slow = false;
  pthread_mutex_lock(&chunk->data_lock);
  pthread_mutex_lock(&writer->lock);
  chunk->extents_ready = extents;
  if (!chunk->write_queued && writer->count < writer->queue_max) {
    enqueue(writer, chunk);
    pin = true;
  } else if (!chunk->write_queued) {
    slow = true; /* capture does not wait for the disk */
    for (; chunk->extents_written < extents; chunk->extents_written++)
      count_lost(writer, &chunk->extents[chunk->extents_written]);
  }
  pthread_mutex_unlock(&writer->lock);
  pthread_mutex_unlock(&chunk->data_lock);
  if (slow)
    fail_writing(writer, 0, "the disk is slower than the capture");
  if (pin) { /* until here the sealer's pin protects it */
    pthread_mutex_lock(&store->lock);
    chunk->pins++;
    pthread_mutex_unlock(&store->lock);
  }
}

/* ---- the thread ----------------------------------------------------------------------- */

static void finish_file(struct sonde_disk_writer *writer) {
  if (writer->file.state == SONDE_SEGMENT_FILE_IDLE)
    return;
  struct sonde_segment_entry entry = sonde_segment_file_entry(&writer->file);
  const char *failed = NULL;
  int system_errno = sonde_segment_file_finish(&writer->file, &failed);
  if (failed)
    fail_file(writer, system_errno, failed);
  entry.bytes = writer->file.bytes;
  pthread_mutex_lock(&writer->lock);
  if (writer->file.frames && sonde_segment_dir_add(&writer->segments, &entry) < 0)
    atomic_fetch_add(&writer->failures, 1);
  sonde_segment_file_reset(&writer->file);
  publish(writer);
  pthread_mutex_unlock(&writer->lock);
}

/* Removes the oldest files until `more` bytes fit in disk_bytes. */
static void make_room(struct sonde_disk_writer *writer, uint64_t more) {
  pthread_mutex_lock(&writer->lock);
  while (writer->segments.bytes + writer->file.bytes + more > writer->file.disk_bytes &&
         sonde_segment_dir_drop_oldest(&writer->segments))
    publish(writer);
  pthread_mutex_unlock(&writer->lock);
}

static void remember_key(struct sonde_disk_writer *writer, struct sonde_sealkey *key) {
  uint32_t place = 0;
  if (!key || writer->keys[0] == key)
    return;
  pthread_mutex_lock(&writer->lock);
  while (place < SONDE_SEGMENT_DIR_KEYS_MAX - 1 && writer->keys[place] &&
         memcmp(writer->keys[place]->id, key->id, sizeof key->id) != 0)
    place++;
  sonde_sealkey_release(writer->keys[place]);
  memmove(writer->keys + 1, writer->keys, place * sizeof writer->keys[0]);
  writer->keys[0] = sonde_sealkey_hold(key);
  pthread_mutex_unlock(&writer->lock);
}

/* One extent becomes one frame. 0, or the errno (0 for libcrypto) with *failed. */
static int write_extent(struct sonde_disk_writer *writer, const struct sonde_segment_frame *frame,
                        struct sonde_sealkey *key, const char **failed) {
  struct sonde_segment_file *file = &writer->file;
  uint32_t bytes = sonde_frame_bytes(frame->payload_bytes);
  int system_errno = 0;
  if (file->state != SONDE_SEGMENT_FILE_IDLE &&
      (!sonde_segment_file_sealed_with(file, key) || file->bytes + bytes > file->bytes_max))
    finish_file(writer);
  make_room(writer, bytes + 2 * sizeof(struct sonde_segment_header));
  if (file->state == SONDE_SEGMENT_FILE_IDLE) {
    remember_key(writer, key);
    pthread_mutex_lock(&writer->lock);
    uint64_t number = writer->segments.next_number++;
    pthread_mutex_unlock(&writer->lock);
    system_errno = sonde_segment_file_begin(file, number, key, failed);
  }
  if (!*failed)
    system_errno = sonde_segment_file_write(file, frame, writer->clear, failed);
  if (*failed) {
    /* Its nonce is used: another frame with this number must not be sealed with this key. */
    sonde_segment_file_abandon(file);
    finish_file(writer);
  }
  publish(writer);
  return system_errno;
}

static void save_extent(struct sonde_disk_writer *writer, struct sonde_chunk *chunk,
                        uint32_t number, uint64_t first_packet) {
  struct sonde_extent *extent = &chunk->extents[number];
  struct sonde_sealkey *key = NULL;
  const char *failed = NULL;
  pthread_mutex_lock(&chunk->data_lock);
  int opened = sonde_extent_open(chunk, number, writer->clear);
  if (opened == SONDE_OK && extent->state == SONDE_EXTENT_SEALED)
    key = sonde_sealkey_hold(extent->key);
  pthread_mutex_unlock(&chunk->data_lock);
  if (opened == SONDE_END)
    return; /* sealing failed, which was counted */
  struct sonde_segment_frame frame = {
      .payload_bytes = extent->end - extent->start,
      .packets = extent->packets,
      .first_ns = extent->first_ns,
      .last_ns = extent->last_ns,
      .first_packet = first_packet,
      .worker = chunk->worker,
  };
  if (opened == SONDE_OK) {
    frame.name_bytes = sonde_names_write(&writer->store->names, writer->clear, frame.payload_bytes,
                                         writer->clear + frame.payload_bytes,
                                         SONDE_FRAME_PAYLOAD_MAX - frame.payload_bytes);
    frame.payload_bytes += frame.name_bytes;
  }
  int system_errno = 0;
  bool paused = sonde_clock_ns(CLOCK_MONOTONIC_COARSE) < writer->retry_ns;
  if (opened < 0)
    failed = "cannot decrypt a sealed extent";
  else if (!paused)
    system_errno = write_extent(writer, &frame, key, &failed);
  if (failed || paused) {
    pthread_mutex_lock(&chunk->data_lock);
    pthread_mutex_lock(&writer->lock);
    count_lost(writer, extent);
    pthread_mutex_unlock(&writer->lock);
    pthread_mutex_unlock(&chunk->data_lock);
  }
  if (failed)
    fail_file(writer, system_errno, failed);
  else if (!paused)
    succeed(writer);
  OPENSSL_cleanse(writer->clear, frame.payload_bytes);
  sonde_sealkey_release(key);
}

static void write_chunk(struct sonde_disk_writer *writer, struct sonde_chunk *chunk) {
  pthread_mutex_lock(&writer->lock);
  while (chunk->extents_written < chunk->extents_ready) {
    uint32_t number = chunk->extents_written;
    pthread_mutex_unlock(&writer->lock);
    uint64_t first_packet = chunk->first_packet;
    for (uint32_t i = 0; i < number; i++)
      first_packet += chunk->extents[i].packets;
    save_extent(writer, chunk, number, first_packet);
    pthread_mutex_lock(&writer->lock);
    chunk->extents_written++;
  }
  chunk->write_queued = false; /* the sealer may queue it again */
  pthread_mutex_unlock(&writer->lock);
}

/* The lock is held. */
static void drop_clear(struct sonde_disk_writer *writer) {
  if (!writer->file.is_sealed) {
    pthread_mutex_unlock(&writer->lock);
    finish_file(writer);
    pthread_mutex_lock(&writer->lock);
  }
  writer->drop_errno = sonde_segment_dir_drop_clear(&writer->segments) ? 0 : errno;
  publish(writer);
  writer->drops_clear = false;
  pthread_cond_broadcast(&writer->dropped);
}

static void *run(void *argument) {
  struct sonde_disk_writer *writer = argument;
  pthread_setname_np(pthread_self(), "sonde-writer");
  pthread_mutex_lock(&writer->lock);
  while (writer->first || !writer->ends) {
    struct sonde_chunk *chunk = writer->first;
    if (writer->drops_clear) {
      drop_clear(writer);
      continue;
    }
    if (!chunk) {
      pthread_cond_wait(&writer->work, &writer->lock);
      continue;
    }
    writer->first = chunk->write_next;
    if (!writer->first)
      writer->last = NULL;
    writer->count--;
    pthread_mutex_unlock(&writer->lock);
    write_chunk(writer, chunk);
    sonde_store_unpin(writer->store, chunk);
    pthread_mutex_lock(&writer->lock);
  }
  pthread_mutex_unlock(&writer->lock);
  finish_file(writer);
  return NULL;
}

/* ---- open and close ------------------------------------------------------------------- */

static int prepare(struct sonde_disk_writer *writer, const char *dir, uint64_t disk_bytes,
                   struct sonde_error *error) {
  struct sonde_segment_file *file = &writer->file;
  file->workers = writer->store->config.workers;
  file->disk_bytes = disk_bytes;
  file->bytes_max =
      disk_bytes / FILES_MIN < FILE_BYTES_MAX ? disk_bytes / FILES_MIN : FILE_BYTES_MAX;
  if (disk_bytes < DISK_BYTES_MIN)
    return sonde_fail(error, SONDE_INVALID, 0, "buffer_disk_bytes: at least %d", DISK_BYTES_MIN);
  if (sonde_segment_dir_open(&writer->segments, dir) < 0)
    return sonde_fail(error, SONDE_SYSTEM, errno, "%s: %s", dir, strerror(errno));
  writer->clear = sonde_secret_map(SONDE_CHUNK_BYTES, 1);
  file->dir_fd = writer->segments.dir_fd;
  if (!writer->clear || sonde_segment_file_init(file) < 0)
    return sonde_fail(error, SONDE_SYSTEM, errno, "no memory for segment files: %s",
                      strerror(errno));
  return SONDE_OK;
}

int sonde_disk_writer_open(struct sonde_store *store, const char *dir, uint64_t disk_bytes,
                           struct sonde_disk_writer **writer, struct sonde_error *error) {
  struct sonde_disk_writer *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "no memory for the disk writer");
  made->store = store;
  made->segments.dir_fd = -1;
  made->queue_max = store->chunk_count / 4 < QUEUE_MAX ? store->chunk_count / 4 : QUEUE_MAX;
  if (made->queue_max == 0)
    made->queue_max = 1;
  pthread_mutex_init(&made->lock, NULL);
  pthread_cond_init(&made->work, NULL);
  pthread_cond_init(&made->dropped, NULL);
  int status = prepare(made, dir, disk_bytes, error);
  publish(made);
  if (status == SONDE_OK) {
    int failed = sonde_thread_start(&made->thread, run, made);
    made->runs = failed == 0;
    if (failed)
      status = sonde_fail(error, SONDE_SYSTEM, failed, "cannot start the disk writer's thread: %s",
                          strerror(failed));
  }
  if (status < 0)
    sonde_disk_writer_close(made);
  else
    *writer = made;
  return status;
}

void sonde_disk_writer_close(struct sonde_disk_writer *writer) {
  if (!writer)
    return;
  pthread_mutex_lock(&writer->lock);
  writer->ends = true;
  pthread_cond_signal(&writer->work);
  pthread_mutex_unlock(&writer->lock);
  if (writer->runs)
    pthread_join(writer->thread, NULL);
  sonde_segment_file_release(&writer->file);
  sonde_segment_dir_close(&writer->segments);
  for (uint32_t i = 0; i < SONDE_SEGMENT_DIR_KEYS_MAX; i++)
    sonde_sealkey_release(writer->keys[i]);
  sonde_secret_unmap(writer->clear, SONDE_CHUNK_BYTES);
  pthread_cond_destroy(&writer->work);
  pthread_cond_destroy(&writer->dropped);
  pthread_mutex_destroy(&writer->lock);
  free(writer);
}

int sonde_disk_writer_drop_clear(struct sonde_disk_writer *writer, struct sonde_error *error) {
  pthread_mutex_lock(&writer->lock);
  writer->drops_clear = true;
  pthread_cond_signal(&writer->work);
  while (writer->drops_clear)
    pthread_cond_wait(&writer->dropped, &writer->lock);
  int failed = writer->drop_errno;
  pthread_mutex_unlock(&writer->lock);
  if (failed)
    return sonde_fail(error, SONDE_SYSTEM, failed, "cannot remove an unencrypted segment: %s",
                      strerror(failed));
  return SONDE_OK;
}

/* ---- statistics and queries ----------------------------------------------------------- */

void sonde_disk_writer_stats(struct sonde_disk_writer *writer, struct sonde_store_stats *stats) {
  stats->segments = atomic_load(&writer->segment_count);
  stats->segment_bytes = atomic_load(&writer->segment_bytes);
  stats->spill_failures = atomic_load(&writer->failures);
}

static void add_file(struct sonde_segment_scan *scan, const struct sonde_segment_entry *file) {
  scan->files[scan->count++] = *file;
  if (file->workers > scan->workers)
    scan->workers = file->workers;
}

int sonde_disk_writer_scan(struct sonde_disk_writer *writer, struct sonde_segment_scan *scan) {
  int status = SONDE_NO_MEMORY;
  pthread_mutex_lock(&writer->lock);
  scan->files = malloc((writer->segments.count + 1) * sizeof *scan->files);
  scan->dir_fd = fcntl(writer->segments.dir_fd, F_DUPFD_CLOEXEC, 0);
  if (scan->files && scan->dir_fd >= 0) {
    for (uint32_t i = 0; i < writer->segments.count; i++)
      add_file(scan, &writer->segments.files[i]);
    if (writer->file.frames) {
      struct sonde_segment_entry entry = sonde_segment_file_entry(&writer->file);
      scan->hidden = entry.number;
      add_file(scan, &entry);
    }
    memcpy(scan->session, writer->file.session, sizeof scan->session);
    for (uint32_t i = 0; i < SONDE_SEGMENT_DIR_KEYS_MAX && writer->keys[i]; i++)
      scan->keys[scan->key_count++] = sonde_sealkey_hold(writer->keys[i]);
    status = SONDE_OK;
  }
  pthread_mutex_unlock(&writer->lock);
  return status;
}
