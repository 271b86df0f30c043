/* tail.h - the label and the owners of a flow at the end of IPFIX data records, profile `full`.
 *
 * One list of fields (tail.c) makes the template's field specifiers and the values. Numbers have a
 * fixed length, texts a variable one (RFC 7011 §7). A text that does not fit the message is sent
 * empty, never cut. docs/export.md lists the elements.
 */
#ifndef SONDE_NETFLOW_TAIL_H
#define SONDE_NETFLOW_TAIL_H

#include "app_label.h"
#include "owner.h"
#include "record.h"

enum sonde_tail_part { SONDE_TAIL_LABEL = 1 << 0, SONDE_TAIL_OWNERS = 1 << 1 };

enum {
  SONDE_TAIL_FIELDS_MAX = 40,
  SONDE_TAIL_BYTES_MAX = 2048, /* all texts at their longest */
};

/* Elements in the enterprise of the configuration. */
enum sonde_tail_element {
  SONDE_ELEMENT_NAME = 1,
  SONDE_ELEMENT_NAME_SOURCE = 2,
  SONDE_ELEMENT_ALPN = 3,
  SONDE_ELEMENT_TLS_VERSION = 4,
  SONDE_ELEMENT_ECH = 5,
  SONDE_ELEMENT_LABEL_STATE = 6,
  SONDE_ELEMENT_PROCESS = 16, /* and the next ones, see tail.c */
  SONDE_ELEMENT_PEER = 32,
};

struct sonde_tail_values {
  struct sonde_app_label label;
  struct sonde_owner process;
  struct sonde_owner peer;
  uint8_t side; /* enum sonde_owner_side: the end of `process` in the exported record */
};

/* parts: bits of enum sonde_tail_part. */
uint32_t sonde_tail_count(uint32_t parts);
/* Writes the field specifiers, 8 bytes each at most. Returns the end. */
uint8_t *sonde_tail_put_template(uint8_t *p, uint32_t parts, uint32_t enterprise);
/* The bytes of a tail with empty texts. */
uint32_t sonde_tail_bytes_min(uint32_t parts);
/* Writes at most `room` bytes, but at least bytes_min. Returns the end. */
uint8_t *sonde_tail_put(uint8_t *p, uint32_t parts, const struct sonde_tail_values *values,
                        uint32_t room);

#endif
