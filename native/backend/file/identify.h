/* identify.h - names a file that is not pcap or pcapng, and the command that converts it.
 *
 * Knows formats by their first bytes. The text completes the sentence "NAME is …".
 */
#ifndef SONDE_FILE_IDENTIFY_H
#define SONDE_FILE_IDENTIFY_H

#include <stddef.h>
#include <stdint.h>

void file_identify(const uint8_t *bytes, size_t count, char *text, size_t capacity);

#endif
