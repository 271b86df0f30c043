/* exporter.h - the thread that exports records from a session's rings to its collectors.
 *
 * The thread runs while the session has a collector. Each collector has its own position in the
 * rings, so none waits for another. The capture threads see the position of the slowest. export.h
 * has the public functions.
 */
#ifndef SONDE_EXPORTER_EXPORTER_H
#define SONDE_EXPORTER_EXPORTER_H

#include "netsonde.h"

struct sonde_exporter;

int sonde_exporter_create(struct sonde_session *session, struct sonde_exporter **exporter,
                          struct sonde_error *error);
/* Ends the thread and drops unsent records. NULL is allowed. */
void sonde_exporter_destroy(struct sonde_exporter *exporter);

#endif
