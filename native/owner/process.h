/* process.h - describes a process for a record, from /proc.
 *
 * The programs report a process by its id in the host's own namespace of process ids. If this
 * process is in another one, /proc is not read: it would describe other processes.
 */
#ifndef SONDE_OWNER_PROCESS_H
#define SONDE_OWNER_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "owner.h"

/* Whether /proc has the process ids that the programs report. */
bool sonde_process_ids_agree(void);
/* Fills start_ticks, name and exe if the process still exists. owner: its pid, and a name to keep
 * otherwise. seen_boot_ns: when it was seen, CLOCK_BOOTTIME: a process that started later only
 * has the same pid. Returns whether it still exists. */
bool sonde_process_describe(uint64_t seen_boot_ns, struct sonde_owner *owner);
/* Reads a small file of a process as a string. Returns its length, or -1. */
ssize_t sonde_process_read_file(uint32_t pid, const char *name, char *buffer, size_t room);
/* Copies printable ASCII without '"'; every other byte becomes '?'. */
void sonde_process_copy_text(char *to, size_t room, const char *from, size_t bytes);

#endif
