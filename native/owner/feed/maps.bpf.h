/* maps.bpf.h - the maps of all objects, and the way of an event to user space.
 *
 * feed.c gives the maps of owner.bpf.c to the other objects.
 */
#ifndef SONDE_MAPS_BPF_H
#define SONDE_MAPS_BPF_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>

#include "owner_feed.h"

enum { ALLOW = 1, INET = 2, INET6 = 10, TCP = 6, UDP = 17 };
enum { CONNECT = 2, CREATE = 3, LISTENER = 4 }; /* enum sonde_owner_how */

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
  __type(key, int);
  __type(value, struct sonde_owner_event);
} owners SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct sonde_owner_control);
} control SEC(".maps");

static __always_inline void send(struct sonde_owner_event *event, __u8 kind) {
  __u32 first = 0;
  struct sonde_owner_control *shared = bpf_map_lookup_elem(&control, &first);
  if (!shared)
    return;
  __u64 flags = BPF_RB_NO_WAKEUP;
  event->kind = kind;
  event->told = 1;
  if (*(volatile __u32 *)&shared->armed && __sync_lock_test_and_set(&shared->armed, 0))
    flags = BPF_RB_FORCE_WAKEUP;
  if (bpf_ringbuf_output(&ring, event, sizeof *event, flags) == 0)
    return;
  *(volatile __u64 *)&shared->lost_ns = bpf_ktime_get_ns(); /* before the count */
  __sync_fetch_and_add(&shared->lost, 1);
}

#endif
