/* disk_writer.c - see disk_writer.h. The queue and the thread; segment_file.c makes the files. */
#include "disk_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "failure.h"
#include "segment_file.h"
#include "state.h"

enum { QUEUE_MAX = 64, DISK_BYTES_MIN = 4 << 20, FILE_BYTES_MAX = 64 << 20, FILES_MIN = 4 };
static const uint64_t RETRY_NS = 1000000000;

struct sonde_spill {
  struct sonde_store *store;
  uint32_t queue_max;
  pthread_t thread;
  bool runs;
  pthread_mutex_t lock; /* the store's may be taken inside, data_lock may not */
  pthread_cond_t work;
  struct sonde_chunk *first, *last;
  uint32_t count;
  bool ends;
  bool drops_clear; /* asked of the thread, which then sets: */
  int drop_errno;
  pthread_cond_t dropped;
  struct sonde_shelf shelf; /* under the lock */
  struct sonde_file file;   /* the thread's; figures for others under the lock */
  struct sonde_sealkey *keys[SONDE_SHELF_KEYS_MAX]; /* under the lock; the newest first */
  uint64_t failures;
  bool failing; /* under the lock, as is: */
  uint64_t failing_packets;
  uint64_t resume_ns; /* no earlier is the failing said to be over */
  uint64_t retry_ns;  /* the thread's: until then nothing is tried */
  uint8_t *clear;     /* one extent's bytes, secret */
};

/* ---- failures ------------------------------------------------------------------------- */

/* The lock is held. */
static void lose(struct sonde_spill *spill, const struct sonde_extent *extent) {
  spill->failing_packets += extent->packets;
  sonde_store_lose(spill->store, &(struct sonde_loss){.from_ns = extent->first_ns,
                                                      .to_ns = extent->last_ns,
                                                      .reason = SONDE_GAP_SPILL_LOST,
                                                      .packets = extent->packets});
}

/* Counts a failure; the first of a row is told. */
static void fail_spill(struct sonde_spill *spill, int system_errno, const char *detail) {
  pthread_mutex_lock(&spill->lock);
  bool first = !spill->failing;
  spill->failures++;
  spill->failing = true;
  spill->resume_ns = sonde_store_monotonic_ns() + RETRY_NS;
  pthread_mutex_unlock(&spill->lock);
  if (first)
    spill->store->config.raise(spill->store->config.context, SONDE_STORE_SPILL_FAILED, system_errno,
                               detail);
}

static void fail_file(struct sonde_spill *spill, int system_errno, const char *what) {
  char detail[96];
  spill->retry_ns = sonde_store_monotonic_ns() + RETRY_NS;
  snprintf(detail, sizeof detail, "%s: %s", what,
           system_errno ? strerror(system_errno) : "libcrypto failed");
  fail_spill(spill, system_errno, detail);
}

static void succeed(struct sonde_spill *spill) {
  pthread_mutex_lock(&spill->lock);
  bool over = spill->failing && sonde_store_monotonic_ns() >= spill->resume_ns;
  int64_t packets = (int64_t)spill->failing_packets;
  if (over) {
    spill->failing = false;
    spill->failing_packets = 0;
  }
  pthread_mutex_unlock(&spill->lock);
  if (over)
    spill->store->config.raise(spill->store->config.context, SONDE_STORE_SPILL_RESUMED, packets,
                               "");
}

/* ---- queue ---------------------------------------------------------------------------- */

static void enqueue(struct sonde_spill *spill, struct sonde_chunk *chunk) {
  chunk->spill_queued = true;
  chunk->spill_next = NULL;
  *(spill->last ? &spill->last->spill_next : &spill->first) = chunk;
  spill->last = chunk;
  spill->count++;
  pthread_cond_signal(&spill->work);
}

void sonde_spill_offer(struct sonde_spill *spill, struct sonde_chunk *chunk, uint32_t extents) {
  struct sonde_store *store = spill->store;
  bool pin = false, slow = false;
  pthread_mutex_lock(&spill->lock);
  chunk->extents_kept = extents;
  if (!chunk->spill_queued && spill->count < spill->queue_max) {
    enqueue(spill, chunk);
    pin = true;
  } else if (!chunk->spill_queued) {
    slow = true; /* the memory buffer does not wait for the disk */
    for (; chunk->extents_spilled < extents; chunk->extents_spilled++)
      lose(spill, &chunk->extents[chunk->extents_spilled]);
  }
  pthread_mutex_unlock(&spill->lock);
  if (slow)
    fail_spill(spill, 0, "the disk is slower than the capture");
  if (pin) { /* the keeper's own pin holds until here */
    pthread_mutex_lock(&store->lock);
    chunk->pins++;
    pthread_mutex_unlock(&store->lock);
  }
}

/* ---- the thread ----------------------------------------------------------------------- */

static void finish_file(struct sonde_spill *spill) {
  if (spill->file.state == SONDE_SPILL_IDLE)
    return;
  struct sonde_shelf_file entry = sonde_file_entry(&spill->file);
  const char *failed = NULL;
  int system_errno = sonde_file_finish(&spill->file, &failed);
  if (failed)
    fail_file(spill, system_errno, failed);
  entry.bytes = spill->file.bytes;
  pthread_mutex_lock(&spill->lock);
  if (spill->file.frames && sonde_shelf_add(&spill->shelf, &entry) < 0)
    spill->failures++;
  sonde_file_reset(&spill->file);
  pthread_mutex_unlock(&spill->lock);
}

/* So that the files stay within their bound, this one with `more` bytes included. */
static void make_room(struct sonde_spill *spill, uint64_t more) {
  pthread_mutex_lock(&spill->lock);
  while (spill->shelf.bytes + spill->file.bytes + more > spill->file.disk_bytes &&
         sonde_shelf_drop_oldest(&spill->shelf)) {
  }
  pthread_mutex_unlock(&spill->lock);
}

static void remember_key(struct sonde_spill *spill, struct sonde_sealkey *key) {
  uint32_t place = 0;
  if (!key || spill->keys[0] == key)
    return;
  pthread_mutex_lock(&spill->lock);
  while (place < SONDE_SHELF_KEYS_MAX - 1 && spill->keys[place] &&
         memcmp(spill->keys[place]->id, key->id, sizeof key->id) != 0)
    place++;
  sonde_sealkey_release(spill->keys[place]);
  memmove(spill->keys + 1, spill->keys, place * sizeof spill->keys[0]);
  spill->keys[0] = sonde_sealkey_hold(key);
  pthread_mutex_unlock(&spill->lock);
}

/* One extent becomes one frame. 0, or the errno (0 for libcrypto) with *failed. */
static int write_extent(struct sonde_spill *spill, const struct sonde_segment_frame *frame,
                        struct sonde_sealkey *key, const char **failed) {
  struct sonde_file *file = &spill->file;
  uint32_t bytes = sonde_frame_bytes(frame->payload_bytes);
  int system_errno = 0;
  if (file->state != SONDE_SPILL_IDLE &&
      (!sonde_file_sealed_with(file, key) || file->bytes + bytes > file->bytes_max))
    finish_file(spill);
  make_room(spill, bytes + 2 * sizeof(struct sonde_segment_header));
  if (file->state == SONDE_SPILL_IDLE) {
    remember_key(spill, key);
    pthread_mutex_lock(&spill->lock);
    uint64_t number = spill->shelf.next_number++;
    pthread_mutex_unlock(&spill->lock);
    system_errno = sonde_file_begin(file, number, key, failed);
  }
  if (!*failed)
    system_errno = sonde_file_write(file, frame, spill->clear, failed);
  if (*failed) {
    /* Its number is used up with other bytes: no frame may ever follow under this key. */
    sonde_file_give_up(file);
    finish_file(spill);
  }
  return system_errno;
}

static void spill_extent(struct sonde_spill *spill, struct sonde_chunk *chunk, uint32_t number,
                         uint64_t first_packet) {
  const struct sonde_extent *extent = &chunk->extents[number];
  struct sonde_sealkey *key = NULL;
  const char *failed = NULL;
  pthread_mutex_lock(&chunk->data_lock);
  int opened = sonde_extent_open(chunk, number, spill->clear);
  if (opened == SONDE_OK && extent->state == SONDE_EXTENT_SEALED)
    key = sonde_sealkey_hold(extent->key);
  pthread_mutex_unlock(&chunk->data_lock);
  if (opened == SONDE_END)
    return; /* lost when it was sealed, and counted there */
  struct sonde_segment_frame frame = {
      .payload_bytes = extent->end - extent->start,
      .packets = extent->packets,
      .first_ns = extent->first_ns,
      .last_ns = extent->last_ns,
      .first_packet = first_packet,
      .worker = chunk->worker,
  };
  int system_errno = 0;
  bool waits = sonde_store_monotonic_ns() < spill->retry_ns;
  if (opened < 0)
    failed = "a sealed extent could not be opened";
  else if (!waits)
    system_errno = write_extent(spill, &frame, key, &failed);
  if (failed || waits) {
    pthread_mutex_lock(&spill->lock);
    lose(spill, extent);
    pthread_mutex_unlock(&spill->lock);
  }
  if (failed)
    fail_file(spill, system_errno, failed);
  else if (!waits)
    succeed(spill);
  OPENSSL_cleanse(spill->clear, frame.payload_bytes);
  sonde_sealkey_release(key);
}

static void spill_chunk(struct sonde_spill *spill, struct sonde_chunk *chunk) {
  for (;;) {
    pthread_mutex_lock(&spill->lock);
    uint32_t number = chunk->extents_spilled;
    bool more = number < chunk->extents_kept;
    if (!more)
      chunk->spill_queued = false; /* from here on the keeper may queue it again */
    pthread_mutex_unlock(&spill->lock);
    if (!more)
      return;
    uint64_t first_packet = chunk->first_packet;
    for (uint32_t i = 0; i < number; i++)
      first_packet += chunk->extents[i].packets;
    spill_extent(spill, chunk, number, first_packet);
    pthread_mutex_lock(&spill->lock);
    chunk->extents_spilled++;
    pthread_mutex_unlock(&spill->lock);
  }
}

/* The lock is held. */
static void drop_clear(struct sonde_spill *spill) {
  if (!spill->file.is_sealed) {
    pthread_mutex_unlock(&spill->lock);
    finish_file(spill);
    pthread_mutex_lock(&spill->lock);
  }
  spill->drop_errno = sonde_shelf_drop_clear(&spill->shelf) ? 0 : errno;
  spill->drops_clear = false;
  pthread_cond_broadcast(&spill->dropped);
}

static void *run(void *argument) {
  struct sonde_spill *spill = argument;
  pthread_setname_np(pthread_self(), "sonde-spill");
  pthread_mutex_lock(&spill->lock);
  while (spill->first || !spill->ends) {
    struct sonde_chunk *chunk = spill->first;
    if (spill->drops_clear) {
      drop_clear(spill);
      continue;
    }
    if (!chunk) {
      pthread_cond_wait(&spill->work, &spill->lock);
      continue;
    }
    spill->first = chunk->spill_next;
    if (!spill->first)
      spill->last = NULL;
    spill->count--;
    pthread_mutex_unlock(&spill->lock);
    spill_chunk(spill, chunk);
    sonde_store_unpin(spill->store, chunk);
    pthread_mutex_lock(&spill->lock);
  }
  pthread_mutex_unlock(&spill->lock);
  finish_file(spill);
  return NULL;
}

/* ---- open and close ------------------------------------------------------------------- */

static int prepare(struct sonde_spill *spill, const char *dir, uint64_t disk_bytes,
                   struct sonde_error *error) {
  struct sonde_file_config config = {.workers = spill->store->config.workers,
                                     .disk_bytes = disk_bytes};
  config.bytes_max =
      disk_bytes / FILES_MIN < FILE_BYTES_MAX ? disk_bytes / FILES_MIN : FILE_BYTES_MAX;
  if (disk_bytes < DISK_BYTES_MIN)
    return sonde_fail(error, SONDE_INVALID, 0, "buffer_disk_bytes: at least %d", DISK_BYTES_MIN);
  if (sonde_shelf_open(&spill->shelf, dir) < 0)
    return sonde_fail(error, SONDE_SYSTEM, errno, "%s: %s", dir, strerror(errno));
  spill->clear = sonde_secret_map(SONDE_CHUNK_BYTES, 1);
  config.dir_fd = spill->shelf.dir_fd;
  if (!spill->clear || sonde_file_init(&spill->file, &config) < 0)
    return sonde_fail(error, SONDE_SYSTEM, errno, "memory to spill from: %s", strerror(errno));
  return SONDE_OK;
}

int sonde_spill_open(struct sonde_store *store, const char *dir, uint64_t disk_bytes,
                     struct sonde_spill **spill, struct sonde_error *error) {
  struct sonde_spill *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "spill");
  made->store = store;
  made->shelf.dir_fd = -1;
  made->queue_max = store->chunk_count / 4 < QUEUE_MAX ? store->chunk_count / 4 : QUEUE_MAX;
  if (made->queue_max == 0)
    made->queue_max = 1;
  pthread_mutex_init(&made->lock, NULL);
  pthread_cond_init(&made->work, NULL);
  pthread_cond_init(&made->dropped, NULL);
  int status = prepare(made, dir, disk_bytes, error);
  if (status == SONDE_OK) {
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    made->runs = pthread_create(&made->thread, NULL, run, made) == 0;
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (!made->runs)
      status = sonde_fail(error, SONDE_SYSTEM, EAGAIN, "the spill's thread");
  }
  if (status < 0)
    sonde_spill_close(made);
  else
    *spill = made;
  return status;
}

void sonde_spill_close(struct sonde_spill *spill) {
  if (!spill)
    return;
  pthread_mutex_lock(&spill->lock);
  spill->ends = true;
  pthread_cond_signal(&spill->work);
  pthread_mutex_unlock(&spill->lock);
  if (spill->runs)
    pthread_join(spill->thread, NULL);
  sonde_file_release(&spill->file);
  sonde_shelf_close(&spill->shelf);
  for (uint32_t i = 0; i < SONDE_SHELF_KEYS_MAX; i++)
    sonde_sealkey_release(spill->keys[i]);
  sonde_secret_unmap(spill->clear, SONDE_CHUNK_BYTES);
  pthread_cond_destroy(&spill->work);
  pthread_cond_destroy(&spill->dropped);
  pthread_mutex_destroy(&spill->lock);
  free(spill);
}

int sonde_spill_drop_clear(struct sonde_spill *spill, struct sonde_error *error) {
  pthread_mutex_lock(&spill->lock);
  spill->drops_clear = true;
  pthread_cond_signal(&spill->work);
  while (spill->drops_clear)
    pthread_cond_wait(&spill->dropped, &spill->lock);
  int failed = spill->drop_errno;
  pthread_mutex_unlock(&spill->lock);
  if (failed)
    return sonde_fail(error, SONDE_SYSTEM, failed, "a segment in clear cannot be removed: %s",
                      strerror(failed));
  return SONDE_OK;
}

/* ---- looking at it -------------------------------------------------------------------- */

void sonde_spill_stats(struct sonde_spill *spill, struct sonde_store_stats *stats) {
  pthread_mutex_lock(&spill->lock);
  stats->segments = spill->shelf.count + (spill->file.frames > 0);
  stats->segment_bytes = spill->shelf.bytes + spill->file.bytes;
  stats->spill_failures = spill->failures;
  pthread_mutex_unlock(&spill->lock);
}

static void add_file(struct sonde_shelf_view *view, const struct sonde_shelf_file *file) {
  view->files[view->count++] = *file;
  if (file->workers > view->workers)
    view->workers = file->workers;
}

int sonde_spill_view(struct sonde_spill *spill, struct sonde_shelf_view *view) {
  int status = SONDE_NO_MEMORY;
  pthread_mutex_lock(&spill->lock);
  view->files = malloc((spill->shelf.count + 1) * sizeof *view->files);
  view->dir_fd = fcntl(spill->shelf.dir_fd, F_DUPFD_CLOEXEC, 0);
  if (view->files && view->dir_fd >= 0) {
    for (uint32_t i = 0; i < spill->shelf.count; i++)
      add_file(view, &spill->shelf.files[i]);
    if (spill->file.frames) {
      struct sonde_shelf_file entry = sonde_file_entry(&spill->file);
      view->hidden = entry.number;
      add_file(view, &entry);
    }
    memcpy(view->session, spill->file.session, sizeof view->session);
    for (uint32_t i = 0; i < SONDE_SHELF_KEYS_MAX && spill->keys[i]; i++)
      view->keys[view->key_count++] = sonde_sealkey_hold(spill->keys[i]);
    status = SONDE_OK;
  }
  pthread_mutex_unlock(&spill->lock);
  return status;
}
