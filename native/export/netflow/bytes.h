/* bytes.h - writes and reads unaligned numbers in network byte order. */
#ifndef SONDE_NETFLOW_BYTES_H
#define SONDE_NETFLOW_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint8_t *put_u8(uint8_t *p, uint8_t value) {
  *p = value;
  return p + 1;
}

static inline uint8_t *put_u16(uint8_t *p, uint16_t value) {
  value = htobe16(value);
  memcpy(p, &value, 2);
  return p + 2;
}

static inline uint8_t *put_u32(uint8_t *p, uint32_t value) {
  value = htobe32(value);
  memcpy(p, &value, 4);
  return p + 4;
}

static inline uint8_t *put_u64(uint8_t *p, uint64_t value) {
  value = htobe64(value);
  memcpy(p, &value, 8);
  return p + 8;
}

/* bytes is a constant at each call, so the compiler keeps one store. */
static inline __attribute__((always_inline)) uint8_t *put_number(uint8_t *p, uint32_t bytes,
                                                                 uint64_t value) {
  switch (bytes) {
  case 1:
    return put_u8(p, (uint8_t)value);
  case 2:
    return put_u16(p, (uint16_t)value);
  case 3:
    return put_u16(put_u8(p, (uint8_t)(value >> 16)), (uint16_t)value);
  case 4:
    return put_u32(p, (uint32_t)value);
  default:
    return put_u64(p, value);
  }
}

static inline uint8_t *put_octets(uint8_t *p, uint32_t bytes, const uint8_t *octets) {
  memcpy(p, octets, bytes);
  return p + bytes;
}

static inline uint64_t read_number(const uint8_t *p, uint32_t bytes) {
  uint64_t value = 0;
  for (uint32_t i = 0; i < bytes; i++)
    value = value << 8 | p[i];
  return value;
}

static inline uint16_t read_u16(const uint8_t *p) {
  return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t read_u32(const uint8_t *p) {
  return (uint32_t)read_number(p, 4);
}

#endif
