/* generator.bpf.c - a paced source of UDP frames. It runs repeatedly inside the kernel
 * (BPF_PROG_RUN with live frames), changes each frame, and redirects it. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "generator.h"

const volatile struct generator_settings settings;
struct generator_state state;

static long wait_until(__u32 turn, __u64 *when_ns) {
  return bpf_ktime_get_ns() >= *when_ns;
}

/* A delay above this is not made up for: a burst would exceed the requested rate. */
enum { LATE_NS = 100000 };

static void pace(void) {
  __u64 now_ns = state.ended_ns = bpf_ktime_get_ns();
  if (state.begun_ns == 0)
    state.begun_ns = now_ns;
  if (settings.gap_256th_ns == 0)
    return;
  __u64 due_ns = state.due_256th_ns >> 8;
  if (now_ns > due_ns + LATE_NS) {
    state.due_256th_ns = now_ns << 8;
    due_ns = now_ns;
  }
  if (now_ns < due_ns)
    bpf_loop(1 << 22, wait_until, &due_ns, 0);
  state.due_256th_ns += settings.gap_256th_ns;
}

SEC("xdp")
int generate(struct xdp_md *frame) {
  __u64 number = state.frames++;
  pace();
  /* IMIX by count: 7 small, 4 medium, 1 large of twelve. */
  __u32 turn = number % 12;
  __u32 size = !settings.mixed ? 0 : turn < 7 ? 1 : turn < 11 ? 2 : 3;
  if (size == 1 && bpf_xdp_adjust_tail(frame, GENERATOR_SMALL - GENERATOR_LARGE))
    return XDP_ABORTED;
  if (size == 2 && bpf_xdp_adjust_tail(frame, GENERATOR_MEDIUM - GENERATOR_LARGE))
    return XDP_ABORTED;
  __u8 *data = (void *)(long)frame->data;
  if ((void *)(data + GENERATOR_SMALL) > (void *)(long)frame->data_end)
    return XDP_ABORTED;
  __u16 length = (void *)(long)frame->data_end - (void *)data - 14;
  __u32 flow = (__u32)(number * 2654435761u >> 8) & settings.flow_mask;
  __u16 low = flow, high = flow >> 16;
  *(__u16 *)(data + 16) = __builtin_bswap16(length);
  *(__u16 *)(data + 38) = __builtin_bswap16(length - 20);
  /* One address goes up as the other goes down, so the header's checksum changes only with the
   * length. It is precomputed for each length. */
  *(__u16 *)(data + 24) = settings.checksum[size];
  *(__u16 *)(data + 28) = low;
  *(__u16 *)(data + 32) = ~low;
  *(__u16 *)(data + 34) = __builtin_bswap16(1024 + high);
  return (int)bpf_redirect(settings.ifindex, 0);
}

char _license[] SEC("license") = "Apache-2.0";
