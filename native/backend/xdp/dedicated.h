/* dedicated.h - capture in the host's place: AF_XDP sockets on every queue of a dedicated port.
 *
 * One reader for all of them: a device spreads packets as it likes, and only in one table do
 * both directions of a flow meet. */
#ifndef SONDE_XDP_DEDICATED_H
#define SONDE_XDP_DEDICATED_H

#include "backend.h"
#include "interface.h"

struct ports;

/* The pre-flight has passed. Errors: INTERFACE_INVALID, PERMISSION, NO_MEMORY, SYSTEM. */
int ports_open(const struct sonde_backend_config *config, const struct interface *interface,
               struct ports **ports, struct sonde_error *error);
void ports_info(const struct ports *ports, struct sonde_backend_info *info);
/* INTERFACE_SHARED if another program or socket has the device already. */
int ports_start(struct ports *ports, struct sonde_error *error);
int ports_receive(struct ports *ports, struct sonde_packet *packets, uint32_t max, int timeout_ms,
                  struct sonde_error *error);
void ports_wake(struct ports *ports);
void ports_quiesce(struct ports *ports);
void ports_stats(struct ports *ports, struct sonde_backend_stats *stats);
int ports_reopen(struct ports *ports, struct sonde_error *error);
void ports_stop(struct ports *ports);
void ports_close(struct ports *ports);

#endif
