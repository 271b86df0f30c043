/* parsers.h - the parsers of payloads, without state: TLS, HTTP/1, DNS.
 *
 * Each reads hostile bytes, allocates nothing and sets members of a label. A name is set only if
 * all its bytes are there. quic.h has the parser that decrypts.
 */
#ifndef SONDE_LABEL_PARSERS_H
#define SONDE_LABEL_PARSERS_H

#include "app_label.h"
#include "label/reader.h"

enum sonde_parse_result {
  SONDE_PARSE_NOT = 0,  /* another protocol, or malformed */
  SONDE_PARSE_MORE = 1, /* right so far; more bytes are needed */
  SONDE_PARSE_DONE = 2,
};

/* name.c: writes a name; bytes outside printable ASCII, '"', '\' and space become \DDD, as in RFC
 * 4343 §2.1. A name that does not fit is left out, and the state becomes PARTIAL. */
void sonde_name_set(struct sonde_app_label *label, enum sonde_name_source source,
                    const uint8_t *name, uint32_t bytes);
/* Appends to text[*used], the same way, with '.' escaped if `dots`. Returns false without room. */
bool sonde_name_append(char text[SONDE_LABEL_NAME_MAX + 1], uint32_t *used, const uint8_t *from,
                       uint32_t bytes, bool dots);

/* tls.c: parses a ClientHello from the start of a handshake stream, RFC 8446 §4.1.2. Sets what is
 * there also when it returns MORE. */
enum sonde_parse_result sonde_tls_client_hello(const uint8_t *handshake, uint32_t bytes,
                                               struct sonde_app_label *label);
/* Copies the handshake bytes out of TLS records, RFC 8446 §5.1. Returns their number. *other: set
 * if the stream holds something else than handshake records. `into` has room for `bytes`. */
uint32_t sonde_tls_handshake(const uint8_t *stream, uint32_t bytes, uint8_t *into, bool *other);
/* Returns the version in a ServerHello at the start of the stream, or 0. */
uint16_t sonde_tls_server_version(const uint8_t *stream, uint32_t bytes);
/* Is it the start of a handshake record? At least 3 bytes. */
bool sonde_tls_begins(const uint8_t *stream, uint32_t bytes);

/* http.c: parses a request of HTTP/1, RFC 9112 §3. DONE once the host is known. */
enum sonde_parse_result sonde_http_request(const uint8_t *stream, uint32_t bytes,
                                           struct sonde_app_label *label);
/* Does it start with a method, as far as it goes? */
bool sonde_http_begins(const uint8_t *stream, uint32_t bytes);

enum { SONDE_DNS_ANSWERS_MAX = 8 };

struct sonde_dns_answer {
  uint8_t address[16]; /* IPv4 in the first four bytes, the rest zero */
  uint8_t ip_version;
  uint32_t ttl_sec;
};

struct sonde_dns_message {
  uint16_t id;
  uint16_t qtype;
  uint8_t rcode;
  bool response;
  uint32_t answers; /* the number of `answer` */
  struct sonde_dns_answer answer[SONDE_DNS_ANSWERS_MAX];
};

/* dns.c: parses a message, RFC 1035 §4. Sets the name: that of its first question. MORE: cut before
 * the question's end. */
enum sonde_parse_result sonde_dns_parse(const uint8_t *data, uint32_t bytes,
                                        struct sonde_dns_message *message,
                                        struct sonde_app_label *label);

#endif
