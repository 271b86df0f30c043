/* filter_glance.h - a short test that rejects most packets which a filter rejects.
 *
 * A glance has at most four marks: bytes of the packet that must have a certain value. Each IPv4
 * packet without options that the filter accepts has at least one of them: `udp port 53` has the
 * two ports. A packet without a mark needs no program, and the glance is one cache line.
 */
#ifndef SONDE_CORE_FILTER_GLANCE_H
#define SONDE_CORE_FILTER_GLANCE_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* An IPv4 packet without options in an Ethernet frame: type, version and header length. */
enum { SONDE_GLANCE_AT = 12, SONDE_GLANCE_MASK = 0xffffff00, SONDE_GLANCE_VALUE = 0x08004500 };

enum { SONDE_GLANCE_MARKS = 4 };

struct sonde_filter_glance {
  uint32_t reach; /* bytes that a packet needs for a glance; UINT32_MAX: no packet has them */
  uint32_t count; /* 0: the filter accepts no such packet */
  struct {
    uint32_t at;
    uint32_t mask; /* bits of the word at `at`, in the order of the packet's bytes */
    uint32_t value;
  } marks[SONDE_GLANCE_MARKS];
};

static const struct sonde_filter_glance sonde_filter_no_glance = {.reach = UINT32_MAX};

struct sonde_filter_step;

/* Finds the marks of a program that is made for such packets. reach: as in filter_step.h. */
struct sonde_filter_glance sonde_filter_glance_make(const struct sonde_filter_step *steps,
                                                    uint32_t reach);

/* For an Ethernet frame. True: the filter rejects it. False: only the filter knows. */
static inline bool sonde_filter_glance_rejects(const struct sonde_filter_glance *glance,
                                               const uint8_t *data, uint32_t caplen) {
  uint32_t word;
  if (caplen < glance->reach)
    return false;
  memcpy(&word, data + SONDE_GLANCE_AT, sizeof word);
  if ((word & htobe32(SONDE_GLANCE_MASK)) != htobe32(SONDE_GLANCE_VALUE))
    return false;
  for (uint32_t i = 0; i < glance->count; i++) {
    memcpy(&word, data + glance->marks[i].at, sizeof word);
    if ((word & glance->marks[i].mask) == glance->marks[i].value)
      return false;
  }
  return true;
}

#endif
