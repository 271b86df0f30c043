/* packet_ring.c - see packet_ring.h.
 *
 * Times are the kernel's software timestamps. PACKET_TIMESTAMP stays unset: a hardware clock may
 * differ from the host's. PACKET_VNET_HDR gives the segment size of super-packets. The kernel
 * counts a super-packet that this header cannot describe (SCTP) as dropped.
 */
#include "packet_ring.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "failure.h"

enum { VLAN_TAG_BYTES = 4, ETHERNET_ADDRESSES_BYTES = 12 };

static int set_option(const struct packet_ring *ring, int option, int value) {
  return setsockopt(ring->fd, SOL_PACKET, option, &value, sizeof value);
}

int packet_ring_open(struct packet_ring *ring, uint32_t block_count, uint32_t snaplen,
                     uint16_t linktype, struct sonde_error *error) {
  struct tpacket_req3 request = {
      .tp_block_size = RING_BLOCK_BYTES,
      .tp_block_nr = block_count,
      .tp_frame_size = RING_BLOCK_BYTES, /* V3 packs packets densely and only checks this */
      .tp_frame_nr = block_count,
      .tp_retire_blk_tov = RING_RETIRE_MS,
  };
  int status;
  memset(ring, 0, sizeof *ring);
  ring->block_count = block_count;
  ring->snaplen = snaplen;
  ring->linktype = linktype;
  /* Protocol 0: no packet arrives before bind. */
  ring->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (ring->fd < 0)
    return sonde_fail_socket(error);
  if (set_option(ring, PACKET_VERSION, TPACKET_V3)) {
    status = sonde_fail_system(error, "TPACKET_V3");
  } else if (set_option(ring, PACKET_VNET_HDR, 1)) {
    status = sonde_fail_system(error, "PACKET_VNET_HDR");
  } else if (setsockopt(ring->fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request)) {
    status = sonde_fail_system(error, "packet ring");
  } else {
    ring->map = mmap(NULL, (size_t)block_count * RING_BLOCK_BYTES, PROT_READ | PROT_WRITE,
                     MAP_SHARED, ring->fd, 0);
    if (ring->map != MAP_FAILED) {
      status = packet_ring_attach(ring, &program_refuse_all, error);
    } else {
      ring->map = NULL;
      status = sonde_fail_system(error, "mapping the packet ring");
    }
  }
  if (status)
    packet_ring_close(ring);
  return status;
}

int packet_ring_bind(const struct packet_ring *ring, int ifindex, struct sonde_error *error) {
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = ifindex};
  if (bind(ring->fd, (const struct sockaddr *)&address, sizeof address) == 0)
    return 0;
  if (errno == ENODEV || errno == ENXIO) /* deleted between open and start */
    return sonde_fail(error, SONDE_INTERFACE_INVALID, errno, "%s", strerror(errno));
  return sonde_fail_system(error, "bind");
}

int packet_ring_promiscuous(const struct packet_ring *ring, int ifindex,
                            struct sonde_error *error) {
  struct packet_mreq membership = {.mr_ifindex = ifindex, .mr_type = PACKET_MR_PROMISC};
  return setsockopt(ring->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership)
             ? sonde_fail_system(error, "promiscuous mode")
             : 0;
}

int packet_ring_attach(const struct packet_ring *ring, const struct program *program,
                       struct sonde_error *error) {
  struct sock_fprog code = {.len = program->length,
                            .filter = (struct sock_filter *)program->instructions};
  if (setsockopt(ring->fd, SOL_SOCKET, SO_ATTACH_FILTER, &code, sizeof code) == 0)
    return 0;
  if (errno == EINVAL) { /* a loop (protochain), or an unset memory word is read */
    return sonde_fail(error, SONDE_FILTER_INVALID, errno,
                      "the kernel rejects the compiled filter expression; change it, or use "
                      "backend xdp or pcap, which filter in user space");
  }
  return sonde_fail_system(error, "attaching the filter");
}

void packet_ring_close(struct packet_ring *ring) {
  if (ring->map)
    munmap(ring->map, (size_t)ring->block_count * RING_BLOCK_BYTES);
  if (ring->fd >= 0)
    close(ring->fd);
  ring->map = NULL;
  ring->fd = -1;
}

static struct tpacket_hdr_v1 *block_head(const struct packet_ring *ring, uint32_t block) {
  void *at = ring->map + (size_t)block * RING_BLOCK_BYTES;
  return &((struct tpacket_block_desc *)at)->hdr.bh1;
}

static bool block_is_ours(const struct packet_ring *ring, uint32_t block) {
  return __atomic_load_n(&block_head(ring, block)->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
}

static void release_block(struct packet_ring *ring) {
  __atomic_store_n(&block_head(ring, ring->head)->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  ring->head = ring->head + 1 == ring->block_count ? 0 : ring->head + 1;
  ring->spent = false;
}

/* The kernel stores the outermost tag apart from the frame. The tag is inserted over the virtio
 * header right before the frame, which has been read already. */
static void insert_tag(struct sonde_packet *packet, const struct tpacket3_hdr *head,
                       uint8_t *frame) {
  uint16_t tag[2] = {
      htons(head->tp_status & TP_STATUS_VLAN_TPID_VALID ? head->hv1.tp_vlan_tpid : ETH_P_8021Q),
      htons((uint16_t)head->hv1.tp_vlan_tci)};
  memmove(frame - VLAN_TAG_BYTES, frame, ETHERNET_ADDRESSES_BYTES);
  memcpy(frame - VLAN_TAG_BYTES + ETHERNET_ADDRESSES_BYTES, tag, sizeof tag);
  packet->data -= VLAN_TAG_BYTES;
  packet->caplen += VLAN_TAG_BYTES;
  packet->wirelen += VLAN_TAG_BYTES;
}

static void describe(const struct packet_ring *ring, uint8_t *at, struct sonde_packet *packet) {
  const struct tpacket3_hdr *head = (const void *)at;
  const struct sockaddr_ll *link = (const void *)(at + TPACKET3_HDRLEN - sizeof *link);
  uint8_t *frame = at + head->tp_mac;
  struct virtio_net_hdr virtio;
  memcpy(&virtio, frame - sizeof virtio, sizeof virtio);
  *packet = (struct sonde_packet){
      .data = frame,
      .time_ns = head->tp_sec * UINT64_C(1000000000) + head->tp_nsec,
      .caplen = head->tp_snaplen,
      .wirelen = head->tp_len,
      .linktype = ring->linktype,
      .gso_size = virtio.gso_type == VIRTIO_NET_HDR_GSO_NONE ? 0 : virtio.gso_size,
      .direction =
          link->sll_pkttype == PACKET_OUTGOING ? SONDE_DIRECTION_EGRESS : SONDE_DIRECTION_INGRESS,
  };
  if (head->tp_status & TP_STATUS_VLAN_VALID && ring->linktype == SONDE_LINKTYPE_ETHERNET &&
      packet->caplen >= ETHERNET_ADDRESSES_BYTES) {
    insert_tag(packet, head, frame);
  }
  packet->caplen = packet->caplen > ring->snaplen ? ring->snaplen : packet->caplen;
}

uint32_t packet_ring_read(struct packet_ring *ring, struct sonde_packet *packets, uint32_t max) {
  if (ring->spent)
    release_block(ring);
  while (ring->left == 0) { /* a block retired by the timer may be empty */
    if (!block_is_ours(ring, ring->head))
      return 0;
    const struct tpacket_hdr_v1 *block = block_head(ring, ring->head);
    ring->left = block->num_pkts;
    ring->packet =
        (uint8_t *)ring->map + (size_t)ring->head * RING_BLOCK_BYTES + block->offset_to_first_pkt;
    if (ring->left == 0)
      release_block(ring);
  }
  uint32_t count = ring->left < max ? ring->left : max;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *at = ring->packet;
    ring->packet += ((const struct tpacket3_hdr *)(const void *)at)->tp_next_offset;
    __builtin_prefetch(ring->packet);
    describe(ring, at, &packets[i]);
  }
  ring->left -= count;
  ring->spent = ring->left == 0;
  ring->read += count;
  return count;
}

void packet_ring_count(struct packet_ring *ring) {
  struct tpacket_stats_v3 counted;
  socklen_t length = sizeof counted;
  if (ring->fd >= 0 &&
      getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &counted, &length) == 0) {
    ring->accepted += counted.tp_packets - counted.tp_drops; /* tp_packets includes them */
    ring->dropped += counted.tp_drops;
    ring->freezes += counted.tp_freeze_q_cnt;
  }
}

uint32_t ring_blocks_used(const struct packet_ring *ring) {
  uint32_t used = 0;
  for (uint32_t block = 0; ring->map && block < ring->block_count; block++)
    used += block_is_ours(ring, block);
  return used;
}
