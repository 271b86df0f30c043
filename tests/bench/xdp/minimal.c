/* minimal.c - a minimal live flow reader: receive packets, find their flow, count.
 *
 *   minimal af_packet INTERFACE              a TPACKET_V3 ring
 *   minimal af_xdp INTERFACE OBJECT          an AF_XDP socket in copy mode, queue 0
 *
 * OBJECT is the backend's own redirecting program. No timeouts, no records, one pass over the
 * headers. meter.c is compared with this program. Input and output are those of meter.c.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum {
  TABLE_FLOWS = 1 << 20,
  BATCH = 64,
  MEMORY_BYTES = 64 << 20, /* ring or frames; the same amount as meter.c */
  BLOCK_BYTES = 1 << 18,
  BLOCKS = MEMORY_BYTES / BLOCK_BYTES,
  FRAME_BYTES = 4096,
  FRAMES = MEMORY_BYTES / FRAME_BYTES,
  BUSY_TRIES = 50,
  BUSY_PAUSE_MS = 10,
  QUIET_MS = 200, /* after this long without a packet, all have arrived */
};

struct flow { /* fills one cache line */
  uint64_t key[5];
  uint64_t bytes;
  uint64_t packets; /* 0: free */
  uint64_t last;
};

static struct flow *table;
static uint64_t flows, packets;
static struct seen {
  uint64_t key[5];
  uint32_t at;
  uint32_t bytes;
} seen[BATCH];
static uint32_t seen_count;

/* ---- the flows ---------------------------------------------------------------------------- */

/* Allocates huge pages, like the core. */
static void *memory(size_t bytes) {
  void *got = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED)
    return NULL;
  madvise(got, bytes, MADV_HUGEPAGE);
  return got;
}

static void meter(void) {
  for (uint32_t i = 0; i < seen_count; i++) {
    uint32_t at = seen[i].at;
    while (table[at].packets && memcmp(table[at].key, seen[i].key, sizeof seen[i].key) != 0)
      at = (at + 1) & (TABLE_FLOWS - 1);
    if (!table[at].packets && flows++ < TABLE_FLOWS - 1)
      memcpy(table[at].key, seen[i].key, sizeof seen[i].key);
    table[at].packets++;
    table[at].bytes += seen[i].bytes;
    table[at].last = packets;
  }
  seen_count = 0;
}

/* Decodes Ethernet, IPv4 and IPv6, TCP and UDP. Only counts other packets. */
static void decode_headers(const uint8_t *frame, uint32_t caplen, uint32_t bytes) {
  struct seen *one = &seen[seen_count];
  uint32_t ports = 0, header = 34;
  packets++;
  memset(one->key, 0, sizeof one->key);
  if (caplen >= 38 && frame[12] == 8 && frame[13] == 0) {
    memcpy(&one->key[0], frame + 26, 8);
    header = 14 + (frame[14] & 15) * 4u;
    one->key[4] = 4 | (uint64_t)frame[23] << 8;
  } else if (caplen >= 58 && frame[12] == 0x86 && frame[13] == 0xdd) {
    memcpy(&one->key[0], frame + 22, 32);
    header = 54;
    one->key[4] = 6 | (uint64_t)frame[20] << 8;
  } else {
    return;
  }
  if (header + 4 <= caplen)
    memcpy(&ports, frame + header, 4);
  one->key[4] |= (uint64_t)ports << 32;
  uint64_t hash = 1;
  for (int i = 0; i < 5; i++) {
    hash = (hash ^ one->key[i]) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 32;
  }
  one->at = (uint32_t)hash & (TABLE_FLOWS - 1);
  one->bytes = bytes;
  __builtin_prefetch(&table[one->at], 1);
  if (++seen_count == BATCH)
    meter();
}

/* ---- TPACKET_V3 --------------------------------------------------------------------------- */

static uint8_t *blocks;
static uint32_t block;

static int open_packet(const char *interface) {
  int fd = socket(AF_PACKET, SOCK_RAW, 0), version = TPACKET_V3;
  struct tpacket_req3 wanted = {.tp_block_size = BLOCK_BYTES,
                                .tp_block_nr = BLOCKS,
                                .tp_frame_size = 2048,
                                .tp_frame_nr = MEMORY_BYTES / 2048,
                                .tp_retire_blk_tov = 5};
  struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                .sll_ifindex = (int)if_nametoindex(interface),
                                .sll_protocol = htons(ETH_P_ALL)};
  if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
      setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &wanted, sizeof wanted))
    return -1;
  blocks = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (blocks == MAP_FAILED || bind(fd, (const struct sockaddr *)&address, sizeof address))
    return -1;
  return fd;
}

static uint32_t take_packet(int fd) {
  (void)fd;
  struct tpacket_block_desc *full = (void *)(blocks + (size_t)block * BLOCK_BYTES);
  if (!(__atomic_load_n(&full->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
    return 0;
  const uint8_t *at = (const uint8_t *)full + full->hdr.bh1.offset_to_first_pkt;
  for (uint32_t i = 0; i < full->hdr.bh1.num_pkts; i++) {
    const struct tpacket3_hdr *head = (const void *)at;
    decode_headers(at + head->tp_mac, head->tp_snaplen, head->tp_len);
    at += head->tp_next_offset;
  }
  uint32_t count = full->hdr.bh1.num_pkts;
  meter();
  __atomic_store_n(&full->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  block = (block + 1) % BLOCKS;
  return count ? count : 1;
}

/* ---- AF_XDP ------------------------------------------------------------------------------- */

static uint8_t *frames;
static struct ring {
  uint32_t *producer, *consumer, *flags;
  void *entries;
} fill, receive;

static int map_ring(int fd, const struct xdp_ring_offset *offsets, size_t entry_bytes, int64_t page,
                    struct ring *ring) {
  char *map = mmap(NULL, offsets->desc + FRAMES * entry_bytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_POPULATE, fd, page);
  *ring = (struct ring){(void *)(map + offsets->producer), (void *)(map + offsets->consumer),
                        (void *)(map + offsets->flags), map + offsets->desc};
  return map == MAP_FAILED;
}

static int attach(int fd, unsigned ifindex, const char *path) {
  struct bpf_object *object = bpf_object__open(path);
  if (!object || bpf_object__load(object))
    return -1;
  uint32_t queue = 0;
  int map = bpf_map__fd(bpf_object__find_map_by_name(object, "sockets"));
  int program = bpf_program__fd(bpf_object__next_program(object, NULL));
  LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_DRV_MODE);
  return bpf_map_update_elem(map, &queue, &fd, 0) ||
         bpf_link_create(program, (int)ifindex, BPF_XDP, &options) < 0;
}

/* The kernel releases the queue of a terminated reader with a short delay. */
static int bind_with_retries(int fd, const struct sockaddr_xdp *address) {
  int failed;
  for (int i = 0; i < BUSY_TRIES; i++) {
    failed = bind(fd, (const struct sockaddr *)address, sizeof *address);
    if (!failed || errno != EBUSY)
      break;
    nanosleep(&(struct timespec){.tv_nsec = BUSY_PAUSE_MS * 1000000}, NULL);
  }
  return failed;
}

static int open_xdp(const char *interface, const char *object) {
  int fd = socket(AF_XDP, SOCK_RAW, 0), count = FRAMES, unused = 2;
  frames = memory(MEMORY_BYTES);
  struct xdp_umem_reg region = {
      .addr = (uint64_t)(uintptr_t)frames, .len = MEMORY_BYTES, .chunk_size = FRAME_BYTES};
  struct xdp_mmap_offsets offsets;
  socklen_t length = sizeof offsets;
  struct sockaddr_xdp address = {
      .sxdp_family = AF_XDP, .sxdp_flags = XDP_COPY, .sxdp_ifindex = if_nametoindex(interface)};
  if (fd < 0 || !frames || setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &region, sizeof region) ||
      setsockopt(fd, SOL_XDP, XDP_UMEM_FILL_RING, &count, sizeof count) ||
      setsockopt(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &unused, sizeof unused) ||
      setsockopt(fd, SOL_XDP, XDP_RX_RING, &count, sizeof count) ||
      getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length) ||
      map_ring(fd, &offsets.fr, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING, &fill) ||
      map_ring(fd, &offsets.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING, &receive))
    return -1;
  for (uint32_t i = 0; i < FRAMES; i++)
    ((uint64_t *)fill.entries)[i] = (uint64_t)i * FRAME_BYTES;
  __atomic_store_n(fill.producer, FRAMES, __ATOMIC_RELEASE);
  if (bind_with_retries(fd, &address) || attach(fd, address.sxdp_ifindex, object))
    return -1;
  return fd;
}

/* Returns received frames at once: the fill ring has room for every frame. */
static uint32_t take_xdp(int fd) {
  (void)fd;
  uint32_t at = *receive.consumer, back = *fill.producer;
  uint32_t ready = __atomic_load_n(receive.producer, __ATOMIC_ACQUIRE) - at;
  uint32_t count = ready < BATCH ? ready : BATCH;
  const struct xdp_desc *entries = receive.entries;
  for (uint32_t i = 0; i < count; i++)
    __builtin_prefetch(frames + entries[(at + i) & (FRAMES - 1)].addr);
  for (uint32_t i = 0; i < count; i++) {
    const struct xdp_desc *one = &entries[(at + i) & (FRAMES - 1)];
    decode_headers(frames + one->addr, one->len, one->len);
    ((uint64_t *)fill.entries)[back++ & (FRAMES - 1)] = one->addr & ~(uint64_t)(FRAME_BYTES - 1);
  }
  meter();
  __atomic_store_n(receive.consumer, at + count, __ATOMIC_RELEASE);
  __atomic_store_n(fill.producer, back, __ATOMIC_RELEASE);
  return count;
}

/* ---- the loop ----------------------------------------------------------------------------- */

static double used_sec(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void run(int fd, uint32_t (*take)(int fd)) {
  struct pollfd waited[2] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
  char line[32];
  for (bool told = false;;) {
    if (take(fd))
      continue;
    int woken = poll(waited, told ? 1 : 2, told ? QUIET_MS : -1);
    if (told && woken == 0) {
      printf("{\"captured\": %llu, \"flows\": %llu, \"cpu_sec\": %.6f}\n",
             (unsigned long long)packets, (unsigned long long)flows, used_sec());
      fflush(stdout);
      told = false;
    } else if (!told && waited[1].revents) {
      told = fgets(line, sizeof line, stdin) != NULL;
      if (!told)
        return;
    }
  }
}

int main(int count, char **words) {
  bool xdp = count == 4 && strcmp(words[1], "af_xdp") == 0;
  if (!xdp && (count != 3 || strcmp(words[1], "af_packet") != 0)) {
    fprintf(stderr, "usage: minimal af_packet INTERFACE | minimal af_xdp INTERFACE OBJECT\n");
    return 2;
  }
  table = memory(TABLE_FLOWS * sizeof *table);
  int fd = xdp ? open_xdp(words[2], words[3]) : open_packet(words[2]);
  if (!table || fd < 0) {
    perror(words[1]);
    return 1;
  }
  printf("{\"ready\": true}\n");
  fflush(stdout);
  setvbuf(stdin, NULL, _IONBF, 0); /* poll does not see data in a stdio buffer */
  run(fd, xdp ? take_xdp : take_packet);
  return 0;
}
