/* pfring_double.c - a test double of libpfring: the functions that the pf_ring backend calls, over
 * a packet socket or a small reader of capture files. Built as libpfring.so, never installed. The
 * sockets of the kernel module come from pfring_module_double.c.
 *
 * It has the quirks of stock libraries 8.6 to 8.9: it needs libpcap and is not linked with it,
 * pfring_close closes nothing unless PF_RING_RUNTIME_MANAGER is set, a failed open leaves a
 * mapping, a dot in a name starts a VLAN filter, channels that do not exist capture nothing, every
 * tag comes back as 802.1Q, and a null tag is lost. More quirks by name in the environment variable
 * PFRING_DOUBLE (comma separated): slot_mismatch (EINVAL), hidden_cause (ENODEV instead),
 * no_license (zc:), monotonic (timestamps since boot), no_time, no_stats (the structure stays
 * unchanged), no_poll (no descriptor to poll), no_queued (the fill level is unknown), broken (the
 * third receive of a ring fails).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* There is no header for these functions: the backend finds them by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define OFFERED __attribute__((visibility("default")))

enum { PFRING_FAMILY = 27, PAGE_BYTES = 4096 };
enum { QUEUE_SLOTS = 4096, FRAME_BYTES_MAX = 65536, TAG_BYTES = 4, TAG_AT = 12 };
enum { SEND_ONLY = 1 }; /* enum socket_mode: both, send only, receive only */

/* libpcap's. */
int pcap_compile_nopcap(int snaplen, int linktype, void *program, const char *text, int optimize,
                        uint32_t mask);
unsigned bpf_filter(const void *program, const uint8_t *packet, unsigned length, unsigned caplen);

struct header { /* the part of struct pfring_pkthdr that is the same in every version */
  struct timeval time;
  uint32_t caplen;
  uint32_t len;
  uint64_t time_ns;
  uint32_t flags;
  uint8_t received;
};

struct counters {
  uint64_t received;
  uint64_t dropped;
  uint64_t shunted;
};

struct slot {
  struct header header;
  uint8_t *data;
};

struct pfring {
  char device[256];
  uint32_t caplen;
  bool promiscuous;
  bool enabled;
  bool received_only;
  int mode;
  int fd;     /* packet socket, or -1 */
  void *ring; /* the mapping that every ring has */
  int vlan;   /* captures only this VLAN; 0: all */
  bool deaf;  /* only channels that do not exist */
  FILE *file; /* pcap:FILE, or NULL */
  struct slot queue[QUEUE_SLOTS];
  uint32_t head;
  uint32_t count;
  uint64_t received;
  uint64_t dropped;
  uint32_t calls;
};

static bool quirk(const char *name) {
  const char *names = getenv("PFRING_DOUBLE");
  size_t length = strlen(name);
  while (names && *names) {
    size_t one = strcspn(names, ",");
    if (one == length && strncmp(names, name, length) == 0)
      return true;
    names += one + (names[one] == ',');
  }
  return false;
}

/* Never called. Like the library's filter functions, it makes the loader look for libpcap. */
OFFERED int pfring_set_bpf_filter(struct pfring *ring, char *text) {
  return ring && pcap_compile_nopcap(0, 1, NULL, text, 0, 0) + (int)bpf_filter(NULL, NULL, 0, 0);
}

OFFERED void pfring_close(struct pfring *ring) {
  for (; ring->count; ring->count--, ring->head++)
    free(ring->queue[ring->head % QUEUE_SLOTS].data);
  if (ring->fd >= 0 && getenv("PF_RING_RUNTIME_MANAGER")) {
    munmap(ring->ring, PAGE_BYTES);
    close(ring->fd);
  }
  if (ring->file)
    fclose(ring->file);
  free(ring);
}

static bool open_file(struct pfring *ring, const char *path) {
  uint32_t head[6];
  ring->file = fopen(path, "rbe");
  return ring->file && fread(head, sizeof head, 1, ring->file) == 1 && head[0] == 0xa1b2c3d4;
}

/* Maps a page, as the library maps the ring: the mapping alone keeps the socket open. */
static bool open_socket(struct pfring *ring) {
  struct tpacket_req request = {PAGE_BYTES, 1, PAGE_BYTES, 1};
  int on = 1;
  int buffer_bytes = 128 << 20;
  ring->fd = socket(PFRING_FAMILY, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
  bool opened =
      ring->fd >= 0 &&
      setsockopt(ring->fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof request) == 0 &&
      setsockopt(ring->fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) == 0 &&
      setsockopt(ring->fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) == 0 &&
      setsockopt(ring->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) == 0;
  ring->ring = opened ? mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, ring->fd, 0) : MAP_FAILED;
  return ring->ring != MAP_FAILED;
}

static bool interface_is_up(const char *name) {
  struct ifreq request = {0};
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  snprintf(request.ifr_name, sizeof request.ifr_name, "%.15s", name);
  bool is_up = ioctl(fd, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_UP;
  close(fd);
  return is_up;
}

/* Reads (name), name.VLAN and name@channels. Every interface has one channel, 0. */
static void read_name(struct pfring *ring, const char *text) {
  char *at;
  snprintf(ring->device, sizeof ring->device, "%s", text);
  if ((at = strchr(ring->device, '@'))) {
    ring->deaf = at[1] != '0';
    *at = 0;
  }
  if (ring->device[0] == '(') {
    memmove(ring->device, ring->device + 1, strlen(ring->device));
    ring->device[strcspn(ring->device, ")")] = 0;
  } else if ((at = strchr(ring->device, '.'))) {
    ring->vlan = atoi(at + 1);
    *at = 0;
  }
}

/* Returns 0 or an errno. */
static int bind_device(struct pfring *ring, const char *name) {
  bool is_zc = strncmp(name, "zc:", 3) == 0;
  if (strncmp(name, "pcap:", 5) == 0)
    return open_file(ring, name + 5) ? 0 : errno;
  if (is_zc && quirk("no_license"))
    return EPERM;
  if (!open_socket(ring))
    return errno;
  if (strcmp(name, "none") == 0)
    return 0;
  read_name(ring, is_zc ? name + 3 : name);
  if (!if_nametoindex(ring->device))
    return ENODEV;
  return interface_is_up(ring->device) ? 0 : ENETDOWN;
}

OFFERED struct pfring *pfring_open(const char *device, uint32_t caplen, uint32_t flags) {
  struct pfring *ring = calloc(1, sizeof *ring);
  ring->fd = -1;
  ring->caplen = caplen;
  ring->promiscuous = flags & 1 << 3;
  int cause = bind_device(ring, device);
  if (!cause && ring->fd >= 0 && quirk("slot_mismatch")) {
    fprintf(stderr, "[PF_RING] Wrong RING version: kernel is 17, libpfring was compiled with 18\n");
    cause = EINVAL;
  }
  if (!cause)
    return ring;
  if (ring->fd >= 0)
    close(ring->fd); /* and leaves the mapping */
  ring->fd = -1;
  pfring_close(ring);
  errno = quirk("hidden_cause") ? ENODEV : cause;
  return NULL;
}

OFFERED uint8_t pfring_get_num_rx_channels(struct pfring *ring) {
  return ring ? 1 : 0;
}

OFFERED int pfring_get_bound_device_ifindex(struct pfring *ring, int *ifindex) {
  *ifindex = (int)if_nametoindex(ring->device);
  return *ifindex ? 0 : -1;
}

OFFERED int pfring_enable_ring(struct pfring *ring) {
  ring->enabled = true;
  if (ring->file || ring->deaf)
    return 0;
  struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                .sll_protocol = htons(ETH_P_ALL),
                                .sll_ifindex = (int)if_nametoindex(ring->device)};
  struct packet_mreq membership = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
  int on = 1;
  if (ring->received_only)
    setsockopt(ring->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
  if (ring->promiscuous)
    setsockopt(ring->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership);
  return address.sll_ifindex ? bind(ring->fd, (struct sockaddr *)&address, sizeof address) : -1;
}

/* Reads a frame's ancillary data: its time, and the tag that the kernel removed. */
static void read_ancillary(struct msghdr *message, struct header *header,
                           struct tpacket_auxdata *beside) {
  for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one)) {
    if (one->cmsg_level == SOL_PACKET && one->cmsg_type == PACKET_AUXDATA) {
      memcpy(beside, CMSG_DATA(one), sizeof *beside);
    } else if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_TIMESTAMPNS) {
      struct timespec stamp;
      memcpy(&stamp, CMSG_DATA(one), sizeof stamp);
      header->time_ns = (uint64_t)stamp.tv_sec * 1000000000 + (uint64_t)stamp.tv_nsec;
    }
  }
  if (quirk("monotonic") || quirk("no_time")) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    header->time_ns =
        quirk("no_time") ? 0 : (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
  }
  header->time.tv_sec = (time_t)(header->time_ns / 1000000000);
  header->time.tv_usec = (suseconds_t)(header->time_ns % 1000000000 / 1000);
}

/* Moves one frame from the socket to the queue. */
static bool receive_frame(struct pfring *ring) {
  static __thread uint8_t frame[FRAME_BYTES_MAX + TAG_BYTES];
  char control[256];
  struct sockaddr_ll from;
  struct tpacket_auxdata beside = {0};
  struct iovec into = {.iov_base = frame, .iov_len = FRAME_BYTES_MAX};
  struct msghdr message = {.msg_name = &from,
                           .msg_namelen = sizeof from,
                           .msg_iov = &into,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof control};
  if (ring->count == QUEUE_SLOTS)
    return false;
  ssize_t length = recvmsg(ring->fd, &message, MSG_TRUNC | MSG_DONTWAIT);
  if (length < 0)
    return false;
  struct slot *slot = &ring->queue[(ring->head + ring->count) % QUEUE_SLOTS];
  memset(slot, 0, sizeof *slot);
  read_ancillary(&message, &slot->header, &beside);
  if (ring->vlan && (beside.tp_vlan_tci & 0xfff) != ring->vlan)
    return receive_frame(ring);
  if (beside.tp_vlan_tci) {
    uint16_t tag[2] = {htons(ETH_P_8021Q), htons(beside.tp_vlan_tci)};
    memmove(frame + TAG_AT + TAG_BYTES, frame + TAG_AT, (size_t)length - TAG_AT);
    memcpy(frame + TAG_AT, tag, sizeof tag);
    length += TAG_BYTES;
  }
  slot->header.len = (uint32_t)length;
  slot->header.caplen = (uint32_t)length < ring->caplen ? (uint32_t)length : ring->caplen;
  slot->header.received = from.sll_pkttype != PACKET_OUTGOING;
  slot->data = malloc(slot->header.caplen + 1);
  memcpy(slot->data, frame, slot->header.caplen);
  ring->count++;
  return true;
}

/* Like the real library, it returns 0 for a read into a buffer with or without a packet. */
static int read_file(struct pfring *ring, uint8_t *buffer, unsigned buffer_bytes,
                     struct header *header) {
  uint32_t record[4];
  memset(header, 0, sizeof *header);
  if (fread(record, sizeof record, 1, ring->file) != 1)
    return 0;
  uint32_t kept = record[2] < buffer_bytes ? record[2] : buffer_bytes;
  *header = (struct header){.time = {.tv_sec = (time_t)record[0], .tv_usec = record[1]},
                            .caplen = record[2],
                            .len = record[3]};
  if (fread(buffer, 1, kept, ring->file) != kept)
    memset(header, 0, sizeof *header);
  fseek(ring->file, (long)(record[2] - kept), SEEK_CUR);
  return 0;
}

OFFERED int pfring_recv(struct pfring *ring, uint8_t **buffer, unsigned buffer_bytes,
                        struct header *header, uint8_t wait) {
  if (!ring->enabled || buffer_bytes == 0 || wait)
    return -7; /* the backend must not do this: it would lose packets or a wake-up */
  if (ring->mode == SEND_ONLY)
    return -7;
  if (quirk("broken") && ++ring->calls >= 3) {
    errno = EIO;
    return -1;
  }
  if (ring->file)
    return read_file(ring, *buffer, buffer_bytes, header);
  if (ring->count == 0 && !receive_frame(ring))
    return 0;
  struct slot *slot = &ring->queue[ring->head++ % QUEUE_SLOTS];
  ring->count--;
  ring->received++;
  *header = slot->header;
  memcpy(*buffer, slot->data, header->caplen < buffer_bytes ? header->caplen : buffer_bytes);
  free(slot->data);
  return 1;
}

OFFERED int pfring_get_selectable_fd(struct pfring *ring) {
  return quirk("no_poll") ? -1 : ring->fd;
}

OFFERED int pfring_get_num_queued_pkts(struct pfring *ring) {
  while (ring->fd >= 0 && receive_frame(ring)) {
  }
  return ring->file || quirk("no_queued") ? -7 : (int)ring->count;
}

OFFERED int pfring_stats(struct pfring *ring, struct counters *counters) {
  struct tpacket_stats since;
  socklen_t length = sizeof since;
  if (ring->file || quirk("no_stats"))
    return 0;
  if (getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &since, &length) == 0)
    ring->dropped += since.tp_drops;
  *counters = (struct counters){.received = ring->received, .dropped = ring->dropped};
  return 0;
}

OFFERED int pfring_set_direction(struct pfring *ring, int direction) {
  ring->received_only = direction == 1;
  return 0;
}

OFFERED int pfring_set_socket_mode(struct pfring *ring, int mode) {
  ring->mode = mode;
  return 0;
}

OFFERED int pfring_set_poll_watermark(struct pfring *ring, uint16_t packets) {
  return ring && packets == 1 ? 0 : -1;
}

OFFERED int pfring_set_application_name(struct pfring *ring, char *name) {
  return ring && *name ? 0 : -1;
}

OFFERED int pfring_version_noring(uint32_t *version) {
  *version = 8 << 16 | 9 << 8;
  return 0;
}
