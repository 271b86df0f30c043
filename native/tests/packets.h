/* packets.h - builds packets for tests from a line of layers.
 *
 *   packet_craft(&packet, "eth:8100 tag:10:0800 ip4:17 udp:5000:53 pay:8");
 *
 * Numbers after a colon are hexadecimal, except ports, VLAN ids and payload lengths.
 *   eth:TYPE  tag:ID:TYPE  llc:HEX (802.3 length 40 first)
 *   ip4:PROTO[:FRAGMENT[:ID]]    10.0.0.1 → 10.0.0.2, TTL 64, TOS 0xb8; ip4r: back
 *   ip6:NEXT                     2001:db8::1 → 2001:db8::2, the same; ip6r: back
 *   udp:FROM:TO  tcp:FROM:TO (flags ACK PSH, sequence 0x01020304)  pay:BYTES  x:HEX
 * Lengths in IP and UDP headers are set so that each packet ends where the frame ends.
 * The test aborts if a line does not parse.
 */
#ifndef SONDE_TESTS_PACKETS_H
#define SONDE_TESTS_PACKETS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PACKET_IP6_ONE "20010db8000000000000000000000001"
#define PACKET_IP6_TWO "20010db8000000000000000000000002"

enum { PACKET_BYTES_MAX = 4096, PACKET_LENGTHS_MAX = 16 };

struct crafted {
  uint8_t data[PACKET_BYTES_MAX];
  uint32_t bytes;
  uint32_t ip_offset[PACKET_LENGTHS_MAX]; /* offset of each IP header, outermost first */
  uint32_t ip_headers;
  uint32_t udp_offset[PACKET_LENGTHS_MAX];
  uint32_t udp_headers;
};

static inline void packet_put(struct crafted *packet, const void *bytes, size_t count) {
  if (count > PACKET_BYTES_MAX - packet->bytes)
    abort();
  memcpy(packet->data + packet->bytes, bytes, count);
  packet->bytes += (uint32_t)count;
}

static inline void packet_put_u16(struct crafted *packet, unsigned long value) {
  const uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
  packet_put(packet, bytes, 2);
}

static inline void packet_put_hex(struct crafted *packet, const char *hex) {
  unsigned value;
  for (; *hex != '\0' && *hex != ' '; hex += 2) {
    if (sscanf(hex, "%2x", &value) != 1)
      abort();
    const uint8_t byte = (uint8_t)value;
    packet_put(packet, &byte, 1);
  }
}

static inline void packet_put_ip(struct crafted *packet, const char *token, int back) {
  unsigned protocol, fragment = 0, id = 0x1234;
  int version = token[2] - '0';
  if (packet->ip_headers == PACKET_LENGTHS_MAX ||
      sscanf(strchr(token, ':'), ":%x:%x:%x", &protocol, &fragment, &id) < 1)
    abort();
  packet->ip_offset[packet->ip_headers++] = packet->bytes;
  if (version == 4) {
    packet_put_hex(packet, "45b80000");
    packet_put_u16(packet, id);
    packet_put_u16(packet, fragment);
    packet_put_u16(packet, 0x4000 | protocol); /* TTL 64 */
    packet_put_hex(packet, back ? "00000a0000020a000001" : "00000a0000010a000002");
  } else {
    packet_put_hex(packet, "6b8000000000");
    packet_put_u16(packet, protocol << 8 | 64);
    packet_put_hex(packet, back ? PACKET_IP6_TWO : PACKET_IP6_ONE);
    packet_put_hex(packet, back ? PACKET_IP6_ONE : PACKET_IP6_TWO);
  }
}

static inline void packet_put_transport(struct crafted *packet, const char *token) {
  unsigned from, to;
  int tcp = token[0] == 't';
  if (sscanf(token + 3, ":%u:%u", &from, &to) != 2 || packet->udp_headers == PACKET_LENGTHS_MAX)
    abort();
  if (!tcp)
    packet->udp_offset[packet->udp_headers++] = packet->bytes;
  packet_put_u16(packet, from);
  packet_put_u16(packet, to);
  packet_put_hex(packet, tcp ? "01020304000000005018ffff00000000" : "00000000");
}

static inline void packet_put_layer(struct crafted *packet, const char *token) {
  unsigned first, second;
  const char *colon = strchr(token, ':');
  if (colon == NULL)
    abort();
  if (strncmp(token, "eth:", 4) == 0) {
    packet_put_hex(packet, "020000000002020000000001");
    packet_put_hex(packet, colon + 1);
  } else if (strncmp(token, "tag:", 4) == 0) {
    if (sscanf(colon, ":%u:%x", &first, &second) != 2)
      abort();
    packet_put_u16(packet, 0xe000 | first); /* priority 7, which is not part of the id */
    packet_put_u16(packet, second);
  } else if (strncmp(token, "llc:", 4) == 0) {
    packet_put_hex(packet, "0200000000020200000000010028");
    packet_put_hex(packet, colon + 1);
  } else if (strncmp(token, "ip4", 3) == 0 || strncmp(token, "ip6", 3) == 0) {
    packet_put_ip(packet, token, token[3] == 'r');
  } else if (strncmp(token, "udp:", 4) == 0 || strncmp(token, "tcp:", 4) == 0) {
    packet_put_transport(packet, token);
  } else if (strncmp(token, "pay:", 4) == 0) {
    const uint8_t filler = 0x5a;
    for (long left = strtol(colon + 1, NULL, 10); left > 0; left--)
      packet_put(packet, &filler, 1);
  } else if (strncmp(token, "x:", 2) == 0) {
    packet_put_hex(packet, colon + 1);
  } else {
    abort();
  }
}

static inline void packet_set_length(struct crafted *packet, uint32_t at, uint32_t length) {
  packet->data[at] = (uint8_t)(length >> 8);
  packet->data[at + 1] = (uint8_t)length;
}

static inline void packet_craft(struct crafted *packet, const char *layers) {
  memset(packet, 0, sizeof(*packet));
  for (const char *token = layers; token != NULL && *token != '\0';) {
    packet_put_layer(packet, token);
    token = strchr(token, ' ');
    token = token == NULL ? NULL : token + 1;
  }
  for (uint32_t i = 0; i < packet->ip_headers; i++) {
    uint32_t at = packet->ip_offset[i];
    if (packet->data[at] >> 4 == 4)
      packet_set_length(packet, at + 2, packet->bytes - at);
    else
      packet_set_length(packet, at + 4, packet->bytes - at - 40);
  }
  for (uint32_t i = 0; i < packet->udp_headers; i++)
    packet_set_length(packet, packet->udp_offset[i] + 4, packet->bytes - packet->udp_offset[i]);
}

#endif
