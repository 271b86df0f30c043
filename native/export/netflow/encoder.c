/* encoder.c - encodes records as datagrams: the open message and its limits.
 *
 * Only this file checks the caller's buffer. A message is opened only if the largest message fits,
 * so the writers only check whether the message is full.
 */
#include "encoder.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "export/rendering.h"
#include "failure.h"
#include "packet.h"

/* ---- messages ------------------------------------------------------------------------- */

bool sonde_draft_open(struct sonde_encoder *encoder, struct sonde_messages *messages) {
  uint32_t bytes = encoder->config.message_bytes_max;
  if (messages->count == messages->max || messages->capacity - messages->bytes < bytes)
    return false;
  uint8_t *start = messages->buffer + messages->bytes;
  encoder->draft = (struct sonde_draft){
      .start = start,
      .p = start + encoder->ops->header_bytes,
      .end = start + bytes,
      .note = {.offset = messages->bytes},
  };
  return true;
}

void sonde_draft_close(struct sonde_encoder *encoder, struct sonde_messages *messages) {
  struct sonde_draft *draft = &encoder->draft;
  if (!draft->start)
    return;
  encoder->ops->close(encoder);
  encoder->messages++;
  sonde_draft_finish(encoder, draft, messages);
}

void sonde_draft_finish(struct sonde_encoder *encoder, struct sonde_draft *draft,
                        struct sonde_messages *messages) {
  draft->note.bytes = (uint32_t)(draft->p - draft->start);
  messages->bytes += draft->note.bytes;
  messages->list[messages->count++] = draft->note;
  encoder->counters.messages++;
  encoder->counters.octets += draft->note.bytes;
  encoder->counters.records += draft->note.records;
  encoder->counters.templates += draft->note.templates;
  draft->start = NULL;
}

void sonde_draft_count(struct sonde_encoder *encoder, const struct sonde_uniflow *uniflow) {
  struct sonde_draft *draft = &encoder->draft;
  draft->items++;
  draft->note.records++;
  draft->note.packets += uniflow->packets;
  draft->note.octets += uniflow->octets;
}

bool sonde_draft_ensure(struct sonde_encoder *encoder, const struct sonde_uniflow *uniflow,
                        uint32_t unit_ms, struct sonde_messages *messages) {
  struct sonde_draft *draft = &encoder->draft;
  if (draft->start && sonde_window_holds(&draft->window, uniflow->first_ms, uniflow->last_ms))
    return true;
  struct sonde_window window = sonde_uptime_window(&encoder->uptime, uniflow->first_ms,
                                                   uniflow->last_ms, encoder->now_ms, unit_ms);
  if (draft->start && window.base_ms == draft->window.base_ms &&
      window.header_ms == draft->window.header_ms)
    return true; /* too long for any window; sonde_draft_set_times clamps it */
  sonde_draft_close(encoder, messages);
  if (!sonde_draft_open(encoder, messages))
    return false;
  draft->window = window;
  return true;
}

void sonde_draft_set_times(struct sonde_encoder *encoder, struct sonde_uniflow *uniflow) {
  uint64_t base_ms = encoder->draft.window.base_ms;
  uint64_t first_ms = uniflow->first_ms < base_ms ? base_ms : uniflow->first_ms;
  encoder->counters.times_clamped += uniflow->first_ms < base_ms;
  uniflow->first_uptime = (uint32_t)(first_ms - base_ms);
  uniflow->last_uptime = (uint32_t)(uniflow->last_ms - base_ms);
}

/* ---- records -------------------------------------------------------------------------- */

/* Replayed files use the latest time of their records instead of the wall clock. */
static void set_now(struct sonde_encoder *encoder, const struct sonde_record *records,
                    uint32_t count, uint64_t now_ns) {
  encoder->now_ns = now_ns;
  if (!encoder->config.packet_time) {
    encoder->now_ms = now_ns / 1000000;
    return;
  }
  for (uint32_t i = 0; i < count; i++) {
    uint64_t last_ms = records[i].last_ns / 1000000;
    if (last_ms > encoder->now_ms)
      encoder->now_ms = last_ms;
  }
}

uint32_t sonde_encoder_add(struct sonde_encoder *encoder, const struct sonde_record *records,
                           uint32_t count, uint64_t now_ns, struct sonde_messages *messages) {
  const struct sonde_protocol_ops *ops = encoder->ops;
  set_now(encoder, records, count, now_ns);
  uint32_t done = 0;
  for (; done < count; done++) {
    const struct sonde_record *record = &records[done];
    uint64_t pieces = ops->pieces(encoder, record);
    encoder->sampling_interval = record->sampling_interval;
    while (encoder->pieces_done < pieces &&
           ops->put(encoder, record, encoder->pieces_done, messages))
      encoder->pieces_done++;
    if (encoder->pieces_done < pieces)
      break;
    encoder->pieces_done = 0;
    if (pieces == 0 && encoder->ops->version == 5 && record->ip_version != 4)
      encoder->counters.records_skipped_ipv6 += !!record->packets[0] + !!record->packets[1];
  }
  sonde_draft_close(encoder, messages);
  return done;
}

void sonde_encoder_abandon(struct sonde_encoder *encoder) {
  encoder->pieces_done = 0;
}

/* ---- create and destroy --------------------------------------------------------------- */

static const struct sonde_protocol_ops *find_protocol(int version) {
  static const struct sonde_protocol_ops *const all[] = {&sonde_protocol_v5, &sonde_protocol_v9,
                                                         &sonde_protocol_ipfix};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    if (all[i]->version == version)
      return all[i];
  return NULL;
}

static int check(const struct sonde_encoder_config *config, struct sonde_error *error) {
  struct {
    bool holds;
    const char *message;
  } rules[] = {
      {find_protocol(config->version) != NULL, "version: 5, 9 or 10"},
      {config->profile == SONDE_PROFILE_COMPAT || config->profile == SONDE_PROFILE_FULL,
       "profile: compat or full"},
      {config->message_bytes_max >= SONDE_EXPORT_MESSAGE_MIN &&
           config->message_bytes_max <= SONDE_EXPORT_MESSAGE_MAX,
       "message_bytes_max: 512 to 65507"},
      {config->template_refresh_sec >= 1 && config->template_refresh_sec <= 86400,
       "template_refresh_sec: 1 to 86400"},
      {config->template_refresh_messages >= 1, "template_refresh_messages: at least 1"},
      {config->observation_domain != SONDE_STATISTICS_DOMAIN,
       "observation_domain: 0 is reserved for statistics"},
  };
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
    if (!rules[i].holds)
      return sonde_fail(error, SONDE_INVALID, 0, "%s", rules[i].message);
  return SONDE_OK;
}

/* The element is a UTF-8 string. Names can hold any byte, so all but ASCII becomes '?'. */
static void copy_name(struct sonde_encoder *encoder, const char *name) {
  encoder->name_bytes = 0;
  for (; name && *name && encoder->name_bytes < SONDE_EXPORT_NAME_MAX; name++)
    encoder->name[encoder->name_bytes++] = *name > 0x20 && *name < 0x7f ? *name : '?';
}

void sonde_encoder_name(struct sonde_encoder *encoder, uint32_t source) {
  uint32_t renames =
      encoder->config.renames ? __atomic_load_n(encoder->config.renames, __ATOMIC_ACQUIRE) : 0;
  if (!encoder->config.interfaces || source >= SONDE_SOURCES_MAX ||
      (source == encoder->source && renames == encoder->renames))
    return;
  encoder->renames = renames;
  uint32_t before = encoder->name_bytes;
  encoder->source = source;
  copy_name(encoder, encoder->config.interfaces[source]);
  for (uint32_t traits = 0; traits < SONDE_LAYOUTS; traits++)
    if (sonde_layout_has_name(traits))
      encoder->record_bytes[traits] += encoder->name_bytes - before;
}

uint32_t sonde_encoder_fixed_bytes(const struct sonde_encoder *encoder, uint32_t traits) {
  enum { SET_HEADERS = 8, PADDING = 6 };
  return encoder->ops->header_bytes + SET_HEADERS + PADDING + encoder->template_bytes[traits] +
         encoder->record_bytes[traits];
}

/* Chooses the parts of the tail. Messages that are too small for it go without. */
static void make_tail(struct sonde_encoder *encoder) {
  const struct sonde_render_sources *sources = encoder->config.sources;
  const uint32_t longest = SONDE_LAYOUT_IPV6 | SONDE_LAYOUT_ICMP | SONDE_LAYOUT_FULL |
                           SONDE_LAYOUT_IPFIX | SONDE_LAYOUT_BIFLOW;
  uint8_t template[8 * SONDE_TAIL_FIELDS_MAX];
  if (!sources || encoder->config.version != 10 || encoder->config.profile != SONDE_PROFILE_FULL)
    return;
  uint32_t parts = (sources->labels.read ? SONDE_TAIL_LABEL : 0u) |
                   (sources->owners.read ? SONDE_TAIL_OWNERS : 0u);
  uint8_t *end = sonde_tail_put_template(template, parts, encoder->config.enterprise);
  uint32_t more = (uint32_t)(end - template);
  uint32_t name_bytes = SONDE_EXPORT_NAME_MAX - encoder->name_bytes;
  if (sonde_encoder_fixed_bytes(encoder, longest) + name_bytes + more +
          sonde_tail_bytes_min(parts) >
      encoder->config.message_bytes_max)
    return;
  encoder->tail_parts = parts;
  for (uint32_t traits = 0; traits < SONDE_LAYOUTS; traits++)
    if (sonde_layout_has_name(traits))
      encoder->template_bytes[traits] += more;
}

int sonde_encoder_create(const struct sonde_encoder_config *config, struct sonde_encoder **encoder,
                         struct sonde_error *error) {
  int status = check(config, error);
  if (status < 0)
    return status;
  struct sonde_encoder *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "encoder");
  made->config = *config;
  made->config.interface = NULL;
  made->ops = find_protocol(config->version);
  made->sampling_interval = 1;
  copy_name(made, config->interfaces ? config->interfaces[0] : config->interface);
  sonde_uptime_start(&made->uptime, config->packet_time ? 0 : config->start_ns);
  for (uint32_t traits = 0; traits < SONDE_LAYOUTS; traits++) {
    made->record_bytes[traits] = sonde_layout_record_bytes(traits, made->name_bytes);
    made->template_bytes[traits] = sonde_layout_template_bytes(traits);
  }
  make_tail(made);
  *encoder = made;
  return SONDE_OK;
}

void sonde_encoder_destroy(struct sonde_encoder *encoder) {
  free(encoder);
}

void sonde_encoder_continue(struct sonde_encoder *encoder, const struct sonde_encoder *before) {
  assert(encoder->messages == 0);
  encoder->statistics_sequence = before->statistics_sequence;
  if (encoder->config.observation_domain == before->config.observation_domain)
    memcpy(encoder->sequences, before->sequences, sizeof encoder->sequences);
  if (sonde_encoder_biflows(encoder) == sonde_encoder_biflows(before))
    encoder->pieces_done = before->pieces_done;
  encoder->uptime = before->uptime;
  encoder->now_ms = before->now_ms;
}

void sonde_encoder_counters(const struct sonde_encoder *encoder,
                            struct sonde_encoder_counters *counters) {
  *counters = encoder->counters;
}
