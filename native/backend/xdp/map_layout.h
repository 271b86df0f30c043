/* map_layout.h - what the programs in the kernel and the plugin share: one memory layout.
 *
 * Included by both sides; knows no system header but the fixed-width integers.
 *
 *   ring record   ▸ struct xdp_record, then the frame's head, or a struct sonde_delta
 *   slots         ▸ per queue `slot_count` of struct xdp_slot, found by hash, mapped
 *   tags          ▸ per group of slots their tags, close together, so that to find a slot
 *                   among thousands takes a few bytes of the cache and not a line for each
 *   bits          ▸ one bit a slot: somebody has claimed it since the reader last looked
 *   control       ▸ one line a queue, written by the reader, read by the programs
 */
#ifndef SONDE_XDP_MAP_LAYOUT_H
#define SONDE_XDP_MAP_LAYOUT_H

#include "packet.h"

enum {
  XDP_QUEUES_MAX = 64,
  XDP_SLOT_WAYS = 4,      /* where a flow may lie: the group of its hash */
  XDP_HEAD_BYTES = 2048,  /* of a frame that comes up only to be metered, at most */
  XDP_FRAME_MAX = 278528, /* snaplen's maximum, rounded up */
  XDP_RECORD_DELTA = 1,   /* xdp_record.kind; 0: a frame */
};

struct xdp_record {
  uint64_t time_ns; /* CLOCK_MONOTONIC */
  uint32_t caplen;
  uint32_t wirelen;
  uint16_t gso_size;
  uint16_t segments; /* wire packets, as the kernel says; for drops only */
  uint8_t direction;
  uint8_t kind;
  uint8_t reserved[2];
};

/* lock: 1 while somebody writes or takes; whoever finds it taken for long goes another way.
 * tag: 0 means free. */
struct xdp_slot {
  uint32_t lock;
  uint32_t tag;
  struct sonde_delta delta;
  uint8_t reserved[48];
};

/* A copy of the slots' tags, changed under a slot's lock: what it says is to be looked at
 * again in the slot. */
struct xdp_tags {
  uint32_t way[XDP_SLOT_WAYS];
};

/* A few flows should lie close together, for the processor's sake (a page of slots is a
 * translation to be looked up): so only as many slots as are worth it are in use. */
struct xdp_control {
  uint32_t armed;      /* the reader sleeps: whatever comes next must wake it */
  uint32_t slots_used; /* a power of two, at most slot_count */
  uint32_t reserved[14];
};

struct xdp_settings {
  uint64_t secret[2]; /* makes slots unpredictable */
  uint32_t queues;
  uint32_t slot_count; /* of one queue, a power of two; 0: nothing is added up */
  uint32_t snaplen;    /* of frames; without adding up */
  uint32_t tunnels;    /* 1: datagrams to a tunnel's port are not added up */
  uint32_t bare;       /* 1: no link layer, packets begin with the IP header */
};

enum xdp_count { XDP_COUNT_DROPPED, XDP_COUNT_FULL, XDP_COUNTS };

_Static_assert(sizeof(struct xdp_record) == 24, "the frame behind it is aligned");
_Static_assert(sizeof(struct sonde_delta) == 200, "every byte has its place");
_Static_assert(sizeof(struct xdp_slot) == 256, "four lines");

#endif
