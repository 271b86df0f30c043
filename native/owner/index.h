/* index.h - finds the owner of a socket by its addresses.
 *
 * One thread writes; any thread reads without waiting. Sockets of TCP have both ends, those of UDP
 * only the local one, with a zero address if it is a wildcard. The size is fixed: a full bucket
 * evicts a closed socket first. The local addresses of each network namespace are entries too.
 */
#ifndef SONDE_OWNER_INDEX_H
#define SONDE_OWNER_INDEX_H

#include <stdbool.h>
#include <stdint.h>

enum { SONDE_OWNER_ADDRESS = 255 /* protocol of a local address */ };

struct sonde_socket_key {
  uint8_t local[16];
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
  uint8_t ip_version;
  uint8_t protocol;
  uint8_t reserved[2];
};

/* Times are ns since the epoch. */
struct sonde_socket {
  struct sonde_socket_key key;
  uint32_t owner; /* reference, never 0 */
  uint32_t late;  /* 1: reported after its first packet */
  uint64_t cookie;
  uint64_t netns;
  uint64_t since_ns;   /* the program's event */
  uint64_t gone_ns;    /* 0: open */
  uint64_t checked_ns; /* when a list of the kernel had it, or since_ns */
};

struct sonde_owner_index;

struct sonde_owner_index *sonde_owner_index_create(uint32_t sockets);
void sonde_owner_index_destroy(struct sonde_owner_index *index);
/* Adds the socket, or replaces the one with its key, namespace and cookie. Sockets gone before
 * stale_ns can be replaced. Returns false if an open or recent one was evicted. */
bool sonde_owner_index_add(struct sonde_owner_index *index, const struct sonde_socket *socket,
                           uint64_t stale_ns);

enum { SONDE_OWNER_FOUND_MAX = 8 };

/* Copies the sockets with this key, in any namespace. Returns their number. Any thread. */
uint32_t sonde_owner_index_find(const struct sonde_owner_index *index,
                                const struct sonde_socket_key *key,
                                struct sonde_socket found[SONDE_OWNER_FOUND_MAX]);

#endif
