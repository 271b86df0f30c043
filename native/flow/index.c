/* index.c - a hash index of buckets of one cache line, with 16-bit tags compared at once.
 *
 * An insertion takes the first free slot from the home bucket on. The home bucket counts its
 * entries in later buckets, so most lookups of unknown keys end there.
 */
#include <stdlib.h>

#include "entry.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

static uint16_t tag_of(uint64_t hash) {
  uint16_t tag = (uint16_t)hash;
  return tag ? tag : 1;
}

/* Returns a mask: bit i is set if slot i has the tag. */
static unsigned match(const struct sonde_flow_bucket *bucket, uint16_t tag) {
#ifdef __SSE2__
  __m128i tags = _mm_load_si128((const __m128i *)bucket->tag);
  __m128i equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16((short)tag));
  return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128()));
#else
  unsigned found = 0;
  for (unsigned i = 0; i < SONDE_BUCKET_SLOTS; i++)
    found |= (unsigned)(bucket->tag[i] == tag) << i;
  return found;
#endif
}

static uint64_t home_number(const struct sonde_flow_table *table, uint64_t hash) {
  return (uint64_t)(((unsigned __int128)hash * table->bucket_count) >> 64);
}

/* The array ends with SONDE_PROBE_MAX spare buckets: a probe never wraps. */
struct sonde_flow_bucket *sonde_flow_index_home(const struct sonde_flow_table *table,
                                                uint64_t hash) {
  return &table->buckets[home_number(table, hash)];
}

uint32_t sonde_flow_index_find(const struct sonde_flow_table *table, uint64_t hash,
                               const struct sonde_key *key) {
  const struct sonde_flow_bucket *home = sonde_flow_index_home(table, hash);
  uint16_t tag = tag_of(hash);
  unsigned probes = home->displaced ? table->probes : 1;
  for (unsigned p = 0; p < probes; p++) {
    for (unsigned found = match(&home[p], tag); found; found &= found - 1) {
      uint32_t entry = home[p].entry[__builtin_ctz(found)];
      if (sonde_key_equal(&table->hot[entry].key, key))
        return entry;
    }
  }
  return SONDE_WHEEL_NONE;
}

uint32_t sonde_flow_index_guess(const struct sonde_flow_table *table, uint64_t hash) {
  const struct sonde_flow_bucket *home = sonde_flow_index_home(table, hash);
  unsigned found = match(home, tag_of(hash));
  return found ? home->entry[__builtin_ctz(found)] : SONDE_WHEEL_NONE;
}

bool sonde_flow_index_insert(struct sonde_flow_table *table, uint64_t hash, uint32_t entry) {
  struct sonde_flow_bucket *home = sonde_flow_index_home(table, hash);
  for (unsigned p = 0; p < SONDE_PROBE_MAX; p++) {
    unsigned free = match(&home[p], 0);
    if (!free)
      continue;
    unsigned slot = (unsigned)__builtin_ctz(free);
    home[p].tag[slot] = tag_of(hash);
    home[p].entry[slot] = entry;
    home->displaced += p > 0;
    if (p >= table->probes)
      table->probes = p + 1;
    return true;
  }
  return false;
}

void sonde_flow_index_remove(struct sonde_flow_table *table, uint64_t hash, uint32_t entry) {
  struct sonde_flow_bucket *home = sonde_flow_index_home(table, hash);
  uint16_t tag = tag_of(hash);
  for (unsigned p = 0; p < table->probes; p++) {
    for (unsigned found = match(&home[p], tag); found; found &= found - 1) {
      unsigned slot = (unsigned)__builtin_ctz(found);
      if (home[p].entry[slot] != entry)
        continue;
      home[p].tag[slot] = 0;
      home->displaced -= p > 0;
      return;
    }
  }
  abort(); /* index and entries differ: records would be corrupt */
}

uint32_t sonde_flow_index_oldest(const struct sonde_flow_table *table, uint64_t hash) {
  uint64_t buckets = table->bucket_count + SONDE_PROBE_MAX;
  uint64_t number = home_number(table, hash);
  for (uint64_t n = 0; n < buckets; n++) {
    const struct sonde_flow_bucket *bucket = &table->buckets[number];
    uint32_t oldest = SONDE_WHEEL_NONE;
    for (unsigned slot = 0; slot < SONDE_BUCKET_SLOTS; slot++) {
      uint32_t entry = bucket->entry[slot];
      if (bucket->tag[slot] &&
          (oldest == SONDE_WHEEL_NONE || table->hot[entry].last_ns < table->hot[oldest].last_ns))
        oldest = entry;
    }
    if (oldest != SONDE_WHEEL_NONE)
      return oldest;
    number = number + 1 == buckets ? 0 : number + 1;
  }
  abort(); /* called on an empty table */
}
