/* child.h - starts, commands, watches and ends the DPDK process.
 *
 * The plugin does not link DPDK; only that process does. One control thread at a time calls
 * these functions. Any thread may call child_exited.
 */
#ifndef SONDE_DPDK_CHILD_H
#define SONDE_DPDK_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "engine_protocol.h"
#include "status.h"

struct child {
  pid_t pid;   /* 0: no process */
  int control; /* socket to the process; -1: none */
  int output;  /* its stderr */
};

/* Checks that the program runs and finds its libraries, without starting EAL. Success is cached;
 * failure is checked again at each call. */
int child_probe(struct sonde_error *error);

/* Starts the process, which opens the port and describes it in `reply`. */
int child_open(struct child *child, const struct engine_setup *setup, int area_fd,
               const int *doorbells, struct engine_reply *reply, struct sonde_error *error);
int child_ask(struct child *child, enum engine_command command, struct sonde_error *error);
bool child_exited(const struct child *child);
/* Writes why it exited, like "was killed by signal 9", and reaps it. */
void child_describe(struct child *child, char *text, size_t text_bytes);
void child_close(struct child *child); /* waits for its end, then kills it */

#endif
