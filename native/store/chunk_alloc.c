/* chunk_alloc.c - picks a worker's next chunk: an unused one, or the oldest of the store.
 *
 * Only these functions take the store's lock on a worker's thread, each for a few pointer
 * updates.
 */
#include <assert.h>

#include "state.h"

static void queue_push(struct sonde_chunk_queue *queue, struct sonde_chunk *chunk) {
  chunk->queued = true;
  chunk->queue_next = NULL;
  *(queue->last ? &queue->last->queue_next : &queue->first) = chunk;
  queue->last = chunk;
  queue->count++;
}

static void unlink_full(struct sonde_store *store, struct sonde_chunk *chunk) {
  *(chunk->previous ? &chunk->previous->next : &store->first_full) = chunk->next;
  *(chunk->next ? &chunk->next->previous : &store->last_full) = chunk->previous;
  store->full_count--;
}

static void unlink_listed(struct sonde_store *store, struct sonde_chunk *chunk) {
  struct sonde_chunk_list *list = &store->lists[chunk->worker];
  *(chunk->older ? &chunk->older->newer : &list->oldest) = chunk->newer;
  *(chunk->newer ? &chunk->newer->older : &list->newest) = chunk->older;
}

static void count_overwritten(struct sonde_store *store, struct sonde_chunk *chunk) {
  struct sonde_store_stats *totals = &store->totals;
  totals->chunks_overwritten++;
  totals->packets_overwritten += chunk->packets;
  totals->bytes_overwritten += chunk->committed;
  store->full_packets -= chunk->packets;
  struct sonde_chunk_list *list = &store->lists[chunk->worker];
  if (list->overwritten_last_ns == 0 || chunk->first_ns < list->overwritten_first_ns)
    list->overwritten_first_ns = chunk->first_ns;
  if (chunk->last_ns > list->overwritten_last_ns)
    list->overwritten_last_ns = chunk->last_ns;
  for (uint32_t i = 0; i < chunk->extent_count; i++)
    sonde_sealkey_release(chunk->extents[i].key);
  unlink_full(store, chunk);
  unlink_listed(store, chunk);
}

static struct sonde_chunk *pick(struct sonde_store *store) {
  if (store->fresh < store->chunk_count) {
    struct sonde_chunk *chunk = sonde_store_chunk(store, store->fresh++);
    pthread_mutex_init(&chunk->data_lock, NULL);
    return chunk;
  }
  struct sonde_chunk *chunk = store->first_full;
  while (chunk && chunk->pins)
    chunk = chunk->next;
  if (chunk)
    count_overwritten(store, chunk);
  return chunk;
}

static bool holds_clear(const struct sonde_chunk *chunk) {
  for (uint32_t i = 0; i < chunk->extent_count; i++)
    if (chunk->extents[i].state == SONDE_EXTENT_CLEAR)
      return true;
  return false;
}

struct sonde_chunk *sonde_store_open_chunk(struct sonde_store *store, uint32_t worker) {
  struct sonde_chunk_list *list = &store->lists[worker];
  pthread_mutex_lock(&store->lock);
  struct sonde_chunk *chunk = pick(store);
  /* Sealing was just switched on: an overwritten chunk may still hold unsealed packets. */
  bool wipe = chunk && store->key && holds_clear(chunk);
  if (chunk) {
    chunk->worker = worker;
    chunk->serial = ++list->serial;
    chunk->first_packet = list->next_packet;
    chunk->open = true;
    chunk->extent_count = chunk->extents_ready = chunk->extents_written = 0;
    atomic_store_explicit(&chunk->committed, 0, memory_order_relaxed);
    atomic_store_explicit(&chunk->packets, 0, memory_order_relaxed);
    chunk->next = chunk->previous = chunk->newer = NULL;
    chunk->older = list->newest;
    *(list->newest ? &list->newest->newer : &list->oldest) = chunk;
    list->newest = chunk;
    if (store->populated < store->chunk_count)
      pthread_cond_signal(&store->sealer_work);
  }
  pthread_mutex_unlock(&store->lock);
  if (wipe)
    memset(sonde_chunk_data(chunk), 0, sonde_store_data_bytes(store));
  return chunk;
}

static void queue_for_sealer(struct sonde_store *store, struct sonde_chunk *chunk) {
  if (chunk->queued || !atomic_load(&store->cuts_extents))
    return;
  chunk->pins++;
  queue_push(&store->to_seal, chunk);
  pthread_cond_signal(&store->sealer_work);
}

void sonde_store_close_extent(struct sonde_store *store, struct sonde_chunk *chunk,
                              const struct sonde_extent *extent) {
  pthread_mutex_lock(&store->lock);
  assert(chunk->extent_count < SONDE_CHUNK_EXTENTS_MAX);
  uint32_t start = sonde_chunk_open_start(chunk);
  struct sonde_extent *closed = &chunk->extents[chunk->extent_count++];
  *closed = *extent;
  closed->start = start;
  queue_for_sealer(store, chunk);
  pthread_mutex_unlock(&store->lock);
}

void sonde_store_close_chunk(struct sonde_store *store, struct sonde_chunk *chunk) {
  pthread_mutex_lock(&store->lock);
  chunk->open = false;
  chunk->previous = store->last_full;
  chunk->next = NULL;
  *(store->last_full ? &store->last_full->next : &store->first_full) = chunk;
  store->last_full = chunk;
  store->full_count++;
  store->full_packets += chunk->packets;
  store->lists[chunk->worker].next_packet += chunk->packets;
  pthread_mutex_unlock(&store->lock);
}

void sonde_store_unpin(struct sonde_store *store, struct sonde_chunk *chunk) {
  pthread_mutex_lock(&store->lock);
  chunk->pins--;
  pthread_mutex_unlock(&store->lock);
}

void sonde_store_note_gap(struct sonde_store *store, uint64_t from_ns, uint64_t to_ns,
                          enum sonde_gap_reason reason, uint32_t packets) {
  pthread_mutex_lock(&store->lock);
  sonde_gap_log_add(&store->gaps, &(struct sonde_gap){from_ns, to_ns, reason, packets});
  if (reason == SONDE_GAP_UNRECORDED)
    store->totals.packets_unrecorded += packets;
  else if (reason == SONDE_GAP_UNSEALED)
    store->totals.packets_seal_lost += packets;
  else if (reason == SONDE_GAP_SPILL_LOST)
    store->totals.packets_spill_lost += packets;
  pthread_mutex_unlock(&store->lock);
}
