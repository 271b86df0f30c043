/* index.c - buckets of eight sockets, each published through a seqlock; see index.h. */
#include "owner/index.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "host/hash_fold.h"
#include "host/pages.h"
#include "host/seqlock.h"

enum { SLOTS = 8 };

struct bucket {
  struct sonde_seqlock seqlock; /* guards `sockets` */
  struct sonde_socket sockets[SLOTS];
};

struct sonde_owner_index {
  struct bucket *buckets;
  uint32_t mask;
  uint64_t secret[2];
};

_Static_assert(sizeof(struct sonde_socket) % sizeof(uint64_t) == 0, "a seqlock copies words");
_Static_assert(sizeof(struct sonde_socket_key) % sizeof(uint64_t) == 0, "hashed as words");

struct sonde_owner_index *sonde_owner_index_create(uint32_t sockets) {
  struct sonde_owner_index *index = calloc(1, sizeof *index);
  if (!index)
    return NULL;
  uint32_t buckets = 1;
  while (buckets * SLOTS < sockets)
    buckets *= 2;
  index->mask = buckets - 1;
  index->buckets = sonde_pages_map(buckets * sizeof *index->buckets);
  if (!index->buckets ||
      getrandom(index->secret, sizeof index->secret, 0) != sizeof index->secret) {
    sonde_owner_index_destroy(index);
    return NULL;
  }
  return index;
}

void sonde_owner_index_destroy(struct sonde_owner_index *index) {
  if (!index)
    return;
  sonde_pages_unmap(index->buckets, (index->mask + 1ull) * sizeof *index->buckets);
  free(index);
}

static struct bucket *bucket_of(const struct sonde_owner_index *index,
                                const struct sonde_socket_key *key) {
  uint64_t words[sizeof *key / sizeof(uint64_t)], hash = index->secret[0];
  memcpy(words, key, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    hash = sonde_hash_fold(hash ^ words[i], index->secret[1] | 1);
  return &index->buckets[hash & index->mask];
}

/* Prefers an empty slot, then the socket that was closed first, then the oldest. */
static bool worse(const struct sonde_socket *a, const struct sonde_socket *b) {
  bool address_a = a->key.protocol == SONDE_OWNER_ADDRESS;
  bool address_b = b->key.protocol == SONDE_OWNER_ADDRESS;
  if (!a->owner != !b->owner)
    return !a->owner;
  if (address_a != address_b)
    return address_b;
  if (!a->gone_ns != !b->gone_ns)
    return a->gone_ns != 0;
  return a->gone_ns ? a->gone_ns < b->gone_ns : a->since_ns < b->since_ns;
}

bool sonde_owner_index_add(struct sonde_owner_index *index, const struct sonde_socket *socket,
                           uint64_t stale_ns) {
  struct bucket *bucket = bucket_of(index, &socket->key);
  uint32_t at = 0;
  for (uint32_t i = 0; i < SLOTS; i++) {
    const struct sonde_socket *one = &bucket->sockets[i];
    if (one->owner && one->cookie == socket->cookie && one->netns == socket->netns &&
        memcmp(&one->key, &socket->key, sizeof one->key) == 0) {
      sonde_seqlock_write(&bucket->seqlock, &bucket->sockets[i], socket, sizeof *socket);
      return true;
    }
    if (worse(one, &bucket->sockets[at]))
      at = i;
  }
  const struct sonde_socket *last = &bucket->sockets[at];
  bool harmless = !last->owner || (last->gone_ns && last->gone_ns < stale_ns);
  sonde_seqlock_write(&bucket->seqlock, &bucket->sockets[at], socket, sizeof *socket);
  return harmless;
}

uint32_t sonde_owner_index_find(const struct sonde_owner_index *index,
                                const struct sonde_socket_key *key,
                                struct sonde_socket found[SONDE_OWNER_FOUND_MAX]) {
  const struct bucket *bucket = bucket_of(index, key);
  struct sonde_socket copy[SLOTS];
  uint32_t count = 0;
  sonde_seqlock_read((struct sonde_seqlock *)&bucket->seqlock, bucket->sockets, copy, sizeof copy);
  for (uint32_t i = 0; i < SLOTS; i++)
    if (copy[i].owner && memcmp(&copy[i].key, key, sizeof *key) == 0)
      found[count++] = copy[i];
  return count;
}
