/* layout.h - the layouts of v9 and IPFIX data records, and their writers.
 *
 * A layout is a set of traits. One list of fields (layout.c) makes both the template and the
 * writer, which the compiler specializes for each layout, so the two cannot differ. Each layout has
 * a fixed template id.
 */
#ifndef SONDE_NETFLOW_LAYOUT_H
#define SONDE_NETFLOW_LAYOUT_H

#include "uniflow.h"

enum sonde_layout_trait {
  SONDE_LAYOUT_IPV6 = 1 << 0,
  SONDE_LAYOUT_ICMP = 1 << 1,
  SONDE_LAYOUT_FULL = 1 << 2,
  SONDE_LAYOUT_IPFIX = 1 << 3,  /* else v9 */
  SONDE_LAYOUT_BIFLOW = 1 << 4, /* IPFIX only, RFC 5103 */
};

enum { SONDE_LAYOUTS = 32, SONDE_LAYOUT_TEMPLATE_ID = 256, SONDE_LAYOUT_FIELDS_MAX = 48 };

typedef uint8_t *sonde_layout_writer(uint8_t *p, const struct sonde_uniflow *uniflow);

/* NULL for an unused combination. */
extern sonde_layout_writer *const sonde_layout_writers[SONDE_LAYOUTS];

/* Writes a template record: id, field count, field specifiers; at most
 * 4 + 8 · SONDE_LAYOUT_FIELDS_MAX bytes. Returns the end. */
uint8_t *sonde_layout_put_template(uint8_t *p, uint32_t traits);
uint32_t sonde_layout_template_bytes(uint32_t traits);
/* Such a record ends with the interface's name, and can have a tail (tail.h). */
static inline int sonde_layout_has_name(uint32_t traits) {
  return (traits & SONDE_LAYOUT_FULL) && (traits & SONDE_LAYOUT_IPFIX);
}
uint32_t sonde_layout_record_bytes(uint32_t traits, uint32_t name_bytes);

#endif
