/* engine_guard.c - see engine_guard.h.
 *
 * DPDK's net_af_packet assumes that it owns its interface. It sets and clears IFF_PROMISC, which
 * outlives it and may belong to another program. It makes the kernel reassemble fragments, so
 * packets differ from the wire. It never reads the kernel's drop count. It maps as much memory
 * for sending, which is not used here, as for receiving. Drivers are loaded into this process,
 * and an executable's symbols precede the C library's, so the three calls below replace theirs.
 *
 * The driver passes on only a frame's bytes. Wire length, time, direction and tag type are read
 * from the kernel's ring before the driver releases the frame.
 */
#include "engine_guard.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "record.h"

static bool closed;
static int capture_fd = -1;

static struct tpacket_req layout; /* the ring layout that the driver requested */
static const uint8_t *ring;
static uint32_t ring_next; /* the driver's next frame */

void guard_close(void) {
  closed = true;
  /* Otherwise libxdp pins a dispatcher program in bpffs: see engine_attach.c. */
  setenv("LIBXDP_SKIP_DISPATCHER", "1", 1);
}

int guard_socket(void) {
  return capture_fd;
}

/* One queue needs no fanout, and the driver's fanout reassembles fragments. */
__attribute__((visibility("default"))) int setsockopt(int fd, int level, int name,
                                                      const void *value, socklen_t length) {
  if (closed && level == SOL_PACKET && (name == PACKET_FANOUT || name == PACKET_TX_RING))
    return 0;
  if (level == SOL_PACKET && name == PACKET_RX_RING) {
    capture_fd = fd;
    memcpy(&layout, value, length < sizeof layout ? length : sizeof layout);
  }
  return (int)syscall(SYS_setsockopt, fd, level, name, value, length);
}

/* The driver maps both rings in a row and later unmaps both. Only the first is mapped; empty
 * address space is reserved in place of the second. */
__attribute__((visibility("default"))) void *mmap64(void *address, size_t length, int protection,
                                                    int flags, int fd, off64_t offset) {
  if (!closed || fd < 0 || fd != capture_fd)
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
  void *both =
      (void *)syscall(SYS_mmap, NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return both == MAP_FAILED ? both
                            : (void *)syscall(SYS_mmap, both, length / 2, protection,
                                              flags | MAP_FIXED, fd, offset);
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (closed && (request == SIOCSIFFLAGS || request == SIOCSIFMTU || request == SIOCSIFHWADDR))
    return 0;
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

int guard_count(uint64_t *accepted, uint64_t *dropped) {
  struct tpacket_stats since;
  socklen_t length = sizeof since;
  if (getsockopt(capture_fd, SOL_PACKET, PACKET_STATISTICS, &since, &length))
    return -errno;
  *accepted += since.tp_packets - since.tp_drops; /* tp_packets includes tp_drops */
  *dropped += since.tp_drops;
  return 0;
}

int guard_promiscuous(int ifindex) {
  struct packet_mreq membership = {.mr_ifindex = ifindex, .mr_type = PACKET_MR_PROMISC};
  return setsockopt(capture_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership);
}

int guard_ignore_outgoing(void) {
  int on = 1;
  return setsockopt(capture_fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
}

int guard_refuse_all(void) {
  struct sock_filter refuse = BPF_STMT(BPF_RET | BPF_K, 0);
  struct sock_fprog program = {.len = 1, .filter = &refuse};
  return setsockopt(capture_fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

/* ---- the ring --------------------------------------------------------------------------- */

/* Finds the driver's mapping by the socket's inode. */
int guard_find_ring(void) {
  struct stat about;
  char line[512];
  FILE *maps = fopen("/proc/self/maps", "re");
  ring = NULL;
  if (!maps || layout.tp_frame_nr == 0 || fstat(capture_fd, &about))
    errno = maps ? ENOTSOCK : errno;
  while (maps && layout.tp_frame_nr && !ring && fgets(line, sizeof line, maps)) {
    unsigned long begin;
    unsigned long inode;
    if (strstr(line, "socket:[") &&
        sscanf(line, "%lx-%*x %*s %*x %*x:%*x %lu", &begin, &inode) == 2 &&
        inode == (unsigned long)about.st_ino) {
      ring = (const uint8_t *)begin;
    }
  }
  if (maps)
    fclose(maps);
  ring_next = 0;
  return ring ? 0 : -1;
}

/* Each block holds one or more whole frames. */
static const struct tpacket2_hdr *frame_at(uint32_t number) {
  uint32_t each = layout.tp_block_size / layout.tp_frame_size;
  number %= layout.tp_frame_nr;
  return (
      const struct tpacket2_hdr *)(const void *)(ring +
                                                 (size_t)(number / each) * layout.tp_block_size +
                                                 (size_t)(number % each) * layout.tp_frame_size);
}

uint16_t guard_peek(struct guard_frame *frames, uint16_t max) {
  uint16_t count = 0;
  for (; count < max; count++) {
    const struct tpacket2_hdr *head = frame_at(ring_next + count);
    uint32_t status = __atomic_load_n(&head->tp_status, __ATOMIC_ACQUIRE);
    if (!(status & TP_STATUS_USER))
      break;
    const struct sockaddr_ll *from =
        (const void *)((const uint8_t *)head + TPACKET_ALIGN(sizeof *head));
    bool tagged = status & TP_STATUS_VLAN_VALID;
    frames[count] = (struct guard_frame){
        .time_ns = (uint64_t)head->tp_sec * 1000000000 + head->tp_nsec,
        .wirelen = head->tp_len + (tagged ? 4 : 0),
        .tpid = tagged ? (status & TP_STATUS_VLAN_TPID_VALID ? head->tp_vlan_tpid : 0x8100) : 0,
        .direction =
            from->sll_pkttype == PACKET_OUTGOING ? SONDE_DIRECTION_EGRESS : SONDE_DIRECTION_INGRESS,
    };
  }
  return count;
}

void guard_consume(uint16_t count) {
  ring_next = (ring_next + count) % layout.tp_frame_nr;
}
