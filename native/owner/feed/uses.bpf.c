/* uses.bpf.c - programs that notice the first use of a socket, and a second process that uses it.
 *
 * A UDP socket without bind and connect is reported after its first send, and the port of a
 * connected one, which the kernel chose, after its first send or receive. A child, another program
 * or a process that got the descriptor may send and receive instead of the process that connected
 * or bound a socket. Both programs run at the end of each call that sends or receives on a socket
 * of any family, so they return at once unless the socket has no owner, or another process made the
 * call. They report a socket once. They need Linux 6.3 and the kernel's own types (BTF). Without
 * them owner_send4 and owner_send6 report sends, and the rest of the feed works.
 */
#include "owner.bpf.h"
#include "sock.bpf.h"

enum { DATAGRAM = 2 };             /* SOCK_DGRAM: no raw socket, which has no port */
enum { ESTABLISHED = 1 };          /* TCP_ESTABLISHED: a connected UDP socket too */
enum { KERNEL_THREAD = 0x200000 }; /* PF_KTHREAD */

struct task_struct {
  unsigned int flags;
} KERNEL;

/* Returns whether a call on an internet socket succeeded. */
static __always_inline bool succeeded(const struct sock *sk, int result) {
  __u16 family = sk->__sk_common.skc_family;
  return result >= 0 && (family == INET || family == INET6);
}

/* A thread of the kernel sends for the owner: TLS, NFS, a disk over the network. */
static __always_inline bool in_kernel_thread(void) {
  return bpf_get_current_task_btf()->flags & KERNEL_THREAD;
}

/* Orders writes of one event and reads of another, with two processes that use one socket. */
static __always_inline void fence(struct sonde_owner_event *event) {
  __sync_fetch_and_add(&event->pid, 0);
}

static __always_inline void note_use(const struct sock *sk, struct sonde_owner_event *event) {
  if (event->shared || event->how == LISTENER || is_owner(event) || in_kernel_thread())
    return;
  event->shared = 1;
  fence(event);
  read_port(sk, event);
  if (event->told && event->local_port)
    send(event, SONDE_SOCKET_NAMED);
}

/* Makes the running process the owner of a UDP socket that no process bound or connected. Two
 * processes may do so at once. */
static __always_inline void note_first_send(const struct sock *sk) {
  const struct sock_common *common = &sk->__sk_common;
  if (sk->sk_protocol != UDP || sk->sk_type != DATAGRAM || common->skc_state == ESTABLISHED ||
      in_kernel_thread())
    return;
  struct sonde_owner_event *event =
      bpf_sk_storage_get(&owners, (void *)sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!event)
    event = bpf_sk_storage_get(&owners, (void *)sk, 0, 0);
  if (!event)
    return;
  __u32 pid = bpf_get_current_pid_tgid() >> 32;
  if (__sync_val_compare_and_swap(&event->pid, 0, pid)) {
    note_use(sk, event);
    return;
  }
  own(event, CONNECT);
  event->late = 1;
  event->cookie = bpf_get_socket_cookie((void *)sk);
  event->netns = common->skc_net.net->net_cookie;
  barrier();
  event->protocol = UDP; /* last: owner_list may read the event meanwhile */
  read_port(sk, event);
  event->told = 1;
  fence(event);
  send(event, SONDE_SOCKET_NAMED);
}

/* Names a UDP socket whose port was missing: it was connected. */
static __always_inline void note_port(const struct sock *sk, struct sonde_owner_event *event) {
  if (event->told && read_port(sk, event))
    send(event, SONDE_SOCKET_NAMED);
}

SEC("tp_btf/sock_send_length")
int owner_sent(__u64 *context) {
  const struct sock *sk = (const struct sock *)context[0];
  if (!succeeded(sk, (int)context[1]))
    return 0;
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, (void *)sk, 0, 0);
  if (!event || !event->pid) {
    note_first_send(sk);
    return 0;
  }
  if (!event->local_port)
    note_port(sk, event);
  note_use(sk, event);
  return 0;
}

SEC("tp_btf/sock_recv_length")
int owner_received(__u64 *context) {
  const struct sock *sk = (const struct sock *)context[0];
  if (!succeeded(sk, (int)context[1]))
    return 0;
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, (void *)sk, 0, 0);
  if (!event || !event->pid)
    return 0;
  if (!event->local_port)
    note_port(sk, event);
  note_use(sk, event);
  return 0;
}

const char uses_license[] SEC("license") = "Dual MIT/GPL";
