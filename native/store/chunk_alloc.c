/* chunk_alloc.c - which chunk a worker writes to next: a fresh one, or the oldest of all.
 *
 * These are the only moments at which a worker meets the store's lock; each takes a few
 * pointers' time.
 */
#include <assert.h>

#include "state.h"

static void queue_push(struct sonde_chunk_queue *queue, struct sonde_chunk *chunk) {
  chunk->queued = true;
  chunk->queue_next = NULL;
  if (queue->last)
    queue->last->queue_next = chunk;
  else
    queue->first = chunk;
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

/* What an overwritten chunk takes with it. */
static void forget(struct sonde_store *store, struct sonde_chunk *chunk) {
  struct sonde_store_stats *totals = &store->totals;
  totals->chunks_overwritten++;
  totals->packets_overwritten += chunk->packets;
  totals->bytes_overwritten += chunk->committed;
  store->full_packets -= chunk->packets;
  struct sonde_chunk_list *list = &store->lists[chunk->worker];
  if (list->forgotten_last_ns == 0 || chunk->first_ns < list->forgotten_first_ns)
    list->forgotten_first_ns = chunk->first_ns;
  if (chunk->last_ns > list->forgotten_last_ns)
    list->forgotten_last_ns = chunk->last_ns;
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
  /* Pinned are those that are read just now, and the newest, if they wait for the sealer. */
  struct sonde_chunk *chunk = store->first_full;
  while (chunk && chunk->pins)
    chunk = chunk->next;
  if (chunk)
    forget(store, chunk);
  return chunk;
}

static bool holds_clear(const struct sonde_chunk *chunk) {
  for (uint32_t i = 0; i < chunk->extent_count; i++)
    if (chunk->extents[i].state == SONDE_EXTENT_CLEAR)
      return true;
  return false;
}

struct sonde_chunk *sonde_store_take(struct sonde_store *store, uint32_t worker) {
  struct sonde_chunk_list *list = &store->lists[worker];
  pthread_mutex_lock(&store->lock);
  struct sonde_chunk *chunk = pick(store);
  /* Sealing has just begun, and has not come to this one: no one will seal it any more. */
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

static void ask_sealer(struct sonde_store *store, struct sonde_chunk *chunk) {
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
  ask_sealer(store, chunk);
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

void sonde_store_lose(struct sonde_store *store, const struct sonde_gap *gap) {
  pthread_mutex_lock(&store->lock);
  sonde_gap_log_add(&store->gaps, gap);
  if (gap->reason == SONDE_GAP_UNRECORDED)
    store->totals.packets_unrecorded += gap->packets;
  else if (gap->reason == SONDE_GAP_UNSEALED)
    store->totals.packets_seal_lost += gap->packets;
  else if (gap->reason == SONDE_GAP_SPILL_LOST)
    store->totals.packets_spill_lost += gap->packets;
  pthread_mutex_unlock(&store->lock);
}
