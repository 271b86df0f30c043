/* xdp_test.c - the xdp backend on real veth pairs in a separate network.
 *
 * Every check counts exactly: each sent packet is returned, as a packet or added up, or is dropped
 * and counted. tests/live checks the resulting flows.
 */
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "app_label.h"
#include "check.h"
#include "core/registry.h"
#include "live.h"

enum { BATCH = 64, FRAMES = 5000 };

static const struct sonde_backend_ops *ops;

/* Packets and sums that a capture has returned. */
static struct {
  uint64_t packets;
  uint64_t added_up;
  uint64_t l2_bytes;
  uint64_t outgoing;
  uint32_t marks;
  uint8_t last[128]; /* data of the last packet */
  struct sonde_packet packet;
} seen;

static uint32_t labels; /* set for the captures that open next */

static struct sonde_backend *open_on(const char *interface, int aggregate, int dedicated,
                                     uint32_t ring_bytes, struct sonde_error *error) {
  struct sonde_backend_config config = {.interface = interface,
                                        .file_fd = -1,
                                        .queues = 1,
                                        .snaplen = 262144,
                                        .ring_bytes = ring_bytes,
                                        .aggregate = aggregate,
                                        .labels = labels,
                                        .dedicated = dedicated};
  struct sonde_backend *backend = NULL;
  return ops->open(&config, &backend, error) ? NULL : backend;
}

static struct sonde_backend *capture(int aggregate, int dedicated, uint32_t ring_bytes) {
  struct sonde_error error = {0};
  struct sonde_backend *backend = open_on("v0", aggregate, dedicated, ring_bytes, &error);
  if (!backend || ops->start(backend, &error)) {
    fprintf(stderr, "v0: %s\n", error.detail);
    exit(1);
  }
  memset(&seen, 0, sizeof seen);
  return backend;
}

static void note(const struct sonde_packet *packet) {
  struct sonde_delta delta;
  if (packet->linktype != SONDE_LINKTYPE_DELTA) {
    seen.packets++;
    seen.l2_bytes += packet->wirelen;
    seen.outgoing += packet->direction == SONDE_DIRECTION_EGRESS;
    seen.packet = *packet;
    memcpy(seen.last, packet->data,
           packet->caplen < sizeof seen.last ? packet->caplen : sizeof seen.last);
  } else if (packet->caplen == 0) {
    seen.marks++;
  } else {
    memcpy(&delta, packet->data, sizeof delta);
    seen.added_up += delta.packets[0] + delta.packets[1];
    seen.l2_bytes += delta.l2_bytes[0] + delta.l2_bytes[1];
  }
}

/* Ends a capture like a session does. Returns the drops. */
static uint64_t finish(struct sonde_backend *backend) {
  struct sonde_packet packets[BATCH];
  struct sonde_error error = {0};
  struct sonde_backend_stats before, after;
  int count;
  ops->quiesce(backend);
  while ((count = ops->receive(backend, 0, packets, BATCH, 10, &error)) > 0)
    for (int i = 0; i < count; i++)
      note(&packets[i]);
  CHECK_EQ(count, 0);
  ops->stats(backend, &before);
  ops->stop(backend);
  ops->stats(backend, &after);
  CHECK_EQ(before.dropped, after.dropped); /* everything was read */
  ops->close(backend);
  return after.dropped;
}

static void send_both_ways(const struct live_frame *frame, uint32_t count) {
  int arriving = live_sender("v1"), leaving = live_sender("v0");
  for (uint32_t i = 0; i < count; i++) {
    live_send(arriving, frame->bytes, frame->length);
    live_send(leaving, frame->bytes, frame->length);
  }
  close(arriving);
  close(leaving);
}

static void check_counts(void) {
  struct live_frame frame = live_udp4(NULL, 0x0a000001, 0x0a000002, 1, 2, 100, 0);
  struct sonde_backend *backend = capture(0, 0, 32 << 20);
  send_both_ways(&frame, FRAMES);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen.packets, 2 * FRAMES);
  CHECK_EQ(seen.outgoing, FRAMES);
  CHECK(memcmp(seen.last, frame.bytes, 94) == 0);

  backend = capture(1, 0, 32 << 20);
  send_both_ways(&frame, FRAMES);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen.packets + seen.added_up, 2 * FRAMES);
  CHECK_EQ(seen.l2_bytes, 2 * FRAMES * frame.length);
  CHECK(seen.added_up > 2 * FRAMES - 100); /* the first ones wake the reader */
  CHECK(seen.marks > 0);

  backend = capture(0, 1, 32 << 20); /* dedicated: captures incoming frames only */
  int arriving = live_sender("v1");
  for (uint32_t i = 0; i < 100; i++)
    live_send(arriving, frame.bytes, frame.length);
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen.packets, 100);
  CHECK_EQ(seen.outgoing, 0);
  close(arriving);
}

/* No sum is left behind, for any number of flows and any end of a batch. */
static void check_every_sum(void) {
  static const uint32_t counts[] = {BATCH - 1, BATCH, BATCH + 6, 2 * BATCH - 1, 3 * BATCH + 1};
  int arriving = live_sender("v1");
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    uint32_t flows = counts[i];
    struct sonde_backend *backend = capture(1, 0, 4 << 20);
    for (uint32_t flow = 0; flow < flows; flow++) {
      struct live_frame frame = live_udp4(NULL, 1, 2, (uint16_t)(1000 + flow), 4, 100, 0);
      live_send(arriving, frame.bytes, frame.length);
    }
    CHECK_EQ(finish(backend), 0);
    CHECK_EQ(seen.packets + seen.added_up, flows);
  }
  close(arriving);
}

/* A TCP packet with 60 bytes of payload, or a SYN without. */
static struct live_frame tcp4(uint16_t source_port, bool syn) {
  struct live_frame frame = live_udp4(NULL, 1, 2, source_port, 80, syn ? 40 : 100, 0);
  frame.bytes[23] = 6;
  memset(frame.bytes + 38, 0, 16);
  frame.bytes[46] = 0x50;
  frame.bytes[47] = syn ? 2 : 16;
  return frame;
}

/* With labels, packets that can name a flow arrive as packets, and others are added up. */
static void check_labels(void) {
  enum { OPENING = 12 };
  struct live_frame bulk = live_udp4(NULL, 1, 2, 3000, 443, 100, 0), initial = bulk, dns;
  const uint8_t head[] = {0xc0, 0, 0, 0, 1};
  struct live_frame syn = tcp4(4000, true), payload = tcp4(4000, false), older = tcp4(5000, false);
  memcpy(initial.bytes + 42, head, sizeof head);
  dns = live_udp4(NULL, 1, 2, 3001, 53, 100, 0);
  const struct {
    const struct live_frame *frame;
    uint32_t sent, in_full; /* each way */
  } cases[] = {{&bulk, FRAMES, 0},
               {&initial, 10, 10},
               {&dns, 10, 10},
               {&syn, 1, 1},
               {&payload, FRAMES, OPENING / 2},
               {&older, FRAMES, 0}};
  labels = SONDE_LABEL_TLS | SONDE_LABEL_QUIC | SONDE_LABEL_DNS | SONDE_LABEL_HTTP;
  struct sonde_backend *backend = capture(1, 0, 32 << 20);
  uint64_t sent = 0, in_full = 0;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    send_both_ways(cases[i].frame, cases[i].sent);
    sent += 2 * cases[i].sent;
    in_full += 2 * cases[i].in_full;
  }
  CHECK_EQ(finish(backend), 0);
  CHECK_EQ(seen.packets + seen.added_up, sent);
  CHECK(seen.packets >= in_full);
  CHECK(seen.packets < in_full + 100); /* the first ones wake the reader */
  labels = 0;
}

/* A tag that the kernel keeps outside the frame is restored in line and is in the key. */
static void check_tags(void) {
  static const uint32_t stacks[][4] = {{0x8100002a}, {0x88a80064, 0x81000014}, {0x81000000}};
  for (size_t i = 0; i < sizeof stacks / sizeof stacks[0]; i++) {
    struct live_frame frame = live_udp4(stacks[i], 1, 2, 3, 4, 80, 0);
    struct sonde_backend *backend = capture(0, 0, 1 << 20);
    send_both_ways(&frame, 1);
    CHECK_EQ(finish(backend), 0);
    CHECK_EQ(seen.packets, 2);
    CHECK_EQ(seen.packet.wirelen, frame.length);
    CHECK(memcmp(seen.last, frame.bytes, frame.length) == 0);
    backend = capture(1, 0, 1 << 20);
    send_both_ways(&frame, 10);
    CHECK_EQ(finish(backend), 0);
    CHECK_EQ(seen.packets + seen.added_up, 20);
    CHECK_EQ(seen.l2_bytes, 20 * frame.length);
  }
}

/* Fragments are always sent as packets. If they overflow the ring, they are dropped and counted. */
static void check_overflow(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 1000, 0x2000);
  for (int aggregate = 0; aggregate < 2; aggregate++) {
    struct sonde_backend *backend = capture(aggregate, 0, 1 << 20);
    send_both_ways(&frame, FRAMES);
    uint64_t dropped = finish(backend);
    CHECK(dropped > 0);
    CHECK_EQ(seen.packets + dropped, 2 * FRAMES);
    CHECK_EQ(seen.added_up, 0);
  }
}

/* A backend that is never read has lost everything when it stops, and reports so. */
static void check_unread(void) {
  struct live_frame frame = live_udp4(NULL, 1, 2, 3, 4, 100, 0);
  struct sonde_backend_stats stats;
  for (int aggregate = 0; aggregate < 2; aggregate++) {
    struct sonde_backend *backend = capture(aggregate, 0, 4 << 20);
    send_both_ways(&frame, 100);
    ops->stop(backend);
    ops->stats(backend, &stats);
    CHECK_EQ(stats.dropped, 200);
    ops->close(backend);
  }
}

static void check_rejected_opens(void) {
  struct sonde_error error = {0};
  CHECK(!open_on("nonesuch", 0, 0, 1 << 20, &error));
  CHECK_EQ(error.status, SONDE_INTERFACE_INVALID);
  CHECK(!open_on("lo", 0, 1, 1 << 20, &error));
  CHECK_EQ(error.status, SONDE_INTERFACE_SHARED);
  struct sonde_backend *first = capture(0, 1, 1 << 20);
  struct sonde_backend *second = open_on("v0", 0, 1, 1 << 20, &error);
  CHECK(!second || ops->start(second, &error) < 0);
  CHECK_EQ(error.status, SONDE_INTERFACE_SHARED);
  ops->close(second);
  CHECK_EQ(finish(first), 0);
}

/* Without the privileges the probe names the missing ones. */
static void check_privileges(void) {
  pid_t child = fork();
  if (child == 0) {
    struct sonde_error error = {0};
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    syscall(SYS_capset, &head, none);
    int status = ops->probe(&error);
    _exit(status == SONDE_PERMISSION && strstr(error.detail, "CAP_BPF") ? 0 : 1);
  }
  int ended = 0;
  waitpid(child, &ended, 0);
  CHECK_EQ(ended, 0);
}

int main(void) {
  struct sonde_error error = {0};
  if (sonde_registry_load(SONDE_PLUGIN_DIR, "xdp", &ops, &error) || ops->probe(&error)) {
    fprintf(stderr, "xdp cannot be tested on this machine: %s\n", error.detail);
    return 1;
  }
  live_begin();
  live_pair();
  check_counts();
  check_every_sum();
  check_labels();
  check_tags();
  check_overflow();
  check_unread();
  check_rejected_opens();
  check_privileges();
  return check_report();
}
