/* collector.c - creation and batches of collectors; see collector.h. send.c sends. */
#include "exporter/collector.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "failure.h"

enum {
  BATCH_BYTES = 256 << 10,
  BATCH_MESSAGES = 1024,
  REFRESH_SEC = 60,
  REFRESH_MESSAGES = 20,
  STATISTICS_AT_START = 2,
};
static const uint64_t PACE_DEFAULT = 125000000, PACE_MIN = 10000;
static const uint64_t STATISTICS_RETRY_NS = 1000000000;

/* ---- create and destroy --------------------------------------------------------------- */

static int read_address(const struct sonde_collector_config *config,
                        struct sonde_collector *collector, struct sonde_error *error) {
  struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_DGRAM};
  struct addrinfo *found = NULL;
  char port[8];
  const char *address = config->address ? config->address : "";
  snprintf(port, sizeof port, "%u", config->port);
  if (config->port == 0)
    return sonde_fail(error, SONDE_INVALID, 0, "port: 1 to 65535");
  if (strlen(address) >= sizeof collector->stats.address ||
      getaddrinfo(address, port, &hints, &found) != 0)
    return sonde_fail(error, SONDE_INVALID, 0, "address: '%.64s' is not an IPv4 or IPv6 address",
                      address);
  memcpy(&collector->to, found->ai_addr, found->ai_addrlen);
  collector->to_bytes = found->ai_addrlen;
  freeaddrinfo(found);
  strcpy(collector->stats.address, address);
  collector->stats.port = config->port;
  return SONDE_OK;
}

static bool is_unspecified(const struct sockaddr_storage *to) {
  static const uint8_t zeros[16];
  if (to->ss_family == AF_INET)
    return ((const struct sockaddr_in *)to)->sin_addr.s_addr == 0;
  return memcmp(&((const struct sockaddr_in6 *)to)->sin6_addr, zeros, 16) == 0;
}

static int check_address(const struct sonde_collector *collector, struct sonde_error *error) {
  const struct sockaddr_in *to = (const struct sockaddr_in *)&collector->to;
  if (is_unspecified(&collector->to) ||
      (to->sin_family == AF_INET && to->sin_addr.s_addr == INADDR_BROADCAST))
    return sonde_fail(error, SONDE_INVALID, 0, "address: '%s' is not a unicast address",
                      collector->stats.address);
  return SONDE_OK;
}

static int make_encoder(const struct sonde_collector_config *config,
                        const struct sonde_encoder_config *session,
                        struct sonde_collector *collector, struct sonde_error *error) {
  struct sonde_encoder_config encoder = *session;
  encoder.version = config->version;
  encoder.profile = config->profile;
  encoder.biflow = config->biflow;
  encoder.message_bytes_max =
      config->message_bytes_max ? config->message_bytes_max : SONDE_EXPORT_MESSAGE_DEFAULT;
  encoder.template_refresh_sec =
      config->template_refresh_sec ? config->template_refresh_sec : REFRESH_SEC;
  encoder.template_refresh_messages =
      config->template_refresh_messages ? config->template_refresh_messages : REFRESH_MESSAGES;
  encoder.observation_domain = config->observation_domain ? config->observation_domain : 1;
  encoder.enterprise = config->enterprise ? config->enterprise : SONDE_ENTERPRISE_DEFAULT;
  collector->statistics_sec = encoder.template_refresh_sec;
  collector->stats.version = (uint16_t)config->version;
  return sonde_encoder_create(&encoder, &collector->encoder, error);
}

static int make_batch(struct sonde_collector *collector, struct sonde_error *error) {
  struct sonde_messages *messages = &collector->messages;
  messages->capacity = BATCH_BYTES;
  messages->max = BATCH_MESSAGES;
  messages->buffer = malloc(messages->capacity);
  messages->list = malloc(messages->max * sizeof *messages->list);
  if (!messages->buffer || !messages->list)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "collector");
  return SONDE_OK;
}

int sonde_collector_create(const struct sonde_collector_config *config,
                           const struct sonde_encoder_config *session,
                           struct sonde_collector **collector, struct sonde_error *error) {
  struct sonde_collector *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "collector");
  made->fd = -1;
  made->pace = config->pace_bytes_per_sec ? config->pace_bytes_per_sec : PACE_DEFAULT;
  int status = read_address(config, made, error);
  if (status == SONDE_OK)
    status = check_address(made, error);
  if (status == SONDE_OK && made->pace < PACE_MIN)
    status = sonde_fail(error, SONDE_INVALID, 0, "pace_bytes_per_sec: at least 10000");
  if (status == SONDE_OK)
    status = make_encoder(config, session, made, error);
  if (status == SONDE_OK)
    status = make_batch(made, error);
  if (status < 0) {
    sonde_collector_destroy(made);
    return status;
  }
  *collector = made;
  return SONDE_OK;
}

void sonde_collector_destroy(struct sonde_collector *collector) {
  if (!collector)
    return;
  sonde_collector_disconnect(collector);
  sonde_encoder_destroy(collector->encoder);
  free(collector->messages.buffer);
  free(collector->messages.list);
  free(collector);
}

bool sonde_collector_is(const struct sonde_collector *collector, const char *address,
                        uint16_t port) {
  return collector->stats.port == port && address && strcmp(collector->stats.address, address) == 0;
}

void sonde_collector_supersede(struct sonde_collector *collector, struct sonde_collector *before) {
  uint16_t version = collector->stats.version;
  struct sonde_messages unused = collector->messages;
  sonde_collector_confirm(before);
  sonde_collector_stats(before, &collector->stats);
  collector->stats.version = version;
  sonde_encoder_continue(collector->encoder, before->encoder);
  memcpy(collector->positions, before->positions, sizeof collector->positions);
  collector->messages = before->messages;
  collector->next = before->next;
  collector->fd = before->fd;
  collector->own = before->own;
  before->messages = unused;
  before->fd = -1;
}

/* ---- batches -------------------------------------------------------------------------- */

void sonde_collector_begin(struct sonde_collector *collector) {
  collector->messages.bytes = 0;
  collector->messages.count = 0;
  collector->next = 0;
}

void sonde_collector_report(struct sonde_collector *collector,
                            const struct sonde_export_totals *totals, uint64_t wall_ns,
                            uint64_t now_ns) {
  if (now_ns < collector->statistics_ns)
    return;
  const struct sonde_collector_stats *stats = &collector->stats;
  struct sonde_export_totals all = *totals;
  all.records_lost +=
      stats->records_lost_refused + stats->records_lost_no_room + stats->records_lost_error;
  all.packets_lost += stats->packets_lost;
  all.octets_lost += stats->octets_lost;
  uint32_t before = collector->messages.count;
  sonde_encoder_statistics(collector->encoder, &all, wall_ns, &collector->messages);
  if (collector->messages.count == before) /* v5, or a replay before its first record */
    collector->statistics_ns = now_ns + STATISTICS_RETRY_NS;
  else if (++collector->statistics_sent >= STATISTICS_AT_START) /* like templates */
    collector->statistics_ns = now_ns + collector->statistics_sec * 1000000000;
}

void sonde_collector_skip(struct sonde_collector *collector, const struct sonde_record *records,
                          uint32_t count) {
  struct sonde_collector_stats *stats = &collector->stats;
  sonde_encoder_abandon(collector->encoder);
  for (uint32_t i = 0; i < count; i++) {
    const struct sonde_record *record = &records[i];
    uint64_t ways = (uint64_t)(!!record->packets[0] + !!record->packets[1]);
    if (stats->version == 5 && record->ip_version != 4) {
      stats->records_skipped_ipv6 += ways;
      continue;
    }
    stats->records_lost_no_room += ways;
    stats->packets_lost += record->packets[0] + record->packets[1];
    stats->octets_lost += record->bytes[0] + record->bytes[1];
  }
}

void sonde_collector_stats(const struct sonde_collector *collector,
                           struct sonde_collector_stats *stats) {
  struct sonde_encoder_counters counters;
  sonde_encoder_counters(collector->encoder, &counters);
  *stats = collector->stats;
  if (collector->last_pending) {
    const struct sonde_message *last = &collector->last;
    stats->messages_sent--;
    stats->bytes_sent -= last->bytes;
    stats->records_sent -= last->records;
    stats->packets_sent -= last->packets;
    stats->octets_sent -= last->octets;
  }
  stats->connected = collector->fd >= 0;
  stats->templates_sent += counters.templates;
  stats->records_skipped_ipv6 += counters.records_skipped_ipv6;
  stats->times_clamped += counters.times_clamped;
}
