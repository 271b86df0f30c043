/* sources.h - a session's interfaces; see sources.c. For session*.c and monitor.c.
 *
 * Every function but sonde_sources_stats needs the session's control lock, or a session that no
 * other thread uses yet or any more.
 */
#ifndef SONDE_CORE_SOURCES_H
#define SONDE_CORE_SOURCES_H

#include "core/session_state.h"

/* Opens a source for each name. Owns source_config.file_fd. On failure the caller closes. */
int sonde_sources_open(struct sonde_session *session, const char *const *names, uint32_t count,
                       struct sonde_error *error);
/* Starts every source and attaches it to the workers, whose threads do not run yet. */
int sonde_sources_start(struct sonde_session *session, struct sonde_error *error);
void sonde_sources_quiesce(struct sonde_session *session);
void sonde_sources_close(struct sonde_session *session);
/* Opens the source's link watch, unless it is not a kernel interface. */
int sonde_source_watch(struct sonde_source *source, const char *name, struct sonde_error *error);
/* Sums over all interfaces, removed ones too. link_up: the link of one is up. Takes no control
 * lock. */
void sonde_sources_stats(struct sonde_session *session, struct sonde_backend_stats *stats,
                         bool *link_up, char attach[static 96]);

#endif
