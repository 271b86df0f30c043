/* group.h - the rings of one capture: one per queue, fed by one fanout program.
 *
 * A group is bound to one interface index for its life. A recreated interface needs a new
 * group.
 */
#ifndef SONDE_AF_PACKET_GROUP_H
#define SONDE_AF_PACKET_GROUP_H

#include "host/interface.h"
#include "packet_ring.h"

enum { QUEUES_MAX = 64 };

struct group {
  uint32_t count;
  struct packet_ring *rings;
};

/* Captures no packet yet. */
int group_open(struct group *group, uint32_t count, uint32_t ring_bytes, uint32_t snaplen,
               uint16_t linktype, struct sonde_error *error);
/* After it returns, every packet that passes the program is in a ring or counted. */
int group_start(const struct group *group, const struct sonde_interface *interface,
                bool promiscuous, const struct program *program, struct sonde_error *error);
int group_attach(const struct group *group, const struct program *program,
                 struct sonde_error *error);
void group_close(struct group *group);

#endif
