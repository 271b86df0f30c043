/* name_cache.c - two tables of fixed size, in sets of eight; see name_cache.h.
 *
 * In a full set the entry that ends first is replaced. Pages never written take no memory.
 */
#include "label/name_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "host/pages.h"
#include "label/keyed_hash.h"

enum {
  WAYS = 8,
  ANSWER_SETS = 8192, /* 65,536 answers */
  QUERY_SETS = 1024,
  TTL_MIN_SEC = 60,
  TTL_MAX_SEC = 3600,
};
static const uint64_t SECOND_NS = 1000000000, QUERY_NS = 10000000000;

struct answer {
  uint8_t client[16];
  uint8_t address[16];
  uint64_t from_ns; /* 0: the place is free */
  uint64_t until_ns;
  uint8_t ip_version;
  char name[SONDE_CACHED_NAME_MAX + 1];
};

struct query {
  uint64_t hash; /* hash of client, port, id and name */
  uint64_t until_ns;
};

struct sonde_name_cache {
  pthread_mutex_t lock;
  uint64_t secret[2];
  struct answer (*answers)[WAYS];
  struct query queries[QUERY_SETS][WAYS];
};

struct sonde_name_cache *sonde_name_cache_create(void) {
  struct sonde_name_cache *cache = calloc(1, sizeof *cache);
  if (!cache)
    return NULL;
  pthread_mutex_init(&cache->lock, NULL);
  cache->answers = sonde_pages_map(ANSWER_SETS * sizeof *cache->answers);
  if (!cache->answers ||
      getrandom(cache->secret, sizeof cache->secret, 0) != sizeof cache->secret) {
    sonde_name_cache_destroy(cache);
    return NULL;
  }
  return cache;
}

void sonde_name_cache_destroy(struct sonde_name_cache *cache) {
  if (!cache)
    return;
  sonde_pages_unmap(cache->answers, ANSWER_SETS * sizeof *cache->answers);
  pthread_mutex_destroy(&cache->lock);
  free(cache);
}

static uint64_t query_hash(const struct sonde_name_cache *cache, const uint8_t *client,
                           uint16_t port, uint16_t id, const char *name) {
  uint8_t key[20 + SONDE_LABEL_NAME_MAX + 1] = {0};
  size_t bytes = strlen(name);
  memcpy(key, client, 16);
  memcpy(key + 16, &port, 2);
  memcpy(key + 18, &id, 2);
  for (size_t i = 0; i < bytes; i++) /* RFC 4343: letters compare without case */
    key[20 + i] = (uint8_t)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] | 0x20 : name[i]);
  return keyed_hash(cache->secret, key, (uint32_t)(20 + bytes));
}

static uint64_t answer_hash(const struct sonde_name_cache *cache, const uint8_t *client,
                            const uint8_t *address, uint8_t ip_version) {
  uint8_t key[33];
  memcpy(key, client, 16);
  memcpy(key + 16, address, 16);
  key[32] = ip_version;
  return keyed_hash(cache->secret, key, sizeof key);
}

void sonde_name_cache_query(struct sonde_name_cache *cache, const uint8_t *client, uint16_t port,
                            uint16_t id, const char *name, uint64_t now_ns) {
  uint64_t hash = query_hash(cache, client, port, id, name);
  pthread_mutex_lock(&cache->lock);
  struct query *set = cache->queries[hash % QUERY_SETS], *place = &set[0];
  for (uint32_t i = 0; i < WAYS; i++) {
    if (set[i].hash == hash) {
      place = &set[i];
      break;
    }
    if (set[i].until_ns < place->until_ns)
      place = &set[i];
  }
  *place = (struct query){hash, now_ns + QUERY_NS};
  pthread_mutex_unlock(&cache->lock);
}

/* Removes the query. Returns false if it was not seen. */
static bool take_query(struct sonde_name_cache *cache, uint64_t hash, uint64_t now_ns) {
  struct query *set = cache->queries[hash % QUERY_SETS];
  for (uint32_t i = 0; i < WAYS; i++) {
    if (set[i].hash != hash || set[i].until_ns < now_ns)
      continue;
    set[i] = (struct query){0};
    return true;
  }
  return false;
}

static bool is_of(const struct answer *answer, const uint8_t *client, const uint8_t *address,
                  uint8_t ip_version) {
  return answer->until_ns && answer->ip_version == ip_version &&
         memcmp(answer->client, client, 16) == 0 && memcmp(answer->address, address, 16) == 0;
}

static void add_answer(struct sonde_name_cache *cache, const uint8_t *client,
                       const struct sonde_dns_answer *from, const char *name, uint64_t now_ns) {
  uint64_t hash = answer_hash(cache, client, from->address, from->ip_version);
  struct answer *set = cache->answers[hash % ANSWER_SETS], *place = &set[0];
  for (uint32_t i = 0; i < WAYS; i++) {
    if (is_of(&set[i], client, from->address, from->ip_version)) {
      place = &set[i];
      break;
    }
    if (set[i].until_ns < place->until_ns)
      place = &set[i];
  }
  uint64_t ttl_sec = from->ttl_sec < TTL_MIN_SEC ? TTL_MIN_SEC : from->ttl_sec;
  ttl_sec = ttl_sec > TTL_MAX_SEC ? TTL_MAX_SEC : ttl_sec;
  *place = (struct answer){
      .from_ns = now_ns,
      .until_ns = now_ns + ttl_sec * SECOND_NS,
      .ip_version = from->ip_version,
  };
  memcpy(place->client, client, 16);
  memcpy(place->address, from->address, 16);
  memcpy(place->name, name, strlen(name));
}

void sonde_name_cache_answer(struct sonde_name_cache *cache, const uint8_t *client, uint16_t port,
                             const struct sonde_dns_message *message, const char *name,
                             uint64_t now_ns) {
  uint64_t hash = query_hash(cache, client, port, message->id, name);
  pthread_mutex_lock(&cache->lock);
  if (take_query(cache, hash, now_ns) && strlen(name) <= SONDE_CACHED_NAME_MAX)
    for (uint32_t i = 0; i < message->answers; i++)
      add_answer(cache, client, &message->answer[i], name, now_ns);
  pthread_mutex_unlock(&cache->lock);
}

bool sonde_name_cache_find(struct sonde_name_cache *cache, const uint8_t *client,
                           const uint8_t *address, uint8_t ip_version, uint64_t at_ns,
                           char name[SONDE_CACHED_NAME_MAX + 1]) {
  uint64_t hash = answer_hash(cache, client, address, ip_version);
  bool found = false;
  pthread_mutex_lock(&cache->lock);
  const struct answer *set = cache->answers[hash % ANSWER_SETS];
  for (uint32_t i = 0; i < WAYS && !found; i++) {
    if (!is_of(&set[i], client, address, ip_version) || at_ns < set[i].from_ns ||
        at_ns > set[i].until_ns)
      continue;
    memcpy(name, set[i].name, sizeof set[i].name);
    found = true;
  }
  pthread_mutex_unlock(&cache->lock);
  return found;
}
