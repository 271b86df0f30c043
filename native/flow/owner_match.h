/* owner_match.h - filters flows by their owners, off the capture thread.
 *
 * A lookup of owners takes about 2 us, too long for all flows of a table between two batches of
 * packets. So a reader copies candidates on the capture thread, some at a time, looks their owners
 * up on its thread, and marks them. The listing then tests the marks. A flow that began meanwhile
 * has no mark and is left out.
 */
#ifndef SONDE_FLOW_OWNER_MATCH_H
#define SONDE_FLOW_OWNER_MATCH_H

#include "table.h"

enum sonde_mark { SONDE_MARK_MATCH = 1 << 0, SONDE_MARK_EXCEPT = 1 << 1 };

struct sonde_owner_mark {
  uint32_t id; /* the low half of the flow's id: the entry may get another flow */
  uint32_t is; /* bits of enum sonde_mark: an owner matches match.owner, except.owner */
};

struct sonde_owner_candidate {
  struct sonde_record record;
  uint32_t entry;
  uint32_t owners[2]; /* the entry's */
};

static inline bool sonde_flow_query_has_owner(const struct sonde_flow_query *query) {
  return query->match.owner || (query->excludes && query->except.owner);
}

/* Copies the flows from *entry on that match `match` without its owner, `max` at most, and moves
 * *entry on. Returns the number, 0 at the end. */
uint32_t sonde_flow_table_candidates(const struct sonde_flow_table *table,
                                     const struct sonde_flow_query *query, uint32_t *entry,
                                     struct sonde_owner_candidate *candidates, uint32_t max);
/* An unknown owner matches nothing. */
bool sonde_owner_matches(const struct sonde_owner_match *match, const struct sonde_owner *owner);
/* Entries that were ever used. */
uint32_t sonde_flow_table_entries(const struct sonde_flow_table *table);
/* Any thread. */
struct sonde_owner_mark sonde_owner_candidate_test(const struct sonde_owner_hook *hook,
                                                   const struct sonde_owner_source *source,
                                                   const struct sonde_flow_query *query,
                                                   struct sonde_owner_candidate *candidate);
/* Sets the marks of entries 0 to count - 1 for the next listing or sum. NULL: no flow has an
 * owner. */
void sonde_flow_table_marks_set(struct sonde_flow_table *table,
                                const struct sonde_owner_mark *marks, uint32_t count);

#endif
