/* owner_match.c - tests the owners of a flow against the patterns of a filter.
 *
 * The owners are those that a record of the flow would have now. An unknown owner matches nothing.
 * agent/netsonde/cli/flow_filters.py applies the same rules to records.
 */
#include <fnmatch.h>
#include <string.h>
#include <strings.h>

#include "entry.h"
#include "netsonde.h"

static bool text_matches(const char *pattern, const char *text) {
  return text[0] && fnmatch(pattern, text, FNM_CASEFOLD | FNM_NOESCAPE) == 0;
}

static bool unit_matches(const char *pattern, const char *unit) {
  static const char suffix[] = ".service";
  size_t length = strlen(unit), bytes = sizeof suffix - 1;
  char stem[SONDE_OWNER_UNIT_MAX + 1];
  if (text_matches(pattern, unit))
    return true;
  if (length <= bytes || strcmp(unit + length - bytes, suffix) != 0)
    return false;
  memcpy(stem, unit, length - bytes);
  stem[length - bytes] = 0;
  return text_matches(pattern, stem);
}

static bool container_matches(const char *pattern, const char *id) {
  return text_matches(pattern, id) || (id[0] && strncasecmp(pattern, id, strlen(pattern)) == 0);
}

static bool process_matches(const char *pattern, const struct sonde_owner *owner) {
  const char *slash = strrchr(owner->exe, '/');
  return text_matches(pattern, owner->name) ||
         text_matches(pattern, slash ? slash + 1 : owner->exe);
}

static bool owner_matches(const struct sonde_owner_match *match, const struct sonde_owner *owner) {
  if (match->unit && !unit_matches(match->unit, owner->unit))
    return false;
  if (match->container && !container_matches(match->container, owner->container))
    return false;
  if (match->pod && !text_matches(match->pod, owner->pod))
    return false;
  if (match->process && !process_matches(match->process, owner))
    return false;
  return match->pid < 0 || (owner->pid != UINT32_MAX && owner->pid == (uint64_t)match->pid);
}

bool sonde_flow_owner_matches(const struct sonde_flow_table *table, uint32_t entry,
                              const struct sonde_owner_match *match) {
  struct sonde_record record;
  if (!table->owner_source.read)
    return false;
  sonde_flow_record_fill(table, entry, &record);
  sonde_flow_record_label(table, entry, false, &record);
  const uint32_t references[] = {record.process, record.peer_process};
  for (unsigned i = 0; i < 2; i++) {
    struct sonde_owner owner;
    if (!references[i])
      continue;
    table->owner_source.read(table->owner_source.context, references[i], &owner);
    if (owner_matches(match, &owner))
      return true;
  }
  return false;
}
