/* segment_scan.c - see segment_dir.h: segment files read back for a query. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "packet_source.h"

int sonde_shelf_view(struct sonde_store *store, struct sonde_shelf_view *view) {
  *view = (struct sonde_shelf_view){.dir_fd = -1};
  if (!store->spill)
    return SONDE_OK;
  int status = sonde_spill_view(store->spill, view);
  pthread_mutex_lock(&store->lock);
  /* Files of earlier sessions may have been sealed with the key of now. */
  if (store->key && view->key_count < SONDE_SHELF_KEYS_MAX)
    view->keys[view->key_count++] = sonde_sealkey_hold(store->key);
  pthread_mutex_unlock(&store->lock);
  return status;
}

void sonde_shelf_view_close(struct sonde_shelf_view *view) {
  for (uint32_t i = 0; i < view->key_count; i++)
    sonde_sealkey_release(view->keys[i]);
  if (view->files && view->dir_fd >= 0)
    close(view->dir_fd);
  free(view->files);
  *view = (struct sonde_shelf_view){.dir_fd = -1};
}

void sonde_shelf_cursor_close(struct sonde_shelf_cursor *cursor) {
  if (!cursor->open)
    return;
  sonde_segment_reader_close(&cursor->reader);
  close(cursor->fd);
  cursor->open = false;
}

static int open_file(const struct sonde_shelf_view *view, const struct sonde_shelf_file *file) {
  char name[SONDE_SHELF_NAME_BYTES];
  const int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  sonde_shelf_name(file->number, false, name);
  int fd = openat(view->dir_fd, name, flags);
  if (fd < 0 && errno == ENOENT && file->number == view->hidden) {
    sonde_shelf_name(file->number, true, name);
    fd = openat(view->dir_fd, name, flags);
    if (fd < 0 && errno == ENOENT) { /* finished between the two looks */
      sonde_shelf_name(file->number, false, name);
      fd = openat(view->dir_fd, name, flags);
    }
  }
  return fd;
}

static const uint8_t *find_master(const struct sonde_shelf_view *view, int fd) {
  struct sonde_segment_header header;
  if (pread(fd, &header, sizeof header, 0) != sizeof header)
    return NULL;
  for (uint32_t i = 0; i < view->key_count; i++)
    if (memcmp(view->keys[i]->id, header.key_id, sizeof header.key_id) == 0)
      return view->keys[i]->master;
  return NULL;
}

/* Opens the next file that may hold something in range. False: there is none. */
static bool next_file(struct sonde_source *source, struct sonde_search *search) {
  struct sonde_shelf_cursor *cursor = &source->cursor;
  const struct sonde_shelf_view *view = &search->shelf;
  sonde_shelf_cursor_close(cursor);
  while (cursor->next_file < view->count) {
    const struct sonde_shelf_file *file = &view->files[cursor->next_file++];
    if (file->last_ns < search->start_ns || file->first_ns > search->end_ns ||
        source->worker >= file->workers)
      continue;
    cursor->fd = open_file(view, file);
    if (cursor->fd < 0)
      continue; /* removed as the oldest; what followed of its session shows the gap */
    int status =
        sonde_segment_reader_open(&cursor->reader, cursor->fd, find_master(view, cursor->fd));
    cursor->open = true;
    cursor->end = file->bytes;
    if (status == SONDE_OK)
      return true;
    uint64_t from = file->first_ns ? file->first_ns : cursor->reader.header.created_ns;
    sonde_search_gap(search, from, file->first_ns ? file->last_ns : from, SONDE_GAP_UNOPENABLE);
    sonde_shelf_cursor_close(cursor);
  }
  return false;
}

static bool wanted(const struct sonde_source *source, const struct sonde_search *search,
                   const struct sonde_segment_frame *frame, bool same_session) {
  return frame->worker == source->worker && frame->last_ns >= search->start_ns &&
         frame->first_ns <= search->end_ns &&
         !(same_session && frame->first_packet >= source->memory_packet);
}

/* A session numbers its packets: what the files do not hold has been overwritten, or never
 * reached the disk; the store's losses tell of that. */
static void note_frame(struct sonde_source *source, struct sonde_search *search,
                       const struct sonde_segment_frame *frame) {
  if (frame->worker != source->worker || frame->first_packet >= source->memory_packet)
    return;
  if (frame->first_packet > source->next_packet)
    sonde_search_gap(search, source->behind_ns, frame->first_ns, SONDE_GAP_OVERWRITTEN);
  source->next_packet = frame->first_packet + frame->packets;
  source->behind_ns = frame->last_ns;
}

/* Takes one frame of the open file. True: it is in the scratch. False: the file is through. */
static bool take_frame(struct sonde_source *source, struct sonde_search *search, bool *through) {
  struct sonde_segment_reader *reader = &source->cursor.reader;
  struct sonde_segment_frame frame;
  bool same_session =
      memcmp(reader->header.session, search->shelf.session, sizeof reader->header.session) == 0;
  *through = same_session && reader->offset >= source->cursor.end;
  if (*through)
    return false;
  int status = sonde_segment_reader_next(reader, &frame);
  if (status == SONDE_OK && !wanted(source, search, &frame, same_session)) {
    if (same_session)
      note_frame(source, search, &frame);
    sonde_segment_reader_skip(reader, &frame);
    search->chunks_skipped++;
    return false;
  }
  if (status == SONDE_OK) {
    status = sonde_segment_reader_load(reader, &frame, source->scratch);
    if (status < 0)
      sonde_search_gap(search, frame.first_ns, frame.last_ns, SONDE_GAP_UNOPENABLE);
  } else if (status == SONDE_DAMAGED || status == SONDE_REORDERED || status == SONDE_SYSTEM) {
    sonde_search_gap(search, source->behind_ns, source->behind_ns, SONDE_GAP_UNOPENABLE);
  }
  *through = status < 0;
  if (status < 0)
    return false;
  if (same_session)
    note_frame(source, search, &frame);
  search->chunks_read++;
  source->bytes = frame.payload_bytes;
  return true;
}

bool sonde_shelf_load(struct sonde_source *source, struct sonde_search *search) {
  if (search->shelf.count == 0)
    return false;
  for (;;) {
    bool through = true;
    if (source->cursor.open && take_frame(source, search, &through))
      return true;
    if (through && !next_file(source, search))
      return false;
  }
}
