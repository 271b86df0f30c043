/* send.c - from a batch to the wire: pace, refusals, full sockets, lost routes.
 *
 * A UDP socket tells of an ICMP error at the next send, which it then does not make, and
 * sendmmsg keeps the error to itself unless that was its first message. So ICMP errors are
 * counted from the socket's error queue. The quoted bytes do not tell the message's records:
 * a refusal is charged to the message sent last, which on a local network it is.
 */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/errqueue.h> /* wants struct timespec */

#include "exporter/collector.h"

enum { SEND_MESSAGES_MAX = 64, BURST_BYTES_MIN = 64 << 10 };
static const uint64_t RECONNECT_NS = 1000000000;
static const uint64_t PATIENCE_NS = 50000000; /* for a socket that takes nothing */
static const uint64_t STUCK_POLL_NS = 1000000;

static void note_error(struct sonde_collector *collector, int number) {
  const char *text = strerrordesc_np(number);
  strncpy(collector->stats.last_error, text ? text : "unknown error",
          sizeof collector->stats.last_error - 1);
}

/* ---- losses --------------------------------------------------------------------------- */

static void count_sent(struct sonde_collector *collector, uint32_t count) {
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
  collector->unsettled = true;
  collector->tried = false;
  collector->hopeless = false;
  collector->stuck_ns = 0;
}

static void count_lost(struct sonde_collector *collector, uint64_t *cause) {
  const struct sonde_message *message = &collector->messages.list[collector->next++];
  *cause += message->records;
  collector->stats.packets_lost += message->packets;
  collector->stats.octets_lost += message->octets;
  collector->tried = false;
  collector->stuck_ns = 0;
}

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
  collector->unsettled = false;
}

static bool take_icmp_error(struct sonde_collector *collector, bool *icmp) {
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
  while (take_icmp_error(collector, &icmp)) {
    collector->stats.refusals += icmp;
    if (icmp && collector->unsettled)
      charge_refusal(collector);
  }
}

void sonde_collector_settle(struct sonde_collector *collector) {
  int pending;
  socklen_t bytes = sizeof pending;
  if (collector->fd < 0 || !collector->unsettled)
    return;
  /* Reading the error clears it, or the next send would not be made. */
  if (getsockopt(collector->fd, SOL_SOCKET, SO_ERROR, &pending, &bytes) == 0)
    count_refusals(collector);
}

/* ---- the socket ----------------------------------------------------------------------- */

static void disconnect(struct sonde_collector *collector, uint64_t now_ns) {
  if (collector->fd >= 0)
    close(collector->fd);
  collector->fd = -1;
  collector->unsettled = false;
  collector->retry_ns = now_ns + RECONNECT_NS;
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

static void earn(struct sonde_collector *collector, uint64_t now_ns) {
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

/* How many messages the pace allows, and their bytes. */
static uint32_t afford(const struct sonde_collector *collector, uint64_t *bytes) {
  uint32_t count = 0, left = collector->messages.count - collector->next;
  *bytes = 0;
  while (count < left && count < SEND_MESSAGES_MAX) {
    uint64_t more = collector->messages.list[collector->next + count].bytes;
    if (*bytes + more > collector->credit_bytes)
      break;
    *bytes += more;
    count++;
  }
  return count;
}

/* When enough has been earned for a good piece of what is left. */
static uint64_t affordable_ns(const struct sonde_collector *collector, uint64_t now_ns) {
  uint64_t wanted = 0, piece = burst_bytes(collector) / 2;
  for (uint32_t i = collector->next; i < collector->messages.count && wanted < piece; i++)
    wanted += collector->messages.list[i].bytes;
  if (wanted > burst_bytes(collector))
    wanted = collector->messages.list[collector->next].bytes;
  uint64_t missing = wanted > collector->credit_bytes ? wanted - collector->credit_bytes : 0;
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

/* Returns when to try the same message again; now_ns: at once. */
static uint64_t handle_failure(struct sonde_collector *collector, int number, uint64_t now_ns) {
  struct sonde_collector_stats *stats = &collector->stats;
  if (number == EINTR)
    return now_ns;
  note_error(collector, number);
  if (number == EAGAIN || number == ENOBUFS || number == ENOMEM) {
    collector->stuck_ns = collector->stuck_ns ? collector->stuck_ns : now_ns;
    if (!collector->hopeless && now_ns - collector->stuck_ns < PATIENCE_NS)
      return now_ns + STUCK_POLL_NS;
    collector->hopeless = true;
    count_lost(collector, &stats->records_lost_no_room);
    return now_ns;
  }
  count_refusals(collector);
  if (!collector->tried) {
    collector->tried = true;
    return now_ns;
  }
  if (number == ECONNREFUSED) {
    count_lost(collector, &stats->records_lost_refused);
  } else {
    count_lost(collector, &stats->records_lost_error);
    if (number != EMSGSIZE && now_ns >= collector->retry_ns)
      disconnect(collector, now_ns - RECONNECT_NS); /* another route may have another source */
  }
  return now_ns;
}

static uint64_t lose_batch(struct sonde_collector *collector) {
  while (!sonde_collector_idle(collector))
    count_lost(collector, &collector->stats.records_lost_error);
  return 0;
}

uint64_t sonde_collector_send(struct sonde_collector *collector, uint64_t now_ns) {
  if (sonde_collector_idle(collector))
    return 0;
  if (collector->fd < 0 && !reconnect(collector, now_ns))
    return lose_batch(collector);
  earn(collector, now_ns);
  uint64_t bytes;
  uint32_t count = afford(collector, &bytes);
  if (count == 0)
    return affordable_ns(collector, now_ns);
  int sent = send_messages(collector, count);
  if (sent <= 0)
    return handle_failure(collector, errno, now_ns);
  for (int i = 0; i < sent; i++)
    collector->credit_bytes -= collector->messages.list[collector->next + (uint32_t)i].bytes;
  count_sent(collector, (uint32_t)sent);
  if ((uint32_t)sent < count)
    count_refusals(collector);
  return sonde_collector_idle(collector) ? 0 : now_ns;
}
