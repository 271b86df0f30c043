/* v5.c - NetFlow v5: one fixed layout, IPv4 only, 32-bit counters.
 *
 *   header  version count │ SysUptime │ secs │ nsecs │ flow sequence │ engine sampling   24
 *   record  source dest nexthop │ in out │ packets octets │ first last │ ports │ …       48
 */
#include "bytes.h"
#include "encoder.h"

enum { HEADER_BYTES = 24, RECORD_BYTES = 48, RECORDS_MAX = 30 };

/* ---- parts of a record ---------------------------------------------------------------- */

/* Octets and packets have 32 bits. Larger counts are split into equal parts; a segment of minutes
 * makes only a few parts, at most this many. */
static const uint64_t PARTS_MAX = 1 << 20;

static uint64_t count_parts(const struct sonde_record *record, int way) {
  if (record->packets[way] == 0)
    return 0;
  uint64_t most =
      record->packets[way] > record->bytes[way] ? record->packets[way] : record->bytes[way];
  uint64_t parts = most / UINT32_MAX + (most % UINT32_MAX != 0);
  return parts < PARTS_MAX ? parts : PARTS_MAX;
}

static uint64_t count_pieces(const struct sonde_encoder *encoder,
                             const struct sonde_record *record) {
  (void)encoder;
  if (record->ip_version != 4)
    return 0;
  return count_parts(record, SONDE_UNIFLOW_FORWARD) + count_parts(record, SONDE_UNIFLOW_REVERSE);
}

/* Returns a part's share. Shares differ by at most one and add up to the whole. */
static uint64_t share(uint64_t whole, uint64_t part, uint64_t parts) {
  uint64_t each = whole / parts + (part < whole % parts);
  return each < UINT32_MAX ? each : UINT32_MAX;
}

/* ---- bytes ---------------------------------------------------------------------------- */

static uint16_t shorten_ifindex(uint32_t ifindex) {
  return ifindex <= UINT16_MAX ? (uint16_t)ifindex : 0;
}

static void put_record(uint8_t *p, const struct sonde_uniflow *uniflow) {
  p = put_octets(p, 4, uniflow->source_ip);
  p = put_octets(p, 4, uniflow->dest_ip);
  p = put_u32(p, 0); /* next hop */
  p = put_u16(p, shorten_ifindex(uniflow->input_ifindex));
  p = put_u16(p, shorten_ifindex(uniflow->output_ifindex));
  p = put_u32(p, (uint32_t)uniflow->packets);
  p = put_u32(p, (uint32_t)uniflow->octets);
  p = put_u32(p, uniflow->first_uptime);
  p = put_u32(p, uniflow->last_uptime);
  p = put_u16(p, uniflow->source_port);
  p = put_u16(p, uniflow->dest_port);
  p = put_u8(p, 0);
  p = put_u8(p, uniflow->tcp_flags);
  p = put_u8(p, uniflow->record->protocol);
  p = put_u8(p, uniflow->record->tos);
  p = put_u64(p, 0); /* autonomous systems, masks, padding */
}

static bool put(struct sonde_encoder *encoder, const struct sonde_record *record, uint64_t piece,
                struct sonde_messages *messages) {
  struct sonde_draft *draft = &encoder->draft;
  struct sonde_uniflow uniflow;
  uint64_t forward = count_parts(record, SONDE_UNIFLOW_FORWARD);
  int way = piece < forward ? SONDE_UNIFLOW_FORWARD : SONDE_UNIFLOW_REVERSE;
  uint64_t part = way == SONDE_UNIFLOW_FORWARD ? piece : piece - forward;
  uint64_t parts = count_parts(record, way);
  sonde_uniflow_fill(&uniflow, record, way, sonde_encoder_ifindex(encoder, record));
  if (parts > 1) {
    uniflow.packets = share(uniflow.packets, part, parts);
    uniflow.octets = share(uniflow.octets, part, parts);
  }
  if (draft->start && (draft->items == RECORDS_MAX || draft->end - draft->p < RECORD_BYTES))
    sonde_draft_close(encoder, messages);
  if (!sonde_draft_ensure(encoder, &uniflow, 1, messages))
    return false;
  sonde_draft_set_times(encoder, &uniflow);
  put_record(draft->p, &uniflow);
  draft->p += RECORD_BYTES;
  sonde_draft_count(encoder, &uniflow);
  return true;
}

static void close(struct sonde_encoder *encoder) {
  const struct sonde_draft *draft = &encoder->draft;
  uint64_t time_ms = draft->window.header_ms;
  uint32_t interval = encoder->sampling_interval;
  uint16_t sampling = interval > 1 ? (uint16_t)(1 << 14 | (interval < 0x3fff ? interval : 0x3fff))
                                   : 0; /* mode 1: every Nth packet */
  uint8_t *p = put_u16(draft->start, 5);
  p = put_u16(p, draft->items);
  p = put_u32(p, (uint32_t)(time_ms - draft->window.base_ms));
  p = put_u32(p, (uint32_t)(time_ms / 1000));
  p = put_u32(p, (uint32_t)(time_ms % 1000 * 1000000));
  p = put_u32(p, encoder->sequences[5]);
  p = put_u8(p, 0);
  p = put_u8(p, (uint8_t)encoder->config.observation_domain);
  p = put_u16(p, sampling);
  encoder->sequences[5] += draft->items;
}

const struct sonde_protocol_ops sonde_protocol_v5 = {5, HEADER_BYTES, count_pieces, put, close};
