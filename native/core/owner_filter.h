/* owner_filter.h - marks the flows of a worker whose owners match a query; see flow/owner_match.h.
 */
#ifndef SONDE_CORE_OWNER_FILTER_H
#define SONDE_CORE_OWNER_FILTER_H

#include "core/session_state.h"
#include "flow/owner_match.h"

struct sonde_marks {
  struct sonde_owner_mark *list; /* NULL: the query has no owner, or the session has none */
  uint32_t count;
};

/* Call it under the session's control lock, while the worker runs commands. NO_MEMORY. */
int sonde_marks_make(struct sonde_session *session, struct sonde_worker *worker,
                     const struct sonde_flow_query *query, struct sonde_marks *marks);
static inline void sonde_marks_release(struct sonde_marks *marks) {
  free(marks->list);
  *marks = (struct sonde_marks){0};
}

#endif
