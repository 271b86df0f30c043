/* store.c - see store.h. */
#include "store.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "appender.h"
#include "disk_writer.h"
#include "failure.h"
#include "state.h"

enum { HUGE_PAGE_BYTES = 2 << 20 };

/* Small buffers get smaller chunks, so that one overwrite drops a smaller part. */
static void size_chunks(struct sonde_store *store) {
  uint64_t bytes = store->config.bytes;
  uint32_t min = store->config.workers + 1;
  store->chunk_bytes =
      bytes / SONDE_CHUNK_BYTES >= 4u * min ? SONDE_CHUNK_BYTES : SONDE_CHUNK_BYTES_MIN;
  uint64_t count = bytes / store->chunk_bytes;
  store->chunk_count = (uint32_t)(count < min ? min : count);
}

static int map_memory(struct sonde_store *store) {
  store->memory_bytes = (uint64_t)store->chunk_count * store->chunk_bytes;
  size_t mapped = store->memory_bytes + HUGE_PAGE_BYTES;
  uint8_t *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return SONDE_NO_MEMORY;
  size_t before = -(uintptr_t)memory & (HUGE_PAGE_BYTES - 1);
  if (before)
    munmap(memory, before);
  munmap(memory + before + store->memory_bytes, HUGE_PAGE_BYTES - before);
  store->memory = memory + before;
  /* Best effort: failures cost speed and enlarge core dumps. */
  madvise(store->memory, store->memory_bytes, MADV_HUGEPAGE);
  madvise(store->memory, store->memory_bytes, MADV_DONTDUMP);
  return SONDE_OK;
}

static void set_up_appenders(struct sonde_store *store) {
  for (uint32_t i = 0; i < store->config.workers; i++) {
    struct sonde_appender *appender = &store->appenders[i];
    appender->store = store;
    appender->worker = i;
    appender->number_of = store->names.number_of;
    memcpy(appender->seed, store->bloom_seed, sizeof appender->seed);
  }
}

int sonde_store_open(const struct sonde_store_config *config, struct sonde_store **store,
                     struct sonde_error *error) {
  if (config->workers < 1 || config->workers > SONDE_STORE_WORKERS_MAX || config->bytes == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "capture buffer: %u workers, %llu bytes",
                      config->workers, (unsigned long long)config->bytes);
  struct sonde_store *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "no memory for the capture buffer");
  made->config = *config;
  pthread_mutex_init(&made->lock, NULL);
  pthread_cond_init(&made->sealer_work, NULL);
  size_chunks(made);
  made->lists = calloc(config->workers, sizeof *made->lists);
  made->appenders = calloc(config->workers, sizeof *made->appenders);
  bool named = sonde_names_init(&made->names);
  int status = SONDE_OK;
  if (!named || !made->lists || !made->appenders || map_memory(made) < 0)
    status =
        sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "no memory for a capture buffer of %llu bytes",
                   (unsigned long long)config->bytes);
  if (status == SONDE_OK &&
      getrandom(made->bloom_seed, sizeof made->bloom_seed, 0) != sizeof made->bloom_seed)
    status = sonde_fail(error, SONDE_SYSTEM, errno, "getrandom: %s", strerror(errno));
  if (status == SONDE_OK) {
    set_up_appenders(made);
    if (config->dir)
      status = sonde_disk_writer_open(made, config->dir, config->disk_bytes, &made->writer, error);
  }
  atomic_store(&made->cuts_extents, made->writer != NULL);
  int failed = status == SONDE_OK ? sonde_sealer_start(made) : 0;
  if (failed)
    status = sonde_fail(error, SONDE_SYSTEM, failed, "cannot start the sealer's thread: %s",
                        strerror(failed));
  if (status < 0)
    sonde_store_close(made);
  else
    *store = made;
  return status;
}

void sonde_store_close(struct sonde_store *store) {
  if (!store)
    return;
  if (store->writer)
    for (uint32_t i = 0; i < store->config.workers; i++)
      sonde_appender_cut(&store->appenders[i], 0);
  sonde_sealer_stop(store);
  sonde_disk_writer_close(store->writer);
  for (uint32_t i = 0; i < store->fresh; i++) {
    struct sonde_chunk *chunk = sonde_store_chunk(store, i);
    for (uint32_t e = 0; e < chunk->extent_count; e++)
      sonde_sealkey_release(chunk->extents[e].key);
    pthread_mutex_destroy(&chunk->data_lock);
  }
  sonde_sealkey_release(store->key);
  if (store->memory)
    munmap(store->memory, store->memory_bytes);
  pthread_cond_destroy(&store->sealer_work);
  pthread_mutex_destroy(&store->lock);
  sonde_names_release(&store->names);
  free(store->lists);
  free(store->appenders);
  free(store);
}

struct sonde_appender *sonde_store_appender(struct sonde_store *store, uint32_t worker) {
  return &store->appenders[worker];
}

int sonde_store_name_set(struct sonde_store *store, uint32_t slot, const char *name,
                         struct sonde_error *error) {
  char whole[SONDE_NAME_BYTES];
  const char *host = store->config.host;
  snprintf(whole, sizeof whole, "%s%s%s", host ? host : "", host ? "/" : "", name);
  if (slot >= SONDE_SOURCES_MAX)
    return sonde_fail(error, SONDE_INVALID, 0, "interface slot %u: at most %d", slot,
                      SONDE_SOURCES_MAX - 1);
  if (!sonde_names_set(&store->names, slot, whole))
    return sonde_fail(error, SONDE_NO_MEMORY, ENOMEM, "no memory for an interface name");
  return SONDE_OK;
}

int sonde_store_key_set(struct sonde_store *store, const uint8_t *key, struct sonde_error *error) {
  struct sonde_sealkey *made = NULL;
  int status = key ? sonde_sealkey_create(key, &made, error) : SONDE_OK;
  if (status < 0)
    return status;
  pthread_mutex_lock(&store->lock);
  struct sonde_sealkey *before = store->key;
  if (made && before && CRYPTO_memcmp(made->master, before->master, sizeof made->master) == 0) {
    before = made; /* the same key: save a locked page */
    made = store->key;
  }
  store->key = made;
  atomic_store(&store->cuts_extents, made || store->writer);
  pthread_mutex_unlock(&store->lock);
  sonde_sealkey_release(before);
  return SONDE_OK;
}

struct sonde_chunk *sonde_chunk_list_step(struct sonde_store *store, uint32_t worker,
                                          struct sonde_chunk *chunk) {
  pthread_mutex_lock(&store->lock);
  struct sonde_chunk *next = chunk ? chunk->newer : store->lists[worker].oldest;
  if (next)
    next->pins++;
  if (chunk)
    chunk->pins--;
  pthread_mutex_unlock(&store->lock);
  return next;
}

int sonde_store_seal_all(struct sonde_store *store, struct sonde_error *error) {
  for (uint32_t worker = 0; worker < store->config.workers; worker++)
    for (struct sonde_chunk *chunk = sonde_chunk_list_step(store, worker, NULL); chunk;
         chunk = sonde_chunk_list_step(store, worker, chunk))
      sonde_store_seal_chunk(store, chunk);
  return store->writer ? sonde_disk_writer_drop_clear(store->writer, error) : SONDE_OK;
}

void sonde_store_note_drops(struct sonde_store *store, uint64_t from_ns, uint64_t to_ns) {
  bool in_order = from_ns <= to_ns; /* false after the clock was set back */
  sonde_store_note_gap(store, in_order ? from_ns : to_ns, in_order ? to_ns : from_ns,
                       SONDE_GAP_DROPPED, 0);
}

static void add_list(const struct sonde_chunk_list *list, struct sonde_store_stats *stats) {
  struct sonde_chunk *newest = list->newest;
  if (newest && newest->open) {
    stats->packets += newest->packets;
    stats->bytes_used += newest->committed;
    if (newest->packets == 0)
      newest = newest->older;
  }
  struct sonde_chunk *oldest = list->oldest;
  if (!newest || oldest->packets == 0)
    return;
  if (stats->oldest_ns == 0 || oldest->first_ns < stats->oldest_ns)
    stats->oldest_ns = oldest->first_ns;
  if (newest->last_ns > stats->newest_ns)
    stats->newest_ns = newest->last_ns;
}

void sonde_store_stats(struct sonde_store *store, struct sonde_store_stats *stats) {
  pthread_mutex_lock(&store->lock);
  *stats = store->totals;
  stats->packets = store->full_packets;
  stats->bytes_capacity = store->memory_bytes;
  stats->bytes_used = (uint64_t)store->full_count * store->chunk_bytes;
  for (uint32_t i = 0; i < store->config.workers; i++)
    add_list(&store->lists[i], stats);
  /* Once wrapped, only the unfilled parts of open chunks are unused. */
  if (store->fresh == store->chunk_count && store->totals.chunks_overwritten)
    stats->bytes_used = stats->bytes_capacity;
  pthread_mutex_unlock(&store->lock);
  if (store->writer)
    sonde_disk_writer_stats(store->writer, stats);
}
