/* app_label.h - the application label of a flow: its protocol, and the name that the client sent.
 *
 * The labeler reads the first payloads of a flow (label/). A record names its label by index and
 * generation; a reader copies it with struct sonde_label_source. Names are claims of the client.
 */
#ifndef SONDE_APP_LABEL_H
#define SONDE_APP_LABEL_H

#ifndef SONDE_FFI
#include <stdint.h>
#endif

enum sonde_label_app {
  SONDE_APP_UNKNOWN = 0,
  SONDE_APP_TLS = 1,
  SONDE_APP_QUIC = 2,
  SONDE_APP_DNS = 3,
  SONDE_APP_MDNS = 4,
  SONDE_APP_HTTP = 5,
};

enum sonde_name_source {
  SONDE_NAME_NONE = 0,
  SONDE_NAME_SNI = 1,   /* server name in a ClientHello, RFC 6066 §3 */
  SONDE_NAME_HOST = 2,  /* Host, or the authority of the request's target, RFC 9112 §3.2 */
  SONDE_NAME_QNAME = 3, /* the question of a DNS message */
  SONDE_NAME_DNS = 4,   /* an earlier DNS answer to this client held the address */
};

enum sonde_label_state {
  SONDE_LABEL_OFF = 0,      /* payloads of this capture are not read */
  SONDE_LABEL_NOT_SEEN = 1, /* no payload of a labelled protocol */
  SONDE_LABEL_SKIPPED = 2,  /* over a limit of memory or rate */
  SONDE_LABEL_PARTIAL = 3,  /* the message was not captured as a whole */
  SONDE_LABEL_COMPLETE = 4,
};

/* The protocols to read: the bits of sonde_session_config.labels. */
enum sonde_label_protocol {
  SONDE_LABEL_TLS = 1 << 0,
  SONDE_LABEL_QUIC = 1 << 1,
  SONDE_LABEL_DNS = 1 << 2,
  SONDE_LABEL_HTTP = 1 << 3,
};

/* Renders these fields as null for a reader. */
enum sonde_hidden {
  SONDE_HIDE_NAME = 1 << 0,    /* name, name_source */
  SONDE_HIDE_PROCESS = 1 << 1, /* process, peer_process */
};

enum {
  SONDE_LABEL_NAME_MAX = 255,
  SONDE_LABEL_ALPN_MAX = 31,
  SONDE_LABEL_ALPNS = 2,
};

#ifndef SONDE_FFI

/* Texts are printable ASCII without '"', and end with NUL. Whole 64-bit words. */
struct sonde_app_label {
  uint8_t app;          /* enum sonde_label_app */
  uint8_t name_source;  /* enum sonde_name_source */
  uint8_t state;        /* enum sonde_label_state */
  uint8_t alpns;        /* number of `alpn` */
  uint8_t ech;          /* 1: the ClientHello has the extension 65037; with has_hello */
  uint8_t has_hello;    /* 1: alpn and ech are known */
  uint16_t tls_version; /* 0x0304 for 1.3; 0: unknown */
  char alpn[SONDE_LABEL_ALPNS][SONDE_LABEL_ALPN_MAX + 1]; /* the client's first ones */
  char name[SONDE_LABEL_NAME_MAX + 1];                    /* "": no name */
};

_Static_assert(sizeof(struct sonde_app_label) % sizeof(uint64_t) == 0, "a seqlock copies words");

/* Where renderers find labels. read: copies the label of a record. Returns 0 if it was replaced
 * since. Any thread. */
struct sonde_label_source {
  void *context;
  int (*read)(void *context, uint32_t label, uint16_t generation, struct sonde_app_label *into);
};

#endif /* SONDE_FFI */

#endif
