/* tcp.c - tracks TCP connections by their sequence numbers, RFC 9293 §3.4.
 *
 * Retransmission and reordering look the same in one header. Data below the expected sequence
 * number is out of order if a gap is open, else retransmitted. A keep-alive (at most one byte just
 * below the expected number) is neither, but a SYN or FIN there is retransmitted.
 */
#include "entry.h"

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16, RETRANSMITTED_MAX = 15 };

static void track_sequence(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           const struct sonde_decoded *packet, unsigned direction) {
  unsigned known = SONDE_STATE_SEQ << direction;
  unsigned gap = SONDE_STATE_GAP << direction;
  uint32_t length = packet->tcp_payload + !!(packet->tcp_flags & SYN) + !!(packet->tcp_flags & FIN);
  uint32_t end = packet->tcp_seq + length;
  if (!(hot->state & known)) {
    hot->state |= (uint16_t)known;
    hot->tcp_next[direction] = end;
    return;
  }
  if (length == 0)
    return;
  int32_t ahead = (int32_t)(packet->tcp_seq - hot->tcp_next[direction]);
  if (ahead == 0) {
    hot->tcp_next[direction] = end;
  } else if (ahead > 0) {
    hot->tcp_next[direction] = end;
    hot->state |= (uint16_t)gap;
  } else if (hot->state & gap) {
    cold->out_of_order++;
    hot->state &= (uint16_t)~gap;
  } else if (length > 1 || ahead < -1 || (packet->tcp_flags & (SYN | FIN))) {
    if (++hot->retransmitted == RETRANSMITTED_MAX) {
      cold->retransmissions += RETRANSMITTED_MAX;
      hot->retransmitted = 0;
    }
  }
  if (ahead < 0 && (int32_t)(end - hot->tcp_next[direction]) > 0)
    hot->tcp_next[direction] = end;
}

static void note_syn(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold, uint64_t time_ns) {
  uint64_t offset_us = (time_ns - cold->start_ns) / 1000;
  if (offset_us >= UINT32_MAX || ((hot->state & SONDE_STATE_SYN) && offset_us < cold->handshake_us))
    return;
  if (time_ns == hot->last_ns) /* sent again: an earlier SYN-ACK is no answer to it */
    hot->state &= (uint16_t)~(SONDE_STATE_SYN_ACK | SONDE_STATE_ACK);
  if (cold->ack_ns < offset_us * 1000)
    hot->state &= (uint16_t)~SONDE_STATE_ACK;
  cold->handshake_us = (uint32_t)offset_us;
  hot->state |= SONDE_STATE_SYN;
}

static void note_syn_ack(struct sonde_flow_hot *hot, const struct sonde_flow_cold *cold,
                         uint64_t time_ns) {
  if (cold->ack_ns < time_ns - cold->start_ns)
    hot->state &= (uint16_t)~SONDE_STATE_ACK;
  hot->state |= SONDE_STATE_SYN_ACK;
}

static void note_ack(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold, uint64_t time_ns) {
  uint64_t offset_ns = time_ns - cold->start_ns;
  if ((hot->state & SONDE_STATE_SYN) && offset_ns < (uint64_t)cold->handshake_us * 1000)
    return;
  if (!(hot->state & SONDE_STATE_ACK) || offset_ns < cold->ack_ns)
    cold->ack_ns = offset_ns < UINT32_MAX ? (uint32_t)offset_ns : UINT32_MAX;
  hot->state |= SONDE_STATE_ACK;
}

/* Sets the result once all three packets are known and the client is the source. */
static void finish_handshake(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                             const struct sonde_decoded *packet) {
  const unsigned all = SONDE_STATE_SYN | SONDE_STATE_SYN_ACK | SONDE_STATE_ACK;
  if ((hot->state & all) != all ||
      !(hot->state & SONDE_STATE_CLIENT_HI) != !(hot->state & SONDE_STATE_SOURCE_HI))
    return;
  uint64_t ack_ns = cold->start_ns + cold->ack_ns;
  if (cold->ack_ns == UINT32_MAX)
    ack_ns = packet->time_ns;
  uint64_t syn_ns = cold->start_ns + (uint64_t)cold->handshake_us * 1000;
  uint64_t rtt_us = ack_ns > syn_ns ? (ack_ns - syn_ns) / 1000 : 0;
  cold->handshake_us = rtt_us < UINT32_MAX ? (uint32_t)rtt_us : UINT32_MAX - 1;
  hot->state |= SONDE_STATE_RTT;
}

/* Accepts the three packets in any order. The client is the side that sends the SYN and the ACK and
 * receives the SYN-ACK. */
static void track_handshake(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                            const struct sonde_decoded *packet, unsigned direction) {
  const unsigned opened = SONDE_STATE_SYN | SONDE_STATE_SYN_ACK;
  unsigned flags = packet->tcp_flags & (SYN | ACK);
  bool source_hi = hot->state & SONDE_STATE_SOURCE_HI;
  bool client_hi = (direction ^ source_hi) != (flags == (SYN | ACK));
  if (flags == ACK && (hot->state & (SONDE_STATE_SYN_ACK | SONDE_STATE_ACK)) == SONDE_STATE_ACK &&
      packet->time_ns == hot->last_ns)
    return; /* one side only: a later ACK changes nothing */
  if (flags == 0 || packet->time_ns < cold->start_ns)
    return;
  if ((hot->state & (opened | SONDE_STATE_ACK)) &&
      client_hi != !!(hot->state & SONDE_STATE_CLIENT_HI)) {
    if (flags == ACK || ((hot->state & opened) && client_hi != source_hi))
      return; /* the server's ACK, or both sides open */
    hot->state &= (uint16_t)~(opened | SONDE_STATE_ACK);
  }
  hot->state &= (uint16_t)~SONDE_STATE_CLIENT_HI;
  hot->state |= client_hi ? SONDE_STATE_CLIENT_HI : 0;
  if (flags == SYN)
    note_syn(hot, cold, packet->time_ns);
  else if (flags == ACK)
    note_ack(hot, cold, packet->time_ns);
  else
    note_syn_ack(hot, cold, packet->time_ns);
  finish_handshake(hot, cold, packet);
}

void sonde_flow_move_start(const struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           uint64_t time_ns) {
  uint64_t back_ns = cold->start_ns - time_ns;
  if (!(hot->state & SONDE_STATE_RTT)) {
    if (hot->state & SONDE_STATE_SYN)
      cold->handshake_us += (uint32_t)(back_ns / 1000);
    uint64_t ack_ns = cold->ack_ns + back_ns;
    cold->ack_ns = ack_ns < UINT32_MAX ? (uint32_t)ack_ns : UINT32_MAX;
  }
  cold->start_ns = time_ns;
}

/* Tracks the side's first packet; the backend has tracked the others. */
void sonde_flow_tcp_merge(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                          const struct sonde_delta *delta, unsigned side, unsigned direction) {
  struct sonde_decoded first = {
      .time_ns = delta->first_ns[side],
      .tcp_seq = delta->tcp_seq[side],
      .tcp_payload = delta->tcp_length[side],
      .tcp_flags = delta->tcp_flags[side] & ACK,
  };
  hot->tcp_flags[direction] |= delta->tcp_flags[side];
  track_sequence(hot, cold, &first, direction);
  if (!(hot->state & SONDE_STATE_RTT) && (hot->state & (SONDE_STATE_SYN | SONDE_STATE_SYN_ACK)))
    track_handshake(hot, cold, &first, direction);
  if ((int32_t)(delta->tcp_next[side] - hot->tcp_next[direction]) > 0)
    hot->tcp_next[direction] = delta->tcp_next[side];
  if (delta->tcp_gap[side])
    hot->state |= (uint16_t)(SONDE_STATE_GAP << direction);
  if (delta->retransmissions[side] | delta->out_of_order[side]) {
    cold->retransmissions += delta->retransmissions[side];
    cold->out_of_order += delta->out_of_order[side];
  }
}

bool sonde_flow_tcp_update(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           const struct sonde_decoded *packet, unsigned direction) {
  track_sequence(hot, cold, packet, direction);
  if (!(hot->state & SONDE_STATE_RTT) &&
      ((packet->tcp_flags & SYN) || (hot->state & (SONDE_STATE_SYN | SONDE_STATE_SYN_ACK))))
    track_handshake(hot, cold, packet, direction);
  if (!(packet->tcp_flags & (FIN | RST)))
    return false;
  if (packet->tcp_flags & RST)
    hot->state |= SONDE_STATE_RST;
  if (packet->tcp_flags & FIN)
    hot->state |= (uint16_t)(SONDE_STATE_FIN << direction);
  unsigned both = SONDE_STATE_FIN | SONDE_STATE_FIN_REVERSE;
  if ((hot->state & SONDE_STATE_CLOSING) ||
      (!(hot->state & SONDE_STATE_RST) && (hot->state & both) != both))
    return false;
  hot->state |= SONDE_STATE_CLOSING;
  return true;
}
