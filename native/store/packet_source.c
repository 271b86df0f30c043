/* packet_source.c - see packet_source.h. */
#include "packet_source.h"

#include <stdlib.h>

#include "failure.h"

void sonde_search_gap(struct sonde_search *search, uint64_t from_ns, uint64_t to_ns,
                      uint32_t reason) {
  struct sonde_gap gap = {.from_ns = from_ns, .to_ns = to_ns, .reason = reason};
  if (gap.from_ns < search->start_ns)
    gap.from_ns = search->start_ns;
  if (gap.to_ns > search->end_ns)
    gap.to_ns = search->end_ns;
  if (gap.from_ns <= gap.to_ns)
    sonde_gap_log_add(&search->gaps, &gap);
}

int sonde_packet_source_open(struct sonde_packet_source *source, struct sonde_search *search,
                             uint32_t worker) {
  struct sonde_store *store = search->store;
  *source = (struct sonde_packet_source){.worker = worker};
  source->scratch = sonde_secret_map(SONDE_CHUNK_BYTES, 0);
  if (!source->scratch)
    return SONDE_NO_MEMORY;
  if (worker >= store->config.workers) { /* an earlier session's worker: only in segments */
    source->chunk_seen = true;
    return SONDE_OK;
  }
  struct sonde_chunk_list *list = &store->lists[worker];
  pthread_mutex_lock(&store->lock);
  source->chunk = list->oldest;
  source->memory_packet = list->oldest ? list->oldest->first_packet : list->next_packet;
  source->stop_serial = list->newest ? list->newest->serial : 0;
  source->stop_offset = list->newest ? atomic_load(&list->newest->committed) : 0;
  source->stop_ns = list->newest ? atomic_load(&list->newest->last_ns) : 0;
  source->read_until_ns = list->overwritten_first_ns;
  source->overwritten_ns = list->overwritten_last_ns;
  if (source->chunk)
    source->chunk->pins++;
  pthread_mutex_unlock(&store->lock);
  return SONDE_OK;
}

void sonde_packet_source_close(struct sonde_packet_source *source, struct sonde_search *search) {
  if (source->chunk)
    sonde_store_unpin(search->store, source->chunk);
  source->chunk = NULL;
  sonde_segment_cursor_close(&source->cursor);
  sonde_secret_unmap(source->scratch, SONDE_CHUNK_BYTES);
  source->scratch = NULL;
  free(source->order);
  source->order = NULL;
}

/* Returns the next chunk, pinned, or NULL. */
static struct sonde_chunk *step(struct sonde_packet_source *source, struct sonde_search *search) {
  if (!source->chunk_seen) {
    source->chunk_seen = true;
    return source->chunk;
  }
  if (source->chunk)
    source->chunk = sonde_chunk_list_step(search->store, source->worker, source->chunk);
  return source->chunk;
}

/* Copies the chunk's plaintext into the scratch, extent by extent. data_lock is held. */
static void copy_chunk(struct sonde_packet_source *source, struct sonde_search *search,
                       struct sonde_chunk *chunk, uint32_t extents, uint32_t limit) {
  uint32_t start = 0;
  for (uint32_t i = 0; i < extents && start < limit; i++) {
    const struct sonde_extent *extent = &chunk->extents[i];
    uint32_t end = extent->end < limit ? extent->end : limit;
    start = extent->end;
    if (extent->last_ns < search->start_ns || extent->first_ns > search->end_ns)
      continue;
    int status = sonde_extent_open(chunk, i, source->scratch + source->bytes);
    if (status == SONDE_OK)
      source->bytes += end - extent->start;
    else if (status != SONDE_END) /* END: sealing failed, which is in the gap log */
      sonde_search_gap(search, extent->first_ns, extent->last_ns, SONDE_GAP_UNOPENABLE);
  }
  if (start < limit) {
    memcpy(source->scratch + source->bytes, sonde_chunk_data(chunk) + start, limit - start);
    source->bytes += limit - start;
  }
}

static void note_overwritten(struct sonde_packet_source *source, struct sonde_search *search,
                             uint64_t first_packet, uint64_t first_ns) {
  if (first_packet <= source->next_packet)
    return;
  uint64_t to_ns = first_ns;
  if (source->overwritten_ns && source->overwritten_ns < to_ns)
    to_ns = source->overwritten_ns;
  sonde_search_gap(search, source->read_until_ns, to_ns, SONDE_GAP_OVERWRITTEN);
}

static void load_chunk(struct sonde_packet_source *source, struct sonde_search *search,
                       struct sonde_chunk *chunk) {
  struct sonde_store *store = search->store;
  pthread_mutex_lock(&chunk->data_lock);
  pthread_mutex_lock(&store->lock);
  uint32_t limit = atomic_load_explicit(&chunk->committed, memory_order_acquire);
  uint32_t extents = chunk->extent_count;
  bool open = chunk->open;
  pthread_mutex_unlock(&store->lock);
  uint64_t first_ns = chunk->first_ns, last_ns = chunk->last_ns;
  if (chunk->serial == source->stop_serial && limit > source->stop_offset)
    limit = source->stop_offset;
  source->loaded_serial = chunk->serial;
  if (limit) {
    note_overwritten(source, search, chunk->first_packet, first_ns);
    source->next_packet = chunk->first_packet + chunk->packets;
    source->read_until_ns = last_ns;
    source->overwritten_ns = 0; /* later gaps end where the next chunk starts */
  }
  if (limit == 0 || last_ns < search->start_ns || first_ns > search->end_ns ||
      (!open && !sonde_selection_may_match(&search->selection, &chunk->bloom))) {
    search->chunks_skipped++;
  } else {
    search->chunks_read++;
    copy_chunk(source, search, chunk, extents, limit);
  }
  pthread_mutex_unlock(&chunk->data_lock);
}

static int compare_places(const void *left, const void *right) {
  const struct sonde_packet_place *a = left, *b = right;
  if (a->time_ns != b->time_ns)
    return a->time_ns < b->time_ns ? -1 : 1;
  return a->offset < b->offset ? -1 : 1;
}

/* Lists the scratch's packets by time, unless they are in order. A worker takes packets of several
 * interfaces in turn, so a packet can be stored after later ones. Without memory the packets stay
 * as they are. */
static void put_in_order(struct sonde_packet_source *source) {
  struct sonde_packet packet;
  uint64_t newest_ns = 0;
  uint32_t count = 0, offset = 0;
  bool in_order = true;
  for (; sonde_packet_layout_next(source->scratch, source->bytes, &offset, &packet); count++) {
    in_order &= packet.time_ns >= newest_ns;
    newest_ns = packet.time_ns;
  }
  source->ordered = source->order_next = 0;
  if (in_order)
    return;
  if (count > source->order_room) {
    free(source->order);
    source->order = calloc(count, sizeof *source->order);
    source->order_room = source->order ? count : 0;
    if (!source->order)
      return;
  }
  offset = 0;
  for (uint32_t at = 0; sonde_packet_layout_next(source->scratch, source->bytes, &offset, &packet);
       at = offset)
    source->order[source->ordered++] =
        (struct sonde_packet_place){.time_ns = packet.time_ns, .offset = at};
  qsort(source->order, source->ordered, sizeof *source->order, compare_places);
}

/* Reads the next packet of the scratch into the head. */
static bool next_in_scratch(struct sonde_packet_source *source) {
  if (source->ordered) {
    if (source->order_next == source->ordered)
      return false;
    source->offset = source->order[source->order_next++].offset;
  }
  return sonde_packet_layout_next(source->scratch, source->bytes, &source->offset, &source->head);
}

static bool find_in_scratch(struct sonde_packet_source *source, struct sonde_search *search) {
  while (next_in_scratch(source)) {
    uint64_t time_ns = source->head.time_ns;
    if (time_ns >= search->start_ns && time_ns <= search->end_ns &&
        (!search->match || search->match(search->context, &source->head)))
      return true;
  }
  return false;
}

/* False at the end of the source. */
static bool load_next(struct sonde_packet_source *source, struct sonde_search *search) {
  source->bytes = source->name_bytes = source->offset = source->ordered = 0;
  source->has_name = false;
  if (!source->in_memory) {
    if (sonde_segment_scan_load(source, search)) {
      put_in_order(source);
      return true;
    }
    source->in_memory = true;
  }
  struct sonde_chunk *chunk = step(source, search);
  if (chunk && chunk->serial <= source->stop_serial) {
    load_chunk(source, search, chunk);
    put_in_order(source);
    return true;
  }
  if (source->loaded_serial + (source->stop_offset == 0) < source->stop_serial &&
      !source->overwritten_ns)
    sonde_search_gap(search, source->read_until_ns, source->stop_ns, SONDE_GAP_OVERWRITTEN);
  if (source->overwritten_ns) /* no chunk of this worker was left in memory */
    note_overwritten(source, search, source->memory_packet, UINT64_MAX);
  return false;
}

const char *sonde_packet_source_name(struct sonde_packet_source *source,
                                     struct sonde_search *search) {
  uint16_t number = source->head.source;
  if (source->has_name && source->name_number == number)
    return source->name;
  if (source->in_memory)
    sonde_names_copy(&search->store->names, number, source->name);
  else
    sonde_names_find(source->scratch + source->bytes, source->name_bytes, number, source->name);
  source->has_name = true;
  source->name_number = number;
  return source->name;
}

void sonde_packet_source_advance(struct sonde_packet_source *source, struct sonde_search *search,
                                 uint32_t *budget) {
  source->has_head = false;
  while (!source->done) {
    if (find_in_scratch(source, search)) {
      source->has_head = true;
      return;
    }
    if (*budget == 0)
      return;
    --*budget;
    source->done = !load_next(source, search);
  }
}
