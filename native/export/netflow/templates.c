/* templates.c - an open-addressed table, at most half full; see templates.h. */
#include "templates.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 2 * SONDE_TEMPLATES_MAX };

struct sonde_templates {
  uint32_t count;
  struct sonde_template slots[SLOTS]; /* key.id 0: free; ids begin at 256 */
};

struct sonde_templates *sonde_templates_create(void) {
  return calloc(1, sizeof(struct sonde_templates));
}

void sonde_templates_destroy(struct sonde_templates *templates) {
  for (uint32_t i = 0; templates && i < SLOTS; i++)
    free(templates->slots[i].fields);
  free(templates);
}

_Static_assert(sizeof(struct sonde_template_key) == 16, "no padding, for memcmp");

/* Returns the key's slot, or the free slot for it. Hostile keys can make searches slow, but the
 * table is small enough. */
static uint32_t locate(const struct sonde_templates *templates,
                       const struct sonde_template_key *key) {
  uint64_t mixed =
      key->source ^ (uint64_t)key->domain << 24 ^ (uint64_t)key->version << 16 ^ key->id;
  uint32_t slot = (uint32_t)(mixed * 0x9e3779b97f4a7c15u >> 40) % SLOTS;
  while (templates->slots[slot].key.id &&
         memcmp(&templates->slots[slot].key, key, sizeof *key) != 0)
    slot = (slot + 1) % SLOTS;
  return slot;
}

const struct sonde_template *sonde_templates_find(const struct sonde_templates *templates,
                                                  const struct sonde_template_key *key) {
  const struct sonde_template *found = &templates->slots[locate(templates, key)];
  return found->key.id && found->field_count ? found : NULL;
}

bool sonde_templates_store(struct sonde_templates *templates,
                           const struct sonde_template *template) {
  struct sonde_template *slot = &templates->slots[locate(templates, &template->key)];
  size_t bytes = template->field_count * sizeof *template->fields;
  bool fresh = slot->key.id == 0;
  if (template->field_count > SONDE_TEMPLATE_FIELDS_MAX ||
      (fresh && (template->field_count == 0 || templates->count == SONDE_TEMPLATES_MAX)))
    return template->field_count == 0; /* an unknown template is already withdrawn */
  struct sonde_template_field *fields = NULL;
  if (bytes) {
    fields = malloc(bytes);
    if (!fields)
      return false;
    memcpy(fields, template->fields, bytes);
  }
  free(slot->fields);
  *slot = *template;
  slot->fields = fields;
  templates->count += fresh;
  return true;
}

void sonde_templates_withdraw_all(struct sonde_templates *templates,
                                  const struct sonde_template_key *key, bool options) {
  for (uint32_t i = 0; i < SLOTS; i++) {
    struct sonde_template *slot = &templates->slots[i];
    if (slot->key.id && slot->key.source == key->source && slot->key.domain == key->domain &&
        slot->key.version == key->version && options == (slot->scope_count > 0))
      slot->field_count = 0;
  }
}
