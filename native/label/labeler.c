/* labeler.c - chooses the parser of a flow, and keeps its label; see labeler.h.
 *
 * A flow's 32-bit label is NOTHING, OVER_LIMIT, WAITING | a piece, or FIRST + an index of the
 * label table. In a record it is one of enum record_label, or that index with the worker's number.
 */
#include "label/labeler.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "ip_protocol.h"
#include "label/pieces.h"

enum flow_label { NOTHING = 0, OVER_LIMIT = 1, FIRST = 1 /* + an index, from 1 on */ };
static const uint32_t WAITING = UINT32_C(1) << 31;

enum record_label { RECORD_OFF, RECORD_NOT_SEEN, RECORD_SKIPPED, RECORD_FIRST = 2 };
enum { TCP_PAYLOADS = 12, UDP_PAYLOADS = 6, PORT_DNS = 53, PORT_MDNS = 5353 };

struct sonde_labeler {
  uint32_t protocols;
  uint32_t worker;
  uint32_t quic_per_second;
  uint32_t quic_opened; /* in `second` */
  uint64_t second;
  struct sonde_label_table *table;
  struct sonde_pieces *pieces;
  struct sonde_name_cache *cache; /* NULL without DNS */
  const struct sonde_decoded *batch;
  const struct sonde_payload *payloads;
  struct sonde_label_counters counters;
};

/* A payload on its way through the functions below. */
struct look {
  struct sonde_labeler *labeler;
  uint32_t *label; /* the flow's */
  const struct sonde_decoded *packet;
  const struct sonde_payload *payload;
  uint32_t start;
  uint8_t left; /* after this payload */
};

struct sonde_labeler *sonde_labeler_create(const struct sonde_labeler_config *config) {
  struct sonde_labeler *labeler = calloc(1, sizeof *labeler);
  if (!labeler)
    return NULL;
  labeler->protocols = config->protocols;
  labeler->worker = config->worker;
  labeler->quic_per_second = config->quic_per_second;
  labeler->batch = config->batch;
  labeler->payloads = config->payloads;
  labeler->cache = config->protocols & SONDE_LABEL_DNS ? config->cache : NULL;
  labeler->table = sonde_label_table_create(config->bytes / 2, config->progress);
  labeler->pieces = sonde_pieces_create(config->bytes / 2);
  if (!labeler->table || !labeler->pieces) {
    sonde_labeler_destroy(labeler);
    return NULL;
  }
  return labeler;
}

void sonde_labeler_destroy(struct sonde_labeler *labeler) {
  if (!labeler)
    return;
  sonde_pieces_destroy(labeler->pieces);
  sonde_label_table_destroy(labeler->table);
  free(labeler);
}

const struct sonde_label_counters *sonde_labeler_counters(const struct sonde_labeler *labeler) {
  return &labeler->counters;
}

/* ---- the flow's label ------------------------------------------------------------------- */

/* The label in use, or NULL. */
static const struct sonde_app_label *current(const struct sonde_labeler *labeler, uint32_t label) {
  if (label <= FIRST || (label & WAITING))
    return NULL;
  return sonde_label_table_get(labeler->table, label - FIRST);
}

static void drop(struct sonde_labeler *labeler, uint32_t *label) {
  if (*label & WAITING)
    sonde_pieces_release(labeler->pieces, *label & ~WAITING);
  else if (*label > FIRST)
    sonde_label_table_drop(labeler->table, *label - FIRST);
  *label = NOTHING;
}

/* Replaces the flow's label. `chosen` may be in the table. */
static void set(struct sonde_labeler *labeler, uint32_t *label,
                const struct sonde_app_label *chosen) {
  uint32_t index = sonde_label_table_add(labeler->table, chosen);
  drop(labeler, label);
  *label = index == SONDE_LABEL_NONE ? (uint32_t)OVER_LIMIT : FIRST + index;
}

static void skip(struct sonde_labeler *labeler, uint32_t *label) {
  drop(labeler, label);
  *label = OVER_LIMIT;
  labeler->counters.labels_skipped++;
}

/* Sets the label that a message gave. Without a place for it the flow is skipped. */
static void conclude(struct sonde_labeler *labeler, uint32_t *label, struct sonde_app_label *found,
                     enum sonde_parse_result result) {
  if (result != SONDE_PARSE_DONE || found->state == SONDE_LABEL_PARTIAL)
    found->state = SONDE_LABEL_PARTIAL;
  else
    found->state = SONDE_LABEL_COMPLETE;
  set(labeler, label, found);
  if (*label == OVER_LIMIT)
    labeler->counters.labels_skipped++;
  else if (found->state == SONDE_LABEL_COMPLETE)
    labeler->counters.labels_complete++;
  else
    labeler->counters.labels_partial++;
}

/* ---- messages in pieces ------------------------------------------------------------------ */

/* No more bytes of this message will be read. */
static void give_what_is_there(struct sonde_labeler *labeler, uint32_t *label) {
  struct sonde_app_label found;
  const struct sonde_piece *piece = sonde_pieces_get(labeler->pieces, *label & ~WAITING);
  enum sonde_parse_result result = sonde_pieces_parse(labeler->pieces, piece, &found);
  if (result == SONDE_PARSE_NOT)
    drop(labeler, label);
  else
    conclude(labeler, label, &found, result);
}

/* Parses what has been put together so far. Returns how many payloads are left. */
static uint8_t parse_piece(const struct look *look, const struct sonde_piece *piece) {
  struct sonde_app_label found;
  enum sonde_parse_result result = sonde_pieces_parse(look->labeler->pieces, piece, &found);
  if (result == SONDE_PARSE_NOT) {
    drop(look->labeler, look->label);
    return 0;
  }
  if (result == SONDE_PARSE_MORE && look->left > 0 && !sonde_piece_full(piece))
    return look->left;
  bool ends = result == SONDE_PARSE_MORE || piece->app != SONDE_APP_TLS || piece->server_version;
  conclude(look->labeler, look->label, &found, result);
  return ends ? 0 : look->left;
}

static struct sonde_piece *begin_piece(const struct look *look, enum sonde_label_app app) {
  struct sonde_labeler *labeler = look->labeler;
  uint32_t *evicted, index = sonde_pieces_take(labeler->pieces, look->label, &evicted);
  if (evicted) {
    give_what_is_there(labeler, evicted);
    index = sonde_pieces_take(labeler->pieces, look->label, &evicted);
  }
  drop(labeler, look->label); /* a name from DNS */
  *look->label = WAITING | index;
  struct sonde_piece *piece = sonde_pieces_get(labeler->pieces, index);
  piece->app = (uint8_t)app;
  piece->start = look->start;
  piece->reversed = look->packet->flags & SONDE_DECODED_REVERSED;
  return piece;
}

static uint8_t add_stream(const struct look *look, struct sonde_piece *piece) {
  const struct sonde_decoded *packet = look->packet;
  assembler_add(&piece->stream, sonde_first_sequence(packet) - piece->start, look->payload->data,
                look->payload->bytes);
  return parse_piece(look, piece);
}

static uint8_t add_datagram(const struct look *look, struct sonde_piece *piece) {
  if (sonde_pieces_open(look->labeler->pieces, piece, look->payload->data, look->payload->bytes) ==
      0)
    return look->left;
  return parse_piece(look, piece);
}

static uint8_t continue_piece(const struct look *look) {
  struct sonde_piece *piece = sonde_pieces_get(look->labeler->pieces, *look->label & ~WAITING);
  const struct sonde_decoded *packet = look->packet;
  uint8_t left = look->left;
  if (piece->app == SONDE_APP_QUIC)
    left = add_datagram(look, piece);
  else if (piece->reversed == !!(packet->flags & SONDE_DECODED_REVERSED))
    left = add_stream(look, piece);
  else if (piece->app == SONDE_APP_TLS && !piece->server_version)
    piece->server_version = sonde_tls_server_version(look->payload->data, look->payload->bytes);
  if (left == 0 && (*look->label & WAITING))
    give_what_is_there(look->labeler, look->label);
  return left;
}

/* ---- protocols --------------------------------------------------------------------------- */

static bool has_port(const struct sonde_decoded *packet, uint16_t port) {
  return packet->key.lo_port == port || packet->key.hi_port == port;
}

/* Keeps what a query or an answer says for the flows that follow. */
static void remember(const struct look *look, const struct sonde_dns_message *message,
                     const char *name) {
  const struct sonde_key *key = &look->packet->key;
  bool from_hi = look->packet->flags & SONDE_DECODED_REVERSED;
  bool client_is_hi = from_hi != message->response;
  const uint8_t *client = client_is_hi ? key->hi_ip : key->lo_ip;
  uint16_t port = client_is_hi ? key->hi_port : key->lo_port;
  if (message->response)
    sonde_name_cache_answer(look->labeler->cache, client, port, message, name,
                            look->packet->time_ns);
  else
    sonde_name_cache_query(look->labeler->cache, client, port, message->id, name,
                           look->packet->time_ns);
}

/* Every message of a flow is read, so that the names of later flows are known. */
static uint8_t look_dns(const struct look *look) {
  struct sonde_dns_message message;
  bool multicast = has_port(look->packet, PORT_MDNS);
  struct sonde_app_label found = {.app = multicast ? SONDE_APP_MDNS : SONDE_APP_DNS};
  enum sonde_parse_result result =
      sonde_dns_parse(look->payload->data, look->payload->bytes, &message, &found);
  bool labelled = current(look->labeler, *look->label) != NULL;
  if (result == SONDE_PARSE_NOT)
    return labelled ? look->left + 1 : 0;
  if (result == SONDE_PARSE_DONE && !multicast && look->labeler->cache)
    remember(look, &message, found.name);
  if (!labelled)
    conclude(look->labeler, look->label, &found, result);
  return *look->label == OVER_LIMIT ? 0 : look->left + 1;
}

static bool quic_allowed(struct sonde_labeler *labeler, uint64_t time_ns) {
  uint64_t second = time_ns / 1000000000;
  if (second != labeler->second) {
    labeler->second = second;
    labeler->quic_opened = 0;
  }
  return labeler->quic_opened++ < labeler->quic_per_second;
}

static uint8_t look_udp(const struct look *look) {
  const struct sonde_decoded *packet = look->packet;
  struct sonde_labeler *labeler = look->labeler;
  if ((labeler->protocols & SONDE_LABEL_DNS) &&
      (has_port(packet, PORT_DNS) || has_port(packet, PORT_MDNS)))
    return look_dns(look);
  if (!(labeler->protocols & SONDE_LABEL_QUIC) ||
      !sonde_quic_begins(look->payload->data, look->payload->bytes))
    return 0;
  if (!quic_allowed(labeler, packet->time_ns)) {
    skip(labeler, look->label);
    return 0;
  }
  return add_datagram(look, begin_piece(look, SONDE_APP_QUIC));
}

/* The protocol of a stream whose first bytes are not here yet: by its port. */
static enum sonde_label_app guess(const struct sonde_decoded *packet) {
  static const struct {
    uint16_t port;
    uint8_t app;
  } ports[] = {{443, SONDE_APP_TLS}, {8443, SONDE_APP_TLS}, {853, SONDE_APP_TLS},
               {465, SONDE_APP_TLS}, {636, SONDE_APP_TLS},  {993, SONDE_APP_TLS},
               {995, SONDE_APP_TLS}, {80, SONDE_APP_HTTP},  {8080, SONDE_APP_HTTP}};
  for (uint32_t i = 0; i < sizeof ports / sizeof ports[0]; i++)
    if (has_port(packet, ports[i].port))
      return ports[i].app;
  return SONDE_APP_UNKNOWN;
}

static enum sonde_label_app recognise(const struct look *look) {
  const struct sonde_decoded *packet = look->packet;
  if (has_port(packet, PORT_DNS))
    return SONDE_APP_DNS;
  if (sonde_first_sequence(packet) != look->start)
    return guess(packet);
  if (look->payload->bytes < 3 ? look->payload->data[0] == 22
                               : sonde_tls_begins(look->payload->data, look->payload->bytes))
    return SONDE_APP_TLS;
  return sonde_http_begins(look->payload->data, look->payload->bytes) ? SONDE_APP_HTTP
                                                                      : SONDE_APP_UNKNOWN;
}

static uint8_t look_tcp(const struct look *look) {
  static const uint8_t wanted[] = {[SONDE_APP_TLS] = SONDE_LABEL_TLS,
                                   [SONDE_APP_DNS] = SONDE_LABEL_DNS,
                                   [SONDE_APP_HTTP] = SONDE_LABEL_HTTP};
  enum sonde_label_app app = recognise(look);
  if (app == SONDE_APP_UNKNOWN || !(look->labeler->protocols & wanted[app]))
    return 0;
  if (app == SONDE_APP_TLS && sonde_tls_server_version(look->payload->data, look->payload->bytes))
    return look->left; /* the server's side was captured first */
  return add_stream(look, begin_piece(look, app));
}

/* The flow has a label: only the version that the server chose is missing. */
static uint8_t look_again(const struct look *look, const struct sonde_app_label *label) {
  if (label->app == SONDE_APP_DNS || label->app == SONDE_APP_MDNS)
    return look_dns(look);
  uint16_t version = sonde_tls_server_version(look->payload->data, look->payload->bytes);
  if (version == 0)
    return look->left;
  struct sonde_app_label chosen = *label;
  chosen.tls_version = version;
  uint32_t index = sonde_label_table_add(look->labeler->table, &chosen);
  if (index != SONDE_LABEL_NONE) {
    drop(look->labeler, look->label);
    *look->label = FIRST + index;
  }
  return 0;
}

static uint8_t read_payload(void *context, uint32_t *label, const struct sonde_decoded *packet,
                            uint32_t start, uint8_t left) {
  const struct sonde_labeler *labeler = context;
  const struct sonde_payload *payload = &labeler->payloads[packet - labeler->batch];
  struct look look = {context, label, packet, payload, start, (uint8_t)(left - 1)};
  const struct sonde_app_label *known = current(context, *label);
  if (payload->bytes == 0)
    return left;
  if (*label == OVER_LIMIT)
    return 0;
  if (*label & WAITING)
    return continue_piece(&look);
  if (known && known->app != SONDE_APP_UNKNOWN)
    return look_again(&look, known);
  return packet->key.protocol == SONDE_IP_TCP ? look_tcp(&look) : look_udp(&look);
}

/* ---- records ----------------------------------------------------------------------------- */

/* A flow without a name gets the one by which its client had found the address. */
static void name_by_dns(struct sonde_labeler *labeler, uint32_t *label,
                        const struct sonde_record *record, uint64_t start_ns) {
  const struct sonde_app_label *known = current(labeler, *label);
  struct sonde_app_label named = {.state = SONDE_LABEL_NOT_SEEN};
  char name[SONDE_CACHED_NAME_MAX + 1];
  if (known)
    named = *known;
  else if (*label == OVER_LIMIT)
    named.state = SONDE_LABEL_SKIPPED;
  if (named.name_source ||
      !(sonde_name_cache_find(labeler->cache, record->source_ip, record->dest_ip,
                              record->ip_version, start_ns, name) ||
        sonde_name_cache_find(labeler->cache, record->dest_ip, record->source_ip,
                              record->ip_version, start_ns, name)))
    return;
  memcpy(named.name, name, sizeof name);
  named.name_source = SONDE_NAME_DNS;
  uint32_t index = sonde_label_table_add(labeler->table, &named);
  if (index == SONDE_LABEL_NONE)
    return;
  drop(labeler, label);
  *label = FIRST + index;
}

static void fill_record(void *context, uint32_t *label, struct sonde_record *record,
                        uint64_t start_ns, bool last) {
  struct sonde_labeler *labeler = context;
  if ((*label & WAITING) && last)
    give_what_is_there(labeler, label);
  if (labeler->cache && !(*label & WAITING))
    name_by_dns(labeler, label, record, start_ns);
  if (current(labeler, *label)) {
    uint32_t index = *label - FIRST;
    record->label = labeler->worker << SONDE_LABEL_WORKER_SHIFT | (RECORD_FIRST + index);
    record->label_generation = sonde_label_table_generation(labeler->table, index);
  } else {
    record->label = *label == OVER_LIMIT ? RECORD_SKIPPED : RECORD_NOT_SEEN;
  }
}

static void release(void *context, uint32_t *label) {
  drop(context, label);
}

static bool matches(void *context, uint32_t label, const char *pattern) {
  const struct sonde_app_label *known = current(context, label);
  return known && known->name_source && fnmatch(pattern, known->name, FNM_CASEFOLD) == 0;
}

struct sonde_label_hook sonde_labeler_hook(struct sonde_labeler *labeler) {
  uint32_t protocols = labeler->protocols;
  uint32_t tcp = SONDE_LABEL_TLS | SONDE_LABEL_HTTP | SONDE_LABEL_DNS;
  return (struct sonde_label_hook){
      .context = labeler,
      .tcp_payloads = protocols & tcp ? TCP_PAYLOADS : 0,
      .udp_payloads = protocols & (SONDE_LABEL_QUIC | SONDE_LABEL_DNS) ? UDP_PAYLOADS : 0,
      .payload = read_payload,
      .record = fill_record,
      .release = release,
      .matches = matches,
  };
}

void sonde_labeler_read(struct sonde_labeler *labeler, uint32_t label, uint16_t generation,
                        struct sonde_app_label *into) {
  uint32_t local = label & ((UINT32_C(1) << SONDE_LABEL_WORKER_SHIFT) - 1);
  if (local > RECORD_FIRST &&
      sonde_label_table_read(labeler->table, local - RECORD_FIRST, generation, into))
    return;
  *into = (struct sonde_app_label){
      .state = local == RECORD_NOT_SEEN ? SONDE_LABEL_NOT_SEEN : SONDE_LABEL_SKIPPED,
  };
}
