/* tls.c - the hellos of TLS; see parsers.h. Extensions are numbered as by IANA. */
#include <string.h>

#include "label/parsers.h"

enum {
  CLIENT_HELLO = 1,
  SERVER_HELLO = 2,
  HANDSHAKE = 22, /* record type */
  RECORD_HEADER_BYTES = 5,
  RECORD_MAX = 16384 + 256,
  RANDOM_BYTES = 32,
  SERVER_NAME = 0, /* extensions */
  ALPN = 16,
  SUPPORTED_VERSIONS = 43,
  ENCRYPTED_CLIENT_HELLO = 65037,
};

static bool is_version(uint32_t version) {
  return version >= 0x0300 && version <= 0x0304;
}

bool sonde_tls_begins(const uint8_t *stream, uint32_t bytes) {
  return bytes >= 3 && stream[0] == HANDSHAKE && stream[1] == 3 && stream[2] <= 4;
}

uint32_t sonde_tls_handshake(const uint8_t *stream, uint32_t bytes, uint8_t *into, bool *other) {
  struct sonde_reader reader = {stream, bytes, false};
  uint32_t copied = 0;
  *other = false;
  while (reader.bytes > 0) {
    if ((reader.bytes >= 3 && !sonde_tls_begins(reader.data, reader.bytes)) ||
        reader.data[0] != HANDSHAKE) {
      *other = true;
      break;
    }
    reader_take(&reader, 3);
    struct sonde_reader part = reader_part_cut(&reader, 2);
    memcpy(into + copied, part.data, part.bytes);
    copied += part.bytes;
  }
  return copied;
}

static void read_server_name(struct sonde_reader extension, struct sonde_app_label *label) {
  struct sonde_reader list = reader_part(&extension, 2);
  while (list.bytes > 0) {
    uint32_t type = reader_number(&list, 1);
    struct sonde_reader name = reader_part(&list, 2);
    if (list.failed)
      return;
    if (type == 0) { /* host_name */
      sonde_name_set(label, SONDE_NAME_SNI, name.data, name.bytes);
      return;
    }
  }
}

static void read_alpn(struct sonde_reader extension, struct sonde_app_label *label) {
  struct sonde_reader list = reader_part(&extension, 2);
  while (list.bytes > 0 && label->alpns < SONDE_LABEL_ALPNS) {
    struct sonde_reader protocol = reader_part(&list, 1);
    char text[SONDE_LABEL_NAME_MAX + 1];
    uint32_t used = 0;
    if (list.failed || !sonde_name_append(text, &used, protocol.data, protocol.bytes, false))
      return;
    if (used > SONDE_LABEL_ALPN_MAX)
      used = SONDE_LABEL_ALPN_MAX;
    memcpy(label->alpn[label->alpns], text, used);
    label->alpn[label->alpns++][used] = 0;
  }
}

/* The highest version offered; GREASE and drafts are no versions here. */
static void read_versions(struct sonde_reader extension, struct sonde_app_label *label) {
  struct sonde_reader list = reader_part(&extension, 1);
  uint32_t highest = 0;
  while (list.bytes > 1) {
    uint32_t version = reader_number(&list, 2);
    if (is_version(version) && version > highest)
      highest = version;
  }
  if (highest)
    label->tls_version = (uint16_t)highest;
}

static void read_extensions(struct sonde_reader extensions, struct sonde_app_label *label) {
  while (extensions.bytes > 0) {
    uint32_t type = reader_number(&extensions, 2);
    struct sonde_reader extension = reader_part(&extensions, 2);
    if (extensions.failed)
      return;
    if (type == SERVER_NAME && !label->name_source)
      read_server_name(extension, label);
    else if (type == ALPN && label->alpns == 0)
      read_alpn(extension, label);
    else if (type == SUPPORTED_VERSIONS)
      read_versions(extension, label);
    else if (type == ENCRYPTED_CLIENT_HELLO)
      label->ech = 1;
  }
}

enum sonde_parse_result sonde_tls_client_hello(const uint8_t *handshake, uint32_t bytes,
                                               struct sonde_app_label *label) {
  struct sonde_reader reader = {handshake, bytes, false};
  if (bytes > 0 && handshake[0] != CLIENT_HELLO)
    return SONDE_PARSE_NOT;
  reader_number(&reader, 1);
  uint32_t length = reader_number(&reader, 3);
  bool whole = !reader.failed && length <= reader.bytes;
  if (whole)
    reader.bytes = length;
  uint32_t version = reader_number(&reader, 2);
  if (!reader.failed && version >> 8 != 3)
    return SONDE_PARSE_NOT;
  reader_take(&reader, RANDOM_BYTES);
  reader_part(&reader, 1); /* session id */
  reader_part(&reader, 2); /* cipher suites */
  reader_part(&reader, 1); /* compression methods */
  if (reader.failed)
    return whole ? SONDE_PARSE_NOT : SONDE_PARSE_MORE;
  label->has_hello = 1;
  label->tls_version = (uint16_t)(is_version(version) ? version : 0);
  if (reader.bytes >= 2)
    read_extensions(reader_part_cut(&reader, 2), label);
  return whole ? SONDE_PARSE_DONE : SONDE_PARSE_MORE;
}

static uint32_t selected_version(struct sonde_reader extensions, uint32_t version) {
  while (extensions.bytes > 0) {
    uint32_t type = reader_number(&extensions, 2);
    struct sonde_reader extension = reader_part(&extensions, 2);
    if (extensions.failed)
      return 0;
    if (type == SUPPORTED_VERSIONS)
      version = reader_number(&extension, 2);
  }
  return version;
}

uint16_t sonde_tls_server_version(const uint8_t *stream, uint32_t bytes) {
  struct sonde_reader record = {stream, bytes, false};
  if (!sonde_tls_begins(stream, bytes))
    return 0;
  reader_take(&record, 3);
  struct sonde_reader reader = reader_part_cut(&record, 2);
  if (reader_number(&reader, 1) != SERVER_HELLO)
    return 0;
  struct sonde_reader hello = reader_part_cut(&reader, 3);
  uint32_t version = reader_number(&hello, 2);
  reader_take(&hello, RANDOM_BYTES);
  reader_part(&hello, 1); /* session id */
  reader_take(&hello, 3); /* cipher suite, compression method */
  if (hello.failed)
    return 0;
  if (hello.bytes > 0) { /* without extensions it is TLS 1.2 or older */
    struct sonde_reader extensions = reader_part(&hello, 2);
    version = extensions.failed ? 0 : selected_version(extensions, version);
  }
  return (uint16_t)(is_version(version) ? version : 0);
}
