/* ports.bpf.c - programs that read the port of a connected UDP socket.
 *
 * The kernel chooses this port after the hook of connect, and no helper has it at the close. The
 * programs read struct sock, which the kernel allows only with a GPL-compatible license, its own
 * types (BTF) and Linux 6.2. Without them the rest of the feed works.
 */
#include "maps.bpf.h"

/* The members that are read, from the kernel's types. */
#define KERNEL __attribute__((preserve_access_index))
struct in6_addr {
  union {
    __u32 u6_addr32[4];
  } in6_u;
} KERNEL;

struct sock_common {
  __u16 skc_num;
  __u16 skc_family;
  __u32 skc_rcv_saddr;
  struct in6_addr skc_v6_rcv_saddr;
} KERNEL;

struct sock {
  struct sock_common __sk_common;
} KERNEL;

struct bpf_iter__bpf_sk_storage_map {
  struct sock *sk;
  void *value;
} KERNEL;

extern void *bpf_cast_to_kern_ctx(void *context) __ksym;

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

/* Runs before owner_release, which sends the event. */
SEC("cgroup/sock_release")
int owner_port(struct bpf_sock *context) {
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, context, 0, 0);
  if (event)
    read_port(bpf_cast_to_kern_ctx(context), event);
  return ALLOW;
}

SEC("iter/bpf_sk_storage_map")
int owner_list(struct bpf_iter__bpf_sk_storage_map *context) {
  const struct sock *sk = context->sk;
  struct sonde_owner_event *event = context->value;
  if (sk && event && read_port(sk, event)) {
    struct sonde_owner_event copy = *event;
    send(&copy, SONDE_SOCKET_NAMED);
  }
  return 0;
}

const char ports_license[] SEC("license") = "Dual MIT/GPL";
