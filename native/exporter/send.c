/* send.c - sends a batch: pace, refusals, full sockets, lost routes.
 *
 * A UDP socket reports an ICMP error at the next send, which then sends nothing. sendmmsg hides the
 * error unless it is its first message's. So ICMP errors are counted from the socket's error queue.
 * The quoted bytes do not identify the message: a refusal counts as the loss of the last message
 * sent, which is right on a local network.
 */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/errqueue.h> /* needs struct timespec */

#include "core/own_traffic.h"
#include "exporter/collector.h"

enum { SEND_MESSAGES_MAX = 64, BURST_BYTES_MIN = 64 << 10 };
static const uint64_t RECONNECT_NS = 1000000000;
static const uint64_t FULL_TIMEOUT_NS = 50000000; /* for a full socket buffer */
static const uint64_t FULL_RETRY_NS = 1000000;
static const uint64_t REFUSAL_NS = 500000000; /* a refusal that comes later is no loss */

static void note_error(struct sonde_collector *collector, int number) {
  const char *text = strerrordesc_np(number);
  strncpy(collector->stats.last_error, text ? text : "unknown error",
          sizeof collector->stats.last_error - 1);
}

/* ---- losses --------------------------------------------------------------------------- */

static void count_sent(struct sonde_collector *collector, uint32_t count, uint64_t now_ns) {
  struct sonde_collector_stats *stats = &collector->stats;
  for (uint32_t i = 0; i < count; i++) {
    const struct sonde_message *message = &collector->messages.list[collector->next++];
    stats->messages_sent++;
    stats->bytes_sent += message->bytes;
    stats->records_sent += message->records;
    stats->packets_sent += message->packets;
    stats->octets_sent += message->octets;
    collector->last = *message;
  }
  collector->last_pending = true;
  collector->last_ns = now_ns;
  collector->failed_once = false;
  collector->drop_when_full = false;
  collector->full_since_ns = 0;
}

static void count_lost(struct sonde_collector *collector, uint64_t *cause) {
  const struct sonde_message *message = &collector->messages.list[collector->next++];
  *cause += message->records;
  collector->stats.packets_lost += message->packets;
  collector->stats.octets_lost += message->octets;
  collector->failed_once = false;
  collector->full_since_ns = 0;
}

/* The message was not reported as sent yet. */
static void charge_refusal(struct sonde_collector *collector) {
  struct sonde_collector_stats *stats = &collector->stats;
  const struct sonde_message *last = &collector->last;
  stats->messages_sent--;
  stats->bytes_sent -= last->bytes;
  stats->records_sent -= last->records;
  stats->packets_sent -= last->packets;
  stats->octets_sent -= last->octets;
  stats->records_lost_refused += last->records;
  stats->packets_lost += last->packets;
  stats->octets_lost += last->octets;
  collector->last_pending = false;
}

static bool read_icmp_error(struct sonde_collector *collector, bool *icmp) {
  _Alignas(struct cmsghdr) uint8_t control[256];
  struct msghdr head = {.msg_control = control, .msg_controllen = sizeof control};
  if (recvmsg(collector->fd, &head, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
    return false;
  *icmp = false;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&head); c; c = CMSG_NXTHDR(&head, c)) {
    struct sock_extended_err error;
    if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
        (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)) {
      memcpy(&error, CMSG_DATA(c), sizeof error);
      *icmp = error.ee_origin == SO_EE_ORIGIN_ICMP || error.ee_origin == SO_EE_ORIGIN_ICMP6;
      note_error(collector, (int)error.ee_errno);
    }
  }
  return true;
}

static void count_refusals(struct sonde_collector *collector) {
  bool icmp;
  while (read_icmp_error(collector, &icmp)) {
    collector->stats.refusals += icmp;
    if (icmp && collector->last_pending)
      charge_refusal(collector);
  }
}

void sonde_collector_settle(struct sonde_collector *collector) {
  int pending;
  socklen_t bytes = sizeof pending;
  if (collector->fd < 0 || !collector->last_pending)
    return;
  /* Read the error to clear it, or the next send would fail. */
  if (getsockopt(collector->fd, SOL_SOCKET, SO_ERROR, &pending, &bytes) == 0)
    count_refusals(collector);
}

void sonde_collector_confirm(struct sonde_collector *collector) {
  sonde_collector_settle(collector);
  collector->last_pending = false;
}

void sonde_collector_confirm_old(struct sonde_collector *collector, uint64_t now_ns) {
  if (collector->last_pending && now_ns - collector->last_ns >= REFUSAL_NS)
    sonde_collector_confirm(collector);
}

/* ---- the socket ----------------------------------------------------------------------- */

void sonde_collector_disconnect(struct sonde_collector *collector) {
  if (collector->fd < 0)
    return;
  close(collector->fd);
  collector->fd = -1;
  collector->last_pending = false;
  sonde_own_traffic_remove(&collector->own, 1);
}

static bool reconnect(struct sonde_collector *collector, uint64_t now_ns) {
  if (now_ns < collector->retry_ns)
    return false;
  collector->retry_ns = now_ns + RECONNECT_NS;
  int fd = socket(collector->to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int on = 1;
  bool ipv6 = collector->to.ss_family == AF_INET6;
  if (fd >= 0 &&
      setsockopt(fd, ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, ipv6 ? IPV6_RECVERR : IP_RECVERR, &on,
                 sizeof on) == 0 &&
      connect(fd, (const struct sockaddr *)&collector->to, collector->to_bytes) == 0) {
    collector->fd = fd;
    sonde_own_traffic_add_socket(fd, &collector->own);
    return true;
  }
  note_error(collector, errno);
  if (fd >= 0)
    close(fd);
  return false;
}

/* ---- sending -------------------------------------------------------------------------- */

static uint64_t burst_bytes(const struct sonde_collector *collector) {
  uint64_t millisecond = collector->pace / 1000;
  return millisecond > BURST_BYTES_MIN ? millisecond : BURST_BYTES_MIN;
}

static void add_credit(struct sonde_collector *collector, uint64_t now_ns) {
  uint64_t burst = burst_bytes(collector);
  uint64_t elapsed_ns = now_ns - collector->credit_ns;
  uint64_t full_ns = burst * 1000000000 / collector->pace + 1;
  collector->credit_ns = now_ns;
  if (elapsed_ns >= full_ns)
    collector->credit_bytes = burst;
  else
    collector->credit_bytes += elapsed_ns * collector->pace / 1000000000;
  if (collector->credit_bytes > burst)
    collector->credit_bytes = burst;
}

/* Returns how many messages the credit allows. */
static uint32_t count_affordable(const struct sonde_collector *collector) {
  uint32_t count = 0, left = collector->messages.count - collector->next;
  uint64_t bytes = 0;
  while (count < left && count < SEND_MESSAGES_MAX) {
    bytes += collector->messages.list[collector->next + count].bytes;
    if (bytes > collector->credit_bytes)
      break;
    count++;
  }
  return count;
}

/* Returns when the credit suffices for half a burst, or for the rest of the batch. */
static uint64_t affordable_ns(const struct sonde_collector *collector, uint64_t now_ns) {
  uint64_t needed = 0, piece = burst_bytes(collector) / 2;
  for (uint32_t i = collector->next; i < collector->messages.count && needed < piece; i++)
    needed += collector->messages.list[i].bytes;
  if (needed > burst_bytes(collector))
    needed = collector->messages.list[collector->next].bytes;
  uint64_t missing = needed > collector->credit_bytes ? needed - collector->credit_bytes : 0;
  return now_ns + missing * 1000000000 / collector->pace + 1;
}

static int send_messages(struct sonde_collector *collector, uint32_t count) {
  struct mmsghdr heads[SEND_MESSAGES_MAX];
  struct iovec pieces[SEND_MESSAGES_MAX];
  memset(heads, 0, count * sizeof heads[0]);
  for (uint32_t i = 0; i < count; i++) {
    const struct sonde_message *message = &collector->messages.list[collector->next + i];
    pieces[i] = (struct iovec){collector->messages.buffer + message->offset, message->bytes};
    heads[i].msg_hdr.msg_iov = &pieces[i];
    heads[i].msg_hdr.msg_iovlen = 1;
  }
  return sendmmsg(collector->fd, heads, count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Drops the message or keeps it for a retry. Returns when to send again. */
static uint64_t handle_failure(struct sonde_collector *collector, int number, uint64_t now_ns) {
  struct sonde_collector_stats *stats = &collector->stats;
  if (number == EINTR)
    return now_ns;
  note_error(collector, number);
  if (number == EAGAIN || number == ENOBUFS || number == ENOMEM) {
    collector->full_since_ns = collector->full_since_ns ? collector->full_since_ns : now_ns;
    if (!collector->drop_when_full && now_ns - collector->full_since_ns < FULL_TIMEOUT_NS)
      return now_ns + FULL_RETRY_NS;
    collector->drop_when_full = true;
    count_lost(collector, &stats->records_lost_no_room);
    return now_ns;
  }
  count_refusals(collector);
  if (!collector->failed_once) {
    collector->failed_once = true;
    return now_ns;
  }
  if (number == ECONNREFUSED) {
    count_lost(collector, &stats->records_lost_refused);
  } else {
    count_lost(collector, &stats->records_lost_error);
    if (number != EMSGSIZE && now_ns >= collector->retry_ns) {
      sonde_collector_disconnect(collector); /* a new route can have a new source address */
      collector->retry_ns = now_ns;
    }
  }
  return now_ns;
}

static uint64_t drop_batch(struct sonde_collector *collector) {
  while (!sonde_collector_idle(collector))
    count_lost(collector, &collector->stats.records_lost_error);
  return 0;
}

uint64_t sonde_collector_send(struct sonde_collector *collector, uint64_t now_ns) {
  if (sonde_collector_idle(collector))
    return 0;
  if (collector->fd < 0 && !reconnect(collector, now_ns))
    return drop_batch(collector);
  add_credit(collector, now_ns);
  uint32_t count = count_affordable(collector);
  if (count == 0)
    return affordable_ns(collector, now_ns);
  int sent = send_messages(collector, count);
  if (sent <= 0)
    return handle_failure(collector, errno, now_ns);
  for (int i = 0; i < sent; i++)
    collector->credit_bytes -= collector->messages.list[collector->next + (uint32_t)i].bytes;
  count_sent(collector, (uint32_t)sent, now_ns);
  if ((uint32_t)sent < count)
    count_refusals(collector);
  return sonde_collector_idle(collector) ? 0 : now_ns;
}
