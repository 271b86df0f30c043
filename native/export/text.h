/* text.h - writes numbers and octets as text in place.
 *
 * Every writer takes a position and returns the end of what it wrote. It writes no NUL and
 * checks no bound: the caller has reserved room for a whole record
 * (SONDE_RENDERED_RECORD_MAX). A writer may overwrite up to three bytes behind its end.
 * The only libc function called is memcpy, with constant sizes.
 */
#ifndef SONDE_EXPORT_TEXT_H
#define SONDE_EXPORT_TEXT_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define SONDE_TEXT_TEN(prefix)                                                                     \
  prefix "0", prefix "1", prefix "2", prefix "3", prefix "4", prefix "5", prefix "6", prefix "7",  \
      prefix "8", prefix "9"
#define SONDE_TEXT_PAIRS(tens)                                                                     \
  tens "0" tens "1" tens "2" tens "3" tens "4" tens "5" tens "6" tens "7" tens "8" tens "9"

/* 0…255, left-aligned in four bytes. */
static const char sonde_text_octet[256][4] = {
    SONDE_TEXT_TEN(""),
    SONDE_TEXT_TEN("1"),
    SONDE_TEXT_TEN("2"),
    SONDE_TEXT_TEN("3"),
    SONDE_TEXT_TEN("4"),
    SONDE_TEXT_TEN("5"),
    SONDE_TEXT_TEN("6"),
    SONDE_TEXT_TEN("7"),
    SONDE_TEXT_TEN("8"),
    SONDE_TEXT_TEN("9"),
    SONDE_TEXT_TEN("10"),
    SONDE_TEXT_TEN("11"),
    SONDE_TEXT_TEN("12"),
    SONDE_TEXT_TEN("13"),
    SONDE_TEXT_TEN("14"),
    SONDE_TEXT_TEN("15"),
    SONDE_TEXT_TEN("16"),
    SONDE_TEXT_TEN("17"),
    SONDE_TEXT_TEN("18"),
    SONDE_TEXT_TEN("19"),
    SONDE_TEXT_TEN("20"),
    SONDE_TEXT_TEN("21"),
    SONDE_TEXT_TEN("22"),
    SONDE_TEXT_TEN("23"),
    SONDE_TEXT_TEN("24"),
    "250",
    "251",
    "252",
    "253",
    "254",
    "255",
};

/* "00" … "99", two bytes each. */
static const char sonde_text_pairs[] = SONDE_TEXT_PAIRS("0") SONDE_TEXT_PAIRS("1")
    SONDE_TEXT_PAIRS("2") SONDE_TEXT_PAIRS("3") SONDE_TEXT_PAIRS("4") SONDE_TEXT_PAIRS("5")
        SONDE_TEXT_PAIRS("6") SONDE_TEXT_PAIRS("7") SONDE_TEXT_PAIRS("8") SONDE_TEXT_PAIRS("9");

static const char sonde_text_hex[] = "0123456789abcdef";

static inline char *put_octet(char *p, uint8_t value) {
  memcpy(p, sonde_text_octet[value], 4);
  return p + 1 + (value >= 10) + (value >= 100);
}

static inline char *put_pair(char *p, uint32_t value) {
  memcpy(p, sonde_text_pairs + 2 * value, 2);
  return p + 2;
}

/* Exactly eight digits. */
static inline char *put_eight(char *p, uint32_t value) {
  uint32_t high = value / 10000, low = value % 10000;
  p = put_pair(p, high / 100);
  p = put_pair(p, high % 100);
  p = put_pair(p, low / 100);
  return put_pair(p, low % 100);
}

/* One to eight digits. */
static inline char *put_small(char *p, uint32_t value) {
  if (value < 100)
    return put_octet(p, (uint8_t)value);
  if (value < 10000) {
    p = put_octet(p, (uint8_t)(value / 100));
    return put_pair(p, value % 100);
  }
  uint32_t high = value / 10000, low = value % 10000;
  if (high >= 100) {
    p = put_octet(p, (uint8_t)(high / 100));
    p = put_pair(p, high % 100);
  } else {
    p = put_octet(p, (uint8_t)high);
  }
  p = put_pair(p, low / 100);
  return put_pair(p, low % 100);
}

static inline char *put_decimal(char *p, uint64_t value) {
  if (value < 100000000)
    return put_small(p, (uint32_t)value);
  uint64_t high = value / 100000000;
  uint32_t low = (uint32_t)(value % 100000000);
  if (high < 100000000) {
    p = put_small(p, (uint32_t)high);
  } else { /* at most 20 digits: 4 + 8 + 8 */
    p = put_small(p, (uint32_t)(high / 100000000));
    p = put_eight(p, (uint32_t)(high % 100000000));
  }
  return put_eight(p, low);
}

/* Writes `count` octets, two hex digits each. */
static inline char *put_hex(char *p, const uint8_t *octets, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    p[2 * i] = sonde_text_hex[octets[i] >> 4];
    p[2 * i + 1] = sonde_text_hex[octets[i] & 15];
  }
  return p + 2 * count;
}

static inline char *put_flow_id(char *p, uint64_t flow_id) {
  uint64_t big_endian = htobe64(flow_id);
  uint8_t octets[8];
  memcpy(octets, &big_endian, sizeof octets);
  return put_hex(p, octets, 8);
}

static inline char *put_mac(char *p, const uint8_t mac[6]) {
  for (uint32_t i = 0; i < 6; i++) {
    p[3 * i] = sonde_text_hex[mac[i] >> 4];
    p[3 * i + 1] = sonde_text_hex[mac[i] & 15];
    p[3 * i + 2] = ':';
  }
  return p + 17;
}

#endif
