/* pieces.c - see pieces.h. Buffer 0 heads the list of used ones, oldest first. */
#include "label/pieces.h"

#include <stdlib.h>

#include "host/pages.h"

enum { HTTP_MAX = 4096, DNS_MAX = 4096, QUIC_MAX = 8192, BUFFERS_MAX = 1 << 16 };

struct sonde_pieces {
  struct sonde_piece *buffers;
  uint32_t count; /* with buffer 0 */
  uint32_t fresh; /* the first buffer never used */
  uint32_t free;  /* head of the released ones, linked by `newer`; 0: none */
  struct sonde_quic *quic;
  uint8_t handshake[SONDE_ASSEMBLER_BYTES]; /* scratch: a stream without record headers */
};

struct sonde_pieces *sonde_pieces_create(uint64_t bytes) {
  struct sonde_pieces *pieces = calloc(1, sizeof *pieces);
  if (!pieces)
    return NULL;
  uint64_t buffers = bytes / sizeof *pieces->buffers;
  buffers = buffers < 1 ? 1 : buffers > BUFFERS_MAX ? BUFFERS_MAX : buffers;
  pieces->count = (uint32_t)buffers + 1;
  pieces->fresh = 1;
  pieces->buffers = sonde_pages_map(pieces->count * sizeof *pieces->buffers);
  pieces->quic = sonde_quic_create();
  if (!pieces->buffers || !pieces->quic) {
    sonde_pieces_destroy(pieces);
    return NULL;
  }
  return pieces;
}

void sonde_pieces_destroy(struct sonde_pieces *pieces) {
  if (!pieces)
    return;
  sonde_pages_unmap(pieces->buffers, pieces->count * sizeof *pieces->buffers);
  sonde_quic_destroy(pieces->quic);
  free(pieces);
}

struct sonde_piece *sonde_pieces_get(struct sonde_pieces *pieces, uint32_t index) {
  return &pieces->buffers[index];
}

uint32_t sonde_pieces_take(struct sonde_pieces *pieces, uint32_t *owner, uint32_t **evicted) {
  struct sonde_piece *head = &pieces->buffers[0];
  uint32_t index = pieces->free;
  *evicted = NULL;
  if (index) {
    pieces->free = pieces->buffers[index].newer;
  } else if (pieces->fresh < pieces->count) {
    index = pieces->fresh++;
  } else {
    *evicted = pieces->buffers[head->newer].owner;
    return head->newer;
  }
  struct sonde_piece *piece = &pieces->buffers[index];
  piece->owner = owner;
  piece->server_version = 0;
  piece->keys.set = false;
  assembler_clear(&piece->stream);
  piece->older = head->older;
  piece->newer = 0;
  pieces->buffers[head->older].newer = index;
  head->older = index;
  return index;
}

void sonde_pieces_release(struct sonde_pieces *pieces, uint32_t index) {
  struct sonde_piece *piece = &pieces->buffers[index];
  pieces->buffers[piece->older].newer = piece->newer;
  pieces->buffers[piece->newer].older = piece->older;
  piece->owner = NULL;
  piece->newer = pieces->free;
  pieces->free = index;
}

static enum sonde_parse_result parse_tls(struct sonde_pieces *pieces,
                                         const struct sonde_piece *piece,
                                         struct sonde_app_label *found) {
  bool other;
  uint32_t bytes =
      sonde_tls_handshake(piece->stream.data, piece->stream.contiguous, pieces->handshake, &other);
  enum sonde_parse_result result = sonde_tls_client_hello(pieces->handshake, bytes, found);
  if (piece->server_version)
    found->tls_version = piece->server_version;
  return result == SONDE_PARSE_MORE && other ? SONDE_PARSE_NOT : result;
}

static enum sonde_parse_result parse_dns(const struct sonde_piece *piece,
                                         struct sonde_app_label *found) {
  struct sonde_dns_message message;
  struct sonde_reader reader = {piece->stream.data, piece->stream.contiguous, false};
  struct sonde_reader body = reader_part_cut(&reader, 2); /* RFC 1035 §4.2.2 */
  return sonde_dns_parse(body.data, body.bytes, &message, found);
}

enum sonde_parse_result sonde_pieces_parse(struct sonde_pieces *pieces,
                                           const struct sonde_piece *piece,
                                           struct sonde_app_label *found) {
  const struct sonde_assembler *stream = &piece->stream;
  *found = (struct sonde_app_label){.app = piece->app};
  switch (piece->app) {
  case SONDE_APP_TLS:
    return parse_tls(pieces, piece, found);
  case SONDE_APP_QUIC:
    return sonde_tls_client_hello(stream->data, stream->contiguous, found);
  case SONDE_APP_DNS:
    return parse_dns(piece, found);
  default:
    return stream->contiguous ? sonde_http_request(stream->data, stream->contiguous, found)
                              : SONDE_PARSE_MORE;
  }
}

uint32_t sonde_pieces_open(struct sonde_pieces *pieces, struct sonde_piece *piece,
                           const uint8_t *datagram, uint32_t bytes) {
  return sonde_quic_open(pieces->quic, datagram, bytes, &piece->keys, &piece->stream);
}

bool sonde_piece_full(const struct sonde_piece *piece) {
  static const uint32_t limits[] = {[SONDE_APP_TLS] = SONDE_ASSEMBLER_BYTES,
                                    [SONDE_APP_QUIC] = QUIC_MAX,
                                    [SONDE_APP_DNS] = DNS_MAX,
                                    [SONDE_APP_HTTP] = HTTP_MAX};
  return piece->stream.contiguous >= limits[piece->app];
}
