/* socket_list.h - the kernel's list of sockets in the network namespace of this process
 * (sock_diag).
 *
 * It finds sockets that are older than the index, and the ports of connected UDP sockets, which no
 * program sees: when the socket is closed, or by a list.
 */
#ifndef SONDE_OWNER_SOCKET_LIST_H
#define SONDE_OWNER_SOCKET_LIST_H

#include <stdbool.h>

#include "owner/index.h"

struct sonde_listed_socket {
  struct sonde_socket_key key; /* with both ends */
  uint64_t cookie;
  uint64_t cgroup; /* 0: unknown */
  uint32_t inode;
  uint32_t uid;
  bool listens; /* TCP */
};

typedef void sonde_take_socket(void *context, const struct sonde_listed_socket *socket);

/* Lists the sockets of a protocol. Returns false if the kernel refuses. */
bool sonde_sockets_list(uint8_t protocol, sonde_take_socket *take, void *context);
/* Opens a socket that reports closed UDP sockets, or returns -1. */
int sonde_sockets_closed_open(void);
/* Reads reports without waiting. */
void sonde_sockets_closed_read(int fd, sonde_take_socket *take, void *context);

#endif
