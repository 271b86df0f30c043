/* program.h - classic BPF for the packet sockets: the filter and the choice of a queue. */
#ifndef SONDE_AF_PACKET_PROGRAM_H
#define SONDE_AF_PACKET_PROGRAM_H

#include <linux/filter.h>
#include <stdint.h>

#include "host/interface.h"
#include "status.h"

struct program {
  uint16_t length;
  struct sock_filter *instructions;
};

extern const struct program program_refuse_all;

/* Compiles a filter expression (NULL or "": everything) for a socket on the interface; an
 * accepted frame is cut to snaplen. Free with program_free. Errors: FILTER_INVALID,
 * PERMISSION, NO_MEMORY. */
int program_compile(const struct sonde_interface *interface, uint32_t snaplen,
                    const char *expression, struct program *program, struct sonde_error *error);
void program_free(struct program *program);

enum { PROGRAM_FANOUT_MAX = 320 };

/* Writes the fanout program for a link type: a hash of the unordered pair of IP addresses. */
uint16_t program_fanout(uint16_t linktype, struct sock_filter out[PROGRAM_FANOUT_MAX]);

#endif
