/* packet_layout.h - a packet's layout in chunks and segment files: a head, the bytes, zeros.
 *
 *    0  u64 time_ns     8  u32 caplen    12  u32 wirelen
 *   16  u16 linktype   18  u16 gso_size  20  u8 direction  21  zero    22  u16 name number
 *   24  caplen bytes of the frame, then zeros up to the next multiple of 64
 *
 * Little endian. Packets fill whole cache lines: the appender bypasses the cache, and would
 * write a shared line twice. Memory bandwidth limits recording.
 */
#ifndef SONDE_STORE_PACKET_LAYOUT_H
#define SONDE_STORE_PACKET_LAYOUT_H

#include <stdbool.h>
#include <string.h>

#include "packet.h"

struct sonde_packet_layout {
  uint64_t time_ns;
  uint32_t caplen;
  uint32_t wirelen;
  uint16_t linktype;
  uint16_t gso_size;
  uint8_t direction;
  uint8_t reserved;
  uint16_t name; /* a number of sonde_names; 0: none */
};
_Static_assert(sizeof(struct sonde_packet_layout) == 24, "part of the segment format");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the segment format is little endian");

enum { SONDE_PACKET_ALIGN = 64, SONDE_PACKET_CAPLEN_MAX = 262144 };

static inline uint32_t sonde_packet_layout_bytes(uint32_t caplen) {
  uint32_t bytes = (uint32_t)sizeof(struct sonde_packet_layout) + caplen;
  return (bytes + SONDE_PACKET_ALIGN - 1) & ~(uint32_t)(SONDE_PACKET_ALIGN - 1);
}

/* Reads the packet at *offset, with the name's number as its source, and advances *offset. False at
 * the end (*offset equals `bytes`) or if the bytes are malformed (*offset is less). */
static inline bool sonde_packet_layout_next(const uint8_t *data, uint32_t bytes, uint32_t *offset,
                                            struct sonde_packet *packet) {
  struct sonde_packet_layout head;
  if (*offset > bytes || bytes - *offset < sizeof head)
    return false;
  memcpy(&head, data + *offset, sizeof head);
  if (head.caplen > SONDE_PACKET_CAPLEN_MAX ||
      sonde_packet_layout_bytes(head.caplen) > bytes - *offset)
    return false;
  *packet = (struct sonde_packet){
      .data = data + *offset + sizeof head,
      .time_ns = head.time_ns,
      .caplen = head.caplen,
      .wirelen = head.wirelen,
      .linktype = head.linktype,
      .gso_size = head.gso_size,
      .source = head.name,
      .direction = head.direction,
  };
  *offset += sonde_packet_layout_bytes(head.caplen);
  return true;
}

#endif
