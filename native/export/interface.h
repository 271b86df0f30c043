/* interface.h - an interface's name as a JSON or MessagePack string.
 *
 * Names come from the kernel or from a file's path, so they may hold anything but NUL.
 * What is not UTF-8 is shown as U+FFFD; a name too long is cut between characters.
 */
#ifndef SONDE_EXPORT_INTERFACE_H
#define SONDE_EXPORT_INTERFACE_H

#include <stdint.h>

/* Both write a whole string token to `out` (SONDE_INTERFACE_TOKEN_MAX bytes) and return its
 * length. name may be NULL, which is shown as "". */
uint32_t sonde_interface_json(const char *name, char *out);
uint32_t sonde_interface_msgpack(const char *name, char *out);

#endif
