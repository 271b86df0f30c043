/* sealer.c - the store's thread: work on chunks that is too slow for the packet path.
 *
 * Populates the pages of unused chunks (a page fault costs more than the packets on the
 * page), seals extents in place, and passes them to the disk writer.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <sys/mman.h>

#include "disk_writer.h"
#include "host/clock.h"
#include "host/thread.h"
#include "seal.h"
#include "state.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* since Linux 5.14; older: the worker takes the faults */
#endif

enum { POPULATED_AHEAD = 4 };
static const uint64_t REPORT_INTERVAL_NS = 1000000000;

/* Associated data that binds sealed bytes to their location: extents cannot be swapped. */
struct location {
  uint64_t serial;
  uint32_t worker;
  uint32_t start;
  uint32_t end;
  uint32_t reserved;
};

static struct location locate(const struct sonde_chunk *chunk, const struct sonde_extent *extent) {
  return (struct location){chunk->serial, chunk->worker, extent->start, extent->end, 0};
}

/* data_lock is held. On failure the plaintext is zeroised. */
static int seal_extent(struct sonde_chunk *chunk, struct sonde_extent *extent,
                       struct sonde_sealkey *key) {
  uint8_t *data = sonde_chunk_data(chunk) + extent->start;
  struct location location = locate(chunk, extent);
  uint8_t nonce[SONDE_NONCE_BYTES];
  struct sonde_seal_text text = {&location, sizeof location, extent->end - extent->start, data,
                                 data};
  extent->nonce = atomic_fetch_add(&key->next_nonce, 1);
  sonde_nonce(extent->nonce, 0, nonce);
  if (sonde_seal(key->chunk, nonce, &text, extent->tag) < 0) {
    OPENSSL_cleanse(data, text.bytes);
    extent->state = SONDE_EXTENT_LOST;
    return SONDE_SYSTEM;
  }
  extent->key = sonde_sealkey_hold(key);
  extent->state = SONDE_EXTENT_SEALED;
  return SONDE_OK;
}

int sonde_extent_open(struct sonde_chunk *chunk, uint32_t number, uint8_t *into) {
  const struct sonde_extent *extent = &chunk->extents[number];
  const uint8_t *data = sonde_chunk_data(chunk) + extent->start;
  uint32_t bytes = extent->end - extent->start;
  if (extent->state == SONDE_EXTENT_LOST)
    return SONDE_END;
  if (extent->state == SONDE_EXTENT_CLEAR) {
    memcpy(into, data, bytes);
    return SONDE_OK;
  }
  struct location location = locate(chunk, extent);
  struct sonde_seal_text text = {&location, sizeof location, bytes, data, into};
  uint8_t nonce[SONDE_NONCE_BYTES];
  sonde_nonce(extent->nonce, 0, nonce);
  return sonde_unseal(extent->key->chunk, nonce, &text, extent->tag);
}

static void report_seal_failure(struct sonde_store *store, uint32_t packets) {
  uint64_t now = sonde_clock_ns(CLOCK_MONOTONIC_COARSE);
  pthread_mutex_lock(&store->lock);
  bool due = store->seal_reported_ns == 0 || now - store->seal_reported_ns >= REPORT_INTERVAL_NS;
  if (due)
    store->seal_reported_ns = now;
  pthread_mutex_unlock(&store->lock);
  if (due)
    store->config.raise(store->config.context, SONDE_STORE_SEAL_FAILED, packets,
                        "libcrypto failed; the packets are lost to the capture buffer");
}

/* data_lock is held. */
static void count_seal_failure(struct sonde_store *store, struct sonde_extent *extent) {
  sonde_store_note_gap(store, extent->first_ns, extent->last_ns, SONDE_GAP_UNSEALED,
                       sonde_extent_count_loss(extent));
  pthread_mutex_lock(&store->lock);
  store->totals.seal_failures++;
  pthread_mutex_unlock(&store->lock);
  report_seal_failure(store, extent->packets);
}

uint32_t sonde_store_seal_chunk(struct sonde_store *store, struct sonde_chunk *chunk) {
  pthread_mutex_lock(&chunk->data_lock);
  pthread_mutex_lock(&store->lock);
  uint32_t count = chunk->extent_count;
  uint32_t end = sonde_chunk_open_start(chunk);
  bool full = !chunk->open;
  struct sonde_sealkey *key = sonde_sealkey_hold(store->key);
  pthread_mutex_unlock(&store->lock);
  for (uint32_t i = 0; key && i < count; i++) {
    struct sonde_extent *extent = &chunk->extents[i];
    if (extent->state == SONDE_EXTENT_CLEAR && seal_extent(chunk, extent, key) < 0)
      count_seal_failure(store, extent);
  }
  if (key && full) /* old plaintext follows the last packet */
    OPENSSL_cleanse(sonde_chunk_data(chunk) + end, sonde_store_data_bytes(store) - end);
  sonde_sealkey_release(key);
  pthread_mutex_unlock(&chunk->data_lock);
  return count;
}

static bool needs_pages(const struct sonde_store *store) {
  return store->populated < store->chunk_count && store->populated < store->fresh + POPULATED_AHEAD;
}

static struct sonde_chunk *pop(struct sonde_chunk_queue *queue) {
  struct sonde_chunk *chunk = queue->first;
  if (!chunk)
    return NULL;
  queue->first = chunk->queue_next;
  if (!queue->first)
    queue->last = NULL;
  queue->count--;
  chunk->queued = false;
  return chunk;
}

static void *run(void *argument) {
  struct sonde_store *store = argument;
  pthread_setname_np(pthread_self(), "sonde-sealer");
  pthread_mutex_lock(&store->lock);
  for (;;) {
    struct sonde_chunk *chunk = pop(&store->to_seal);
    if (chunk) {
      pthread_mutex_unlock(&store->lock);
      uint32_t extents = sonde_store_seal_chunk(store, chunk);
      if (store->writer)
        sonde_disk_writer_offer(store->writer, chunk, extents);
      pthread_mutex_lock(&store->lock);
      chunk->pins--;
    } else if (needs_pages(store) && !store->sealer_ends) {
      void *pages = sonde_store_chunk(store, store->populated++);
      pthread_mutex_unlock(&store->lock);
      madvise(pages, store->chunk_bytes, MADV_POPULATE_WRITE);
      pthread_mutex_lock(&store->lock);
    } else if (store->sealer_ends) {
      break;
    } else {
      pthread_cond_wait(&store->sealer_work, &store->lock);
    }
  }
  pthread_mutex_unlock(&store->lock);
  return NULL;
}

int sonde_sealer_start(struct sonde_store *store) {
  int failed = sonde_thread_start(&store->sealer, run, store);
  store->sealer_runs = failed == 0;
  return failed;
}

void sonde_sealer_stop(struct sonde_store *store) {
  if (!store->sealer_runs)
    return;
  pthread_mutex_lock(&store->lock);
  store->sealer_ends = true;
  pthread_cond_signal(&store->sealer_work);
  pthread_mutex_unlock(&store->lock);
  pthread_join(store->sealer, NULL);
  store->sealer_runs = false;
}
