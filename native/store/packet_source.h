/* packet_source.h - one worker's packets for a query: first from segments, then from memory.
 *
 * A source pins at most one chunk, and copies one chunk's plaintext into a private buffer,
 * which is zeroised on close.
 */
#ifndef SONDE_STORE_PACKET_SOURCE_H
#define SONDE_STORE_PACKET_SOURCE_H

#include "packet.h"
#include "segment_dir.h"
#include "selection.h"
#include "state.h"

/* Shared by all sources of a query. */
struct sonde_search {
  struct sonde_store *store;
  uint64_t start_ns;
  uint64_t end_ns;
  bool (*match)(void *context, const struct sonde_packet *packet);
  void *context;
  struct sonde_selection selection;
  struct sonde_gap_log gaps;
  struct sonde_segment_scan scan; /* the segments at open */
  uint64_t chunks_read;
  uint64_t chunks_skipped;
};

/* The place of a packet in the scratch. */
struct sonde_packet_place {
  uint64_t time_ns;
  uint32_t offset;
};

struct sonde_packet_source {
  uint32_t worker;
  bool in_memory; /* the segments have been read */
  bool done;
  struct sonde_segment_cursor cursor;
  struct sonde_chunk *chunk; /* pinned; the last chunk read, or the first to read */
  bool chunk_seen;
  uint64_t memory_packet;  /* number of the first packet in memory at open */
  uint64_t loaded_serial;  /* serial of the last chunk read */
  uint64_t stop_serial;    /* the newest chunk at open … */
  uint32_t stop_offset;    /* … and the end of its data then */
  uint64_t stop_ns;        /* the newest time at open */
  uint64_t next_packet;    /* expected number of the next packet */
  uint64_t read_until_ns;  /* the newest time read */
  uint64_t overwritten_ns; /* the newest time overwritten before open */
  uint8_t *scratch;
  uint32_t bytes;
  uint32_t name_bytes; /* names at a frame's end */
  uint32_t offset;
  struct sonde_packet_place *order; /* the scratch's packets by time, if they are not so */
  uint32_t order_room;
  uint32_t ordered; /* places in `order`; 0: the packets are in order of time */
  uint32_t order_next;
  struct sonde_packet head; /* the next matching packet, if has_head */
  bool has_head;
  bool has_name;
  uint16_t name_number; /* with has_name: whose name is in `name` */
  char name[SONDE_NAME_BYTES];
};

/* Errors: NO_MEMORY. */
int sonde_packet_source_open(struct sonde_packet_source *source, struct sonde_search *search,
                             uint32_t worker);
/* Finds the next match within *budget chunks. Sets has_head or done, or neither if the budget
 * is used up. */
void sonde_packet_source_advance(struct sonde_packet_source *source, struct sonde_search *search,
                                 uint32_t *budget);
/* Returns the name of the head's interface, "" if unknown; valid until `advance`. */
const char *sonde_packet_source_name(struct sonde_packet_source *source,
                                     struct sonde_search *search);
void sonde_packet_source_close(struct sonde_packet_source *source, struct sonde_search *search);

/* Adds the part of a gap that lies in the search's range. */
void sonde_search_gap(struct sonde_search *search, uint64_t from_ns, uint64_t to_ns,
                      uint32_t reason);

#endif
