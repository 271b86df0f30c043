/* members.h - writes decoded fields as members of a JSON object, one line per record.
 *
 * Known elements have the names of flow records (docs/flow-record.md) where possible. Here
 * `packets` and `bytes` are those of the exported direction. Other elements are "element_N" or
 * "enterprise_E_element_N", in hex.
 */
#ifndef SONDE_NETFLOW_MEMBERS_H
#define SONDE_NETFLOW_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>

#include "templates.h"

enum { SONDE_LINES_BYTES_MAX = 16 << 20, SONDE_MEMBER_BYTES_MAX = 80 };

struct sonde_lines {
  uint32_t enterprise; /* that has the elements of tail.h */
  char *text;
  size_t bytes;
  size_t capacity;
  bool full; /* out of memory, or SONDE_LINES_BYTES_MAX reached */
};

/* Reserves `bytes` more. Returns false and sets `full` if that fails. */
bool sonde_lines_reserve(struct sonde_lines *lines, size_t bytes);
/* Appends, or sets `full`. */
__attribute__((format(printf, 2, 3))) void sonde_lines_print(struct sonde_lines *lines,
                                                             const char *format, ...);
void sonde_lines_put_time(struct sonde_lines *lines, const char *name, uint64_t time_ns);
/* Appends `,"name":value`. base_ms: base of uptimes. scope: a v9 scope, not an element. */
void sonde_lines_put_field(struct sonde_lines *lines, const struct sonde_template_field *field,
                           const uint8_t *data, uint32_t bytes, uint64_t base_ms, bool scope);

#endif
