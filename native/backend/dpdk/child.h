/* child.h - the DPDK process as the agent sees it: made, asked, found dead, buried.
 *
 * The plugin does not link DPDK; what is linked is the program beside it. One control thread
 * at a time; child_gone may be asked from any.
 */
#ifndef SONDE_DPDK_CHILD_H
#define SONDE_DPDK_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "engine_protocol.h"
#include "status.h"

struct child {
  pid_t pid;   /* 0: none */
  int control; /* socket to it; -1: none */
  int output;  /* what it writes to stderr */
};

/* Can the program be run here, with all libraries that it needs? Runs it once for an answer
 * that is yes, each time for one that is no. EAL is not started. */
int child_probe(struct sonde_error *error);

/* Starts it and has the port opened. Afterwards `reply` tells of the port. */
int child_open(struct child *child, const struct engine_setup *setup, int area_fd,
               const int *doorbells, struct engine_reply *reply, struct sonde_error *error);
int child_ask(struct child *child, enum engine_command command, struct sonde_error *error);
bool child_gone(const struct child *child);
/* Why it is gone: "was killed by signal 9". Collects it. */
void child_describe(struct child *child, char *text, size_t text_bytes);
void child_close(struct child *child); /* lets it end, and ends it if it does not */

#endif
