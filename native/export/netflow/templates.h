/* templates.h - what a decoder remembers of the templates it has seen.
 *
 * Bounded in number and size, whatever comes. A template is known by exporter, version,
 * domain and id; a new one under a known id takes its place (RFC 7011 §8.1), one without
 * fields withdraws it.
 */
#ifndef SONDE_NETFLOW_TEMPLATES_H
#define SONDE_NETFLOW_TEMPLATES_H

#include <stdbool.h>
#include <stdint.h>

enum {
  SONDE_TEMPLATES_MAX = 2048,
  SONDE_TEMPLATE_FIELDS_MAX = 256,
  SONDE_FIELD_VARIABLE = 65535,
};

struct sonde_template_field {
  uint32_t enterprise; /* 0: IANA's */
  uint16_t element;    /* v9 scope fields: the scope type */
  uint16_t bytes;      /* SONDE_FIELD_VARIABLE: the data say */
};

struct sonde_template_key {
  uint64_t source;
  uint32_t domain;
  uint16_t id;
  uint16_t version;
};

struct sonde_template {
  struct sonde_template_key key;
  uint16_t field_count; /* 0: withdrawn */
  uint16_t scope_count; /* above 0: describes options data */
  uint32_t bytes_min;   /* of a record; never 0 with fields */
  struct sonde_template_field *fields;
};

struct sonde_templates;

struct sonde_templates *sonde_templates_create(void);
void sonde_templates_destroy(struct sonde_templates *templates); /* NULL is allowed */
/* NULL if unknown or withdrawn. Valid until the next store. */
const struct sonde_template *sonde_templates_find(const struct sonde_templates *templates,
                                                  const struct sonde_template_key *key);
/* Copies `template` and its fields. False: a limit was reached. */
bool sonde_templates_store(struct sonde_templates *templates,
                           const struct sonde_template *template);
/* Withdraws all of one exporter, version and domain, of options or not. */
void sonde_templates_withdraw_all(struct sonde_templates *templates,
                                  const struct sonde_template_key *key, bool options);

#endif
