/* map_layout.h - the memory layout shared by the plugin and its programs in the kernel.
 *
 * Both include it. It needs no system header but the fixed-width integers.
 *
 *   ring record   ▸ struct xdp_record, then the frame's head, or a struct sonde_delta
 *   slots         ▸ per queue `slot_count` of struct xdp_slot, found by hash, mapped
 *   tags          ▸ per group of slots their tags, contiguous: finding a slot among thousands
 *                   reads a few bytes of the cache instead of a line per slot
 *   bits          ▸ one bit per slot: a program claimed it since the last scan
 *   openings      ▸ per hash the connection that opened last, and its payloads left to read
 *   control       ▸ one cache line per queue, written by the reader, read by the programs
 */
#ifndef SONDE_XDP_MAP_LAYOUT_H
#define SONDE_XDP_MAP_LAYOUT_H

#include "packet.h"

enum {
  XDP_QUEUES_MAX = 64,
  XDP_SLOT_WAYS = 4,         /* slots in the group that a flow's hash selects */
  XDP_HEAD_BYTES = 2048,     /* maximum copied of a frame that is only metered … */
  XDP_PAYLOAD_BYTES = 9344,  /* … and of one whose payload is read */
  XDP_OPENINGS = 1 << 18,    /* connections whose first payloads are awaited, 4 bytes each */
  XDP_OPENING_PAYLOADS = 12, /* read by the labeler */
  XDP_FRAME_MAX = 278528,    /* snaplen's maximum, rounded up */
  XDP_RECORD_DELTA = 1,      /* xdp_record.kind; 0: a frame */
};

struct xdp_record {
  uint64_t time_ns; /* CLOCK_MONOTONIC */
  uint32_t caplen;
  uint32_t wirelen;
  uint16_t gso_size;
  uint16_t segments; /* wire packets by the kernel's count; for drops only */
  uint8_t direction;
  uint8_t kind;
  uint8_t reserved[2];
};

/* lock: 1 while the slot is written or read. A side that cannot lock it soon skips the slot.
 * tag: 0 means free. */
struct xdp_slot {
  uint32_t lock;
  uint32_t tag;
  struct sonde_delta delta;
  uint8_t reserved[48];
};

/* A copy of the slots' tags, changed under a slot's lock. Check a tag again in the locked slot. */
struct xdp_tags {
  uint32_t way[XDP_SLOT_WAYS];
};

/* Few flows should share few pages, since each page of slots needs an address translation. So
 * slots_used grows and shrinks with the number of flows. */
struct xdp_control {
  uint32_t armed;      /* the reader sleeps: the next packet must wake it */
  uint32_t slots_used; /* a power of two, at most slot_count */
  uint32_t reserved[14];
};

struct xdp_settings {
  uint64_t secret[2]; /* makes slots unpredictable */
  uint32_t queues;
  uint32_t slot_count; /* per queue, a power of two; 0: no aggregation */
  uint32_t snaplen;    /* for frames without aggregation */
  uint32_t tunnels;    /* 1: datagrams to a tunnel's port are not aggregated */
  uint16_t vxlan_ports[SONDE_VXLAN_PORTS_MAX]; /* ended by 0 */
  uint32_t bare;   /* 1: no link layer, packets begin with the IP header */
  uint32_t labels; /* enum sonde_label_protocol: first payloads go to the ring */
};

enum xdp_count { XDP_COUNT_DROPPED, XDP_COUNT_FULL, XDP_COUNTS };

_Static_assert(sizeof(struct xdp_record) == 24, "the frame after it is aligned");
_Static_assert(sizeof(struct sonde_delta) == 200, "no implicit padding");
_Static_assert(sizeof(struct xdp_slot) == 256, "four cache lines");

#endif
