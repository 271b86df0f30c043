/* packet_source.h - one worker's packets for a query: segments first, then its chunks in memory.
 *
 * A source holds at most one chunk pinned and one chunk's clear bytes in a private buffer,
 * which is zeroised behind it.
 */
#ifndef SONDE_STORE_PACKET_SOURCE_H
#define SONDE_STORE_PACKET_SOURCE_H

#include "packet.h"
#include "segment_dir.h"
#include "selection.h"
#include "state.h"

/* What all sources of a query share. */
struct sonde_search {
  struct sonde_store *store;
  uint64_t start_ns;
  uint64_t end_ns;
  bool (*match)(void *context, const struct sonde_packet *packet);
  void *context;
  struct sonde_selection selection;
  struct sonde_gap_log gaps;
  struct sonde_segment_scan scan; /* the segments there were when the query was opened */
  uint64_t chunks_read;
  uint64_t chunks_skipped;
};

struct sonde_packet_source {
  uint32_t worker;
  bool in_memory; /* the segments have been read */
  bool done;
  struct sonde_segment_cursor cursor;
  struct sonde_chunk *chunk; /* pinned; the one last read, or the first to be */
  bool chunk_seen;
  uint64_t memory_packet; /* number of the first packet in memory at open */
  uint64_t loaded_serial; /* of the chunk last read */
  uint64_t stop_serial;   /* what was there at open ends in this chunk … */
  uint32_t stop_offset;   /* … and there in its data */
  uint64_t stop_ns;       /* the last time there was at open */
  uint64_t next_packet;   /* the number that would leave no gap */
  uint64_t behind_ns;     /* the last time that has been looked at */
  uint64_t forgotten_ns;  /* the last time that had been overwritten at open */
  uint8_t *scratch;
  uint32_t bytes;
  uint32_t offset;
  struct sonde_packet head; /* the next packet that matches, with has_head */
  bool has_head;
};

/* Errors: NO_MEMORY. */
int sonde_packet_source_open(struct sonde_packet_source *source, struct sonde_search *search,
                             uint32_t worker);
/* Looks for the next match, over at most *budget chunks. Then has_head, or done, or neither:
 * the budget is used up. */
void sonde_packet_source_advance(struct sonde_packet_source *source, struct sonde_search *search,
                                 uint32_t *budget);
void sonde_packet_source_close(struct sonde_packet_source *source, struct sonde_search *search);

/* Adds a gap, as far as it lies within the search's range. */
void sonde_search_gap(struct sonde_search *search, uint64_t from_ns, uint64_t to_ns,
                      uint32_t reason);

#endif
