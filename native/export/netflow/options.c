/* options.c - writes the message with the statistics of metering and export.
 *
 * RFC 7011 §4.1 to §4.3 and, with sampling, the interval. Each message has templates and data.
 * IPFIX uses a separate domain, because a collector that does not count options data would see gaps
 * among the flows. v9 counts messages, so it needs none; elements unknown to v9 are left out. v5
 * has no options.
 *
 *   v9     options template  id │ scope bytes │ option bytes │ scope, fields
 *   IPFIX  options template  id │ fields │ scope fields │ scope, fields
 */
#include <stddef.h>

#include "bytes.h"
#include "encoder.h"

enum {
  V9_SET = 1,
  IPFIX_SET = 3,
  V9_SCOPE_SYSTEM = 1,
  SCOPE_BYTES = 4,
  FIELDS_MAX = 3,
  OPTION_TEMPLATE_ID = SONDE_LAYOUT_TEMPLATE_ID + SONDE_LAYOUTS,
  STATISTICS_BYTES_MAX = 320, /* all four options, either version */
};

enum value {
  MESSAGES,
  RECORDS,
  OCTETS,
  IGNORED_PACKETS,
  IGNORED_OCTETS,
  LOST_RECORDS,
  LOST_PACKETS,
  LOST_OCTETS,
  INTERVAL,
  ALGORITHM,
  VALUES
};

struct option {
  uint16_t scope; /* IPFIX element */
  bool in_v9;
  bool sampling; /* only with an interval above 1 */
  uint16_t field_count;
  struct {
    uint16_t element;
    uint16_t bytes;
    enum value value;
  } fields[FIELDS_MAX];
};

static const struct option options[] = {
    /* observationDomainId: exportedMessage-, exportedFlowRecord-, exportedOctetTotalCount */
    {149, true, false, 3, {{41, 8, MESSAGES}, {42, 8, RECORDS}, {40, 8, OCTETS}}},
    /* observationDomainId: ignoredPacket-, ignoredOctetTotalCount */
    {149, false, false, 2, {{164, 8, IGNORED_PACKETS}, {165, 8, IGNORED_OCTETS}}},
    /* exportingProcessId: notSentFlow-, notSentPacket-, notSentOctetTotalCount */
    {144, false, false, 3, {{166, 8, LOST_RECORDS}, {167, 8, LOST_PACKETS}, {168, 8, LOST_OCTETS}}},
    /* observationDomainId: samplingInterval, samplingAlgorithm 1 (every Nth) */
    {149, true, true, 2, {{34, 4, INTERVAL}, {35, 1, ALGORITHM}}},
};

static bool sends(const struct sonde_encoder *encoder, const struct option *option) {
  return (encoder->config.version == 10 || option->in_v9) &&
         (!option->sampling || encoder->sampling_interval > 1);
}

static void put_option(const struct sonde_encoder *encoder, struct sonde_draft *draft,
                       uint32_t number, const uint64_t values[VALUES]) {
  const struct option *option = &options[number];
  bool ipfix = encoder->config.version == 10;
  uint8_t *set = draft->p;
  draft->p = put_u16(draft->p, ipfix ? IPFIX_SET : V9_SET) + 2;
  draft->p = put_u16(draft->p, (uint16_t)(OPTION_TEMPLATE_ID + number));
  draft->p = put_u16(draft->p, ipfix ? option->field_count + 1 : 4);
  draft->p = put_u16(draft->p, ipfix ? 1 : (uint16_t)(4 * option->field_count));
  draft->p = put_u16(draft->p, ipfix ? option->scope : V9_SCOPE_SYSTEM);
  draft->p = put_u16(draft->p, SCOPE_BYTES);
  for (uint32_t i = 0; i < option->field_count; i++) {
    draft->p = put_u16(draft->p, option->fields[i].element);
    draft->p = put_u16(draft->p, option->fields[i].bytes);
  }
  sonde_set_end(draft, set);

  set = draft->p;
  draft->p = put_u16(draft->p, (uint16_t)(OPTION_TEMPLATE_ID + number)) + 2;
  draft->p = put_u32(draft->p, encoder->config.observation_domain);
  for (uint32_t i = 0; i < option->field_count; i++)
    draft->p = put_number(draft->p, option->fields[i].bytes, values[option->fields[i].value]);
  sonde_set_end(draft, set);
  draft->items += 2;
  draft->note.templates++;
}

void sonde_encoder_statistics(struct sonde_encoder *encoder,
                              const struct sonde_export_totals *totals, uint64_t now_ns,
                              struct sonde_messages *messages) {
  const struct sonde_encoder_counters *counters = &encoder->counters;
  const uint64_t values[VALUES] = {counters->messages,         counters->records,
                                   counters->octets,           totals->packets_ignored,
                                   totals->octets_ignored,     totals->records_lost,
                                   totals->packets_lost,       totals->octets_lost,
                                   encoder->sampling_interval, 1};
  encoder->now_ns = now_ns;
  if (!encoder->config.packet_time)
    encoder->now_ms = now_ns / 1000000;
  if (encoder->config.version == 5 || messages->count == messages->max ||
      messages->capacity - messages->bytes < STATISTICS_BYTES_MAX ||
      (encoder->config.version == 9 && encoder->now_ms == 0))
    return; /* the last: a replay before its first record has no time */
  struct sonde_draft draft = {.start = messages->buffer + messages->bytes,
                              .note = {.offset = messages->bytes}};
  draft.p = draft.start + encoder->ops->header_bytes;
  draft.window = sonde_uptime_window(&encoder->uptime, encoder->now_ms, encoder->now_ms,
                                     encoder->now_ms, 1000);
  uint32_t data = 0;
  for (uint32_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    if (sends(encoder, &options[i])) {
      put_option(encoder, &draft, i, values);
      data++;
    }
  }
  if (encoder->config.version == 9) {
    sonde_v9_put_header(encoder, &draft);
    encoder->sequences[9]++;
  } else {
    sonde_ipfix_put_header(encoder, &draft, encoder->statistics_sequence, SONDE_STATISTICS_DOMAIN);
    encoder->statistics_sequence += data;
  }
  sonde_draft_finish(encoder, &draft, messages);
}
