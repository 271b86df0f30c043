/* session_buffer.h - what a session does with its capture buffer.
 *
 * store/ knows neither filters nor events; this puts them together. A session without a
 * buffer has store NULL and workers without an appender: then nothing here is called.
 */
#ifndef SONDE_CORE_SESSION_BUFFER_H
#define SONDE_CORE_SESSION_BUFFER_H

#include "netsonde.h"
#include "store/store.h"

struct sonde_session;

/* At open: makes the store, gives every worker its appender. Nothing for buffer_bytes 0. */
int sonde_session_buffer_open(struct sonde_session *session,
                              const struct sonde_session_config *config, struct sonde_error *error);
void sonde_session_buffer_close(struct sonde_session *session);
void sonde_session_buffer_stats(struct sonde_session *session, struct sonde_stats *stats);
/* Puts down when packets were dropped on their way here: since the last look. Any thread, once
 * the session has been started. */
void sonde_session_buffer_note_drops(struct sonde_session *session);

#endif
