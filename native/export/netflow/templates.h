/* templates.h - the templates that a decoder has received, limited in number and size.
 *
 * Exporter, version, domain and id identify a template. A new template replaces the one with the
 * same key (RFC 7011 §8.1); a template without fields withdraws it.
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
  uint16_t bytes;      /* SONDE_FIELD_VARIABLE: the data has the length */
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
  uint32_t bytes_min;   /* smallest record; never 0 with fields */
  struct sonde_template_field *fields;
};

struct sonde_templates;

struct sonde_templates *sonde_templates_create(void);
void sonde_templates_destroy(struct sonde_templates *templates); /* NULL is allowed */
/* Returns NULL if unknown or withdrawn. Valid until the next store. */
const struct sonde_template *sonde_templates_find(const struct sonde_templates *templates,
                                                  const struct sonde_template_key *key);
/* Copies `template` and its fields. Returns false if a limit was reached. */
bool sonde_templates_store(struct sonde_templates *templates,
                           const struct sonde_template *template);
/* Withdraws all data or all options templates of an exporter, version and domain. */
void sonde_templates_withdraw_all(struct sonde_templates *templates,
                                  const struct sonde_template_key *key, bool options);

#endif
