/* ipfix.c - renders a batch of records as self-contained IPFIX messages.
 *
 * Each batch is like an IPFIX file (RFC 5655): consecutive whole messages, templates in the first
 * message that needs them, sequence numbers from 0, biflows (RFC 5103). The export time is that of
 * the latest packet. A selection of fields within the compat profile uses that profile, any other
 * the full one. Each interface has its templates, so that the records of a data set have one size.
 * Records without packets, which only report a flow's end, have no IPFIX form. They are counted but
 * not written.
 */
#include <string.h>

#include "rendering.h"

enum {
  MESSAGE_BYTES = 32768, /* several fit a batch, so that little space is wasted */
  MESSAGES_MAX = 64,
  OBSERVATION_DOMAIN = 1,
  TEMPLATES_ONCE = UINT32_MAX,
};

#define COMPAT_BIT(name, kind, profile, ...)                                                       \
  | (SONDE_PROFILE_##profile == SONDE_PROFILE_COMPAT ? SONDE_FIELD_BIT(name) : 0)
static const uint64_t compat_fields = 0 SONDE_FIELD_LIST(COMPAT_BIT);

static uint64_t find_latest(const struct sonde_record *records, uint32_t count) {
  uint64_t latest_ns = 0;
  for (uint32_t i = 0; i < count; i++)
    latest_ns = records[i].last_ns > latest_ns ? records[i].last_ns : latest_ns;
  return latest_ns;
}

int sonde_ipfix_render(const struct sonde_record *records, uint32_t count, uint64_t fields,
                       const char *const *names, uint8_t *buffer, uint32_t capacity,
                       struct sonde_batch *batch) {
  uint32_t message_bytes = capacity / 2 < MESSAGE_BYTES ? capacity / 2 : MESSAGE_BYTES;
  struct sonde_encoder_config config = {
      .version = 10,
      .profile = fields & ~compat_fields ? SONDE_PROFILE_FULL : SONDE_PROFILE_COMPAT,
      .biflow = 1,
      .message_bytes_max = message_bytes,
      .template_refresh_sec = 86400,
      .template_refresh_messages = TEMPLATES_ONCE,
      .observation_domain = OBSERVATION_DOMAIN,
      .interfaces = names,
      .interface_templates = 1,
  };
  struct sonde_error error;
  struct sonde_encoder *encoder = NULL;
  if (count == 0)
    return SONDE_OK;
  if (message_bytes < SONDE_EXPORT_MESSAGE_MIN)
    return SONDE_TOO_SMALL;
  int status = sonde_encoder_create(&config, &encoder, &error);
  if (status < 0)
    return status;
  struct sonde_message list[MESSAGES_MAX];
  struct sonde_messages messages = {
      .buffer = buffer, .capacity = capacity, .list = list, .max = MESSAGES_MAX};
  uint64_t now_ns = find_latest(records, count);
  uint32_t done = sonde_encoder_add(encoder, records, count, now_ns, &messages);
  sonde_encoder_destroy(encoder);
  for (uint32_t i = 0; i < done; i++)
    sonde_batch_count(batch, &records[i]);
  batch->bytes = messages.bytes;
  return SONDE_OK;
}
