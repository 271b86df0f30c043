/* key.h - orders the two (address, port) pairs of a key independently of direction.
 *
 * Runs for every packet, so the code is inline and does not branch on the order, which is
 * unpredictable. Each function sets the addresses and ports of the key and returns whether the
 * source is the greater side, compared as network-order bytes.
 */
#ifndef SONDE_PARSE_KEY_H
#define SONDE_PARSE_KEY_H

#include "frame.h"

static inline bool order_ports(struct sonde_key *key, uint16_t source, uint16_t dest,
                               bool reversed) {
  uint32_t both = (uint32_t)source << 16 | dest;
  both = both >> (reversed ? 16 : 0) | both << (reversed ? 16 : 0);
  key->lo_port = (uint16_t)(both >> 16);
  key->hi_port = (uint16_t)both;
  return reversed;
}

static inline bool key_order_ipv4(struct sonde_key *key, const uint8_t *source_ip,
                                  const uint8_t *dest_ip, uint16_t source_port,
                                  uint16_t dest_port) {
  uint64_t source = (uint64_t)load_u32(source_ip) << 16 | source_port;
  uint64_t dest = (uint64_t)load_u32(dest_ip) << 16 | dest_port;
  bool reversed = source > dest;
  uint32_t address[2]; /* network byte order */
  memcpy(&address[0], source_ip, 4);
  memcpy(&address[1], dest_ip, 4);
  uint32_t swap = (address[0] ^ address[1]) & (0u - reversed);
  const uint32_t lo[4] = {address[0] ^ swap};
  const uint32_t hi[4] = {address[1] ^ swap};
  memcpy(key->lo_ip, lo, 16);
  memcpy(key->hi_ip, hi, 16);
  return order_ports(key, source_port, dest_port, reversed);
}

static inline bool key_order_ipv6(struct sonde_key *key, const uint8_t *source_ip,
                                  const uint8_t *dest_ip, uint16_t source_port,
                                  uint16_t dest_port) {
  typedef unsigned __int128 wide;
  wide source = (wide)load_u64(source_ip) << 64 | load_u64(source_ip + 8);
  wide dest = (wide)load_u64(dest_ip) << 64 | load_u64(dest_ip + 8);
  bool reversed = source > dest || (source == dest && source_port > dest_port);
  memcpy(reversed ? key->hi_ip : key->lo_ip, source_ip, 16);
  memcpy(reversed ? key->lo_ip : key->hi_ip, dest_ip, 16);
  return order_ports(key, source_port, dest_port, reversed);
}

#endif
