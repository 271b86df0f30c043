/* dedicated.bpf.c - the program in the driver of a dedicated interface: redirects every frame to
 * the AF_XDP socket of its queue. A queue without a socket passes its frames to the host. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 256);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

SEC("xdp.frags")
int redirect(struct xdp_md *frame) {
  return (int)bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);
}

char _license[] SEC("license") = "Apache-2.0";
