/* owner_filter.c - see owner_filter.h. Owners are looked up on the thread of the caller. */
#include "core/owner_filter.h"

enum { SLICE = 4096 };

struct slice {
  const struct sonde_flow_query *query;
  struct sonde_owner_candidate *candidates;
  uint32_t count;
  uint32_t entry;   /* where the next slice begins */
  uint32_t entries; /* in the table now */
};

static void copy_slice(struct sonde_worker *worker, void *argument) {
  struct slice *slice = argument;
  slice->entries = sonde_flow_table_entries(worker->table);
  slice->count = sonde_flow_table_candidates(worker->table, slice->query, &slice->entry,
                                             slice->candidates, SLICE);
}

/* Extends the marks to the entries that the table has now. */
static int grow(struct sonde_marks *marks, uint32_t entries) {
  if (entries <= marks->count)
    return SONDE_OK;
  struct sonde_owner_mark *list = realloc(marks->list, entries * sizeof *list);
  if (!list)
    return SONDE_NO_MEMORY;
  memset(list + marks->count, 0, (entries - marks->count) * sizeof *list);
  *marks = (struct sonde_marks){list, entries};
  return SONDE_OK;
}

int sonde_marks_make(struct sonde_session *session, struct sonde_worker *worker,
                     const struct sonde_flow_query *query, struct sonde_marks *marks) {
  *marks = (struct sonde_marks){0};
  if (!sonde_flow_query_has_owner(query) || !session->owners)
    return SONDE_OK;
  struct sonde_owner_hook hook = sonde_owner_tracker_hook(session->owners);
  struct slice slice = {.query = query, .candidates = malloc(SLICE * sizeof *slice.candidates)};
  int status = slice.candidates ? grow(marks, 1) : SONDE_NO_MEMORY;
  while (status == SONDE_OK) {
    sonde_worker_call(worker, copy_slice, &slice);
    status = grow(marks, slice.entries);
    if (status < 0 || slice.count == 0)
      break;
    for (uint32_t i = 0; i < slice.count; i++)
      marks->list[slice.candidates[i].entry] =
          sonde_owner_candidate_test(&hook, &session->sources.owners, query, &slice.candidates[i]);
  }
  free(slice.candidates);
  if (status < 0)
    sonde_marks_release(marks);
  return status;
}
