/* ports.bpf.c - programs that read the port of a connected UDP socket.
 *
 * The kernel chooses this port after the hook of connect, and no helper has it at the close. The
 * programs read struct sock, which the kernel allows only with a GPL-compatible license, its own
 * types (BTF) and Linux 6.2. Without them the rest of the feed works.
 */
#include "owner.bpf.h"
#include "sock.bpf.h"

struct bpf_iter_meta {
  struct seq_file *seq;
} KERNEL;

struct socket {
  struct sock *sk;
} KERNEL;

struct bpf_iter__task_file {
  struct bpf_iter_meta *meta;
  struct file *file;
} KERNEL;

extern void *bpf_cast_to_kern_ctx(void *context) __ksym;

/* Replaces owner_release. */
SEC("cgroup/sock_release")
int owner_port(struct bpf_sock *context) {
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, context, 0, 0);
  if (event) {
    read_port(bpf_cast_to_kern_ctx(context), event);
    close_socket(event);
  }
  return ALLOW;
}

/* Writes the open sockets whose port was missing, or all that were reported. A socket that several
 * processes have open is written for each. Some kernels refuse bpf_sk_storage_map, the list of the
 * map itself. */
SEC("iter/task_file")
int owner_list(struct bpf_iter__task_file *context) {
  struct file *file = context->file;
  struct socket *socket = file ? (struct socket *)bpf_sock_from_file(file) : NULL;
  struct sock *sk = socket ? socket->sk : NULL;
  __u32 first = 0;
  struct sonde_owner_control *shared = bpf_map_lookup_elem(&control, &first);
  if (!sk || !shared)
    return 0;
  struct sonde_owner_event *event = bpf_sk_storage_get(&owners, (void *)sk, 0, 0);
  if (!event)
    return 0;
  bool found = read_port(sk, event);
  if (!found && !(shared->list_all && event->told && event->local_port))
    return 0;
  struct sonde_owner_event copy = *event;
  copy.kind = SONDE_SOCKET_NAMED;
  bpf_seq_write(context->meta->seq, &copy, sizeof copy);
  return 0;
}

const char ports_license[] SEC("license") = "Dual MIT/GPL";
