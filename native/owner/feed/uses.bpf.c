/* uses.bpf.c - programs that notice a second process which uses a socket.
 *
 * A child, another program or a process that got the descriptor may send and receive instead of the
 * process that connected or bound the socket. Both programs run at the end of each call that sends
 * or receives on a socket of any family, so they return at once unless an owner is stored with the
 * socket and another process made the call. They report a socket once. They need Linux 6.3 and the
 * kernel's own types (BTF). Without them the rest of the feed works.
 */
#include "sock.bpf.h"

enum { KERNEL_THREAD = 0x200000 }; /* PF_KTHREAD */

struct task_struct {
  unsigned int flags;
} KERNEL;

static __always_inline int used(const struct sock *sk, int result) {
  __u16 family = sk->__sk_common.skc_family;
  if (result < 0 || (family != INET && family != INET6))
    return 0;
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, (void *)sk, 0, 0);
  if (!event || event->shared || event->how == LISTENER ||
      event->pid == (__u32)(bpf_get_current_pid_tgid() >> 32))
    return 0;
  if (bpf_get_current_task_btf()->flags & KERNEL_THREAD)
    return 0; /* sends for the owner: TLS, NFS, a disk over the network */
  event->shared = 1;
  read_port(sk, event);
  if (event->told && event->local_port)
    send(event, SONDE_SOCKET_NAMED);
  return 0;
}

SEC("tp_btf/sock_send_length")
int owner_sent(__u64 *context) {
  return used((const struct sock *)context[0], (int)context[1]);
}

SEC("tp_btf/sock_recv_length")
int owner_received(__u64 *context) {
  return used((const struct sock *)context[0], (int)context[1]);
}

const char uses_license[] SEC("license") = "Dual MIT/GPL";
