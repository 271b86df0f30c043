/* filter_program.h - a BPF program in a form that runs faster than in libpcap's interpreter.
 *
 * A load, a mask and a comparison that follow each other become one step. For Ethernet there is a
 * second form for IPv4 packets without options: their header's length and type are known, so fewer
 * steps remain. For every packet the result is that of bpf_filter().
 */
#ifndef SONDE_CORE_FILTER_PROGRAM_H
#define SONDE_CORE_FILTER_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/filter_glance.h"

struct bpf_program;
struct sonde_filter_program;

/* NULL: the program has an unknown instruction, or no memory. */
struct sonde_filter_program *sonde_filter_program_make(const struct bpf_program *program,
                                                       bool ethernet);
bool sonde_filter_program_run(const struct sonde_filter_program *program, const uint8_t *data,
                              uint32_t caplen, uint32_t wirelen);
/* The program must be for Ethernet. */
struct sonde_filter_glance sonde_filter_program_glance(const struct sonde_filter_program *program);
void sonde_filter_program_destroy(struct sonde_filter_program *program); /* NULL is allowed */

#endif
