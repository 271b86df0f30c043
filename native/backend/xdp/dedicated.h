/* dedicated.h - capture in place of the host: AF_XDP sockets on every queue of a dedicated port.
 *
 * One reader serves all sockets: the device may put the two directions of a flow on different
 * queues, and both must reach one flow table. */
#ifndef SONDE_XDP_DEDICATED_H
#define SONDE_XDP_DEDICATED_H

#include "backend.h"
#include "host/interface.h"

struct dedicated;

/* Call after sonde_dedicated_check. Errors: INTERFACE_INVALID, PERMISSION, NO_MEMORY, SYSTEM. */
int dedicated_open(const struct sonde_backend_config *config,
                   const struct sonde_interface *interface, struct dedicated **dedicated,
                   struct sonde_error *error);
void dedicated_info(const struct dedicated *dedicated, struct sonde_backend_info *info);
/* INTERFACE_SHARED if another program or socket already uses the device. */
int dedicated_start(struct dedicated *dedicated, struct sonde_error *error);
int dedicated_receive(struct dedicated *dedicated, struct sonde_packet *packets, uint32_t max,
                      int timeout_ms, struct sonde_error *error);
int dedicated_poll_fd(struct dedicated *dedicated, int *timeout_ms);
void dedicated_wake(struct dedicated *dedicated);
void dedicated_quiesce(struct dedicated *dedicated);
void dedicated_stats(struct dedicated *dedicated, struct sonde_backend_stats *stats);
int dedicated_reopen(struct dedicated *dedicated, struct sonde_error *error);
void dedicated_stop(struct dedicated *dedicated);
void dedicated_close(struct dedicated *dedicated);

#endif
