/* layout.h - what a v9 or IPFIX data record looks like, and who writes it.
 *
 * A layout is a set of traits. One list of fields (layout.c) makes both the template and,
 * specialised for each layout by the compiler, the function that writes the record, so the
 * two cannot differ. A layout's template id is fixed: an id never changes its meaning.
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

/* NULL for a combination that there is not. */
extern sonde_layout_writer *const sonde_layout_writers[SONDE_LAYOUTS];

/* A template record: id, field count, field specifiers. Returns the end; at most
 * 4 + 8 · SONDE_LAYOUT_FIELDS_MAX bytes. */
uint8_t *sonde_layout_put_template(uint8_t *p, uint32_t traits);
uint32_t sonde_layout_template_bytes(uint32_t traits);
uint32_t sonde_layout_record_bytes(uint32_t traits, uint32_t name_bytes);

#endif
