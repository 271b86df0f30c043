/* exporter.h - the thread that carries records from a session's rings to its collectors.
 *
 * It exists while there is a collector. Each collector has its own place in the rings, so
 * none waits for another; the slowest one's place is what the capture threads see. The
 * public functions are in export.h.
 */
#ifndef SONDE_EXPORTER_EXPORTER_H
#define SONDE_EXPORTER_EXPORTER_H

#include "netsonde.h"

struct sonde_exporter;

int sonde_exporter_create(struct sonde_session *session, struct sonde_exporter **exporter,
                          struct sonde_error *error);
/* Ends the thread; what has not been sent is not sent. NULL is allowed. */
void sonde_exporter_destroy(struct sonde_exporter *exporter);

#endif
