/* random_draw.h - arbitrary but reproducible small numbers, for tests that make up their input.
 *
 * One sequence for each program (xorshift64), which begins the same in each run.
 */
#ifndef SONDE_TESTS_RANDOM_DRAW_H
#define SONDE_TESTS_RANDOM_DRAW_H

#include <stdint.h>

static uint64_t draw_state = 20261129;

/* Returns a number from 0 to below - 1. below: at least 1. */
static inline uint32_t draw(uint32_t below) {
  draw_state ^= draw_state << 13;
  draw_state ^= draw_state >> 7;
  draw_state ^= draw_state << 17;
  return (uint32_t)(draw_state >> 11) % below;
}

#endif
