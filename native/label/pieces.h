/* pieces.h - messages that came in several packets, and are being put together.
 *
 * A fixed number of buffers of one worker. A full set gives the buffer that waited longest to the
 * newcomer.
 */
#ifndef SONDE_LABEL_PIECES_H
#define SONDE_LABEL_PIECES_H

#include "label/parsers.h"
#include "label/quic.h"

struct sonde_pieces;

struct sonde_piece {
  uint32_t *owner; /* the label of the flow that uses it; NULL: free */
  uint32_t older, newer;
  uint32_t start; /* TCP sequence number of the stream's first byte */
  uint8_t app;    /* enum sonde_label_app */
  bool reversed;  /* the stream's sender is the key's hi side */
  uint16_t server_version;
  struct sonde_quic_keys keys;
  struct sonde_assembler stream;
};

struct sonde_pieces *sonde_pieces_create(uint64_t bytes); /* at least one buffer */
void sonde_pieces_destroy(struct sonde_pieces *pieces);

/* Takes a buffer for the flow with this label. If none is free, sets *evicted to the label of the
 * flow that waited longest, whose buffer is returned untouched: release it and take again. */
uint32_t sonde_pieces_take(struct sonde_pieces *pieces, uint32_t *owner, uint32_t **evicted);
void sonde_pieces_release(struct sonde_pieces *pieces, uint32_t index);
struct sonde_piece *sonde_pieces_get(struct sonde_pieces *pieces, uint32_t index);
/* Parses the bytes at the stream's start. `found` holds what is known. */
enum sonde_parse_result sonde_pieces_parse(struct sonde_pieces *pieces,
                                           const struct sonde_piece *piece,
                                           struct sonde_app_label *found);
/* Opens a datagram of QUIC into the piece. Returns the number of packets opened. */
uint32_t sonde_pieces_open(struct sonde_pieces *pieces, struct sonde_piece *piece,
                           const uint8_t *datagram, uint32_t bytes);
/* Has the stream as many bytes as are read of this protocol? */
bool sonde_piece_full(const struct sonde_piece *piece);

#endif
