/* owner_match.c - tests the owners of flows against the patterns of a filter; see owner_match.h.
 *
 * An unknown owner matches nothing. agent/netsonde/cli/flow_filters.py applies the same rules to
 * records.
 */
#include "owner_match.h"

#include <fnmatch.h>
#include <string.h>
#include <strings.h>

#include "entry.h"

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

bool sonde_owner_matches(const struct sonde_owner_match *match, const struct sonde_owner *owner) {
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

static bool record_matches(const struct sonde_owner_source *source,
                           const struct sonde_record *record,
                           const struct sonde_owner_match *match) {
  const uint32_t references[] = {record->process, record->peer_process};
  for (unsigned i = 0; match && i < 2; i++) {
    struct sonde_owner owner;
    if (!references[i])
      continue;
    source->read(source->context, references[i], &owner);
    if (sonde_owner_matches(match, &owner))
      return true;
  }
  return false;
}

uint32_t sonde_flow_table_candidates(const struct sonde_flow_table *table,
                                     const struct sonde_flow_query *query, uint32_t *entry,
                                     struct sonde_owner_candidate *candidates, uint32_t max) {
  struct sonde_flow_query others = *query;
  uint32_t count = 0;
  others.match.owner = NULL;
  others.excludes = 0;
  for (; *entry < table->fresh && count < max; ++*entry) {
    struct sonde_owner_candidate *one = &candidates[count];
    if (!sonde_flow_matches(table, *entry, &others))
      continue;
    sonde_flow_record_fill(table, *entry, &one->record);
    one->entry = *entry;
    one->owners[0] = table->owners ? table->owners[*entry][0] : 0;
    one->owners[1] = table->owners ? table->owners[*entry][1] : 0;
    count++;
  }
  return count;
}

uint32_t sonde_flow_table_entries(const struct sonde_flow_table *table) {
  return table->fresh;
}

struct sonde_owner_mark sonde_owner_candidate_test(const struct sonde_owner_hook *hook,
                                                   const struct sonde_owner_source *source,
                                                   const struct sonde_flow_query *query,
                                                   struct sonde_owner_candidate *one) {
  hook->record(hook->context, one->owners, &one->record);
  bool matches = record_matches(source, &one->record, query->match.owner);
  bool excepted = query->excludes && record_matches(source, &one->record, query->except.owner);
  return (struct sonde_owner_mark){
      .id = (uint32_t)one->record.flow_id,
      .is = (matches ? SONDE_MARK_MATCH : 0u) | (excepted ? SONDE_MARK_EXCEPT : 0u),
  };
}

void sonde_flow_table_marks_set(struct sonde_flow_table *table,
                                const struct sonde_owner_mark *marks, uint32_t count) {
  table->marks = marks;
  table->mark_count = count;
}

bool sonde_flow_is_marked(const struct sonde_flow_table *table, uint32_t entry, uint32_t bit) {
  return table->marks && entry < table->mark_count && (table->marks[entry].is & bit);
}

/* Has the entry's flow been tested? */
bool sonde_flow_has_mark(const struct sonde_flow_table *table, uint32_t entry) {
  return !table->marks || (entry < table->mark_count &&
                           table->marks[entry].id == (uint32_t)table->cold[entry].flow_id);
}
