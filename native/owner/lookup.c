/* lookup.c - from a flow's addresses to its owners, or to the reason why they are unknown.
 *
 * Runs on the worker's thread, for each record. A socket is believed only for flows while it was
 * open: a port may have belonged to another socket before.
 */
#include "ip_protocol.h"
#include "owner/state.h"

enum { SYN = 2, RST = 4 };
/* Clocks of packets and programs may differ by SKEW. A server's connection is reported after its
 * HANDSHAKE, some UDP sockets after their FIRST_SEND: 0.04 ms at most under load. A flow may begin
 * SOON after its socket. */
static const uint64_t SKEW_NS = 200000, HANDSHAKE_NS = 1000000000, FIRST_SEND_NS = 100000000,
                      SOON_NS = 20000000, LINGER_NS = 1000000000,
                      LOST_NS = 10000000000; /* sockets are listed again after a loss */

enum { KINDS_OF_KEY = 3, CANDIDATES_MAX = KINDS_OF_KEY * SONDE_OWNER_FOUND_MAX };

/* Sockets that may have sent or received a flow. */
struct candidates {
  struct sonde_socket list[CANDIDATES_MAX];
  uint32_t count;
};

/* One flow on its way through the functions below. */
struct question {
  struct sonde_owner_tracker *tracker;
  const struct sonde_record *record;
  uint64_t lost;    /* events lost so far */
  uint64_t lost_ns; /* the last one, since the epoch */
  bool sends;       /* the end sent the flow's first packet */
  bool distrusted;  /* a socket was not believed because of a lost event */
  bool older;       /* a socket is older than the index */
};

static bool is_loopback(uint8_t version, const uint8_t ip[16]) {
  static const uint8_t one[16] = {[15] = 1};
  return version == 4 ? ip[0] == 127 : memcmp(ip, one, 16) == 0;
}

/* How long after a packet its socket may be reported. */
static uint64_t delay_ns(const struct question *question, const struct sonde_socket *socket) {
  if (socket->key.protocol == SONDE_IP_TCP && socket->key.remote_port)
    return HANDSHAKE_NS;
  return socket->late && question->sends ? FIRST_SEND_NS : SKEW_NS;
}

static bool gone_before(const struct question *question, const struct sonde_socket *socket) {
  return socket->gone_ns && socket->gone_ns <= question->record->first_ns;
}

static bool is_wildcard(const struct sonde_socket *socket) {
  static const uint8_t any[16];
  return memcmp(socket->key.local, any, sizeof any) == 0;
}

/* The kernel gives a packet to the open socket with the highest. */
static int precision(const struct question *question, const struct sonde_socket *socket) {
  if (!is_wildcard(socket))
    return 2;
  return socket->key.ip_version == question->record->ip_version;
}

static bool fits(struct question *question, const struct sonde_socket *socket) {
  const struct sonde_record *record = question->record;
  uint64_t known_ns = socket->checked_ns > socket->since_ns ? socket->checked_ns : socket->since_ns;
  if (socket->since_ns > record->last_ns + delay_ns(question, socket))
    return false;
  if (socket->gone_ns && socket->gone_ns + LINGER_NS < record->flow_start_ns)
    return false;
  if (question->lost && question->lost_ns > known_ns &&
      known_ns + SOON_NS < record->flow_start_ns) {
    question->distrusted = true;
    return false;
  }
  return true;
}

/* Whether the flow belongs to a socket that was reported after its first packet, although an older
 * one had the port. */
static bool succeeds(const struct question *question, const struct sonde_socket *socket,
                     const struct sonde_socket *older) {
  bool reported = socket->since_ns <= question->record->last_ns;
  return gone_before(question, older) && (reported || delay_ns(question, socket) > SKEW_NS);
}

/* Compares two sockets that had the same port, at once or one after the other. A record belongs to
 * the newest that was open at its first packet. */
static bool is_nearer(const struct question *question, const struct sonde_socket *one,
                      const struct sonde_socket *other) {
  uint64_t first_ns = question->record->first_ns;
  int ahead = precision(question, one) - precision(question, other);
  bool one_existed = one->since_ns <= first_ns + (ahead > 0 ? SKEW_NS : 0);
  bool other_existed = other->since_ns <= first_ns + (ahead < 0 ? SKEW_NS : 0);
  if (one_existed != other_existed)
    return one_existed ? !succeeds(question, other, one) : succeeds(question, one, other);
  if (!one_existed)
    return one->since_ns < other->since_ns;
  bool one_gone = gone_before(question, one), other_gone = gone_before(question, other);
  if (one_gone != other_gone)
    return other_gone;
  return ahead && !one_gone ? ahead > 0 : one->since_ns > other->since_ns;
}

/* Returns the socket that fits: of this namespace, or of the only other one. */
static const struct sonde_socket *choose(struct question *question,
                                         const struct candidates *candidates, bool own_only) {
  const struct sonde_socket *best = NULL;
  uint64_t own = question->tracker->netns;
  bool several = false;
  for (uint32_t i = 0; i < candidates->count; i++) {
    const struct sonde_socket *one = &candidates->list[i];
    if ((own_only && one->netns != own) || !fits(question, one))
      continue;
    if (!best || (one->netns == own && best->netns != own) ||
        (one->netns == best->netns && is_nearer(question, one, best))) {
      several &= best && one->netns != own;
      best = one;
    } else if (one->netns != best->netns && best->netns != own) {
      several = true;
    }
  }
  return several && best->netns != own ? NULL : best;
}

/* Whether the socket may have sent or received some of the record's packets, although another one
 * was chosen. */
static bool may_interfere(struct question *question, const struct sonde_socket *socket,
                          const struct sonde_socket *chosen) {
  uint64_t last_ns = question->record->last_ns;
  if (socket->netns != chosen->netns || gone_before(question, socket) || !fits(question, socket))
    return false;
  if (chosen->gone_ns && chosen->gone_ns < last_ns &&
      (!socket->gone_ns || socket->gone_ns > chosen->gone_ns))
    return true;
  if (socket->since_ns > last_ns)
    return false;
  if (is_wildcard(chosen))
    return !is_wildcard(socket);
  struct sonde_owner owner; /* a connected socket receives from one address only */
  sonde_owner_table_read(question->tracker->table, chosen->owner, &owner);
  return owner.how == SONDE_OWNER_CONNECT;
}

/* Whether another process may have sent or received some of the record's packets through another
 * socket with the same port. */
static bool is_shared(struct question *question, const struct sonde_socket *chosen,
                      const struct candidates *candidates) {
  const struct sonde_record *record = question->record;
  if (question->sends && chosen->since_ns > record->first_ns + delay_ns(question, chosen))
    return true;
  for (uint32_t i = 0; i < candidates->count; i++) {
    const struct sonde_socket *one = &candidates->list[i];
    if (may_interfere(question, one, chosen) &&
        !sonde_owner_is_same(question->tracker->table, one->owner, chosen->owner))
      return true;
  }
  return false;
}

static bool is_local(struct sonde_owner_tracker *tracker, uint8_t version, const uint8_t ip[16],
                     uint64_t netns) {
  struct sonde_socket_key key = {.ip_version = version, .protocol = SONDE_OWNER_ADDRESS};
  struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
  if (is_loopback(version, ip))
    return netns == 0 || netns == tracker->netns;
  memcpy(key.local, ip, 16);
  uint32_t count = sonde_owner_index_find(tracker->index, &key, found);
  for (uint32_t i = 0; i < count; i++)
    if (netns == 0 || found[i].netns == netns)
      return true;
  return false;
}

/* Finds the sockets with this address and port; with `wildcards` also those that receive at any
 * address of a namespace which has this one. */
static void find_candidates(struct sonde_owner_tracker *tracker, const struct sonde_socket_key *key,
                            bool wildcards, struct candidates *into) {
  struct sonde_socket_key any = *key;
  memset(any.local, 0, sizeof any.local);
  into->count = sonde_owner_index_find(tracker->index, key, into->list);
  for (uint8_t version = key->ip_version; wildcards && version <= 6; version += 2) {
    struct sonde_socket found[SONDE_OWNER_FOUND_MAX];
    any.ip_version = version;
    uint32_t count = sonde_owner_index_find(tracker->index, &any, found);
    for (uint32_t i = 0; i < count; i++)
      if (is_local(tracker, key->ip_version, key->local, found[i].netns))
        into->list[into->count++] = found[i];
  }
}

/* Returns the owner of one end, or 0. */
static uint32_t find_end(struct question *question, const struct sonde_socket_key *end) {
  struct sonde_socket_key key = *end;
  struct candidates candidates;
  bool udp = key.protocol == SONDE_IP_UDP;
  if (udp)
    sonde_owner_drop_remote(&key);
  find_candidates(question->tracker, &key, udp, &candidates);
  const struct sonde_socket *best =
      choose(question, &candidates, is_loopback(key.ip_version, key.local));
  if (!best)
    return 0;
  if (sonde_owner_is_known(best->owner))
    return sonde_owner_share(best->owner, is_shared(question, best, &candidates));
  question->older = true;
  return 0;
}

uint32_t sonde_owner_find_listener(struct sonde_owner_tracker *tracker,
                                   const struct sonde_socket_key *connection) {
  struct sonde_record now = {
      .first_ns = tracker->now_ns,
      .flow_start_ns = tracker->now_ns,
      .last_ns = tracker->now_ns,
      .ip_version = connection->ip_version,
  };
  struct question question = {.tracker = tracker, .record = &now};
  struct sonde_socket_key key = *connection;
  struct candidates candidates;
  sonde_owner_drop_remote(&key);
  find_candidates(tracker, &key, true, &candidates);
  const struct sonde_socket *best = choose(&question, &candidates, true);
  return best ? best->owner : 0;
}

/* Why no socket of this host owns the flow. */
static enum sonde_owner_reason reason_of(const struct question *question) {
  const struct sonde_record *record = question->record;
  struct sonde_owner_tracker *tracker = question->tracker;
  bool tcp = record->protocol == SONDE_IP_TCP;
  bool source = is_local(tracker, record->ip_version, record->source_ip, 0);
  bool dest = is_local(tracker, record->ip_version, record->dest_ip, 0);
  uint8_t flags = record->tcp_flags[0] | record->tcp_flags[1];
  if (question->older)
    return SONDE_OWNER_BEFORE_START;
  if (question->distrusted)
    return SONDE_OWNER_LOST;
  if (!tcp && record->protocol != SONDE_IP_UDP)
    return source || dest ? SONDE_OWNER_KERNEL : SONDE_OWNER_FORWARDED;
  uint8_t sent = record->tcp_flags[source ? 0 : 1];
  if (tcp && (source || dest) && (sent & RST) && !(sent & SYN))
    return SONDE_OWNER_KERNEL;
  if (question->lost && question->lost_ns + LOST_NS > record->flow_start_ns)
    return SONDE_OWNER_LOST;
  if (!source && !dest)
    return SONDE_OWNER_FORWARDED;
  if (tcp && record->segment == 0 && !(flags & SYN))
    return SONDE_OWNER_BEFORE_START;
  if (atomic_load(&tracker->evicted))
    return SONDE_OWNER_LOST;
  if (record->flow_start_ns < tracker->started_ns + LINGER_NS)
    return SONDE_OWNER_BEFORE_START;
  return SONDE_OWNER_NAT;
}

void sonde_owner_record(void *context, uint32_t owners[2], struct sonde_record *record) {
  struct sonde_owner_tracker *tracker = context;
  struct question question = {.tracker = tracker, .record = record};
  struct sonde_socket_key source = {
      .local_port = record->source_port,
      .remote_port = record->dest_port,
      .ip_version = record->ip_version,
      .protocol = record->protocol,
  };
  memcpy(source.local, record->source_ip, 16);
  memcpy(source.remote, record->dest_ip, 16);
  struct sonde_socket_key dest = source;
  dest.local_port = record->dest_port, dest.remote_port = record->source_port;
  memcpy(dest.local, record->dest_ip, 16);
  memcpy(dest.remote, record->source_ip, 16);
  question.lost = sonde_owner_lost(tracker);
  if (question.lost)
    question.lost_ns = __atomic_load_n(&tracker->control->lost_ns, __ATOMIC_RELAXED) +
                       atomic_load(&tracker->clock_offset);
  if (record->protocol == SONDE_IP_TCP || record->protocol == SONDE_IP_UDP) {
    uint32_t found[2];
    question.sends = record->total_packets[0] != 0;
    found[0] = find_end(&question, &source);
    question.sends = false;
    found[1] = find_end(&question, &dest);
    owners[0] = found[0] ? found[0] : owners[0];
    owners[1] = found[1] ? found[1] : owners[1];
  }
  record->process = owners[0] ? owners[0] : owners[1];
  record->peer_process = owners[0] ? owners[1] : 0;
  record->process_side = owners[0] ? SONDE_SIDE_SOURCE : owners[1] ? SONDE_SIDE_DEST : 0;
  if (!record->process)
    record->process = sonde_owner_unknown(reason_of(&question));
}
