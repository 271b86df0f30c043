/* table.c - a fixed number of places with generations; see table.h. */
#include "owner/table.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "host/hash_fold.h"
#include "host/pages.h"
#include "host/seqlock.h"

enum { PLACE_BITS = 14, PLACES = 1 << PLACE_BITS, FIRST = 16, BUCKETS = 2 * PLACES };

/* Copied by readers. */
struct published {
  uint64_t generation;
  struct sonde_owner owner;
};

struct place {
  struct sonde_seqlock seqlock; /* guards `published` */
  _Atomic uint32_t used;        /* since the hand passed */
  uint32_t next;                /* in the bucket */
  uint64_t hash;
  struct published published;
};

struct sonde_owner_table {
  struct place *places;
  uint32_t buckets[BUCKETS];
  uint32_t hand; /* the place to replace next */
  uint64_t secret[2];
};

struct sonde_owner_table *sonde_owner_table_create(void) {
  struct sonde_owner_table *table = calloc(1, sizeof *table);
  if (!table)
    return NULL;
  table->hand = FIRST;
  table->places = sonde_pages_map(PLACES * sizeof *table->places);
  if (!table->places || getrandom(table->secret, sizeof table->secret, 0) != sizeof table->secret) {
    sonde_owner_table_destroy(table);
    return NULL;
  }
  return table;
}

void sonde_owner_table_destroy(struct sonde_owner_table *table) {
  if (!table)
    return;
  sonde_pages_unmap(table->places, PLACES * sizeof *table->places);
  free(table);
}

static void leave_bucket(struct sonde_owner_table *table, uint32_t index) {
  uint32_t *link = &table->buckets[table->places[index].hash % BUCKETS];
  while (*link != index)
    link = &table->places[*link].next;
  *link = table->places[index].next;
}

/* Returns the next place that was not used since the hand passed it. */
static uint32_t take_place(struct sonde_owner_table *table) {
  for (;;) {
    uint32_t index = table->hand;
    struct place *place = &table->places[index];
    table->hand = index + 1 < PLACES ? index + 1 : FIRST;
    if (atomic_exchange_explicit(&place->used, 0, memory_order_relaxed))
      continue;
    if (place->published.generation)
      leave_bucket(table, index);
    return index;
  }
}

static uint32_t reference_of(uint64_t generation, uint32_t index) {
  return ((uint32_t)generation << PLACE_BITS | index) & ~SONDE_OWNER_SHARED_BIT;
}

uint32_t sonde_owner_table_add(struct sonde_owner_table *table, const struct sonde_owner *owner) {
  uint64_t hash = table->secret[0], words[sizeof *owner / sizeof(uint64_t)];
  memcpy(words, owner, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    hash = sonde_hash_fold(hash ^ words[i], table->secret[1] | 1);
  for (uint32_t i = table->buckets[hash % BUCKETS]; i; i = table->places[i].next) {
    struct place *place = &table->places[i];
    if (place->hash != hash || memcmp(&place->published.owner, owner, sizeof *owner) != 0)
      continue;
    atomic_store_explicit(&place->used, 1, memory_order_relaxed);
    return reference_of(place->published.generation, i);
  }
  uint32_t index = take_place(table);
  struct place *place = &table->places[index];
  struct published published = {place->published.generation + 1, *owner};
  sonde_seqlock_write(&place->seqlock, &place->published, &published, sizeof published);
  place->hash = hash;
  place->next = table->buckets[hash % BUCKETS];
  table->buckets[hash % BUCKETS] = index;
  return reference_of(published.generation, index);
}

void sonde_owner_table_read(struct sonde_owner_table *table, uint32_t reference,
                            struct sonde_owner *into) {
  uint8_t reason = (uint8_t)reference;
  if (sonde_owner_is_known(reference)) {
    uint32_t index = reference & (PLACES - 1);
    struct place *place = &table->places[index];
    struct published published;
    sonde_seqlock_read(&place->seqlock, &place->published, &published, sizeof published);
    if (reference_of(published.generation, index) == (reference & ~SONDE_OWNER_SHARED_BIT)) {
      atomic_store_explicit(&place->used, 1, memory_order_relaxed);
      *into = published.owner;
      into->shared = (reference & SONDE_OWNER_SHARED_BIT) != 0;
      return;
    }
    reason = SONDE_OWNER_LOST;
  }
  *into = (struct sonde_owner){
      .pid = UINT32_MAX, .uid = UINT32_MAX, .how = SONDE_OWNER_UNKNOWN, .reason = reason};
}

bool sonde_owner_is_same(struct sonde_owner_table *table, uint32_t one, uint32_t other) {
  struct sonde_owner a, b;
  if (((one ^ other) & ~SONDE_OWNER_SHARED_BIT) == 0)
    return true;
  sonde_owner_table_read(table, one, &a);
  sonde_owner_table_read(table, other, &b);
  return a.pid == b.pid &&
         (a.start_ticks == b.start_ticks || a.start_ticks == 0 || b.start_ticks == 0);
}
