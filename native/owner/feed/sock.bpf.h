/* sock.bpf.h - the members of the kernel's struct sock that programs read.
 *
 * The kernel allows that only with a GPL-compatible license and its own types (BTF).
 */
#ifndef SONDE_SOCK_BPF_H
#define SONDE_SOCK_BPF_H

#include "maps.bpf.h"

#define KERNEL __attribute__((preserve_access_index))
struct in6_addr {
  union {
    __u32 u6_addr32[4];
  } in6_u;
} KERNEL;

struct net {
  __u64 net_cookie;
} KERNEL;

typedef struct {
  struct net *net;
} KERNEL possible_net_t;

struct sock_common {
  __u16 skc_num;
  __u16 skc_family;
  volatile unsigned char skc_state;
  possible_net_t skc_net;
  __u32 skc_rcv_saddr;
  struct in6_addr skc_v6_rcv_saddr;
} KERNEL;

struct sock {
  struct sock_common __sk_common;
  __u16 sk_protocol;
  __u16 sk_type;
} KERNEL;

/* Returns whether the port was missing and is known now. */
static __always_inline bool read_port(const struct sock *sk, struct sonde_owner_event *event) {
  const struct sock_common *common = &sk->__sk_common;
  if (event->protocol != UDP || event->local_port || !common->skc_num)
    return false;
  event->local_port = common->skc_num;
  __u32 *local = (__u32 *)event->local;
  if (common->skc_family == INET) {
    event->ip_version = 4;
    local[0] = common->skc_rcv_saddr;
    return true;
  }
  event->ip_version = 6;
  local[0] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
  local[1] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
  local[2] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
  local[3] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
  return true;
}

#endif
