/* engine_attach.c - DPDK's net_af_xdp attaches its XDP program to the interface by netlink. Such a
 * program outlives the process and would continue to redirect the host's packets without a
 * reader. Here a link attaches the program. Only this process holds the link open, so the
 * kernel (≥ 5.9) detaches the program however the process ends.
 *
 * The driver and libxdp call libbpf by these names; engine_guard.c says why they arrive here.
 * Layouts and meanings are those of libbpf's bpf.h (LIBBPF_0.7.0) and linux/bpf.h.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int bpf_xdp_attach(int ifindex, int program_fd, unsigned flags, const void *options);
EXPORTED int bpf_xdp_detach(int ifindex, unsigned flags, const void *options);

static int link_fd = -1; /* one port per process, so one program at most */
static int link_ifindex;

/* Another process's program stays attached. */
int bpf_xdp_detach(int ifindex, unsigned flags, const void *options) {
  (void)flags;
  (void)options;
  if (link_fd < 0 || ifindex != link_ifindex)
    return -EBUSY;
  close(link_fd);
  link_fd = -1;
  return 0;
}

/* Returns -EBUSY if a program is attached: the kernel neither adds nor replaces one by link. */
int bpf_xdp_attach(int ifindex, int program_fd, unsigned flags, const void *options) {
  union bpf_attr request;
  if (program_fd < 0)
    return bpf_xdp_detach(ifindex, flags, options);
  memset(&request, 0, sizeof request);
  request.link_create.prog_fd = (uint32_t)program_fd;
  request.link_create.target_ifindex = (uint32_t)ifindex;
  request.link_create.attach_type = BPF_XDP;
  request.link_create.flags = flags & XDP_FLAGS_MODES;
  int fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &request, sizeof request);
  if (fd < 0)
    return -errno;
  link_fd = fd; /* bpf() sets close-on-exec */
  link_ifindex = ifindex;
  return 0;
}
