/* sets.c - writes v9 and IPFIX messages with flows: sets of templates and of data records.
 *
 *   v9     version count │ SysUptime │ secs │ sequence (messages) │ source id      20
 *   IPFIX  version length │ secs │ sequence (data records) │ domain                16
 *   set    id length │ records │ zeros up to a multiple of 4
 *
 * A due template precedes the first data that needs it. It is due in the first two messages with
 * such data, then again after a time and a number of messages. So a collector that missed it waits
 * for one refresh, and unused templates take no space.
 */
#include "bytes.h"
#include "encoder.h"
#include "export/rendering.h"

enum {
  V9_HEADER_BYTES = 20,
  IPFIX_HEADER_BYTES = 16,
  V9_TEMPLATE_SET = 0,
  IPFIX_TEMPLATE_SET = 2,
  SET_HEADER_BYTES = 4,
  VARIANT_IDS = 2 * SONDE_LAYOUTS, /* the template of statistics is between the first two */
};

static bool is_ipfix(const struct sonde_encoder *encoder) {
  return encoder->config.version == 10;
}

/* ---- records -------------------------------------------------------------------------- */

static bool is_biflow(const struct sonde_encoder *encoder, const struct sonde_record *record) {
  return sonde_encoder_biflows(encoder) && record->packets[1] > 0;
}

static uint64_t count_pieces(const struct sonde_encoder *encoder,
                             const struct sonde_record *record) {
  return is_biflow(encoder, record) ? 1u : (uint64_t)(!!record->packets[0] + !!record->packets[1]);
}

static uint32_t choose_layout(const struct sonde_encoder *encoder,
                              const struct sonde_uniflow *uniflow) {
  return (uniflow->record->ip_version == 6 ? SONDE_LAYOUT_IPV6 : 0) |
         (uniflow->icmp ? SONDE_LAYOUT_ICMP : 0) |
         (encoder->config.profile == SONDE_PROFILE_FULL ? SONDE_LAYOUT_FULL : 0) |
         (is_ipfix(encoder) ? SONDE_LAYOUT_IPFIX : 0) |
         (is_biflow(encoder, uniflow->record) ? SONDE_LAYOUT_BIFLOW : 0);
}

/* ---- sets ----------------------------------------------------------------------------- */

void sonde_set_end(struct sonde_draft *draft, uint8_t *set) {
  while ((draft->p - set) % 4)
    *draft->p++ = 0;
  put_u16(set + 2, (uint16_t)(draft->p - set));
}

static void close_set(struct sonde_draft *draft) {
  if (draft->set)
    sonde_set_end(draft, draft->set);
  draft->set = NULL;
}

/* The record's interface, if each interface has templates. */
static uint32_t variant(const struct sonde_encoder *encoder) {
  return encoder->config.interface_templates ? encoder->source : 0;
}

static uint16_t template_id(const struct sonde_encoder *encoder, uint32_t traits) {
  return (uint16_t)(SONDE_LAYOUT_TEMPLATE_ID + VARIANT_IDS * variant(encoder) + traits);
}

static bool template_due(const struct sonde_encoder *encoder, uint32_t traits) {
  const struct sonde_announcement *last = &encoder->announcements[variant(encoder)][traits];
  if (last->times > 0 && last->sent_message == encoder->messages)
    return false; /* already in this message */
  return last->times < SONDE_TEMPLATE_REPEATS ||
         encoder->messages - last->sent_message >= encoder->config.template_refresh_messages ||
         encoder->now_ns - last->sent_ns >=
             (uint64_t)encoder->config.template_refresh_sec * 1000000000;
}

static bool has_tail(const struct sonde_encoder *encoder, uint32_t traits) {
  return encoder->tail_parts && sonde_layout_has_name(traits);
}

static void put_tail_template(struct sonde_encoder *encoder, uint8_t *template) {
  uint32_t count = read_u16(template + 2) + sonde_tail_count(encoder->tail_parts);
  put_u16(template + 2, (uint16_t)count);
  encoder->draft.p =
      sonde_tail_put_template(encoder->draft.p, encoder->tail_parts, encoder->config.enterprise);
}

static void put_template(struct sonde_encoder *encoder, uint32_t traits) {
  struct sonde_draft *draft = &encoder->draft;
  struct sonde_announcement *announcement = &encoder->announcements[variant(encoder)][traits];
  uint8_t *set = draft->p;
  put_u16(set, is_ipfix(encoder) ? IPFIX_TEMPLATE_SET : V9_TEMPLATE_SET);
  draft->p = sonde_layout_put_template(set + SET_HEADER_BYTES, traits);
  put_u16(set + SET_HEADER_BYTES, template_id(encoder, traits));
  if (has_tail(encoder, traits))
    put_tail_template(encoder, set + SET_HEADER_BYTES);
  sonde_set_end(draft, set);
  draft->items++;
  draft->note.templates++;
  announcement->times += announcement->times < SONDE_TEMPLATE_REPEATS;
  announcement->sent_message = encoder->messages;
  announcement->sent_ns = encoder->now_ns;
}

static uint32_t record_bytes(const struct sonde_encoder *encoder, uint32_t traits) {
  return encoder->record_bytes[traits] + encoder->tail_bytes;
}

/* Begins the layout's data set. Returns false if the message has no room for it and a record. */
static bool open_set(struct sonde_encoder *encoder, uint32_t traits) {
  struct sonde_draft *draft = &encoder->draft;
  close_set(draft);
  bool due = template_due(encoder, traits);
  uint32_t bytes = SET_HEADER_BYTES + ((record_bytes(encoder, traits) + 3) & ~3u);
  if (due)
    bytes += SET_HEADER_BYTES + ((encoder->template_bytes[traits] + 3) & ~3u);
  if (draft->end - draft->p < bytes)
    return false;
  if (due)
    put_template(encoder, traits);
  draft->set = draft->p;
  draft->set_id = template_id(encoder, traits);
  draft->p = put_u16(draft->p, (uint16_t)draft->set_id);
  draft->p += 2; /* length: close_set */
  return true;
}

/* Returns true if the record fits the open set, with padding. */
static bool fits_set(const struct sonde_encoder *encoder, uint32_t traits) {
  const struct sonde_draft *draft = &encoder->draft;
  return draft->set && draft->set_id == template_id(encoder, traits) &&
         draft->end - draft->p >= (int64_t)record_bytes(encoder, traits) + 3;
}

/* Prepares the tail of the next record. It fits a message with the template. */
static void prepare_tail(struct sonde_encoder *encoder, const struct sonde_record *record, int way,
                         uint32_t traits) {
  const struct sonde_render_sources *sources = encoder->config.sources;
  struct sonde_tail_values values = {.side = record->process_side};
  encoder->tail_bytes = 0;
  if (!has_tail(encoder, traits))
    return;
  if (way == SONDE_UNIFLOW_REVERSE && values.side)
    values.side = SONDE_SIDE_SOURCE + SONDE_SIDE_DEST - values.side;
  if ((encoder->tail_parts & SONDE_TAIL_LABEL) && record->label)
    sonde_render_label(sources, record, &values.label);
  if (encoder->tail_parts & SONDE_TAIL_OWNERS) {
    sonde_render_owner(sources, record->process, &values.process);
    sonde_render_owner(sources, record->peer_process, &values.peer);
  }
  uint32_t room = encoder->config.message_bytes_max - sonde_encoder_fixed_bytes(encoder, traits);
  room = room < sizeof encoder->tail ? room : (uint32_t)sizeof encoder->tail;
  uint8_t *end = sonde_tail_put(encoder->tail, encoder->tail_parts, &values, room);
  encoder->tail_bytes = (uint32_t)(end - encoder->tail);
}

static bool put(struct sonde_encoder *encoder, const struct sonde_record *record, uint64_t piece,
                struct sonde_messages *messages) {
  struct sonde_draft *draft = &encoder->draft;
  struct sonde_uniflow uniflow;
  bool biflow = is_biflow(encoder, record);
  int way =
      biflow || (piece == 0 && record->packets[0]) ? SONDE_UNIFLOW_FORWARD : SONDE_UNIFLOW_REVERSE;
  sonde_uniflow_fill(&uniflow, record, way, sonde_encoder_ifindex(encoder, record));
  sonde_encoder_name(encoder, record->source);
  uniflow.name = encoder->name;
  uniflow.name_bytes = encoder->name_bytes;
  uint32_t traits = choose_layout(encoder, &uniflow);
  prepare_tail(encoder, record, way, traits);
  if (!is_ipfix(encoder) && !sonde_draft_ensure(encoder, &uniflow, 1000, messages))
    return false;
  if (!draft->start && !sonde_draft_open(encoder, messages))
    return false;
  if (!fits_set(encoder, traits) && !open_set(encoder, traits)) {
    struct sonde_window window = draft->window;
    sonde_draft_close(encoder, messages);
    if (!sonde_draft_open(encoder, messages))
      return false;
    draft->window = window;
    open_set(encoder, traits); /* fits an empty message: SONDE_EXPORT_MESSAGE_MIN */
  }
  if (!is_ipfix(encoder))
    sonde_draft_set_times(encoder, &uniflow);
  draft->p = sonde_layout_writers[traits](draft->p, &uniflow);
  draft->p = put_octets(draft->p, encoder->tail_bytes, encoder->tail);
  if (biflow) {
    uniflow.packets += record->packets[1];
    uniflow.octets += record->bytes[1];
  }
  sonde_draft_count(encoder, &uniflow);
  return true;
}

/* ---- headers -------------------------------------------------------------------------- */

void sonde_v9_put_header(const struct sonde_encoder *encoder, const struct sonde_draft *draft) {
  uint8_t *p = put_u16(draft->start, 9);
  p = put_u16(p, draft->items);
  p = put_u32(p, (uint32_t)(draft->window.header_ms - draft->window.base_ms));
  p = put_u32(p, (uint32_t)(draft->window.header_ms / 1000));
  p = put_u32(p, encoder->sequences[9]);
  put_u32(p, encoder->config.observation_domain);
}

void sonde_ipfix_put_header(const struct sonde_encoder *encoder, const struct sonde_draft *draft,
                            uint32_t sequence, uint32_t domain) {
  uint8_t *p = put_u16(draft->start, 10);
  p = put_u16(p, (uint16_t)(draft->p - draft->start));
  p = put_u32(p, (uint32_t)(encoder->now_ns / 1000000000));
  p = put_u32(p, sequence);
  put_u32(p, domain);
}

static void close_v9(struct sonde_encoder *encoder) {
  close_set(&encoder->draft);
  sonde_v9_put_header(encoder, &encoder->draft);
  encoder->sequences[9]++;
}

static void close_ipfix(struct sonde_encoder *encoder) {
  close_set(&encoder->draft);
  sonde_ipfix_put_header(encoder, &encoder->draft, encoder->sequences[10],
                         encoder->config.observation_domain);
  encoder->sequences[10] += encoder->draft.note.records;
}

const struct sonde_protocol_ops sonde_protocol_v9 = {9, V9_HEADER_BYTES, count_pieces, put,
                                                     close_v9};
const struct sonde_protocol_ops sonde_protocol_ipfix = {10, IPFIX_HEADER_BYTES, count_pieces, put,
                                                        close_ipfix};
