/* own_traffic.c - see own_traffic.h. The set, its snapshots and the comparison.
 *
 * Readers publish the snapshot that they hold; the writer frees the replaced snapshots that
 * nobody holds (hazard pointers). A reader publishes first and then checks that the snapshot is
 * still the newest, so the writer cannot have missed it.
 */
#include "core/own_traffic.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "host/clock.h"
#include "ip_protocol.h"
#include "status.h"

/* Longer than the kernel keeps a closed TCP socket: 60 s in FIN-WAIT-2 and 60 s in TIME-WAIT. */
static const uint64_t LINGER_NS = 120000000000;

struct sonde_own_snapshot *_Atomic sonde_own_current; /* NULL: the set is empty */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards changes and the lists below */
static struct sonde_own_reader *readers;
static struct sonde_own_snapshot *replaced;

/* ---- readers -------------------------------------------------------------------------- */

void sonde_own_reader_take(struct sonde_own_reader *reader) {
  struct sonde_own_snapshot *newest = atomic_load(&sonde_own_current), *held;
  do {
    held = newest;
    atomic_store(&reader->held, held);
    newest = atomic_load(&sonde_own_current);
  } while (newest != held);
}

void sonde_own_reader_join(struct sonde_own_reader *reader) {
  pthread_mutex_lock(&lock);
  reader->joined = true;
  reader->next = readers;
  readers = reader;
  pthread_mutex_unlock(&lock);
}

void sonde_own_reader_leave(struct sonde_own_reader *reader) {
  if (!reader->joined)
    return;
  pthread_mutex_lock(&lock);
  struct sonde_own_reader **place = &readers;
  while (*place != reader)
    place = &(*place)->next;
  *place = reader->next;
  atomic_store(&reader->held, NULL);
  reader->joined = false;
  pthread_mutex_unlock(&lock);
}

/* ---- comparison ----------------------------------------------------------------------- */

static const uint8_t any[16];

static bool is_address(const uint8_t *wanted, const uint8_t *ip) {
  return memcmp(wanted, ip, 16) == 0 || memcmp(wanted, any, 16) == 0;
}

static bool matches(const struct sonde_own_endpoint *own, const uint8_t *local_ip,
                    uint16_t local_port, const uint8_t *remote_ip, uint16_t remote_port) {
  return own->local_port == local_port &&
         (own->remote_port == remote_port || own->remote_port == 0) &&
         is_address(own->local_ip, local_ip) && is_address(own->remote_ip, remote_ip);
}

static bool is_over(const struct sonde_own_entry *entry) {
  return entry->until_ns && sonde_clock_ns(CLOCK_MONOTONIC_COARSE) >= entry->until_ns;
}

bool sonde_own_snapshot_match(const struct sonde_own_snapshot *own, const struct sonde_key *key) {
  for (uint32_t i = 0; i < own->count; i++) {
    const struct sonde_own_endpoint *one = &own->entries[i].endpoint;
    if (one->protocol == key->protocol && one->ip_version == key->ip_version &&
        (matches(one, key->lo_ip, key->lo_port, key->hi_ip, key->hi_port) ||
         matches(one, key->hi_ip, key->hi_port, key->lo_ip, key->lo_port)) &&
        !is_over(&own->entries[i]))
      return true;
  }
  return false;
}

/* ---- changes; the lock is held ---------------------------------------------------------- */

static bool is_held(const struct sonde_own_snapshot *snapshot) {
  for (struct sonde_own_reader *reader = readers; reader; reader = reader->next)
    if (atomic_load(&reader->held) == snapshot)
      return true;
  return false;
}

static void free_unheld(void) {
  struct sonde_own_snapshot **place = &replaced;
  while (*place) {
    struct sonde_own_snapshot *one = *place;
    if (is_held(one)) {
      place = &one->next;
      continue;
    }
    *place = one->next;
    free(one);
  }
}

static void publish(struct sonde_own_snapshot *next) {
  struct sonde_own_snapshot *before = atomic_exchange(&sonde_own_current, next);
  if (before) {
    before->next = replaced;
    replaced = before;
  }
  free_unheld();
}

static struct sonde_own_entry *find(struct sonde_own_snapshot *snapshot,
                                    const struct sonde_own_endpoint *endpoint) {
  for (uint32_t i = 0; i < snapshot->count; i++)
    if (memcmp(&snapshot->entries[i].endpoint, endpoint, sizeof *endpoint) == 0)
      return &snapshot->entries[i];
  return NULL;
}

/* Returns a copy without the entries that are over, with room for one more; NULL: no memory. */
static struct sonde_own_snapshot *copy_current(void) {
  const struct sonde_own_snapshot *now = atomic_load(&sonde_own_current);
  uint32_t count = now ? now->count : 0;
  struct sonde_own_snapshot *copy = calloc(1, sizeof *copy + (count + 1) * sizeof copy->entries[0]);
  for (uint32_t i = 0; copy && i < count; i++)
    if (!is_over(&now->entries[i]))
      copy->entries[copy->count++] = now->entries[i];
  return copy;
}

static void set_ports(struct sonde_own_snapshot *snapshot) {
  for (uint32_t i = 0; i < snapshot->count; i++) {
    uint16_t port = snapshot->entries[i].endpoint.local_port;
    snapshot->ports[port % SONDE_OWN_PORT_BITS / 64] |= 1ull << (port % 64);
  }
}

static void remove_entry(struct sonde_own_snapshot *snapshot, struct sonde_own_entry *entry) {
  *entry = snapshot->entries[--snapshot->count];
}

/* Makes room in a full set: removes the lingering endpoint that ends first. */
static bool make_room(struct sonde_own_snapshot *snapshot) {
  struct sonde_own_entry *oldest = NULL;
  if (snapshot->count < SONDE_OWN_ENDPOINTS_MAX)
    return true;
  for (uint32_t i = 0; i < snapshot->count; i++) {
    struct sonde_own_entry *entry = &snapshot->entries[i];
    if (entry->until_ns && (!oldest || entry->until_ns < oldest->until_ns))
      oldest = entry;
  }
  if (oldest)
    remove_entry(snapshot, oldest);
  return oldest != NULL;
}

static int add_entry(struct sonde_own_snapshot *snapshot,
                     const struct sonde_own_endpoint *endpoint) {
  struct sonde_own_entry *entry = find(snapshot, endpoint);
  if (!entry) {
    if (!make_room(snapshot))
      return SONDE_TOO_SMALL;
    entry = &snapshot->entries[snapshot->count++];
  }
  *entry = (struct sonde_own_entry){.endpoint = *endpoint};
  return SONDE_OK;
}

/* ---- public functions ------------------------------------------------------------------- */

static bool is_mapped(const uint8_t *ip) {
  static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
  return memcmp(ip, prefix, sizeof prefix) == 0;
}

static void unmap(uint8_t *ip) {
  if (!is_mapped(ip))
    return;
  memcpy(ip, ip + 12, 4);
  memset(ip + 4, 0, 12);
}

static struct sonde_own_endpoint normal(const struct sonde_own_endpoint *endpoint) {
  struct sonde_own_endpoint one = *endpoint;
  if (one.ip_version == 6 && (is_mapped(one.local_ip) || is_mapped(one.remote_ip))) {
    one.ip_version = 4;
    unmap(one.local_ip);
    unmap(one.remote_ip);
  }
  memset(one.reserved, 0, sizeof one.reserved);
  return one;
}

int sonde_own_traffic_add(const struct sonde_own_endpoint *endpoint) {
  struct sonde_own_endpoint one = normal(endpoint);
  if (one.local_port == 0 || (one.ip_version != 4 && one.ip_version != 6))
    return SONDE_INVALID;
  pthread_mutex_lock(&lock);
  struct sonde_own_snapshot *next = copy_current();
  int status = next ? add_entry(next, &one) : SONDE_NO_MEMORY;
  if (status == SONDE_OK) {
    set_ports(next);
    publish(next);
  } else {
    free(next);
  }
  pthread_mutex_unlock(&lock);
  return status;
}

void sonde_own_traffic_remove(const struct sonde_own_endpoint *endpoint, int lingers) {
  struct sonde_own_endpoint one = normal(endpoint);
  pthread_mutex_lock(&lock);
  struct sonde_own_snapshot *next = copy_current();
  struct sonde_own_entry *entry = next ? find(next, &one) : NULL;
  if (entry && lingers)
    entry->until_ns = sonde_clock_ns(CLOCK_MONOTONIC_COARSE) + LINGER_NS;
  else if (entry)
    remove_entry(next, entry);
  if (entry) {
    set_ports(next);
    publish(next);
  } else {
    free(next);
  }
  pthread_mutex_unlock(&lock);
}

static void read_address(const struct sockaddr_storage *address, uint8_t *ip, uint16_t *port) {
  if (address->ss_family == AF_INET) {
    const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)address;
    memcpy(ip, &ipv4->sin_addr, 4);
    *port = ntohs(ipv4->sin_port);
  } else {
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)address;
    memcpy(ip, &ipv6->sin6_addr, 16);
    *port = ntohs(ipv6->sin6_port);
  }
}

void sonde_own_traffic_add_socket(int fd, struct sonde_own_endpoint *endpoint) {
  struct sockaddr_storage local, remote;
  socklen_t local_bytes = sizeof local, remote_bytes = sizeof remote;
  *endpoint = (struct sonde_own_endpoint){.protocol = SONDE_IP_UDP};
  if (getsockname(fd, (struct sockaddr *)&local, &local_bytes) < 0 ||
      getpeername(fd, (struct sockaddr *)&remote, &remote_bytes) < 0)
    return;
  endpoint->ip_version = local.ss_family == AF_INET ? 4 : 6;
  read_address(&local, endpoint->local_ip, &endpoint->local_port);
  read_address(&remote, endpoint->remote_ip, &endpoint->remote_port);
  if (sonde_own_traffic_add(endpoint) < 0)
    endpoint->local_port = 0;
}

uint32_t sonde_own_traffic_count(void) {
  uint32_t open = 0;
  pthread_mutex_lock(&lock);
  const struct sonde_own_snapshot *now = atomic_load(&sonde_own_current);
  for (uint32_t i = 0; now && i < now->count; i++)
    open += now->entries[i].until_ns == 0;
  pthread_mutex_unlock(&lock);
  return open;
}

int sonde_own_traffic_addresses(struct sonde_own_endpoint *endpoints, uint32_t max) {
  struct ifaddrs *all;
  uint32_t count = 0;
  if (getifaddrs(&all) != 0)
    return SONDE_SYSTEM;
  for (struct ifaddrs *one = all; one; one = one->ifa_next) {
    int family = one->ifa_addr ? one->ifa_addr->sa_family : AF_UNSPEC;
    if (family != AF_INET && family != AF_INET6)
      continue;
    if (count < max) {
      struct sonde_own_endpoint *endpoint = &endpoints[count];
      *endpoint = (struct sonde_own_endpoint){.ip_version = family == AF_INET ? 4 : 6};
      if (family == AF_INET)
        memcpy(endpoint->local_ip, &((struct sockaddr_in *)one->ifa_addr)->sin_addr, 4);
      else
        memcpy(endpoint->local_ip, &((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr, 16);
    }
    count++;
  }
  freeifaddrs(all);
  return (int)count;
}
