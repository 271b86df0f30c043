/* slots.bpf.h - the programs' side of the slots: finds a flow's slot and adds packets to it.
 *
 * A writer holds the slot's lock. A program must not wait, so it skips a slot that it cannot
 * lock soon. slots.c is the reader's side.
 */
#ifndef SONDE_XDP_SLOTS_BPF_H
#define SONDE_XDP_SLOTS_BPF_H

#include <stddef.h>

#include "view.bpf.h"

enum { LOCK_TRIES = 128 };

struct xdp_control control[XDP_QUEUES_MAX];

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct xdp_slot);
} slots SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct xdp_tags);
} tags SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} bits SEC(".maps");

/* A flow's slot, or a free one for it. */
struct slot_place {
  struct xdp_slot *slot;
  __u32 *tag; /* its copy in `tags` */
  __u32 index;
};

static __always_inline bool lock_slot(struct xdp_slot *slot) {
  for (int i = 0; i < LOCK_TRIES; i++) {
    __asm__ volatile("" : "+r"(i)); /* keeps it a loop */
    if (__sync_val_compare_and_swap(&slot->lock, 0, 1) == 0)
      return true;
  }
  return false;
}

/* An exchange, not a store: writes under the lock become visible before the unlock. */
static __always_inline void unlock_slot(struct xdp_slot *slot) {
  __sync_lock_test_and_set(&slot->lock, 0);
}

static __always_inline bool same_key(const struct sonde_key *a, const struct sonde_key *b) {
  const __u64 *x = (const void *)a, *y = (const void *)b;
  return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]) |
          (x[5] ^ y[5])) == 0;
}

static __always_inline __u64 hash_key(const struct sonde_key *key) {
  const __u64 *word = (const void *)key;
  __u64 hash = settings.secret[0];
#pragma unroll
  for (int i = 0; i < 6; i++) {
    hash = (hash ^ word[i]) * 0x9e3779b97f4a7c15;
    hash = (hash ^ hash >> 32) + settings.secret[1];
  }
  hash *= 0xff51afd7ed558ccd;
  return hash ^ hash >> 29;
}

static __always_inline __u32 tag_of(__u64 hash) {
  return (__u32)(hash >> 32) | 1;
}

static __always_inline void track_sequence(struct sonde_delta *delta, const struct view *view,
                                           __u32 side) {
  __u32 end = view->seq + view->length;
  delta->tcp_flags[side] |= view->tcp_flags;
  if (delta->packets[side] == 0) {
    delta->tcp_seq[side] = view->seq;
    delta->tcp_length[side] = view->length;
    delta->tcp_next[side] = end;
    return;
  }
  if (view->length == 0)
    return;
  __s32 ahead = view->seq - delta->tcp_next[side];
  if (ahead > 0) {
    delta->tcp_gap[side] = 1;
  } else if (ahead < 0) {
    if (delta->tcp_gap[side]) {
      delta->out_of_order[side]++;
      delta->tcp_gap[side] = 0;
    } else if (!(ahead == -1 && view->length == 1)) {
      delta->retransmissions[side]++;
    }
  }
  if (ahead >= 0 || (__s32)(end - delta->tcp_next[side]) > 0)
    delta->tcp_next[side] = end;
}

static __always_inline void add(struct xdp_slot *slot, const struct view *view) {
  struct sonde_delta *delta = &slot->delta;
  __u32 side = view->side & 1;
  if (view->key.protocol == PROTOCOL_TCP)
    track_sequence(delta, view, side);
  if (delta->packets[side] == 0) {
    delta->first_ns[side] = view->time_ns;
    delta->tos[side] = view->tos;
  }
  /* Two processors' clocks may differ slightly. */
  if (delta->packets[side] == 0 || view->time_ns > delta->last_ns[side])
    delta->last_ns[side] = view->time_ns;
  delta->packets[side] += view->packets;
  delta->ip_bytes[side] += view->ip_bytes;
  delta->l2_bytes[side] += view->l2_bytes;
  delta->frames++;
  if (view->ttl < delta->ttl_min)
    delta->ttl_min = view->ttl;
  if (view->ttl > delta->ttl_max)
    delta->ttl_max = view->ttl;
}

/* The slot is free and locked. */
static __always_inline void claim(struct __sk_buff *skb, const struct slot_place *place, __u32 tag,
                                  const struct view *view) {
  struct sonde_delta *delta = &place->slot->delta;
  __builtin_memset(delta, 0, sizeof *delta);
  delta->key = view->key;
  delta->first_side = view->side;
  delta->direction = view->direction;
  delta->ttl_min = 255;
  if (!settings.bare && bpf_skb_load_bytes(skb, 0, delta->dest_mac, 12) == 0)
    delta->has_mac = 1;
  place->slot->tag = *place->tag = tag;
  __u32 word = place->index / 64;
  __u64 *bit = bpf_map_lookup_elem(&bits, &word);
  if (bit)
    __sync_fetch_and_or(bit, 1ull << (place->index & 63));
}

/* Loads both cache lines that a packet changes before locking: after it, the processor would
 * load the second only once it has the first. */
static __always_inline void fetch(struct xdp_slot *slot) {
  (void)*(volatile __u32 *)&slot->lock;
  (void)*(volatile __u64 *)&slot->delta.ip_bytes[0];
}

/* Finds the flow's slot, or a free one of its group. False: neither exists. Check the tag again
 * under the lock: the slot may have changed. */
static __always_inline bool find_slot(const struct view *view, __u64 hash,
                                      struct slot_place *place) {
  __u32 used = *(volatile __u32 *)&control[view->queue & (XDP_QUEUES_MAX - 1)].slots_used;
  __u32 group = (__u32)hash & (used - 1) & (settings.slot_count - 1) & ~(XDP_SLOT_WAYS - 1);
  __u32 first = view->queue * settings.slot_count + group;
  __u32 number = first / XDP_SLOT_WAYS;
  struct xdp_tags *seen = bpf_map_lookup_elem(&tags, &number);
  if (!seen)
    return false;
  __u32 tag = tag_of(hash), way = XDP_SLOT_WAYS;
#pragma unroll
  for (__u32 i = XDP_SLOT_WAYS; i-- > 0;)
    if (*(volatile __u32 *)&seen->way[i] == 0)
      way = i;
#pragma unroll
  for (__u32 i = XDP_SLOT_WAYS; i-- > 0;)
    if (*(volatile __u32 *)&seen->way[i] == tag)
      way = i;
  if (way >= XDP_SLOT_WAYS)
    return false;
  place->index = first + way;
  place->tag = &seen->way[way];
  place->slot = bpf_map_lookup_elem(&slots, &place->index);
  if (!place->slot)
    return false;
  fetch(place->slot);
  return true;
}

/* Adds a packet to its flow's slot. False if no slot is available. */
static __always_inline bool add_up(struct __sk_buff *skb, const struct view *view, __u64 hash) {
  struct slot_place place;
  if (!find_slot(view, hash, &place) || !lock_slot(place.slot))
    return false;
  struct xdp_slot *slot = place.slot;
  if (slot->tag == 0)
    claim(skb, &place, tag_of(hash), view);
  bool matches = slot->tag == tag_of(hash) && same_key(&slot->delta.key, &view->key);
  if (matches)
    add(slot, view);
  unlock_slot(slot);
  return matches;
}

#endif
