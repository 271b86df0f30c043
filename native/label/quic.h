/* quic.h - opens the client's Initial packets of QUIC, RFC 9001 §5.
 *
 * Anybody on the path can compute their keys from the first Destination Connection ID. So they
 * protect nothing, and the ClientHello inside is as readable as that of TLS. Versions 1, 2 and the
 * drafts 29 to 34.
 */
#ifndef SONDE_LABEL_QUIC_H
#define SONDE_LABEL_QUIC_H

#include <stdbool.h>

#include "label/assembler.h"

struct sonde_quic; /* cipher contexts, one set per thread */

enum { SONDE_QUIC_ID_MAX = 20 };

/* The keys of a connection's client. */
struct sonde_quic_keys {
  bool set;
  uint8_t key[16];
  uint8_t iv[12];
  uint8_t header_key[16];
};

struct sonde_quic *sonde_quic_create(void); /* NULL without memory or without AES-128-GCM */
void sonde_quic_destroy(struct sonde_quic *quic);

/* Does the datagram begin with a long header of a known version? */
bool sonde_quic_begins(const uint8_t *datagram, uint32_t bytes);
/* Adds the CRYPTO data of every Initial in the datagram to the stream. Keys are set by the first
 * packet that they open. If a packet opens only with other keys, a Retry came between: the stream
 * begins again. Returns how many packets were opened. */
uint32_t sonde_quic_open(struct sonde_quic *quic, const uint8_t *datagram, uint32_t bytes,
                         struct sonde_quic_keys *keys, struct sonde_assembler *stream);

/* Adds the CRYPTO frames of an opened packet. Frames that an Initial cannot hold end it. */
void sonde_quic_read_frames(const uint8_t *plain, uint32_t bytes, struct sonde_assembler *stream);

#endif
