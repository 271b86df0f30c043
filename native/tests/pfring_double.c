/* pfring_double.c - a test double of libpfring: the functions that the pf_ring backend calls, over
 * a packet socket or a small reader of capture files. Built as libpfring.so.1, never installed.
 *
 * It has the real library's quirks, always or by name in the environment variable PFRING_DOUBLE
 * (comma separated): no_module, no_permission, slot_mismatch, hidden_cause (open fails with ENODEV
 * for each of these three), monotonic (timestamps since boot), no_time, no_stats (the structure
 * stays unchanged), no_poll (no descriptor to poll), no_queued (the fill level is unknown), broken
 * (the third receive of a ring fails).
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
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* There is no header for these functions: the backend finds them by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define OFFERED __attribute__((visibility("default")))

enum { QUEUE_SLOTS = 4096, FRAME_BYTES_MAX = 65536, TAG_BYTES = 4, TAG_AT = 12 };
enum { SEND_ONLY = 1 }; /* enum socket_mode: both, send only, receive only */

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

OFFERED void pfring_close(struct pfring *ring) {
  for (; ring->count; ring->count--, ring->head++)
    free(ring->queue[ring->head % QUEUE_SLOTS].data);
  if (ring->fd >= 0)
    close(ring->fd);
  if (ring->file)
    fclose(ring->file);
  free(ring);
}

static bool open_file(struct pfring *ring, const char *path) {
  uint32_t head[6];
  ring->file = fopen(path, "rbe");
  return ring->file && fread(head, sizeof head, 1, ring->file) == 1 && head[0] == 0xa1b2c3d4;
}

static bool open_socket(struct pfring *ring) {
  int on = 1;
  int buffer_bytes = 128 << 20;
  ring->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return ring->fd >= 0 &&
         setsockopt(ring->fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) ==
             0 &&
         setsockopt(ring->fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) == 0 &&
         setsockopt(ring->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) == 0;
}

OFFERED struct pfring *pfring_open(const char *device, uint32_t caplen, uint32_t flags) {
  if (quirk("no_module") || quirk("no_permission")) {
    errno = quirk("hidden_cause") ? ENODEV : quirk("no_module") ? EAFNOSUPPORT : EPERM;
    return NULL;
  }
  if (quirk("slot_mismatch")) {
    fprintf(stderr, "[PF_RING] Wrong RING version: kernel is 17, libpfring was compiled with 18\n");
    errno = quirk("hidden_cause") ? ENODEV : 0;
    return NULL;
  }
  struct pfring *ring = calloc(1, sizeof *ring);
  ring->fd = -1;
  ring->caplen = caplen;
  ring->promiscuous = flags & 1 << 3;
  bool is_file = strncmp(device, "pcap:", 5) == 0;
  snprintf(ring->device, sizeof ring->device, "%s",
           is_file || strncmp(device, "zc:", 3) == 0 ? strchr(device, ':') + 1 : device);
  ring->device[is_file ? sizeof ring->device - 1 : strcspn(ring->device, "@")] = 0;
  bool bound = strcmp(device, "none") == 0 || is_file || if_nametoindex(ring->device);
  if (!bound || !(is_file ? open_file(ring, ring->device) : open_socket(ring))) {
    int cause = bound ? errno : ENODEV;
    pfring_close(ring);
    errno = cause;
    return NULL;
  }
  return ring;
}

OFFERED int pfring_enable_ring(struct pfring *ring) {
  ring->enabled = true;
  if (ring->file)
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
  if (beside.tp_status & TP_STATUS_VLAN_VALID) {
    uint16_t tag[2] = {htons(beside.tp_vlan_tpid), htons(beside.tp_vlan_tci)};
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
