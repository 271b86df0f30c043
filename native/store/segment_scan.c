/* segment_scan.c - see segment_dir.h: reads segment files for a query. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk_writer.h"
#include "packet_source.h"

int sonde_segment_scan_open(struct sonde_store *store, struct sonde_segment_scan *scan) {
  *scan = (struct sonde_segment_scan){.dir_fd = -1};
  if (!store->writer)
    return SONDE_OK;
  int status = sonde_disk_writer_scan(store->writer, scan);
  pthread_mutex_lock(&store->lock);
  /* Earlier sessions may have used the current key. */
  if (store->key && scan->key_count < SONDE_SEGMENT_DIR_KEYS_MAX)
    scan->keys[scan->key_count++] = sonde_sealkey_hold(store->key);
  pthread_mutex_unlock(&store->lock);
  return status;
}

void sonde_segment_scan_close(struct sonde_segment_scan *scan) {
  for (uint32_t i = 0; i < scan->key_count; i++)
    sonde_sealkey_release(scan->keys[i]);
  if (scan->files && scan->dir_fd >= 0)
    close(scan->dir_fd);
  free(scan->files);
  *scan = (struct sonde_segment_scan){.dir_fd = -1};
}

void sonde_segment_cursor_close(struct sonde_segment_cursor *cursor) {
  if (!cursor->open)
    return;
  sonde_segment_reader_close(&cursor->reader);
  close(cursor->fd);
  cursor->open = false;
}

static int open_file(const struct sonde_segment_scan *scan,
                     const struct sonde_segment_entry *file) {
  char name[SONDE_SEGMENT_DIR_NAME_BYTES];
  const int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  int fd = -1;
  /* The third try: the writer may rename the hidden file between the first two. */
  for (int try = 0; fd < 0 && try < (file->number == scan->hidden ? 3 : 1); try++) {
    if (try > 0 && errno != ENOENT)
      break;
    sonde_segment_dir_name(file->number, try == 1, name);
    fd = openat(scan->dir_fd, name, flags);
  }
  return fd;
}

static const uint8_t *find_master(const struct sonde_segment_scan *scan, int fd) {
  struct sonde_segment_header header;
  if (pread(fd, &header, sizeof header, 0) != sizeof header)
    return NULL;
  for (uint32_t i = 0; i < scan->key_count; i++)
    if (memcmp(scan->keys[i]->id, header.key_id, sizeof header.key_id) == 0)
      return scan->keys[i]->master;
  return NULL;
}

/* Opens the next file that may hold packets in range. False at the end. */
static bool next_file(struct sonde_packet_source *source, struct sonde_search *search) {
  struct sonde_segment_cursor *cursor = &source->cursor;
  const struct sonde_segment_scan *scan = &search->scan;
  sonde_segment_cursor_close(cursor);
  while (cursor->next_file < scan->count) {
    const struct sonde_segment_entry *file = &scan->files[cursor->next_file++];
    if (file->last_ns < search->start_ns || file->first_ns > search->end_ns ||
        source->worker >= file->workers)
      continue;
    cursor->fd = open_file(scan, file);
    if (cursor->fd < 0)
      continue; /* removed as the oldest; the next frames show the gap */
    int status =
        sonde_segment_reader_open(&cursor->reader, cursor->fd, find_master(scan, cursor->fd));
    cursor->open = true;
    cursor->end = file->bytes;
    if (status == SONDE_OK)
      return true;
    uint64_t from = file->first_ns ? file->first_ns : cursor->reader.header.created_ns;
    sonde_search_gap(search, from, file->first_ns ? file->last_ns : from, SONDE_GAP_UNOPENABLE);
    sonde_segment_cursor_close(cursor);
  }
  return false;
}

static bool is_needed(const struct sonde_packet_source *source, const struct sonde_search *search,
                      const struct sonde_segment_frame *frame, bool same_session) {
  return frame->worker == source->worker && frame->last_ns >= search->start_ns &&
         frame->first_ns <= search->end_ns &&
         !(same_session && frame->first_packet >= source->memory_packet);
}

/* A jump in a session's packet numbers is a gap. */
static void note_frame(struct sonde_packet_source *source, struct sonde_search *search,
                       const struct sonde_segment_frame *frame) {
  if (frame->worker != source->worker || frame->first_packet >= source->memory_packet)
    return;
  if (frame->first_packet > source->next_packet)
    sonde_search_gap(search, source->read_until_ns, frame->first_ns, SONDE_GAP_OVERWRITTEN);
  source->next_packet = frame->first_packet + frame->packets;
  source->read_until_ns = frame->last_ns;
}

/* Reads a frame of the open file. True if it was loaded into the scratch. */
static bool next_frame(struct sonde_packet_source *source, struct sonde_search *search,
                       bool *file_ended) {
  struct sonde_segment_reader *reader = &source->cursor.reader;
  struct sonde_segment_frame frame;
  bool same_session =
      memcmp(reader->header.session, search->scan.session, sizeof reader->header.session) == 0;
  *file_ended = same_session && reader->offset >= source->cursor.end;
  if (*file_ended)
    return false;
  int status = sonde_segment_reader_next(reader, &frame);
  if (status == SONDE_OK && !is_needed(source, search, &frame, same_session)) {
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
    sonde_search_gap(search, source->read_until_ns, source->read_until_ns, SONDE_GAP_UNOPENABLE);
  }
  *file_ended = status < 0;
  if (status < 0)
    return false;
  if (same_session)
    note_frame(source, search, &frame);
  search->chunks_read++;
  source->bytes = frame.payload_bytes - frame.name_bytes;
  source->name_bytes = frame.name_bytes;
  return true;
}

bool sonde_segment_scan_load(struct sonde_packet_source *source, struct sonde_search *search) {
  if (search->scan.count == 0)
    return false;
  for (;;) {
    bool file_ended = true;
    if (source->cursor.open && next_frame(source, search, &file_ended))
      return true;
    if (file_ended && !next_file(source, search))
      return false;
  }
}
