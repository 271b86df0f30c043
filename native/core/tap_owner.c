/* tap_owner.c - see tap_owner.h. Runs on the thread of the tap, not on the packet path.
 *
 * Asks for the owners as a record of one packet would. The outermost addresses count. A later
 * fragment has the ports of the first one only if that was copied too.
 */
#include "core/tap_owner.h"

#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "flow/owner_match.h"
#include "parse/decode.h"

struct sonde_tap_owner {
  struct sonde_owner_match match;
  struct sonde_owner_tracker *tracker;
  struct sonde_owner_progress progress;
  struct sonde_decoder *decoder;
  bool follows;
};

/* Replaces the text with a copy. False without memory. */
static bool copy_text(const char **text) {
  bool wanted = *text != NULL;
  if (wanted)
    *text = strdup(*text);
  return !wanted || *text;
}

int sonde_tap_owner_create(const struct sonde_owner_match *match,
                           struct sonde_owner_tracker *tracker, struct sonde_tap_owner **owner,
                           struct sonde_error *error) {
  struct sonde_tap_owner *made = calloc(1, sizeof *made);
  if (!made)
    return sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the tap");
  *made = (struct sonde_tap_owner){.match = *match, .tracker = tracker};
  const char **texts[] = {&made->match.unit, &made->match.container, &made->match.pod,
                          &made->match.process};
  bool complete = true;
  for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++)
    complete &= copy_text(texts[i]);
  made->decoder = sonde_decoder_create(0, NULL);
  int status = complete && made->decoder
                   ? sonde_owner_tracker_follow(tracker, true, error)
                   : sonde_fail(error, SONDE_NO_MEMORY, 0, "no memory for the tap");
  made->follows = status == SONDE_OK;
  if (made->follows)
    *owner = made;
  else
    sonde_tap_owner_destroy(made);
  return status;
}

void sonde_tap_owner_destroy(struct sonde_tap_owner *owner) {
  if (!owner)
    return;
  struct sonde_error none;
  if (owner->follows)
    sonde_owner_tracker_follow(owner->tracker, false, &none);
  free((char *)owner->match.unit);
  free((char *)owner->match.container);
  free((char *)owner->match.pod);
  free((char *)owner->match.process);
  sonde_decoder_destroy(owner->decoder);
  free(owner);
}

static bool is_match(const struct sonde_tap_owner *owner, uint32_t reference) {
  struct sonde_owner found;
  if (!reference)
    return false;
  struct sonde_owner_source source = sonde_owner_tracker_source(owner->tracker);
  source.read(source.context, reference, &found);
  return sonde_owner_matches(&owner->match, &found);
}

static bool is_wanted(void *context, const struct sonde_packet *packet) {
  struct sonde_tap_owner *owner = context;
  struct sonde_decoded decoded;
  if (sonde_decode(owner->decoder, packet, &decoded) >= 0)
    return false;
  const struct sonde_key *key = &decoded.key;
  struct sonde_record record = {
      .first_ns = packet->time_ns,
      .last_ns = packet->time_ns,
      .flow_start_ns = packet->time_ns,
      .source_port = key->lo_port,
      .dest_port = key->hi_port,
      .ip_version = key->ip_version,
      .protocol = key->protocol,
  };
  memcpy(record.source_ip, key->lo_ip, sizeof record.source_ip);
  memcpy(record.dest_ip, key->hi_ip, sizeof record.dest_ip);
  uint32_t owners[2] = {0};
  struct sonde_owner_hook hook = sonde_owner_tracker_hook(owner->tracker);
  hook.record(hook.context, owners, &record);
  return is_match(owner, record.process) || is_match(owner, record.peer_process);
}

static bool is_ready(void *context, uint64_t time_ns) {
  struct sonde_tap_owner *owner = context;
  return sonde_owner_tracker_knows(owner->tracker, &owner->progress, time_ns);
}

struct sonde_tap_choice sonde_tap_owner_choice(struct sonde_tap_owner *owner) {
  return (struct sonde_tap_choice){owner, is_wanted, is_ready};
}
