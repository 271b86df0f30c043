/* query.c - see query.h. Merges the sources by packet time. */
#include "query.h"

#include <stdlib.h>

#include "failure.h"
#include "packet_source.h"
#include "pcapng.h"

enum { CHUNKS_PER_READ = 32 };

struct sonde_query {
  struct sonde_search search;
  struct sonde_pcapng pcapng;
  uint64_t max_bytes;
  uint64_t max_packets;
  struct sonde_packets_summary summary; /* without the gaps, which are the search's */
  bool finished;
  uint32_t source_count;
  struct sonde_packet_source sources[SONDE_STORE_WORKERS_MAX];
};

int sonde_query_open(struct sonde_store *store, const struct sonde_query_config *config,
                     struct sonde_query **query, struct sonde_error *error) {
  struct sonde_query *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "query");
  made->max_bytes = config->max_bytes ? config->max_bytes : UINT64_MAX;
  made->max_packets = config->max_packets ? config->max_packets : UINT64_MAX;
  made->search = (struct sonde_search){
      .store = store,
      .start_ns = config->start_ns,
      .end_ns = config->end_ns,
      .match = config->match,
      .context = config->context,
  };
  sonde_selection_compile(&made->search.selection, config->expression, store->bloom_seed);
  int status = sonde_segment_scan_open(store, &made->search.scan);
  uint32_t sources = store->config.workers;
  if (made->search.scan.workers > sources)
    sources = made->search.scan.workers;
  for (uint32_t i = 0; status == SONDE_OK && i < sources; i++) {
    status = sonde_packet_source_open(&made->sources[i], &made->search, i);
    made->source_count = i + 1;
  }
  if (status < 0) {
    sonde_query_close(made);
    return sonde_fail(error, status, 0, "query");
  }
  *query = made;
  return SONDE_OK;
}

void sonde_query_close(struct sonde_query *query) {
  if (!query)
    return;
  for (uint32_t i = 0; i < query->source_count; i++)
    sonde_packet_source_close(&query->sources[i], &query->search);
  sonde_segment_scan_close(&query->search.scan);
  sonde_pcapng_release(&query->pcapng);
  free(query);
}

/* NULL if the budget is used up, or with *budget > 0 at the end. */
static struct sonde_packet_source *earliest(struct sonde_query *query, uint32_t *budget) {
  struct sonde_packet_source *found = NULL;
  for (uint32_t i = 0; i < query->source_count; i++) {
    struct sonde_packet_source *source = &query->sources[i];
    if (!source->has_head && !source->done) {
      sonde_packet_source_advance(source, &query->search, budget);
      if (!source->has_head && !source->done)
        return NULL;
    }
    if (source->has_head && (!found || source->head.time_ns < found->head.time_ns))
      found = source;
  }
  return found;
}

/* Also adds the store's gaps, which no source can detect. */
static void finish(struct sonde_query *query) {
  struct sonde_search *search = &query->search;
  struct sonde_gap_log gaps;
  struct sonde_store_stats stats;
  query->finished = true;
  sonde_store_stats(search->store, &stats);
  pthread_mutex_lock(&search->store->lock);
  gaps = search->store->gaps;
  pthread_mutex_unlock(&search->store->lock);
  for (uint32_t i = 0; i < gaps.count; i++) {
    const struct sonde_gap *gap = &gaps.ranges[i];
    bool in_memory = stats.oldest_ns && gap->from_ns >= stats.oldest_ns;
    if (gap->reason != SONDE_GAP_SPILL_LOST || !in_memory)
      sonde_search_gap(search, gap->from_ns, gap->to_ns, gap->reason);
  }
}

/* Logs a gap from here to the newest packet. */
static void note_limit(struct sonde_query *query, uint64_t from_ns) {
  struct sonde_store_stats stats;
  sonde_store_stats(query->search.store, &stats);
  uint64_t to_ns = stats.newest_ns > from_ns ? stats.newest_ns : from_ns;
  sonde_search_gap(&query->search, from_ns, to_ns, SONDE_GAP_LIMIT);
  finish(query);
}

static bool over_limit(const struct sonde_query *query, uint32_t more_bytes) {
  return query->summary.packets >= query->max_packets ||
         query->summary.bytes + more_bytes > query->max_bytes;
}

static void count_packet(struct sonde_packets_summary *summary, uint64_t time_ns) {
  if (summary->packets++ == 0 || time_ns < summary->first_ns)
    summary->first_ns = time_ns;
  if (time_ns > summary->last_ns)
    summary->last_ns = time_ns;
}

int sonde_query_read(struct sonde_query *query, uint8_t *buffer, uint32_t capacity) {
  if (query->finished)
    return SONDE_END;
  if (capacity < SONDE_PACKETS_READ_MIN)
    return SONDE_TOO_SMALL;
  uint32_t budget = CHUNKS_PER_READ;
  uint32_t written = sonde_pcapng_begin(&query->pcapng, buffer, capacity);
  query->summary.bytes += written;
  for (;;) {
    struct sonde_packet_source *source = earliest(query, &budget);
    if (!source) {
      if (budget > 0)
        finish(query);
      break;
    }
    const char *name = sonde_packet_source_name(source, &query->search);
    uint32_t bytes = sonde_pcapng_bytes(&query->pcapng, &source->head, name);
    if (bytes == 0) { /* too many interfaces */
      sonde_search_gap(&query->search, source->head.time_ns, source->head.time_ns, SONDE_GAP_LIMIT);
      source->has_head = false;
      continue;
    }
    if (over_limit(query, bytes)) {
      note_limit(query, source->head.time_ns);
      break;
    }
    bytes = sonde_pcapng_packet(&query->pcapng, &source->head, name, buffer + written,
                                capacity - written);
    source->has_head = bytes == 0;
    if (bytes == 0)
      break; /* the buffer is full */
    written += bytes;
    query->summary.bytes += bytes;
    count_packet(&query->summary, source->head.time_ns);
  }
  return written ? (int)written : query->finished ? SONDE_END : 0;
}

static int compare_gaps(const void *left, const void *right) {
  const struct sonde_packets_gap *a = left, *b = right;
  return (a->from_ns > b->from_ns) - (a->from_ns < b->from_ns);
}

void sonde_query_summary(const struct sonde_query *query, struct sonde_packets_summary *summary) {
  const struct sonde_gap_log *gaps = &query->search.gaps;
  *summary = query->summary;
  summary->chunks_read = query->search.chunks_read;
  summary->chunks_skipped = query->search.chunks_skipped;
  summary->gap_count = gaps->count;
  for (uint32_t i = 0; i < gaps->count; i++)
    summary->gaps[i] = (struct sonde_packets_gap){
        .from_ns = gaps->ranges[i].from_ns,
        .to_ns = gaps->ranges[i].to_ns,
        .reason = gaps->ranges[i].reason,
    };
  qsort(summary->gaps, gaps->count, sizeof summary->gaps[0], compare_gaps);
  summary->complete = query->finished && gaps->count == 0;
}
