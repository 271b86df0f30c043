/* label_table.c - a hash table of labels with counted users; see label_table.h. */
#include "label/label_table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "host/pages.h"
#include "host/seqlock.h"
#include "label/keyed_hash.h"

enum { PLACES_MIN = 16, PLACES_MAX = 1 << 20 };

/* The part of a place that readers copy. */
struct published {
  uint64_t generation;
  struct sonde_app_label label;
};

struct place {
  struct sonde_seqlock seqlock; /* guards `published` */
  uint32_t users;
  uint32_t next;         /* in the bucket */
  uint32_t older, newer; /* without users: the list of unused places, oldest first */
  uint32_t position;     /* without users: of the last record that can name it */
  uint64_t hash;
  struct published published;
};

/* Place 0 heads the list of unused places. */
struct sonde_label_table {
  struct place *places;
  uint32_t *buckets;
  uint32_t count; /* places, with place 0 */
  uint32_t fresh; /* the first place never used */
  uint32_t mask;
  uint64_t secret[2];
  struct sonde_record_progress progress;
};

struct sonde_label_table *sonde_label_table_create(uint64_t bytes,
                                                   struct sonde_record_progress progress) {
  struct sonde_label_table *table = calloc(1, sizeof *table);
  if (!table)
    return NULL;
  uint64_t places = bytes / (sizeof *table->places + 2 * sizeof *table->buckets);
  places = places < PLACES_MIN ? PLACES_MIN : places;
  table->count = places > PLACES_MAX ? PLACES_MAX : (uint32_t)places;
  uint32_t buckets = 1;
  while (buckets < table->count)
    buckets *= 2;
  table->mask = buckets - 1;
  table->fresh = 1;
  table->progress = progress;
  table->places = sonde_pages_map(table->count * sizeof *table->places);
  table->buckets = sonde_pages_map(buckets * sizeof *table->buckets);
  if (!table->places || !table->buckets ||
      getrandom(table->secret, sizeof table->secret, 0) != sizeof table->secret) {
    sonde_label_table_destroy(table);
    return NULL;
  }
  return table;
}

void sonde_label_table_destroy(struct sonde_label_table *table) {
  if (!table)
    return;
  sonde_pages_unmap(table->places, table->count * sizeof *table->places);
  sonde_pages_unmap(table->buckets, (table->mask + 1ull) * sizeof *table->buckets);
  free(table);
}

/* ---- the list of unused places ---------------------------------------------------------- */

static void unlink_unused(struct sonde_label_table *table, uint32_t index) {
  struct place *place = &table->places[index];
  table->places[place->older].newer = place->newer;
  table->places[place->newer].older = place->older;
}

static void link_unused(struct sonde_label_table *table, uint32_t index) {
  struct place *place = &table->places[index], *head = &table->places[0];
  place->older = head->older; /* the newest one */
  place->newer = 0;
  table->places[head->older].newer = index;
  head->older = index;
}

static void leave_bucket(struct sonde_label_table *table, uint32_t index) {
  uint32_t *link = &table->buckets[table->places[index].hash & table->mask];
  while (*link != index)
    link = &table->places[*link].next;
  *link = table->places[index].next;
}

/* Returns a place for a new label, or NONE. */
static uint32_t take_place(struct sonde_label_table *table) {
  if (table->fresh < table->count)
    return table->fresh++;
  uint32_t oldest = table->places[0].newer;
  if (oldest == SONDE_LABEL_NONE ||
      !table->progress.read(table->progress.context, table->places[oldest].position))
    return SONDE_LABEL_NONE;
  unlink_unused(table, oldest);
  leave_bucket(table, oldest);
  return oldest;
}

/* ---- labels ----------------------------------------------------------------------------- */

uint32_t sonde_label_table_add(struct sonde_label_table *table,
                               const struct sonde_app_label *label) {
  uint64_t hash = keyed_hash(table->secret, label, sizeof *label);
  uint32_t *bucket = &table->buckets[hash & table->mask];
  for (uint32_t index = *bucket; index; index = table->places[index].next) {
    struct place *place = &table->places[index];
    if (place->hash != hash || memcmp(&place->published.label, label, sizeof *label) != 0)
      continue;
    sonde_label_table_keep(table, index);
    return index;
  }
  uint32_t index = take_place(table);
  if (index == SONDE_LABEL_NONE)
    return SONDE_LABEL_NONE;
  bucket = &table->buckets[hash & table->mask];
  struct place *place = &table->places[index];
  struct published published = {place->published.generation + 1, *label};
  sonde_seqlock_write(&place->seqlock, &place->published, &published, sizeof published);
  place->hash = hash;
  place->users = 1;
  place->next = *bucket;
  *bucket = index;
  return index;
}

void sonde_label_table_keep(struct sonde_label_table *table, uint32_t index) {
  if (table->places[index].users++ == 0)
    unlink_unused(table, index);
}

void sonde_label_table_drop(struct sonde_label_table *table, uint32_t index) {
  struct place *place = &table->places[index];
  if (--place->users > 0)
    return;
  place->position = table->progress.position(table->progress.context);
  link_unused(table, index);
}

const struct sonde_app_label *sonde_label_table_get(const struct sonde_label_table *table,
                                                    uint32_t index) {
  return &table->places[index].published.label;
}

uint16_t sonde_label_table_generation(const struct sonde_label_table *table, uint32_t index) {
  return (uint16_t)table->places[index].published.generation;
}

bool sonde_label_table_read(struct sonde_label_table *table, uint32_t index, uint16_t generation,
                            struct sonde_app_label *into) {
  struct published published;
  if (index == SONDE_LABEL_NONE || index >= table->count)
    return false;
  struct place *place = &table->places[index];
  sonde_seqlock_read(&place->seqlock, &place->published, &published, sizeof published);
  *into = published.label;
  return (uint16_t)published.generation == generation;
}
