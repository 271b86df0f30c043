/* interface.h - writes an interface's name as a JSON or MessagePack string.
 *
 * Names come from the kernel or a file's path and can hold any byte but NUL. A byte that is not
 * UTF-8 becomes U+FFFD. A long name is truncated between characters.
 */
#ifndef SONDE_EXPORT_INTERFACE_H
#define SONDE_EXPORT_INTERFACE_H

#include <stdint.h>

/* Both write a string token to `out` (SONDE_INTERFACE_TOKEN_MAX bytes) and return its length. A
 * NULL name is written as "". */
uint32_t sonde_interface_json(const char *name, char *out);
uint32_t sonde_interface_msgpack(const char *name, char *out);

#endif
