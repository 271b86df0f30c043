/* owner.bpf.c - programs on the root control group that report whose a socket is.
 *
 * An owner is kept in the socket's storage when a process binds, connects or sends. The tuple goes
 * to the ring once per connection: at the SYN of a client, at the end of the handshake of a
 * server. Accepted sockets inherit the storage of their listener. Nothing runs per packet of a
 * connection. Every program allows the call.
 */
#include <bpf/bpf_endian.h>

#include "owner.bpf.h"

/* ---- bind -------------------------------------------------------------------------------- */

static __always_inline struct sonde_owner_event *bound(struct bpf_sock *sk) {
  if (sk->protocol != TCP && sk->protocol != UDP)
    return NULL;
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!event)
    return NULL;
  own(event, sk->protocol == TCP ? LISTENER : CREATE);
  event->protocol = (__u8)sk->protocol;
  event->cookie = bpf_get_socket_cookie(sk);
  event->netns = bpf_get_netns_cookie(sk);
  event->local_port = (__u16)sk->src_port;
  return event;
}

SEC("cgroup/post_bind4")
int owner_bind4(struct bpf_sock *sk) {
  struct sonde_owner_event *event = bound(sk);
  if (event) {
    event->ip_version = 4;
    *(__u32 *)event->local = sk->src_ip4;
    if (event->protocol == UDP)
      send(event, SONDE_SOCKET_NAMED);
  }
  return ALLOW;
}

SEC("cgroup/post_bind6")
int owner_bind6(struct bpf_sock *sk) {
  struct sonde_owner_event *event = bound(sk);
  if (event) {
    __u32 *local = (__u32 *)event->local;
    event->ip_version = 6;
    local[0] = sk->src_ip6[0];
    local[1] = sk->src_ip6[1];
    local[2] = sk->src_ip6[2];
    local[3] = sk->src_ip6[3];
    if (event->protocol == UDP)
      send(event, SONDE_SOCKET_NAMED);
  }
  return ALLOW;
}

/* ---- connect and send -------------------------------------------------------------------- */

static __always_inline struct sonde_owner_event *storage(struct bpf_sock_addr *ctx, __u64 flags) {
  struct bpf_sock *sk = ctx->sk;
  return sk ? bpf_sk_storage_get(&owners, sk, 0, flags) : NULL;
}

/* Sets the local end of a UDP socket, if it has a port. */
static __always_inline bool name_local(struct bpf_sock_addr *ctx, struct sonde_owner_event *event,
                                       __u8 ip_version) {
  struct bpf_sock *sk = ctx->sk;
  if (!sk || sk->src_port == 0)
    return false;
  event->ip_version = ip_version;
  event->local_port = (__u16)sk->src_port;
  __u32 *local = (__u32 *)event->local;
  if (ip_version == 4) {
    local[0] = sk->src_ip4;
  } else {
    local[0] = sk->src_ip6[0];
    local[1] = sk->src_ip6[1];
    local[2] = sk->src_ip6[2];
    local[3] = sk->src_ip6[3];
  }
  return true;
}

static __always_inline int connected(struct bpf_sock_addr *ctx, __u8 ip_version) {
  if (ctx->protocol != TCP && ctx->protocol != UDP)
    return ALLOW;
  struct sonde_owner_event *event = storage(ctx, BPF_SK_STORAGE_GET_F_CREATE);
  if (!event)
    return ALLOW;
  if (event->pid && !is_owner(event))
    event->shared = 1;
  own(event, CONNECT);
  event->protocol = (__u8)ctx->protocol;
  event->cookie = bpf_get_socket_cookie(ctx);
  event->netns = bpf_get_netns_cookie(ctx);
  if (ctx->protocol == UDP) {
    event->local_port = 0;
    send(event, name_local(ctx, event, ip_version) ? SONDE_SOCKET_NAMED : SONDE_SOCKET_PORTLESS);
  }
  return ALLOW;
}

SEC("cgroup/connect4")
int owner_connect4(struct bpf_sock_addr *ctx) {
  return connected(ctx, 4);
}

SEC("cgroup/connect6")
int owner_connect6(struct bpf_sock_addr *ctx) {
  return connected(ctx, 6);
}

static __always_inline int sent(struct bpf_sock_addr *ctx, __u8 ip_version) {
  if (ctx->protocol != UDP)
    return ALLOW; /* UDP-Lite has its own ports */
  struct sonde_owner_event *event = storage(ctx, 0);
  if (event && event->local_port) {
    if (event->shared || is_owner(event))
      return ALLOW;
    event->shared = 1;
    send(event, SONDE_SOCKET_NAMED);
    return ALLOW;
  }
  event = storage(ctx, BPF_SK_STORAGE_GET_F_CREATE);
  if (!event)
    return ALLOW;
  own(event, CONNECT);
  event->protocol = UDP;
  event->cookie = bpf_get_socket_cookie(ctx);
  event->netns = bpf_get_netns_cookie(ctx);
  if (name_local(ctx, event, ip_version))
    send(event, SONDE_SOCKET_NAMED);
  return ALLOW;
}

/* The kernel locks the socket for these two, in each send to an address: feed.c attaches them only
 * if they are needed. */
SEC("cgroup/sendmsg4")
int owner_send4(struct bpf_sock_addr *ctx) {
  return sent(ctx, 4);
}

SEC("cgroup/sendmsg6")
int owner_send6(struct bpf_sock_addr *ctx) {
  return sent(ctx, 6);
}

/* ---- TCP connections --------------------------------------------------------------------- */

static __always_inline void name_tcp(struct bpf_sock_ops *ctx, struct sonde_owner_event *event) {
  __u32 *local = (__u32 *)event->local, *remote = (__u32 *)event->remote;
  event->protocol = TCP;
  event->cookie = bpf_get_socket_cookie(ctx);
  event->netns = bpf_get_netns_cookie(ctx);
  event->local_port = (__u16)ctx->local_port;
  event->remote_port = (__u16)bpf_ntohl(ctx->remote_port);
  if (ctx->family == INET) {
    event->ip_version = 4;
    local[0] = ctx->local_ip4;
    remote[0] = ctx->remote_ip4;
    local[1] = local[2] = local[3] = remote[1] = remote[2] = remote[3] = 0;
    return;
  }
  event->ip_version = 6;
  local[0] = ctx->local_ip6[0];
  local[1] = ctx->local_ip6[1];
  local[2] = ctx->local_ip6[2];
  local[3] = ctx->local_ip6[3];
  remote[0] = ctx->remote_ip6[0];
  remote[1] = ctx->remote_ip6[1];
  remote[2] = ctx->remote_ip6[2];
  remote[3] = ctx->remote_ip6[3];
}

SEC("sockops")
int owner_tcp(struct bpf_sock_ops *ctx) {
  __u32 op = ctx->op;
  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
    return ALLOW;
  struct bpf_sock *sk = ctx->sk;
  if (!sk || (ctx->family != INET && ctx->family != INET6))
    return ALLOW;
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, sk, 0, 0);
  if (event) {
    event->time_ns = bpf_ktime_get_ns();
    name_tcp(ctx, event);
    send(event, SONDE_SOCKET_NAMED);
  } else if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
    struct sonde_owner_event accepted = {.time_ns = bpf_ktime_get_ns()};
    name_tcp(ctx, &accepted);
    send(&accepted, SONDE_SOCKET_ACCEPTED);
  }
  return ALLOW;
}

/* Without ports.bpf.c. */
SEC("cgroup/sock_release")
int owner_release(struct bpf_sock *sk) {
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, sk, 0, 0);
  if (event)
    close_socket(event);
  return ALLOW;
}

const char owner_license[] SEC("license") = "Apache-2.0";
