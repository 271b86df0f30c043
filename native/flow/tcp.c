/* tcp.c - tracks TCP connections by their sequence numbers, RFC 9293 §3.4.
 *
 * Retransmission and reordering look the same in one header. Data below the expected sequence
 * number is out of order if a gap is open, else retransmitted. A keep-alive (at most one byte just
 * below the expected number) is neither, but a SYN or FIN there is retransmitted.
 */
#include "entry.h"

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

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
    if (++hot->retransmitted == UINT8_MAX) {
      cold->retransmissions += UINT8_MAX;
      hot->retransmitted = 0;
    }
  }
  if (ahead < 0 && (int32_t)(end - hot->tcp_next[direction]) > 0)
    hot->tcp_next[direction] = end;
}

static void track_handshake(struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                            const struct sonde_decoded *packet, unsigned direction) {
  unsigned flags = packet->tcp_flags & (SYN | ACK);
  if (direction == 0 && flags == SYN) {
    uint64_t offset_us = (packet->time_ns - cold->start_ns) / 1000;
    if (offset_us < UINT32_MAX) {
      cold->handshake_us = (uint32_t)offset_us;
      hot->state |= SONDE_STATE_SYN;
      hot->state &= (uint16_t)~SONDE_STATE_SYN_ACK;
    }
  } else if (direction == 1 && flags == (SYN | ACK)) {
    if (hot->state & SONDE_STATE_SYN)
      hot->state |= SONDE_STATE_SYN_ACK;
  } else if (direction == 0 && flags == ACK && (hot->state & SONDE_STATE_SYN_ACK)) {
    uint64_t syn_ns = cold->start_ns + (uint64_t)cold->handshake_us * 1000;
    uint64_t rtt_us = packet->time_ns > syn_ns ? (packet->time_ns - syn_ns) / 1000 : 0;
    cold->handshake_us = rtt_us < UINT32_MAX ? (uint32_t)rtt_us : UINT32_MAX - 1;
    hot->state |= SONDE_STATE_RTT;
  }
}

void sonde_flow_move_start(const struct sonde_flow_hot *hot, struct sonde_flow_cold *cold,
                           uint64_t time_ns) {
  if ((hot->state & (SONDE_STATE_SYN | SONDE_STATE_RTT)) == SONDE_STATE_SYN)
    cold->handshake_us += (uint32_t)((cold->start_ns - time_ns) / 1000);
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
  if (!(hot->state & SONDE_STATE_RTT) && (hot->state & SONDE_STATE_SYN_ACK))
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
      ((packet->tcp_flags & SYN) || (hot->state & SONDE_STATE_SYN_ACK)))
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
