/* own_traffic_test.c - the set of endpoints of this process: which keys match, how long a closed
 * one lingers, how many fit, and changes while other threads compare.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "core/own_traffic.h"
#include "host/clock.h"
#include "ip_protocol.h"
#include "parse/key.h"
#include "status.h"

static struct sonde_own_reader reader;

static struct sonde_own_endpoint endpoint(const char *local, uint16_t local_port,
                                          const char *remote, uint16_t remote_port) {
  struct sonde_own_endpoint one = {.local_port = local_port,
                                   .remote_port = remote_port,
                                   .ip_version = strchr(local, ':') ? 6 : 4,
                                   .protocol = SONDE_IP_TCP};
  int family = one.ip_version == 6 ? AF_INET6 : AF_INET;
  CHECK_EQ(inet_pton(family, local, one.local_ip), 1);
  CHECK_EQ(inet_pton(family, remote, one.remote_ip), 1);
  return one;
}

/* Is a packet of these endpoints own? */
static bool has(const char *source, uint16_t source_port, const char *dest, uint16_t dest_port,
                uint8_t protocol) {
  struct sonde_key key = {.ip_version = strchr(source, ':') ? 6 : 4, .protocol = protocol};
  uint8_t from[16], to[16];
  int family = key.ip_version == 6 ? AF_INET6 : AF_INET;
  CHECK_EQ(inet_pton(family, source, from), 1);
  CHECK_EQ(inet_pton(family, dest, to), 1);
  if (key.ip_version == 6)
    key_order_ipv6(&key, from, to, source_port, dest_port);
  else
    key_order_ipv4(&key, from, to, source_port, dest_port);
  sonde_own_reader_refresh(&reader);
  return sonde_own_has(sonde_own_reader_held(&reader), &key);
}

static bool has_tcp(const char *source, uint16_t source_port, const char *dest,
                    uint16_t dest_port) {
  return has(source, source_port, dest, dest_port, SONDE_IP_TCP);
}

static void both_directions_of_a_connection_match(void) {
  struct sonde_own_endpoint one = endpoint("10.0.0.1", 40000, "10.0.0.2", 4222);
  CHECK(!has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_OK);
  CHECK(has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
  CHECK(has_tcp("10.0.0.2", 4222, "10.0.0.1", 40000));
  /* Another process's connection to the same server, and the same ports elsewhere. */
  CHECK(!has_tcp("10.0.0.1", 40001, "10.0.0.2", 4222));
  CHECK(!has_tcp("10.0.0.1", 40000, "10.0.0.2", 4223));
  CHECK(!has_tcp("10.0.0.3", 40000, "10.0.0.2", 4222));
  CHECK(!has_tcp("10.0.0.1", 40000, "10.0.0.3", 4222));
  CHECK(!has_tcp("10.0.0.1", 40000 - SONDE_OWN_PORT_BITS, "10.0.0.2", 4222));
  CHECK(!has("10.0.0.1", 40000, "10.0.0.2", 4222, SONDE_IP_UDP));
  sonde_own_traffic_remove(&one, 0);
  CHECK(!has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
}

static void an_unset_member_matches_any(void) {
  struct sonde_own_endpoint listener = endpoint("10.0.0.1", 9300, "0.0.0.0", 0);
  struct sonde_own_endpoint begun = endpoint("::", 40000, "2001:db8::2", 4222);
  CHECK_EQ(sonde_own_traffic_add(&listener), SONDE_OK);
  CHECK_EQ(sonde_own_traffic_add(&begun), SONDE_OK);
  CHECK(has_tcp("10.0.0.9", 50000, "10.0.0.1", 9300));
  CHECK(!has_tcp("10.0.0.1", 50000, "10.0.0.9", 9300)); /* this host scrapes another one */
  CHECK(has_tcp("2001:db8::2", 4222, "2001:db8::1", 40000));
  CHECK(!has_tcp("2001:db8::1", 4222, "2001:db8::2", 40000));
  CHECK_EQ(sonde_own_traffic_count(), 2);
  sonde_own_traffic_remove(&listener, 0);
  sonde_own_traffic_remove(&begun, 0);
  CHECK_EQ(sonde_own_traffic_count(), 0);
}

/* Packets of IPv6 sockets to IPv4 peers are IPv4. */
static void mapped_addresses_are_ipv4(void) {
  struct sonde_own_endpoint one = endpoint("::", 40000, "::ffff:10.0.0.2", 4222);
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_OK);
  CHECK(has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
  CHECK(!has_tcp("10.0.0.1", 40000, "10.0.0.3", 4222));
  sonde_own_traffic_remove(&one, 0);
  CHECK_EQ(sonde_own_traffic_count(), 0);
}

static void closed_endpoints_linger(void) {
  struct sonde_own_endpoint one = endpoint("10.0.0.1", 40000, "10.0.0.2", 4222);
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_OK);
  sonde_own_traffic_remove(&one, 1);
  CHECK_EQ(sonde_own_traffic_count(), 0);
  CHECK(has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
  /* At its end it no longer matches, although nothing has changed the set. */
  struct sonde_own_snapshot *now = atomic_load(&sonde_own_current);
  CHECK_EQ(now->count, 1);
  now->entries[0].until_ns = sonde_clock_ns(CLOCK_MONOTONIC_COARSE);
  CHECK(!has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_OK); /* the port is used again */
  CHECK(has_tcp("10.0.0.1", 40000, "10.0.0.2", 4222));
  sonde_own_traffic_remove(&one, 0);
}

static void a_full_set_drops_what_lingers(void) {
  struct sonde_own_endpoint first = endpoint("10.0.0.1", 1, "10.0.0.2", 4222), one = first;
  for (uint16_t port = 1; port <= SONDE_OWN_ENDPOINTS_MAX; port++) {
    one.local_port = port;
    CHECK_EQ(sonde_own_traffic_add(&one), SONDE_OK);
  }
  one.local_port++;
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_TOO_SMALL);
  sonde_own_traffic_remove(&first, 1);
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_OK);
  CHECK(!has_tcp("10.0.0.1", 1, "10.0.0.2", 4222));
  CHECK(has_tcp("10.0.0.1", one.local_port, "10.0.0.2", 4222));

  /* The set drops the one that ends first. */
  for (first.local_port = 4; first.local_port > 1; first.local_port--)
    sonde_own_traffic_remove(&first, 1);
  struct sonde_own_snapshot *now = atomic_load(&sonde_own_current);
  for (uint32_t i = 0; i < now->count; i++)
    if (now->entries[i].until_ns && now->entries[i].endpoint.local_port == 3)
      now->entries[i].until_ns -= 1000000000;
  first.local_port = 1;
  CHECK_EQ(sonde_own_traffic_add(&first), SONDE_OK);
  CHECK(has_tcp("10.0.0.1", 2, "10.0.0.2", 4222));
  CHECK(!has_tcp("10.0.0.1", 3, "10.0.0.2", 4222));
  CHECK(has_tcp("10.0.0.1", 4, "10.0.0.2", 4222));
  sonde_own_traffic_remove(&first, 0);
  for (; one.local_port > 1; one.local_port--)
    sonde_own_traffic_remove(&one, 0);
  CHECK_EQ(sonde_own_traffic_count(), 0);
}

static void invalid_endpoints_are_refused(void) {
  struct sonde_own_endpoint one = endpoint("10.0.0.1", 0, "10.0.0.2", 4222);
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_INVALID);
  one.local_port = 1;
  one.ip_version = 5;
  CHECK_EQ(sonde_own_traffic_add(&one), SONDE_INVALID);
}

static void sockets_are_added_by_descriptor(void) {
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons(4739), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sonde_own_endpoint one;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sonde_own_traffic_add_socket(fd, &one);
  CHECK_EQ(one.local_port, 0); /* not connected */
  CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
  sonde_own_traffic_add_socket(fd, &one);
  CHECK(has("127.0.0.1", one.local_port, "127.0.0.1", 4739, SONDE_IP_UDP));
  sonde_own_traffic_remove(&one, 0);
  close(fd);
}

static void addresses_of_the_host_are_listed(void) {
  struct sonde_own_endpoint all[256];
  int count = sonde_own_traffic_addresses(all, 256);
  bool loopback = false;
  for (int i = 0; i < count && i < 256; i++)
    loopback |=
        all[i].ip_version == 4 && memcmp(all[i].local_ip, (uint8_t[]){127, 0, 0, 1}, 4) == 0;
  CHECK(loopback);
  CHECK_EQ(sonde_own_traffic_addresses(all, 0), count);
}

/* ---- threads -------------------------------------------------------------------------- */

enum { CHANGES = 3000, THREADS = 3 };
static _Atomic bool enough;

/* The lasting endpoint matches in every snapshot. Returns NULL if it always did. */
static void *compare(void *argument) {
  struct sonde_own_reader own = {.joined = false};
  struct sonde_key key = {.ip_version = 4, .protocol = SONDE_IP_TCP};
  key_order_ipv4(&key, (uint8_t[]){10, 0, 0, 1}, (uint8_t[]){10, 0, 0, 2}, 40000, 4222);
  bool always = true;
  sonde_own_reader_join(&own);
  while (!atomic_load(&enough)) {
    sonde_own_reader_refresh(&own);
    always = always && sonde_own_has(sonde_own_reader_held(&own), &key);
  }
  sonde_own_reader_leave(&own);
  return always ? NULL : argument;
}

static void threads_compare_while_the_set_changes(void) {
  struct sonde_own_endpoint lasting = endpoint("10.0.0.1", 40000, "10.0.0.2", 4222);
  struct sonde_own_endpoint other = endpoint("10.0.0.1", 40001, "10.0.0.2", 4222);
  pthread_t threads[THREADS];
  CHECK_EQ(sonde_own_traffic_add(&lasting), SONDE_OK);
  for (int i = 0; i < THREADS; i++)
    CHECK_EQ(pthread_create(&threads[i], NULL, compare, &reader), 0);
  for (int i = 0; i < CHANGES; i++) {
    CHECK_EQ(sonde_own_traffic_add(&other), SONDE_OK);
    sonde_own_traffic_remove(&other, i % 2);
  }
  atomic_store(&enough, true);
  for (int i = 0; i < THREADS; i++) {
    void *missed;
    pthread_join(threads[i], &missed);
    CHECK(!missed);
  }
  sonde_own_traffic_remove(&lasting, 0);
}

int main(void) {
  sonde_own_reader_join(&reader);
  both_directions_of_a_connection_match();
  an_unset_member_matches_any();
  mapped_addresses_are_ipv4();
  closed_endpoints_linger();
  a_full_set_drops_what_lingers();
  invalid_endpoints_are_refused();
  sockets_are_added_by_descriptor();
  addresses_of_the_host_are_listed();
  threads_compare_while_the_set_changes();
  sonde_own_reader_leave(&reader);
  return check_report();
}
