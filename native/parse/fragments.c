/* fragments.c - a keyed, set-associative table of fragmented datagrams.
 *
 * An entry is one cache line, a set is eight entries. The hash has a random key: senders choose
 * addresses and ids but must not choose the set.
 */
#include "fragments.h"

#include <sys/mman.h>
#include <unistd.h>

enum { SETS = 2048, WAYS = 8, SEED_WORDS = 7 };

/* The minimum reassembly timeout, RFC 1122 §3.3.2, RFC 8200 §4.5. */
#define LIFETIME_NS (60ull * 1000 * 1000 * 1000)

struct entry {
  uint64_t address[4]; /* source, dest */
  uint64_t identity;   /* id, protocol, version; 0: empty */
  uint64_t time_ns;    /* last use */
  uint32_t turn;       /* last use as a count, because packet time may go backwards */
  struct sonde_ports ports;
};
_Static_assert(sizeof(struct entry) == 64, "an entry is one cache line");

struct sonde_fragments {
  struct entry entries[SETS][WAYS];
  uint64_t seed[SEED_WORDS];
  uint32_t turn;
};

/* mmap allocates each page on first use, so traffic without fragments uses no memory. */
struct sonde_fragments *sonde_fragments_create(void) {
  struct sonde_fragments *fragments =
      mmap(NULL, sizeof(*fragments), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fragments == MAP_FAILED)
    return NULL;
  if (getentropy(fragments->seed, sizeof(fragments->seed)) != 0) {
    munmap(fragments, sizeof(*fragments));
    return NULL;
  }
  return fragments;
}

void sonde_fragments_destroy(struct sonde_fragments *fragments) {
  if (fragments != NULL)
    munmap(fragments, sizeof(*fragments));
}

static uint64_t fold(uint64_t left, uint64_t right) {
  unsigned __int128 product = (unsigned __int128)left * right;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Sets the addresses and identity of `sought` and returns the set of that entry. */
static struct entry *find_set(struct sonde_fragments *fragments,
                              const struct sonde_network *network, struct entry *sought) {
  size_t address_bytes = network->version == 4 ? 4 : 16;
  const uint64_t *seed = fragments->seed;
  memset(sought, 0, sizeof(*sought));
  memcpy(sought->address, network->source, address_bytes);
  memcpy(sought->address + 2, network->dest, address_bytes);
  sought->identity = (uint64_t)network->fragment_id << 16 |
                     (uint64_t)network->fragment_protocol << 8 | network->version;
  uint64_t hash = fold(sought->address[0] ^ seed[0], sought->address[1] ^ seed[1]) ^
                  fold(sought->address[2] ^ seed[2], sought->address[3] ^ seed[3]);
  /* Two folds: after one, consecutive ids fall into only a few sets with some seeds. */
  hash = fold(hash ^ sought->identity, seed[4] | 1);
  hash = fold(hash ^ seed[5], seed[6] | 1);
  return fragments->entries[hash % SETS];
}

static struct entry *find_entry(struct entry *set, const struct entry *sought) {
  for (int way = 0; way < WAYS; way++)
    if (set[way].identity == sought->identity &&
        memcmp(set[way].address, sought->address, sizeof(sought->address)) == 0)
      return &set[way];
  return NULL;
}

static bool is_alive(const struct entry *entry, uint64_t time_ns) {
  uint64_t distance_ns =
      time_ns > entry->time_ns ? time_ns - entry->time_ns : entry->time_ns - time_ns;
  return distance_ns <= LIFETIME_NS;
}

static struct entry *find_victim(struct entry *set, uint32_t turn) {
  struct entry *victim = &set[0];
  for (int way = 0; way < WAYS; way++) {
    if (set[way].identity == 0)
      return &set[way];
    if (turn - set[way].turn > turn - victim->turn)
      victim = &set[way];
  }
  return victim;
}

void sonde_fragments_remember(struct sonde_fragments *fragments,
                              const struct sonde_network *network, const struct sonde_ports *ports,
                              uint64_t time_ns) {
  struct entry sought;
  struct entry *set = find_set(fragments, network, &sought);
  struct entry *entry = find_entry(set, &sought);
  if (entry == NULL)
    entry = find_victim(set, fragments->turn);
  sought.ports = *ports;
  sought.time_ns = time_ns;
  sought.turn = ++fragments->turn;
  *entry = sought;
}

void sonde_fragments_recall(struct sonde_fragments *fragments, const struct sonde_network *network,
                            uint64_t time_ns, struct sonde_ports *ports) {
  struct entry sought;
  struct entry *entry = find_entry(find_set(fragments, network, &sought), &sought);
  if (entry == NULL || !is_alive(entry, time_ns)) {
    *ports = (struct sonde_ports){.protocol = network->protocol};
    return;
  }
  entry->time_ns = time_ns;
  entry->turn = ++fragments->turn;
  *ports = entry->ports;
}
