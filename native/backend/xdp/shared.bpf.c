/* shared.bpf.c - the programs on a shared interface: two at the traffic control hooks, one per
 * direction. They count or copy each packet and pass it on.
 *
 * A packet that only has to be counted (a whole TCP or UDP packet with plain headers that
 * neither opens nor ends a connection) is added to its flow's slot. A copy of any other packet
 * goes to a ring, with labels also of one whose payload can name its flow (payloads.bpf.h). The
 * flow's slot goes to the ring first, so the reader gets a flow's packets in order. If no slot is
 * available, the packet goes to the ring. Only a full ring drops packets, and counts them.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "map_layout.h"
#include "payloads.bpf.h"
#include "slots.bpf.h"
#include "view.bpf.h"

enum { TCX_NEXT = -1 };

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, XDP_QUEUES_MAX);
  __type(key, __u32);
  __array(
      values, struct {
        __uint(type, BPF_MAP_TYPE_RINGBUF);
        __uint(max_entries, 65536);
      });
} rings SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, XDP_COUNTS);
  __type(key, __u32);
  __type(value, __u64);
} counts SEC(".maps");

/* ---- counters and waking ------------------------------------------------------------------ */

static __always_inline void count(__u32 which, __u64 value) {
  __u64 *counter = bpf_map_lookup_elem(&counts, &which);
  if (counter)
    *counter += value;
}

/* The reader arms before it sleeps, so packets cost no wake-up while it works. */
static __always_inline __u64 wake_flag(__u32 queue) {
  __u32 *armed = &control[queue & (XDP_QUEUES_MAX - 1)].armed;
  if (!*(volatile __u32 *)armed)
    return BPF_RB_NO_WAKEUP;
  return __sync_lock_test_and_set(armed, 0) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* ---- to the ring -------------------------------------------------------------------------- */

/* Copies a frame of up to `room` bytes, with the separately stored tag in line. */
static __always_inline bool copy_frame(struct __sk_buff *skb, __u8 *to, __u32 caplen, __u32 room) {
  if (!skb->vlan_present || settings.bare) {
    __u32 bytes = caplen;
    if (bytes == 0 || bytes > room)
      return bytes == 0;
    return bpf_skb_load_bytes(skb, 0, to, bytes) == 0;
  }
  if (caplen <= 16 || caplen > room)
    return false;
  if (bpf_skb_load_bytes(skb, 0, to, 12))
    return false;
  *(__u16 *)(to + 12) = skb->vlan_proto;
  *(__u16 *)(to + 14) = bpf_htons(skb->vlan_tci);
  __u32 rest = caplen - 16;
  if (rest == 0 || rest > room - 16)
    return false;
  return bpf_skb_load_bytes(skb, 12, to + 16, rest) == 0;
}

/* bpf_ringbuf_reserve needs a constant size, so each size class has one of these. */
#define SEND_BODY(bytes)                                                                           \
  do {                                                                                             \
    struct xdp_record *record = bpf_ringbuf_reserve(ring, (bytes), 0);                             \
    if (!record)                                                                                   \
      break;                                                                                       \
    record->time_ns = view->time_ns;                                                               \
    record->caplen = caplen;                                                                       \
    record->wirelen = view->wirelen;                                                               \
    record->gso_size = view->gso_size;                                                             \
    record->segments = view->gso_size && skb->gso_segs ? skb->gso_segs : 1;                        \
    record->direction = view->direction;                                                           \
    record->kind = 0;                                                                              \
    if (!copy_frame(skb, (__u8 *)(record + 1), caplen, (bytes) - sizeof *record))                  \
      record->caplen = 0;                                                                          \
    bpf_ringbuf_submit(record, wake_flag(view->queue));                                            \
    return;                                                                                        \
  } while (0)

static __always_inline void send_frame(struct __sk_buff *skb, const struct view *view,
                                       __u32 caplen_max) {
  __u32 queue = view->queue;
  void *ring = bpf_map_lookup_elem(&rings, &queue);
  __u32 caplen = view->wirelen < caplen_max ? view->wirelen : caplen_max;
  __u32 bytes = caplen + sizeof(struct xdp_record);
  if (!ring)
    return;
  if (bytes <= 128)
    SEND_BODY(128);
  else if (bytes <= 256)
    SEND_BODY(256);
  else if (bytes <= 640)
    SEND_BODY(640);
  else if (bytes <= 1600)
    SEND_BODY(1600);
  else if (bytes <= 4096)
    SEND_BODY(4096);
  else if (bytes <= 9344)
    SEND_BODY(9344);
  else if (bytes <= 24576)
    SEND_BODY(24576);
  else if (bytes <= 66560)
    SEND_BODY(66560);
  else
    SEND_BODY(XDP_FRAME_MAX + 64);
  count(XDP_COUNT_FULL, 1);
  count(XDP_COUNT_DROPPED, view->gso_size && skb->gso_segs ? skb->gso_segs : 1);
}

/* Moves the flow's slot to the ring, before a packet of the flow. If the ring
 * has no space, the slot stays and is read later. */
static __always_inline void flush(const struct view *view, __u64 hash) {
  __u32 queue = view->queue;
  struct slot_place place;
  if (!find_slot(view, hash, &place) || place.slot->tag == 0)
    return;
  struct xdp_slot *slot = place.slot;
  void *ring = bpf_map_lookup_elem(&rings, &queue);
  if (!ring)
    return;
  struct xdp_record *record =
      bpf_ringbuf_reserve(ring, sizeof *record + sizeof(struct sonde_delta), 0);
  if (!record)
    return;
  bool taken = false;
  if (lock_slot(slot)) {
    taken = slot->tag == tag_of(hash) && same_key(&slot->delta.key, &view->key);
    if (taken) {
      __builtin_memcpy(record + 1, &slot->delta, sizeof slot->delta);
      slot->tag = *place.tag = 0;
    }
    unlock_slot(slot);
  }
  record->kind = XDP_RECORD_DELTA;
  record->time_ns = view->time_ns;
  if (taken)
    bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP); /* a packet follows */
  else
    bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
}

/* ---- the programs ------------------------------------------------------------------------- */

static __noinline int process(struct __sk_buff *skb, __u8 direction) {
  struct view view = {
      .time_ns = bpf_ktime_get_ns(),
      .wirelen = skb->len,
      .gso_size = skb->gso_size,
      .direction = direction,
  };
  if (skb->vlan_present && !settings.bare)
    view.wirelen += 4;
  if (settings.slot_count || settings.queues > 1)
    parse(skb, &view);
  if (settings.slot_count == 0) {
    send_frame(skb, &view, settings.snaplen);
    return TCX_NEXT;
  }
  __u64 hash = view.keyed ? hash_key(&view.key) : 0;
  bool whole = needs_payload(skb, &view, hash);
  if (view.counts && !whole) {
    bool armed = control[view.queue & (XDP_QUEUES_MAX - 1)].armed;
    if (!armed && add_up(skb, &view, hash))
      return TCX_NEXT;
  } else if (view.keyed) {
    flush(&view, hash);
  }
  send_frame(skb, &view, (whole ? XDP_PAYLOAD_BYTES : XDP_HEAD_BYTES) - sizeof(struct xdp_record));
  return TCX_NEXT;
}

SEC("tc")
int ingress(struct __sk_buff *skb) {
  return process(skb, SONDE_DIRECTION_INGRESS);
}

SEC("tc")
int egress(struct __sk_buff *skb) {
  return process(skb, SONDE_DIRECTION_EGRESS);
}

char _license[] SEC("license") = "Apache-2.0";
