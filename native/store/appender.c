/* appender.c - see appender.h. The work per chunk, extent and batch. */
#include "appender.h"

#include "host/clock.h"
#include "state.h"

static const uint64_t CUT_AGE_NS = 700000000; /* plus one worker loop: sealed within a second */

static void begin_extent(struct sonde_appender *appender) {
  appender->extent.first_ns = UINT64_MAX;
  appender->extent.last_ns = 0;
  appender->extent.packets_before = appender->packets;
  appender->extent.since_ns = 0;
}

void sonde_appender_publish(struct sonde_appender *appender) {
  struct sonde_chunk *chunk = appender->chunk;
  if (!chunk || appender->offset == atomic_load_explicit(&chunk->committed, memory_order_relaxed))
    return;
  if (appender->extent.first_ns < appender->first_ns)
    appender->first_ns = appender->extent.first_ns;
  if (appender->extent.last_ns > appender->last_ns)
    appender->last_ns = appender->extent.last_ns;
  sonde_appender_fence();
  atomic_store_explicit(&chunk->first_ns, appender->first_ns, memory_order_relaxed);
  atomic_store_explicit(&chunk->last_ns, appender->last_ns, memory_order_relaxed);
  atomic_store_explicit(&chunk->packets, appender->packets, memory_order_relaxed);
  atomic_store_explicit(&chunk->committed, appender->offset, memory_order_release);
}

static struct sonde_extent describe_extent(const struct sonde_appender *appender) {
  return (struct sonde_extent){
      .end = appender->offset,
      .packets = appender->packets - appender->extent.packets_before,
      .first_ns = appender->extent.first_ns,
      .last_ns = appender->extent.last_ns,
  };
}

static void close_chunk(struct sonde_appender *appender) {
  struct sonde_extent extent = describe_extent(appender);
  sonde_appender_publish(appender);
  if (extent.packets)
    sonde_store_close_extent(appender->store, appender->chunk, &extent);
  sonde_store_close_chunk(appender->store, appender->chunk);
  appender->chunk = NULL;
  appender->offset = appender->end = 0;
}

bool sonde_appender_roll(struct sonde_appender *appender, uint64_t time_ns) {
  if (appender->chunk)
    close_chunk(appender);
  struct sonde_chunk *chunk = sonde_store_open_chunk(appender->store, appender->worker);
  if (!chunk) {
    sonde_store_note_gap(appender->store, time_ns, time_ns, SONDE_GAP_UNRECORDED, 1);
    return false;
  }
  memset(&chunk->bloom, 0, sizeof chunk->bloom);
  memset(appender->recent, 0, sizeof appender->recent);
  appender->chunk = chunk;
  appender->bloom = &chunk->bloom;
  appender->data = sonde_chunk_data(chunk);
  appender->end = sonde_store_data_bytes(appender->store);
  appender->packets = 0;
  appender->first_ns = UINT64_MAX;
  appender->last_ns = 0;
  begin_extent(appender);
  return true;
}

void sonde_appender_cut(struct sonde_appender *appender, uint64_t age_ns) {
  if (!appender->chunk || appender->packets == appender->extent.packets_before)
    return;
  uint64_t now = sonde_clock_ns(CLOCK_MONOTONIC_COARSE);
  if (appender->extent.since_ns == 0)
    appender->extent.since_ns = now;
  if (now - appender->extent.since_ns < age_ns)
    return;
  sonde_appender_publish(appender);
  if (appender->chunk->extent_count + 1 == SONDE_CHUNK_EXTENTS_MAX) {
    close_chunk(appender);
    return;
  }
  struct sonde_extent extent = describe_extent(appender);
  sonde_store_close_extent(appender->store, appender->chunk, &extent);
  begin_extent(appender);
}

void sonde_appender_wipe(struct sonde_appender *appender) {
  if (appender->chunk)
    memset(appender->data + appender->offset, 0, appender->end - appender->offset);
}

void sonde_appender_turn(struct sonde_appender *appender) {
  sonde_appender_publish(appender);
  if (atomic_load_explicit(&appender->store->cuts_extents, memory_order_relaxed))
    sonde_appender_cut(appender, CUT_AGE_NS);
}
