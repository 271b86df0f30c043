/* owner.bpf.h - functions of several objects: the owner of a socket, and its close. */
#ifndef SONDE_OWNER_BPF_H
#define SONDE_OWNER_BPF_H

#include "maps.bpf.h"

/* Makes the running process the owner. */
static __always_inline void own(struct sonde_owner_event *event, __u8 how) {
  event->pid = bpf_get_current_pid_tgid() >> 32;
  event->uid = (__u32)bpf_get_current_uid_gid();
  event->cgroup = bpf_get_current_cgroup_id();
  event->time_ns = bpf_ktime_get_ns();
  event->how = how;
  event->late = 0;
  bpf_get_current_comm(event->name, sizeof event->name);
}

static __always_inline bool is_owner(const struct sonde_owner_event *event) {
  return event->pid == (__u32)(bpf_get_current_pid_tgid() >> 32);
}

/* The last process closes the socket. */
static __always_inline void close_socket(struct sonde_owner_event *event) {
  if (!event->told)
    return;
  if (event->how != LISTENER && !is_owner(event))
    event->shared = 1;
  event->time_ns = bpf_ktime_get_ns();
  send(event, SONDE_SOCKET_GONE);
  event->told = 0; /* TCP keeps the storage until the last packet: not in a list any more */
}

#endif
