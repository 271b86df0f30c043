/* group.c - see group.h.
 *
 * Every ring rejects all packets until each has joined: a bound socket outside the fanout group
 * receives everything, and older kernels require a socket to be bound before it joins.
 */
#include "group.h"

#include <linux/if_packet.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "failure.h"

int group_open(struct group *group, uint32_t count, uint32_t ring_bytes, uint32_t snaplen,
               uint16_t linktype, struct sonde_error *error) {
  uint32_t blocks = ring_bytes / count / RING_BLOCK_BYTES;
  blocks = blocks < RING_BLOCKS_MIN ? RING_BLOCKS_MIN : blocks;
  group->count = 0;
  group->rings = calloc(count, sizeof *group->rings);
  if (!group->rings)
    return sonde_fail_memory(error);
  for (; group->count < count; group->count++) {
    int status = packet_ring_open(&group->rings[group->count], blocks, snaplen, linktype, error);
    if (status) {
      group_close(group);
      return status;
    }
  }
  return 0;
}

/* The kernel chooses an unused group id for the first socket. The others join that group. */
static int join_fanout(const struct group *group, uint16_t linktype, struct sonde_error *error) {
  struct sock_filter instructions[PROGRAM_FANOUT_MAX];
  struct sock_fprog spread = {.len = program_fanout(linktype, instructions),
                              .filter = instructions};
  uint32_t request = (PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_UNIQUEID) << 16;
  socklen_t length = sizeof request;
  int fd = group->rings[0].fd;
  if (setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &request, sizeof request) ||
      setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &spread, sizeof spread) ||
      getsockopt(fd, SOL_PACKET, PACKET_FANOUT, &request, &length)) {
    return sonde_fail_system(error, "packet fanout");
  }
  request = (request & 0xffff) | PACKET_FANOUT_CBPF << 16;
  for (uint32_t i = 1; i < group->count; i++)
    if (setsockopt(group->rings[i].fd, SOL_PACKET, PACKET_FANOUT, &request, sizeof request))
      return sonde_fail_system(error, "joining the packet fanout");
  return 0;
}

int group_start(const struct group *group, const struct sonde_interface *interface,
                bool promiscuous, const struct program *program, struct sonde_error *error) {
  int status = 0;
  for (uint32_t i = 0; i < group->count && !status; i++)
    status = packet_ring_bind(&group->rings[i], interface->index, error);
  if (!status && group->count > 1)
    status = join_fanout(group, interface->linktype, error);
  if (!status && promiscuous)
    status = packet_ring_promiscuous(&group->rings[0], interface->index, error);
  return status ? status : group_attach(group, program, error);
}

int group_attach(const struct group *group, const struct program *program,
                 struct sonde_error *error) {
  int status = 0;
  for (uint32_t i = 0; i < group->count && !status; i++)
    status = packet_ring_attach(&group->rings[i], program, error);
  return status;
}

void group_close(struct group *group) {
  for (uint32_t i = 0; i < group->count; i++)
    packet_ring_close(&group->rings[i]);
  free(group->rings);
  *group = (struct group){0};
}
