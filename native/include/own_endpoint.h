/* own_endpoint.h - the sockets of this process, whose packets sessions may leave out.
 *
 * The set belongs to the process. Sessions opened with exclude_own neither meter nor record the
 * packets of its endpoints, and count them as non_flow "own". Add an endpoint before the socket
 * sends its first packet. All functions are safe on any thread and never wait for a capture thread.
 */
#ifndef SONDE_OWN_ENDPOINT_H
#define SONDE_OWN_ENDPOINT_H

#include <stdint.h>

enum { SONDE_OWN_ENDPOINTS_MAX = 1024 };

/* Addresses: IPv4 in the first four bytes, the rest zero; IPv4-mapped IPv6 addresses are IPv4. */
struct sonde_own_endpoint {
  uint8_t local_ip[16];  /* all zero: any address */
  uint8_t remote_ip[16]; /* all zero: any address */
  uint16_t local_port;   /* 1…65535 */
  uint16_t remote_port;  /* 0: any port */
  uint8_t ip_version;    /* 4 or 6 */
  uint8_t protocol;      /* IP protocol number */
  uint8_t reserved[2];   /* zero */
};

/* Adds an endpoint; one that is in the set stays. Returns 0, INVALID, NO_MEMORY, or TOO_SMALL if
 * the set is full. */
int sonde_own_traffic_add(const struct sonde_own_endpoint *endpoint);
/* Removes an endpoint. lingers: 1 keeps it for two minutes more, because the kernel still sends for
 * a closed socket; 0 removes it now. */
void sonde_own_traffic_remove(const struct sonde_own_endpoint *endpoint, int lingers);
/* The number of endpoints, without those that linger. */
uint32_t sonde_own_traffic_count(void);
/* Writes up to `max` addresses of this host's interfaces, as in an endpoint: only local_ip and
 * ip_version are set. Returns the number of addresses, which can exceed `max`, or SYSTEM. */
int sonde_own_traffic_addresses(struct sonde_own_endpoint *endpoints, uint32_t max);

#endif
