/* addresses.c - the local addresses of network namespaces, as entries of the index.
 *
 * A socket with a wildcard address owns a flow only if the flow's address is one of its namespace.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "owner/state.h"

enum { REFRESH_SEC = 5 };

static void add(struct sonde_owner_tracker *tracker, uint64_t netns, uint8_t version,
                const void *ip) {
  struct sonde_socket address = {
      .key = {.ip_version = version, .protocol = SONDE_OWNER_ADDRESS},
      .owner = sonde_owner_unknown(SONDE_OWNER_NAT),
      .netns = netns,
      .since_ns = tracker->now_ns,
  };
  memcpy(address.key.local, ip, version == 4 ? 4 : 16);
  sonde_owner_index_add(tracker->index, &address, tracker->now_ns);
}

static void read_own_addresses(struct sonde_owner_tracker *tracker) {
  struct ifaddrs *all = NULL;
  if (getifaddrs(&all) < 0)
    return;
  for (struct ifaddrs *one = all; one; one = one->ifa_next)
    if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET)
      add(tracker, tracker->netns, 4, &((struct sockaddr_in *)(void *)one->ifa_addr)->sin_addr);
    else if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET6)
      add(tracker, tracker->netns, 6, &((struct sockaddr_in6 *)(void *)one->ifa_addr)->sin6_addr);
  freeifaddrs(all);
}

/* "|-- ADDRESS", then "/32 host LOCAL". */
static void read_ipv4(struct sonde_owner_tracker *tracker, uint64_t netns, FILE *file) {
  char line[256], text[64];
  uint8_t ip[4];
  bool have = false;
  for (int lines = 0; lines < 4096 && fgets(line, sizeof line, file); lines++)
    if (sscanf(line, " |-- %63s", text) == 1)
      have = inet_pton(AF_INET, text, ip) == 1;
    else if (have && strstr(line, "/32 host LOCAL"))
      add(tracker, netns, 4, ip);
}

static void read_ipv6(struct sonde_owner_tracker *tracker, uint64_t netns, FILE *file) {
  char line[256];
  for (int lines = 0; lines < 4096 && fgets(line, sizeof line, file); lines++) {
    uint8_t ip[16];
    size_t i = 0;
    for (unsigned byte; i < 16 && sscanf(line + 2 * i, "%2x", &byte) == 1; i++)
      ip[i] = (uint8_t)byte;
    if (i == 16)
      add(tracker, netns, 6, ip);
  }
}

/* The socket of an event may be that of a thread in another namespace than its process, whose
 * addresses /proc shows. Often the process is in this one. */
static bool is_in_own_namespace(uint32_t pid) {
  char path[64];
  struct stat own, other;
  snprintf(path, sizeof path, "/proc/%u/ns/net", pid);
  return stat(path, &other) == 0 && stat("/proc/self/ns/net", &own) == 0 &&
         own.st_ino == other.st_ino;
}

void sonde_owner_read_addresses(struct sonde_owner_tracker *tracker, uint64_t netns, uint32_t pid) {
  static const struct {
    const char *name;
    void (*read)(struct sonde_owner_tracker *, uint64_t, FILE *);
  } files[] = {{"fib_trie", read_ipv4}, {"if_inet6", read_ipv6}};
  struct known_namespace *known = &tracker->namespaces[netns % NAMESPACES];
  if (!tracker->same_pids || netns == tracker->netns ||
      (known->cookie == netns &&
       known->read_ns + REFRESH_SEC * SONDE_OWNER_SECOND > tracker->now_ns) ||
      is_in_own_namespace(pid))
    return;
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/net/%s", pid, files[i].name);
    FILE *file = fopen(path, "re");
    if (!file)
      return; /* the process has ended: the next one of this namespace */
    files[i].read(tracker, netns, file);
    fclose(file);
  }
  *known = (struct known_namespace){netns, tracker->now_ns, pid};
}

void sonde_owner_refresh_addresses(struct sonde_owner_tracker *tracker) {
  read_own_addresses(tracker);
  for (uint32_t i = 0; i < NAMESPACES; i++)
    if (tracker->namespaces[i].cookie)
      sonde_owner_read_addresses(tracker, tracker->namespaces[i].cookie,
                                 tracker->namespaces[i].pid);
}
